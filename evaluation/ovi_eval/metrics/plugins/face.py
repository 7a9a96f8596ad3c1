"""Face similarity: the cosine of ArcFace's features of the face in a clip and in the reference clip.

Deng et al. 2019 ("ArcFace: Additive angular margin loss for deep face recognition"), by insightface's package and its
models buffalo_l. Eight frames, evenly spread; in each the largest face, aligned by its five landmarks; the mean of the
faces' features, brought to length 1. Neither the package nor the models have run where this was written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from ovi_eval.clips.items import Item
from ovi_eval.common.files import file_sha256
from ovi_eval.common.needs import Package, PublishedFolder, find_folder, imported
from ovi_eval.common.processes import CPU
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features, ValueSpec
from ovi_eval.metrics.plugins.loading import CosineOfPairs

FRAMES = 8
DETECTOR, RECOGNISER = "det_10g.onnx", "w600k_r50.onnx"
PACKAGE = Package("insightface", "pip install insightface onnxruntime")
FOLDER = PublishedFolder(
    what="insightface's buffalo_l",
    name="buffalo_l",
    source="https://github.com/deepinsight/insightface/releases/tag/v0.7",
    files=(DETECTOR, RECOGNISER),
)


class FaceFeatures(Extractor):
    """Feature: `face` [512], of length 1."""

    name = "arcface"
    needs = (PACKAGE, FOLDER)
    preprocessing = f"{FRAMES} frames, the largest face of each, aligned to 112x112"

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        folder = find_folder(FOLDER, self.name)
        get_model = imported(PACKAGE, self.name, "insightface.model_zoo").get_model
        providers = ["CPUExecutionProvider"]
        self.detector: Any = get_model(str(folder / DETECTOR), providers=providers)
        self.detector.prepare(ctx_id=-1, input_size=(640, 640))
        self.recogniser: Any = get_model(str(folder / RECOGNISER), providers=providers)
        self.align: Any = imported(PACKAGE, self.name, "insightface.utils.face_align").norm_crop
        self.weights = {
            f"{folder.name}/{name}": file_sha256(folder / name) for name in (DETECTOR, RECOGNISER)
        }
        self.variant = "weights " + " and ".join(digest[:12] for digest in self.weights.values())

    def load(self, item: Item) -> list[NDArray[np.uint8]]:
        """Frames as OpenCV has them, blue first."""
        frames_THWC = item.video().frames_THWC
        places = np.linspace(0, len(frames_THWC) - 1, min(FRAMES, len(frames_THWC))).round().astype(int)
        return [np.ascontiguousarray(frames_THWC[place].numpy()[..., ::-1]) for place in places]

    def run(self, loaded: Any) -> Features:
        found = []
        for picture in loaded:
            boxes_N5, landmarks_N52 = self.detector.detect(picture, max_num=0, metric="default")
            if len(boxes_N5):
                largest = int((boxes_N5[:, 2:4] - boxes_N5[:, :2]).prod(axis=1).argmax())
                aligned = self.align(picture, landmark=landmarks_N52[largest], image_size=112)
                feature_D = torch.as_tensor(self.recogniser.get_feat(aligned)).flatten()
                found.append(normalize(feature_D, dim=-1))
        if not found:
            raise UserError(f"no face is found in the {len(loaded)} frames that are looked at")
        return {"face": normalize(torch.stack(found).mean(dim=0), dim=-1)}


class FaceSimilarity(CosineOfPairs):
    """Cosine of the faces in a clip and in the reference clip of the same id."""

    name = "face_similarity"
    values = (ValueSpec("face_similarity", "higher"),)
    extractor, feature = FaceFeatures, "face"
