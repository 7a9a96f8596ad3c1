"""AV-Align: what both rules count, made-up clips with known onsets, and what has no value says why."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import FileItem, MemoryItem
from ovi_eval.clips.writing import write_mp4
from ovi_eval.common.installation import install_hint
from ovi_eval.errors import UserError
from ovi_eval.metrics.av_align import (
    AV_ALIGN,
    PeaksOfSoundAndMotion,
    javis_rule,
    motion_peaks,
    mova_rule,
)

FPS, RATE = 24.0, 24000
Javis, Mova = AV_ALIGN.values()


@pytest.fixture(scope="module")
def extractor() -> PeaksOfSoundAndMotion:
    for package in ("cv2", "librosa"):
        pytest.importorskip(package, reason=f"{package} is not installed: {install_hint('av-align')}")
    return PeaksOfSoundAndMotion()


def test_the_rules_differ_where_sounds_share_a_peak_and_where_motion_is_slow() -> None:
    onsets_A, peaks_V = np.array([0.98, 1.02, 2.0, 3.0]), np.array([1.0, 2.03, 5.0])
    assert javis_rule(onsets_A, peaks_V, 25) == pytest.approx(3 / (4 + 3 - 3 + 1e-6), abs=1e-15)
    assert mova_rule(onsets_A, peaks_V, 25) == 2 / (4 + 3 - 2)
    assert javis_rule(np.array([0.99, 1.0, 1.01]), np.array([1.0]), 25) == pytest.approx(3, abs=1e-5)
    assert mova_rule(np.array([0.99, 1.0, 1.01]), np.array([1.0]), 25) == 1 / 3
    # The second onset has no free peak left: the first took the earlier of its two.
    assert mova_rule(np.array([1.5, 1.0]), np.array([1.0, 2.0]), 1) == 1 / 3
    assert mova_rule(np.array([1.0]), np.array([2.0]), 1) == 0  # a whole frame apart is not near
    nothing = np.zeros(0)
    assert javis_rule(nothing, peaks_V, 25) == mova_rule(onsets_A, nothing, 25) == 0
    flow_T = np.array([0.05, 0.05, 0.09, 0.02, 0.3, 0.3, 0.1, 0.5, 0.4, 0.6])
    assert motion_peaks(flow_T, 10).tolist() == [0.2, 0.7]  # no plateau, neither end
    assert motion_peaks(flow_T, 10, floor=0.1).tolist() == [0.7]


def jumps_and_clicks(late_s: float = 0.0) -> ClipSet:
    """Four seconds of a soft pattern that jumps by three pixels at five frames, a click with each."""
    generator = torch.Generator().manual_seed(5)
    small = torch.rand(1, 1, 12, 16, generator=generator)
    picture_HW = torch.nn.functional.interpolate(small, size=(72, 96), mode="bicubic")[0, 0].clamp(0, 1)
    at = [12, 31, 50, 66, 83]
    frames, wave_S = [], torch.zeros(4 * RATE)
    for frame in range(96):
        moved_HW = picture_HW.roll(3 * sum(frame >= jump for jump in at), 1)
        frames.append((moved_HW * 255).byte()[..., None].expand(-1, -1, 3))
    for jump in at:
        start = round((jump / FPS + late_s) * RATE)
        click_S = torch.rand(600, generator=generator) * 1.6 - 0.8
        wave_S[start : start + 600] = click_S * torch.linspace(1, 0, 600)
    return ClipSet(["jumps"], [""], torch.stack(frames)[None], FPS, wave_S[None], RATE)


@pytest.mark.slow
def test_sound_with_motion_scores_one_and_late_sound_nothing(
    extractor: PeaksOfSoundAndMotion, tmp_path: Path
) -> None:
    clips = jumps_and_clicks()
    path = write_mp4(tmp_path / "a.mp4", clips.frames_NTHWC[0], FPS, clips.waves_NS[0], RATE, enlarge_to=96)
    item = FileItem(path, "a")
    coded = extractor.run(extractor.load(item))
    assert item._video is None, "the frames of a file need not be kept"
    features = extractor.run(extractor.load(MemoryItem(clips, 0)))
    for either in (coded, features):
        assert len(either["onsets"]) == 5
        assert Mova().measure(either) == [1.0]
    assert Javis().measure(features) == [pytest.approx(1.0, abs=1e-6)]
    again = extractor.run(extractor.load(FileItem(path, "a")))
    assert torch.equal(again["flow"], coded["flow"])
    late = extractor.run(extractor.load(MemoryItem(jumps_and_clicks(late_s=0.3), 0)))
    assert Mova().measure(late) == [0.0]
    assert Javis().measure(late) == [0.0]
    metric = Mova()
    metric.update(1, late)
    metric.update(0, features)
    assert metric.per_clip(3)["av_align_mova"].tolist()[:2] == [1.0, 0.0]
    assert float(metric.compute()["av_align_mova"]) == 0.5
    assert metric.have() == {"av_align_mova": 2}


def test_clips_without_a_value_say_why(extractor: PeaksOfSoundAndMotion, tmp_path: Path) -> None:
    clips = jumps_and_clicks()

    def load(frames_THWC: torch.Tensor, wave_S: torch.Tensor) -> dict[str, torch.Tensor]:
        one = ClipSet(["a"], [""], frames_THWC[None], FPS, wave_S[None], RATE)
        return extractor.run(extractor.load(MemoryItem(one, 0)))

    frames_THWC, wave_S = clips.frames_NTHWC[0], clips.waves_NS[0]
    with pytest.raises(UserError, match="its sound is silence"):
        load(frames_THWC, torch.zeros(RATE))
    with pytest.raises(UserError, match="its sound is not finite"):
        load(frames_THWC, torch.full((RATE,), torch.nan))
    with pytest.raises(UserError, match="its sound has 1000 samples, onsets are found in 2048 or more"):
        load(frames_THWC, torch.full((1000,), 0.5))
    with pytest.raises(UserError, match="it has 2 frames, AV-Align needs at least 3"):
        load(frames_THWC[:2], wave_S)
    still = load(frames_THWC[:1].expand(9, -1, -1, -1), wave_S)
    assert len(still["flow"].unique()) == 1  # the flow between equal pictures is not quite 0
    still["onsets"] = torch.zeros(0, dtype=torch.float64)
    for metric in (Javis(), Mova()):
        with pytest.raises(UserError, match="no onset of sound and no peak of motion"):
            metric.measure(still)
    path = tmp_path / "a.mp4"
    path.write_bytes(b"not a clip")
    with pytest.raises(UserError, match=r"a\.mp4: cannot be decoded"):
        extractor.load(FileItem(path, "a"))


@pytest.mark.parametrize("module", ["cv2", "librosa"])
@pytest.mark.usefixtures("extractor")
def test_without_its_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"needs the package {module} .* pip install .*\[av-align\]'"):
        PeaksOfSoundAndMotion()
