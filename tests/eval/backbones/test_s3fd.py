"""S3FD: several frames at once, the faces that are kept of many boxes, and what is refused."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.generated_weights import GeneratedWeights
from ovi_eval.backbones import s3fd
from ovi_eval.check.generated import clip
from ovi_eval.common.weights import load_published
from ovi_eval.errors import UserError
from ovi_eval.faces.detection import S3FDDetector


def test_several_frames_are_seen_as_each_alone(
    generated: GeneratedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVI_EVAL_WEIGHTS", str(generated.links(tmp_path / "weights", s3fd.FILE)))
    monkeypatch.setattr(s3fd, "faces", partial(s3fd.faces, score=0.3))
    detector = S3FDDetector.found("sync")
    assert detector.variant == f"s3fd {detector.weights['sfd_face.pth'][:12]}"
    small = np.stack([detector.shrink(frame) for frame in clip(2, 256, 320)])
    assert small.shape == (2, 64, 80, 3)
    together = detector.look(small, 256, 320)
    for one, frame in zip(together, small, strict=True):
        assert len(one)
        np.testing.assert_allclose(one, detector.look(frame[None], 256, 320)[0], rtol=1e-4, atol=1e-2)


def test_planted_scores_give_planted_boxes() -> None:
    """Two faces, each seen from three places, and one that is too faint."""
    size = (60, 80)  # of a frame of 240x320
    maps = [(15, 20), (7, 10), (3, 5), (1, 2), (1, 1), (1, 1)]
    places_P4 = torch.cat(
        [s3fd.places(stride, of, size) for stride, of in zip(s3fd.STRIDES, maps, strict=True)]
    )
    assert places_P4[0].tolist() == pytest.approx([2 / 80, 2 / 60, 16 / 80, 16 / 60])
    assert places_P4[21].tolist() == pytest.approx([6 / 80, 6 / 60, 16 / 80, 16 / 60])
    centre_P2 = places_P4[:, :2] * torch.tensor([320.0, 240.0])
    faces = {
        (40.0, 30.0, 100.0, 110.0): 0.99,
        (200.0, 100.0, 290.0, 220.0): 0.95,
        (10.0, 150.0, 60.0, 200.0): 0.85,
    }
    scores_P = torch.full((len(places_P4),), 0.01)
    offsets_P4 = torch.zeros(len(places_P4), 4)
    for (x1, y1, x2, y2), score in faces.items():
        middle = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2])
        nearest = (centre_P2 - middle).square().sum(1).argsort()[:3]
        box = torch.tensor([middle[0] / 320, middle[1] / 240, (x2 - x1) / 320, (y2 - y1) / 240])
        own = places_P4[nearest]
        offsets_P4[nearest] = torch.cat(
            ((box[:2] - own[:, :2]) / 0.1 / own[:, 2:], (box[2:] / own[:, 2:]).log() / 0.2), 1
        )
        scores_P[nearest] = torch.tensor([score, score - 0.02, score - 0.03])
    found = s3fd.faces(scores_P, s3fd.decoded(offsets_P4, places_P4), 240, 320)
    wanted = [[*box, score] for box, score in faces.items() if score > 0.9]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_faults_are_reported(
    tmp_path: Path, generated: GeneratedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="frames of at least 128x128 pixels, got 200x100"):
        s3fd.shrunk(np.zeros((100, 200, 3), np.uint8))
    tensors = torch.load(generated.path(s3fd.FILE), weights_only=True)
    del tensors["conf.0.weight"]
    torch.save(tensors, tmp_path / "sfd_face.pth")
    with pytest.raises(UserError, match=r"conf\.0\.weight is missing"):
        load_published(s3fd.S3FD, tmp_path / "sfd_face.pth", s3fd.FILE)
    monkeypatch.setenv("OVI_EVAL_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"sync needs S3FD weights: sfd_face\.pth from https"):
        S3FDDetector.found("sync")
