"""GE2E's voices: the parts that are heard, the level, the score of pairs, and what is refused."""

import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ovi_eval.backbones import ge2e
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import Item, MemoryItem
from ovi_eval.clips.sound import decode_pcm16
from ovi_eval.common.needs import lacking
from ovi_eval.common.weights import WEIGHTS_FOLDER, in_package
from ovi_eval.errors import UserError
from ovi_eval.metrics.speaker_ge2e import GE2EVoice, SpeakerSimilarityGE2E

RATE = ge2e.SAMPLE_RATE


@pytest.fixture
def extractor(monkeypatch: pytest.MonkeyPatch) -> GE2EVoice:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    if in_package(ge2e.FILE.carried) is None:
        pytest.skip(f"Resemblyzer is not installed: {ge2e.FILE.install}")
    return GE2EVoice()


def sound(wave_S: torch.Tensor) -> Item:
    frames_NTHWC = torch.zeros(1, 4, 8, 8, 3, dtype=torch.uint8)
    return MemoryItem(ClipSet(["a"], [""], frames_NTHWC, 24.0, wave_S[None], RATE), 0)


@pytest.mark.slow
def test_one_speaker_is_more_alike_than_two(extractor: GE2EVoice, shared_dir: Path) -> None:
    """Five spoken digits a sound: a single one is too short, and the digit counts for more than the speaker."""

    def voice(speaker: str, half: int) -> dict[str, torch.Tensor]:
        files = sorted((shared_dir / "clips" / "fsdd").glob(f"*_{speaker}_0.wav"))[5 * half : 5 * half + 5]
        wave_S = torch.cat([torch.from_numpy(decode_pcm16(file, RATE)).float() / 32768 for file in files])
        with torch.no_grad():
            return extractor.run(extractor.load(sound(wave_S)))

    score = SpeakerSimilarityGE2E().measure
    george, theo = ([voice(speaker, half) for half in (0, 1)] for speaker in ("george", "theo"))
    assert score(george[0], george[0]) == [pytest.approx(1.0, abs=1e-6)]
    same = [score(*pair)[0] for pair in (george, theo)]
    others = [score(one, other)[0] for one in george for other in theo]
    assert 1 > min(same) > max(others) + 0.05 > 0
    assert "resemblyzer" not in sys.modules


def test_parts_are_resemblyzers() -> None:
    assert ge2e.parts(4000) == [0]
    assert ge2e.parts(25600) == [0]  # 1.6 s: the second would be half empty
    assert ge2e.parts(25600 + 77 * 160) == [0, 77]
    assert ge2e.parts(5 * RATE) == [0, 77, 154, 231, 308, 385][:-1]
    for samples in (30000, 5 * RATE, 123457):
        last = ge2e.parts(samples)[-1] * ge2e.HOP
        assert (samples - last) / (ge2e.PART * ge2e.HOP) >= ge2e.COVERED


def test_quiet_sound_is_made_louder_and_a_tone_is_in_its_band() -> None:
    tone_S = torch.sin(2 * math.pi * 1000 * torch.arange(RATE, dtype=torch.float64) / RATE)
    assert torch.equal(ge2e.louder(tone_S), tone_S)
    quiet_S = ge2e.louder(tone_S * 1e-4)
    assert 20 * math.log10(float(quiet_S.square().mean().sqrt())) == pytest.approx(-30)
    picture_MB = ge2e.mel_picture(tone_S)
    assert picture_MB.shape == (101, 40)
    assert int(picture_MB[50].argmax()) == 13  # 15 of 45.2 mel; the bands' tops lie 1.103 apart


def test_what_cannot_be_heard_is_refused(extractor: GE2EVoice) -> None:
    with pytest.raises(UserError, match="its sound is silence"):
        extractor.load(sound(torch.zeros(RATE)))
    with pytest.raises(UserError, match=r"too short for the network: 0\.100 s of 0\.250 s"):
        extractor.load(sound(torch.ones(RATE // 10)))


def test_missing_and_other_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    (line,) = lacking(GE2EVoice.needs, "speaker_ge2e")
    assert "resemblyzer/pretrained.pt" in line
    assert "pip install --no-deps Resemblyzer" in line
    (tmp_path / "resemblyzer").mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "resemblyzer" / "pretrained.safetensors")
    with pytest.raises(UserError, match=r"has the sha256 \w+, expected 39373b86598f"):
        GE2EVoice()
