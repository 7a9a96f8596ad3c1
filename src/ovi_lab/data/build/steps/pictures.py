"""How a clip looks: LAION's aesthetic rating, and how much of it is text.

Shapes: T frames, H rows, W columns.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ovi_eval.backbones import aesthetics, text_detection
from ovi_eval.backbones.onnx_file import OnnxFile
from ovi_eval.common.files import file_sha256
from ovi_eval.common.needs import Need, find_folder
from ovi_eval.common.weights import find_weights
from ovi_lab.data.build.clip import Candidate, Scores
from ovi_lab.data.build.step import BuildStep, ScoreSpec
from ovi_lab.data.build.steps.networks import digests_of, missing_of
from ovi_lab.data.build.steps.speech import ONNXRUNTIME
from ovi_lab.errors import UserError


def evenly(frames_THWC: Tensor, count: int) -> Tensor:
    """`count` frames evenly spread over a clip, the first and the last among them; all of a shorter one."""
    places = np.unique(np.linspace(0, len(frames_THWC) - 1, count).round().astype(int))
    return frames_THWC[torch.from_numpy(places)]


def _number_of_frames(name: str, frames: Any) -> int:
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise UserError(f"step {name}: frames is {frames!r}; expected a whole number from 1")
    return frames


class Aesthetics(BuildStep):
    """`aesthetics`: the mean rating of frames by LAION's predictor on CLIP ViT-L/14, about 1 to 10.

    Its head is the `linear` one, whose file is sa_0_4_vit_l_14_linear.pth, or the improved `mlp`.
    """

    name = "aesthetics"
    needs: ClassVar = frozenset({"picture"})
    scores = (ScoreSpec("aesthetics", "how people would rate the picture", "1 to 10"),)

    def __init__(self, head: str = "linear", frames: int = 4) -> None:
        if head not in aesthetics.HEADS:
            known = ", ".join(aesthetics.HEADS)
            raise UserError(f"step aesthetics: head is {head!r}; expected one of {known}")
        self.head, self.frames = head, _number_of_frames(self.name, frames)
        self._needs: tuple[Need, ...] = (aesthetics.HEADS[head], aesthetics.CLIP_FOLDER)

    def missing(self) -> str | None:
        return missing_of(self._needs, "the step aesthetics")

    def digests(self) -> dict[str, str]:
        folder = find_folder(aesthetics.CLIP_FOLDER, self.name)
        head = find_weights(aesthetics.HEADS[self.head], self.name)
        clip = folder / aesthetics.WEIGHTS
        return {f"{folder.name}/{clip.name}": file_sha256(clip), **digests_of([head])}

    def setup(self) -> None:
        folder = find_folder(aesthetics.CLIP_FOLDER, self.name)
        head = find_weights(aesthetics.HEADS[self.head], self.name)
        self._predictor = aesthetics.AestheticPredictor(folder, head, self.head)

    def measure(self, clip: Candidate) -> Scores:
        if clip.frames_THWC is None:
            raise TypeError("the clip has no picture")
        return {"aesthetics": float(self._predictor(evenly(clip.frames_THWC, self.frames)).mean())}


class ShownText(BuildStep):
    """`text_share`: how much of the picture lies within text, the mean over frames; `still_text_share`: how much of it
    does in every one of the frames, as watermarks, names of channels and subtitles that stay do.

    By PP-OCRv4's text detector, whose file the package rapidocr-onnxruntime carries.
    """

    name = "text"
    needs: ClassVar = frozenset({"picture"})
    files: ClassVar[tuple[Need, ...]] = (ONNXRUNTIME, text_detection.FILE)
    scores = (
        ScoreSpec("text_share", "picture within text", "share"),
        ScoreSpec("still_text_share", "picture within text all the time", "share"),
    )

    def __init__(self, frames: int = 4) -> None:
        self.frames = _number_of_frames(self.name, frames)

    def missing(self) -> str | None:
        return missing_of(self.files, "the step text")

    def digests(self) -> dict[str, str]:
        return digests_of([find_weights(text_detection.FILE, self.name)])

    def setup(self) -> None:
        path = find_weights(text_detection.FILE, self.name)
        self._network = OnnxFile(path, text_detection.FILE, "build")

    def measure(self, clip: Candidate) -> Scores:
        if clip.frames_THWC is None:
            raise TypeError("the clip has no picture")
        chosen = evenly(clip.frames_THWC, self.frames)
        maps_NHW = np.stack([text_detection.text_map(self._network, frame.numpy()) for frame in chosen])
        return {
            "text_share": float(maps_NHW.mean()),
            "still_text_share": float(maps_NHW.all(axis=0).mean()),
        }
