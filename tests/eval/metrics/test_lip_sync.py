"""Sync-C, Sync-D and offset of clips: real ones end to end, and one whose faces are known."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.generated_weights import GeneratedWeights
from helpers.media_makers import remuxed
from ovi_eval.backbones import s3fd, syncnet, ultraface
from ovi_eval.backbones.syncnet_crop import Crop, through_jpeg
from ovi_eval.check.generated import clip, wave
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import FileItem, Item, MemoryItem, items_in
from ovi_eval.clips.writing import write_mp4
from ovi_eval.common.processes import CPU
from ovi_eval.errors import UserError
from ovi_eval.faces import crop
from ovi_eval.faces.clip import PreparedClip
from ovi_eval.faces.detection import Detector
from ovi_eval.metrics import lip_sync
from ovi_eval.metrics.lip_sync import SYNC, SyncNetTracks
from ovi_eval.registry import find
from ovi_eval.scoring.feature_cache import FeatureCache
from ovi_eval.scoring.runner import ScoringOptions, score_items

QUICK = ScoringOptions(resamples=False, workers=0)


@pytest.fixture
def there(generated: GeneratedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of published weight files, which OVI_EVAL_WEIGHTS names."""
    folder = generated.links(tmp_path / "weights", syncnet.FILE, s3fd.FILE)
    monkeypatch.setenv("OVI_EVAL_WEIGHTS", str(folder))
    return folder


def written(path: Path, frames: int = 60, height: int = 128, width: int = 160, fps: float = 25.0) -> Path:
    sound = torch.from_numpy(wave(16000, frames / fps)).float() / 32768
    return write_mp4(path, torch.from_numpy(clip(frames, height, width)), fps, sound, 16000)


@pytest.mark.slow
def test_a_folder_of_real_clips(there: Path, shared_dir: Path, tmp_path: Path) -> None:
    """One clip with a face, one without: half the clips have a value, and the cache keeps it."""
    (there / ultraface.FILE.name).symlink_to(shared_dir / "weights/ultraface_rfb/version-RFB-320.pth")
    written(tmp_path / "clips/pattern.mp4")
    remuxed(shared_dir / "clips/ovi/kitchen_two_women_1280x704.mp4", tmp_path / "clips/women.mp4", until=2.3)
    items = items_in(tmp_path / "clips")
    cache = FeatureCache(tmp_path / "cache")
    scored = score_items(
        items, None, [SYNC["sync_ultraface"]], ScoringOptions(resamples=False, workers=1, cache=cache)
    )
    score = scored.values["sync_ultraface_c"]
    assert (score.n, score.coverage, score.direction) == (1, 0.5, "higher")
    assert set(score.weights) == {"syncnet_v2.model", "version-RFB-320.pth"}
    assert "faces by ultraface-rfb320 c722b4427cc7" in score.variant
    assert "at least 50" in score.preprocessing
    missing, found = scored.per_clip
    assert set(missing.values()) == {None}
    assert scored.reasons[0]["sync_ultraface"].startswith("no face track of 50 frames: 60 frames at 25 fps")
    assert found == {key: value.value for key, value in scored.values.items()}
    assert scored.values["sync_ultraface_offset"].unit == "frames"
    again = score_items(
        items, None, [SYNC["sync_ultraface"]], ScoringOptions(resamples=False, workers=0, cache=cache)
    )
    assert again.per_clip == scored.per_clip


@pytest.mark.usefixtures("there")
@pytest.mark.slow
def test_a_ready_crop_is_judged_as_it_is_read(tmp_path: Path) -> None:
    (item,) = items_in(written(tmp_path / "crop.mp4", frames=20, height=224, width=224))
    extractor = lip_sync.SyncNetCrops()
    loaded = extractor.load(item)
    features = extractor.run(loaded)
    sync = syncnet.measure(extractor.network, *loaded)
    assert torch.equal(features["mean_distances"], sync.mean_R[None])
    assert SYNC["sync_crops"]().measure(features) == pytest.approx(
        [sync.confidence, sync.distance, abs(sync.offset)], rel=1e-6
    )


@pytest.mark.usefixtures("there")
def test_s3fd_looks_at_clips_as_well(tmp_path: Path) -> None:
    """Its generated weights are never sure enough of a face, so the clip is missing and not 0."""
    (item,) = items_in(written(tmp_path / "pattern.mp4", frames=8))
    scored = score_items([item], None, find(["lse"]), QUICK)
    assert {key: (score.value, score.coverage) for key, score in scored.values.items()} == dict.fromkeys(
        ("sync_c", "sync_d", "sync_offset"), (None, 0.0)
    )
    assert set(scored.values["sync_c"].weights) == {"syncnet_v2.model", "sfd_face.pth"}
    assert scored.reasons[0]["sync"].startswith(
        "no face track of 50 frames: 8 frames at 25 fps, faces in 0 of"
    )


class Known(Detector):
    """A detector of another package: it finds faces at fixed places of frames of 300x400."""

    name = "known"

    @classmethod
    def found(cls, for_what: str, device: torch.device = CPU) -> "Known":
        return cls(None, Path("none"), "0" * 64, device)

    def shrink(self, frame_HWC: np.ndarray) -> np.ndarray:
        # The top left corner's brightness says what number the frame has.
        return frame_HWC[:8, :8].copy()

    def look(self, small_NHWC: np.ndarray, height: int, width: int) -> list[np.ndarray]:
        assert (height, width) == (300, 400)
        numbers = (small_NHWC.mean(axis=(1, 2, 3)) / 4).round()
        return [
            np.array(
                [[120, 40, 280, 200, 0.95], [10, 10, 130, 130, 0.9]][: 2 if number < 52 else 1], np.float32
            )
            for number in numbers
        ]


class KnownTracks(SyncNetTracks):
    name = "known_tracks"
    finder = Known


@pytest.fixture(scope="module")
def known(generated: GeneratedWeights, tmp_path_factory: pytest.TempPathFactory) -> KnownTracks:
    """Its extractor, made once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = generated.links(tmp_path_factory.mktemp("known") / "weights", syncnet.FILE)
        patch.setenv("OVI_EVAL_WEIGHTS", str(folder))
        return KnownTracks()


@pytest.fixture(scope="module")
def ready(known: KnownTracks) -> PreparedClip:
    """The clip of known faces as its extractor loads it; leave it as it is."""
    return known.load(known_clip())


@cache
def known_clip(frames: int = 54) -> Item:
    pictures = clip(frames, 300, 400)
    pictures[:, :16, :16] = 4 * np.arange(frames)[:, None, None, None]
    sound = torch.from_numpy(wave(16000, frames / 25)).float() / 32768
    return MemoryItem(ClipSet(["known"], [""], torch.from_numpy(pictures[None]), 25.0, sound[None], 16000), 0)


@pytest.mark.slow
def test_any_detector_gives_tracks_whose_crops_are_judged(known: KnownTracks, ready: PreparedClip) -> None:
    assert known.variant.endswith(f"faces by known {'0' * 12}")
    assert ready.scenes == [(0, 54)]
    found = known.run(ready)
    assert found["spans"].tolist() == [[0, 54], [0, 52]]
    assert found["detected"].tolist() == [54, 52]
    assert found["mean_distances"].shape == (2, 31)
    # The second track by hand: the same place in all 52 frames, and their 2.08 s of sound.
    half, middle = crop.smoothed(np.full(52, 60.0)), crop.smoothed(np.full(52, 70.0))
    pictures = [crop.cut(ready.picture(n), middle[n], middle[n], half[n]) for n in range(52)]
    seen = Crop(through_jpeg(pictures), ready.wave_S[: 52 * 640])
    by_hand = syncnet.measure(known.network, *seen)
    assert found["distance"][1] == pytest.approx(by_hand.distance, rel=1e-6)
    assert found["offset"][1] == by_hand.offset


def test_the_most_confident_track_counts() -> None:
    features = {
        "confidence": torch.tensor([2.0, 7.0, 3.0]),
        "distance": torch.tensor([6.0, 8.0, 5.0]),
        "offset": torch.tensor([1.0, -3.0, 0.0]),
    }
    assert SYNC["sync"]().measure(features) == [7.0, 8.0, 3.0]
    assert SYNC["sync_all_tracks"]().measure(features) == pytest.approx([4.0, 19 / 3])


@pytest.mark.slow
def test_sound_that_ends_early_leaves_short_tracks_out(known: KnownTracks, ready: PreparedClip) -> None:
    with pytest.raises(UserError, match=r"SyncNet needs at least 6 frames .* got 52 and 3200"):
        known.run(replace(ready, wave_S=ready.wave_S[: 5 * 640]))


@pytest.mark.usefixtures("there")
@pytest.mark.slow
def test_what_cannot_be_judged_is_missing_with_a_reason(tmp_path: Path) -> None:
    written(tmp_path / "wide.mp4")
    written(tmp_path / "short.mp4", frames=5, height=224, width=224)
    written(tmp_path / "slow.mp4", frames=30, height=224, width=224, fps=24.0)
    (tmp_path / "broken.mp4").write_bytes(b"no clip")
    items = items_in(tmp_path)
    scored = score_items([*items, known_clip()], None, [SYNC["sync_crops"]], QUICK)
    assert [item.id for item in items] == ["broken", "short", "slow", "wide"]
    why = [reasons["sync_crops"] for reasons in scored.reasons]
    for text, part in zip(
        why,
        (
            "cannot be decoded",
            "at least 6 frames at 25 fps",
            "is 224x224 at 24 fps; a face crop is 224x224 at 25",
            "a face crop is 224x224 at 25",
            "is no file; face crops are read from video files",
        ),
        strict=True,
    ):
        assert part in text
    assert all(score.value is None and score.coverage == 0 for score in scored.values.values())
    with pytest.raises(UserError, match=r"broken\.mp4: sync_crops: cannot be decoded"):
        score_items(
            items, None, [SYNC["sync_crops"]], ScoringOptions(resamples=False, workers=0, strict=True)
        )


def test_tracks_need_picture_and_sound(known: KnownTracks, tmp_path: Path) -> None:
    pictures = torch.from_numpy(clip(10, 128, 160))
    mute = write_mp4(tmp_path / "mute.mp4", pictures, 25.0, torch.zeros(6400), 16000)
    with pytest.raises(UserError, match=r"mute\.mp4: its sound is silence"):
        known.load(FileItem(mute, "mute"))
    with pytest.raises(UserError, match="no such file"):
        known.load(FileItem(tmp_path / "none.mp4", "none"))


def test_what_each_needs_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVI_EVAL_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"sync needs SyncNet weights: syncnet_v2\.model from https"):
        find(["sync"])
    (tmp_path / "syncnet_v2.model").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"sync needs S3FD weights: sfd_face\.pth from https"):
        find(["sync_d"])
    with pytest.raises(
        UserError, match=r"sync_ultraface needs UltraFace RFB-320 weights: version-RFB-320\.pth"
    ):
        find(["sync_ultraface"])
    assert find(["sync_crops"]) == [SYNC["sync_crops"]]
