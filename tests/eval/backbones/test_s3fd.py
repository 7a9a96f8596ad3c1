"""S3FD as SyncNet's release has it: names and shapes, scores and boxes, and what is kept of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.rule_made import clip, published_keys, weights
from ovi_eval.backbones import s3fd
from ovi_eval.errors import UserError
from ovi_eval.faces.detection import S3FDDetector


@pytest.fixture(scope="module")
def golden(goldens: Path) -> dict[str, Any]:
    return json.loads((goldens / "s3fd_golden.json").read_text())["frames"]


@pytest.fixture(scope="module")
def folder(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("s3fd")
    torch.save(weights(goldens / "s3fd_keys.txt.gz"), folder / "sfd_face.pth")
    yield folder
    (folder / "sfd_face.pth").unlink()


@pytest.fixture(scope="module")
def network(folder: Path) -> s3fd.S3FD:
    return s3fd.load_s3fd(folder / "sfd_face.pth").network


def test_architecture_holds_the_published_names_and_shapes(goldens: Path) -> None:
    with torch.device("meta"):
        state = s3fd.S3FD().state_dict()
    published = {name: shape for name, shape, _ in published_keys(goldens / "s3fd_keys.txt.gz")}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published


@pytest.mark.parametrize("seed", ["0", "1"])
def test_scores_boxes_and_faces_equal_the_release(
    network: s3fd.S3FD, golden: dict[str, Any], seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = golden[seed]
    frame = clip(1, 300, 420, int(seed))[0]
    with torch.no_grad():
        scores_1P, boxes_1P4 = network(s3fd.prepared(s3fd.shrunk(frame)[None]))
    assert scores_1P.shape == (1, wanted["places"])
    np.testing.assert_allclose(scores_1P[0, ::5], wanted["scores_every_5"], rtol=1e-4, atol=1e-5)
    # Weights made by rule make boxes far larger than the frame.
    np.testing.assert_allclose(boxes_1P4[0, ::25], wanted["boxes_every_25"], rtol=1e-3, atol=1e-3)
    assert len(s3fd.faces(scores_1P[0], boxes_1P4[0], 300, 420)) == 0  # no score is above 0.9
    monkeypatch.setattr(s3fd, "SCORE", 0.3)
    found = s3fd.faces(scores_1P[0], boxes_1P4[0], 300, 420)
    np.testing.assert_allclose(found, wanted["confidence_above_0.3"], rtol=1e-4, atol=1e-3)


def test_several_frames_are_seen_as_each_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVI_EVAL_WEIGHTS", str(folder))
    monkeypatch.setattr(s3fd, "SCORE", 0.3)
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


def test_faults_are_told(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="frames of at least 128x128 pixels, got 200x100"):
        s3fd.shrunk(np.zeros((100, 200, 3), np.uint8))
    tensors = torch.load(folder / "sfd_face.pth", weights_only=True)
    del tensors["conf.0.weight"]
    torch.save(tensors, tmp_path / "sfd_face.pth")
    with pytest.raises(UserError, match=r"conf\.0\.weight is missing"):
        s3fd.load_s3fd(tmp_path / "sfd_face.pth")
    monkeypatch.setenv("OVI_EVAL_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"sync needs S3FD weights: sfd_face\.pth from https"):
        S3FDDetector.found("sync")
