"""Faces in real frames by UltraFace's published networks, and what needs the frames alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ovi_eval.backbones import s3fd, ultraface
from ovi_eval.check.case import Cases, Setting
from ovi_eval.check.cases.audio import architecture
from ovi_eval.check.generated import clip
from ovi_eval.check.lines import Line, close, same
from ovi_eval.clips.items import FileItem
from ovi_eval.clips.picture import PictureStream
from ovi_eval.common.needs import Package
from ovi_eval.common.weights import PublishedFile
from ovi_eval.faces.detection import UltraFaceDetector, UltraFaceOnnxDetector
from ovi_eval.metrics.lip_sync import CV2
from ovi_eval.metrics.temporal_flickering import FrameDifferences, TemporalFlickering

CASES = Cases()
FACES_JSON, S3FD_JSON, S3FD_KEYS = "face_vbench_wer.json", "s3fd_golden.json", "s3fd_keys.txt.gz"
FLICKERING = "vbench_temporal_flickering_ltx2"


def first_frame(path: Path) -> np.ndarray:
    """The first frame [H, W, 3] uint8 RGB of a file."""
    with PictureStream(path) as picture:
        _, frame_HWC = next(iter(picture))
        return frame_HWC.numpy()


def _ultraface(what: str, kind: type[UltraFaceDetector], file: PublishedFile, module: str) -> None:
    @CASES.case(
        f"faces.ultraface_{what}",
        "face tracks (UltraFace)",
        "Linzaer@dffdddda, onnxruntime 1.32.0",
        f"{FACES_JSON}: ultraface_rfb320",
        slow=True,
    )
    def run(setting: Setting) -> Iterator[Line]:
        clips = setting.goldens.json(FACES_JSON, "ultraface_rfb320")
        paths = {name: setting.clip(name) for name in clips}
        setting.need(CV2, Package(module, CV2.install), file)
        detector = kind.found("this")
        for name, expected in clips.items():
            shown = Path(name).stem
            frame_HWC = setting.keep(name, lambda name=name: first_frame(paths[name]))  # type: ignore[misc]
            digest = hashlib.sha256(np.ascontiguousarray(frame_HWC[..., ::-1]).tobytes()).hexdigest()
            yield same(f"{shown}: frame 0, BGR, sha256", digest, expected["frame0_bgr_sha256"])
            height, width = frame_HWC.shape[:2]
            yield same(f"{shown}: height and width", [height, width], expected["hw"])
            (found_n5,) = detector.look(detector.shrink(frame_HWC)[None], height, width)
            boxes = expected["boxes_x1y1x2y2_conf"]
            yield same(f"{shown}: faces", len(found_n5), len(boxes))
            if boxes:
                why = "pixels of frames up to 1920 high"
                yield close(f"{shown}: boxes and scores", found_n5, boxes, rtol=1e-5, atol=1e-3, why=why)


_ultraface("onnx", UltraFaceOnnxDetector, ultraface.ONNX_FILE, "onnxruntime")
_ultraface("torch", UltraFaceDetector, ultraface.FILE, "torch")


@CASES.case("faces.s3fd", "face tracks (S3FD)", "syncnet_python@6efbb1c3", f"{S3FD_KEYS}: *")
def s3fd_names(setting: Setting) -> Iterator[Line]:
    yield architecture(setting, S3FD_KEYS, s3fd.S3FD)


@CASES.case("faces.s3fd_network", "face tracks (S3FD)", "syncnet_python@907c0b57", f"{S3FD_JSON}: frames")
def s3fd_network(setting: Setting) -> Iterator[Line]:
    setting.need(CV2)
    network = setting.network(s3fd.S3FD, s3fd.FILE, S3FD_KEYS)
    for seed, expected in setting.goldens.json(S3FD_JSON, "frames").items():
        frame_HWC = clip(1, 300, 420, int(seed))[0]
        with torch.no_grad():
            scores_1P, boxes_1P4 = network(s3fd.network_input(s3fd.shrunk(frame_HWC)[None]))
        yield same(f"frame {seed}: places", scores_1P.shape[1], expected["places"])
        scores, boxes = expected["scores_every_5"], expected["boxes_every_25"]
        why = "the golden has seven digits"
        yield close(f"frame {seed}: scores", scores_1P[0, ::5], scores, atol=1e-6, why=why)
        yield close(f"frame {seed}: boxes", boxes_1P4[0, ::25], boxes, atol=1e-5, why=why)
        height, width, _ = frame_HWC.shape
        found_n5 = s3fd.faces(scores_1P[0], boxes_1P4[0], height, width, score=0.3)
        confident = expected["confidence_above_0.3"]
        yield close(f"frame {seed}: faces above 0.3", found_n5, confident, atol=1e-3, why=why)


@CASES.case(
    "flickering.ltx2",
    "temporal flickering",
    "VBench's rule; FastVideo@2f3d4074",
    f"{FACES_JSON}: {FLICKERING}",
)
def flickering(setting: Setting) -> Iterator[Line]:
    name = "ltx2/ltx2.mp4"
    extractor = FrameDifferences()
    features = extractor.run(extractor.load(FileItem(setting.clip(name), name)))
    found = TemporalFlickering().measure(features)[0]
    expected = setting.goldens.json(FACES_JSON, FLICKERING)
    why = "the reference sums in float32"
    yield close("value, VBench's rule", found, expected["computed_here"], rtol=1e-6, why=why)
    why = "its decoder converts colours otherwise"
    yield close("value, FastVideo's", found, expected["fastvideo_reference"], rtol=0, atol=5e-5, why=why)
