"""CLAP's pieces of sound, tokens and score, and what becomes of each kind of clip."""

import json
import math
import re
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.clap_files import SMALL, published, small_checkpoint, write_tokenizer
from ovi_eval.backbones import clap_sound
from ovi_eval.backbones.clap import MUSIC_SPEECH, TOKENIZER, Tokenizer, load_clap
from ovi_eval.backbones.clap_keys import BASE
from ovi_eval.check.generated import wave
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import FileItem, Item, MemoryItem, items_in
from ovi_eval.common.needs import lacking
from ovi_eval.common.weights import WEIGHTS_FOLDER
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import variant_of
from ovi_eval.metrics.clap import CLAP, Clap, ClapAllCrops, ClapFloat, cosines
from ovi_eval.scoring.feature_cache import FeatureCache
from ovi_eval.scoring.runner import score_items

RATE = clap_sound.SAMPLE_RATE


def waves() -> Tensor:
    return torch.from_numpy(np.stack([wave(RATE, 10.0, seed) for seed in (0, 1)])).float() / 32768


def test_a_laion_clap_that_does_not_import_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clap.pt"
    torch.save(published(small_checkpoint()), path)
    monkeypatch.setitem(sys.modules, "laion_clap", None)
    with pytest.raises(
        UserError, match=r"cannot be imported here \(.*laion_clap.*\); .*take the metric clap"
    ) as e:
        load_clap(path, MUSIC_SPEECH, SMALL, laion=True)
    assert "\n" not in str(e.value)
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    assert any("package laion_clap" in line for line in lacking(CLAP["clap_laion"].extractor.needs, "x"))
    assert not CLAP["clap_laion"].by_default


def test_tables_of_the_front_end_are_those_of_its_transform() -> None:
    real_KW, imaginary_KW, mel_KB = clap_sound.transform_tables().values()
    mirrored_S = torch.nn.functional.pad(waves()[:1], (512, 512), mode="reflect")
    frames_MW = mirrored_S[0].unfold(0, 1024, 480)
    power_MK = (frames_MW @ real_KW[:, 0].T).square() + (frames_MW @ imaginary_KW[:, 0].T).square()
    wanted_MB = 10 * torch.log10((power_MK @ mel_KB).clamp(min=1e-10))
    found = clap_sound.log_mel(waves())
    assert found.shape == (2, 1, 1001, 64)
    assert found[0, 0].allclose(wanted_MB, atol=2e-3)
    assert clap_sound.log_mel(torch.zeros(1, 480000)).equal(torch.full((1, 1, 1001, 64), -100.0))


def test_clips_in_any_order_have_the_mean_of_their_cosines() -> None:
    audio_NE, text_NE = torch.randn(2, 8, 512, generator=torch.Generator().manual_seed(0))
    metric = CLAP["clap"]()
    for place in (3, 0, 7, 1, 2, 6, 4, 5):
        metric.update(place, {"audio": audio_NE[place], "text": text_NE[place]})
    assert metric.per_clip(8)["clap_score"].tolist() == cosines(audio_NE, text_NE).tolist()
    assert float(metric.compute()["clap_score"]) == pytest.approx(float(cosines(audio_NE, text_NE).mean()))


def test_short_sounds_are_repeated_whole_and_then_silent() -> None:
    sound_S = torch.rand(200_000) + 0.1
    piece_P = clap_sound.pieces(sound_S, "clip", "float")[0]
    assert piece_P.equal(torch.cat([sound_S, sound_S, torch.zeros(80_000)]))
    whole_S = torch.rand(480000)
    assert clap_sound.pieces(whole_S, "clip", "float").equal(whole_S[None])
    assert clap_sound.pieces(torch.full((1,), 0.5), "clip", "float").equal(torch.full((1, 480000), 0.5))


def test_crops_of_long_sounds_follow_from_the_clip_alone() -> None:
    long_S = torch.arange(1_500_000, dtype=torch.float32) / 1_500_000
    one = clap_sound.pieces(long_S, "a clip's hash", "float")
    assert one.shape == (1, 480000)
    assert one.equal(clap_sound.pieces(long_S, "a clip's hash", "float"))
    first = round(float(one[0, 0]) * 1_500_000)
    assert one[0].equal(long_S[first : first + 480000])
    drawn = [clap_sound.starts(1_500_000, "one", f"clip {place}")[0] for place in range(400)]
    assert len(set(drawn)) > 390
    assert 0 <= min(drawn) < 50_000
    assert 970_000 < max(drawn) <= 1_020_000
    assert sum(drawn) / len(drawn) == pytest.approx(510_000, rel=0.1)
    assert {clap_sound.starts(480001, "one", f"clip {place}")[0] for place in range(20)} == {0, 1}
    both = clap_sound.pieces(long_S, "any", "float", "all")
    assert both.equal(torch.stack([long_S[:480000], long_S[480000:960000], long_S[960000:1440000]]))
    for shape in ([2, 9], [0]):
        with pytest.raises(UserError, match=r"a wave \[S\] .* got " + re.escape(str(shape))):
            clap_sound.pieces(torch.zeros(shape), "x")


def test_captions_become_77_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_tokenizer(tmp_path / "roberta-base"), SMALL)
    places = json.loads((tmp_path / "roberta-base" / "vocab.json").read_text())
    ids_NL, mask_NL = tokenizer(["a dog barks", "dog" * 100])
    words = ["<s>", "a", "Ġ", "dog", "Ġb", "a", "r", "k", "s", "</s>"]
    assert ids_NL[0].tolist() == [places[word] for word in words] + [1] * 67
    assert ids_NL[1].tolist() == [0] + [places["dog"]] * 75 + [2]
    assert mask_NL.sum(dim=1).tolist() == [10, 77]
    other = Tokenizer(write_tokenizer(tmp_path / "other", BASE.vocabulary))
    assert other.digest != tokenizer.digest


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"another model \(400 tokens .*expected 50265 .*fetch RoBERTa's"):
        Tokenizer(write_tokenizer(tmp_path / "small"))
    (tmp_path / "small" / "merges.txt").write_text("#version: 0.2\nq zz\n")
    with pytest.raises(UserError, match=r"small: is no tokenizer \(.*\); fetch RoBERTa's tokenizer") as e:
        Tokenizer(tmp_path / "small", SMALL)
    assert "\n" not in str(e.value)


class SmallClap(Clap):
    """The extractor with a small network: everything else is what users run."""

    size = SMALL


class SmallFloat(ClapFloat):
    size = SMALL


class SmallAllCrops(ClapAllCrops):
    size = SMALL


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint and tokenizer under the published names."""
    folder = tmp_path_factory.mktemp("small")
    torch.save(published(small_checkpoint()), folder / MUSIC_SPEECH.name)
    write_tokenizer(folder / TOKENIZER.name)
    return folder


@pytest.fixture(autouse=True)
def _there(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extractors above find these."""
    monkeypatch.setenv(WEIGHTS_FOLDER, str(small))


def clip(sound_S: Tensor, caption: str = "a dog barks") -> Item:
    clips = ClipSet(
        ["clip"], [caption], torch.zeros(1, 1, 2, 2, 3, dtype=torch.uint8), 1.0, sound_S[None], RATE
    )
    return MemoryItem(clips, 0)


def test_a_clip_is_scored_by_its_sound_and_caption() -> None:
    extractor = SmallClap()
    sound_S = waves()[0, : 3 * RATE]
    features = extractor.run(extractor.load(clip(sound_S)))
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in features.items()} == {
        "audio": ((24,), torch.float32),
        "text": ((24,), torch.float32),
    }
    for tensor in features.values():
        assert float(tensor.norm()) == pytest.approx(1, abs=1e-5)
        assert not tensor.requires_grad
    with torch.no_grad():
        audio_1E = extractor.network.sounds(clap_sound.pieces(sound_S, "any"))
        text_1E = extractor.network.texts(*extractor.tokenizer(["a dog barks"]))
    (score,) = CLAP["clap"]().measure(features)
    assert score == pytest.approx(float(audio_1E[0] @ text_1E[0]), abs=1e-6)
    assert score != pytest.approx(
        CLAP["clap"]().measure({**features, "text": features["audio"]})[0], abs=1e-3
    )
    other = extractor.run(extractor.load(clip(sound_S, "a train")))
    assert other["audio"].equal(features["audio"])
    assert not other["text"].allclose(features["text"], atol=1e-4)
    named = json.dumps(extractor.weights)
    assert MUSIC_SPEECH.name in named
    assert "roberta-base" in named
    assert extractor.weights[MUSIC_SPEECH.name][:12] in extractor.variant


def test_captions_that_are_read_in_part_are_reported() -> None:
    """The reference reads 77 tokens and drops the rest without a word."""

    Score = variant_of(CLAP["clap"], "clap", extractor=SmallClap, values=CLAP["clap"].values)
    sound_S = waves()[0, :RATE]
    scored = score_items([clip(sound_S), clip(sound_S, "dog " * 100)], None, [Score])
    (warning,) = scored.values["clap_score"].warnings
    assert warning == "1 captions have more than 77 tokens, of which CLAP reads the first: clip"
    assert score_items([clip(sound_S)], None, [Score]).values["clap_score"].warnings == ()


def test_features_are_cached_by_sound_and_caption(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    extractors = [SmallClap(), SmallFloat(), SmallAllCrops()]
    sounds = [waves()[0, :RATE], waves()[1, :RATE]]
    paths = {
        cache.path(clip(sound_S, caption), extractor)
        for extractor in extractors
        for sound_S in sounds
        for caption in ("a dog", "a train")
    }
    assert len(paths) == 12
    features = extractors[0].run(extractors[0].load(clip(sounds[0])))
    cache.put(clip(sounds[0]), extractors[0], features)
    kept = cache.get(clip(sounds[0]), extractors[0])
    assert kept is not None
    assert all(kept[name].equal(tensor) for name, tensor in features.items())
    assert cache.get(clip(sounds[0], "another caption"), extractors[0]) is None


@pytest.mark.slow
def test_choices_of_preparation_are_kept_apart() -> None:
    through_int16, as_float, all_crops = SmallClap(), SmallFloat(), SmallAllCrops()
    assert len({extractor.variant for extractor in (through_int16, as_float, all_crops)}) == 3
    assert len({extractor.preprocessing for extractor in (through_int16, as_float, all_crops)}) == 3
    quiet_S = 0.01 * waves()[0, :RATE]
    rounded_NP, exact_NP = through_int16.load(clip(quiet_S))[0], as_float.load(clip(quiet_S))[0]
    assert exact_NP[0, :RATE].equal(quiet_S)
    assert (rounded_NP * 32767).round().allclose(rounded_NP * 32767, atol=1e-2)
    assert 0 < (rounded_NP - exact_NP).abs().max() < 1.01 / 32767
    long_S = torch.cat([waves()[0], waves()[1], waves()[0, :RATE]])
    loaded = all_crops.load(clip(long_S))
    assert loaded[0].shape == (2, 480000)
    mean_E = all_crops.network.sounds(loaded[0]).mean(dim=0)
    found_E = all_crops.run(loaded)["audio"]
    assert found_E.allclose(mean_E / mean_E.norm(), atol=1e-6)
    assert through_int16.load(clip(long_S))[0].shape == (1, 480000)


def test_clips_that_cannot_be_scored_say_why(tmp_path: Path) -> None:
    extractor = SmallClap()
    broken_S = waves()[0, :RATE].clone()
    broken_S[5] = math.inf
    (tmp_path / "broken.wav").write_bytes(b"RIFF and nothing else")
    for item, text in (
        (clip(waves()[0, :RATE], "  "), "it has no caption"),
        (clip(torch.zeros(RATE)), "its sound is silence"),
        (clip(broken_S), "its sound is not finite"),
        (FileItem(tmp_path / "broken.wav", "broken", "a dog"), r"broken\.wav: cannot be decoded"),
    ):
        with pytest.raises(UserError, match=text):
            extractor.load(item)


def test_what_is_needed_is_found_or_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    assert len(lacking(Clap.needs, "clap")) == 2
    with pytest.raises(UserError, match=r"clap needs RoBERTa's tokenizer: the folder roberta-base"):
        Clap()
    write_tokenizer(tmp_path / TOKENIZER.name, BASE.vocabulary)
    with pytest.raises(
        UserError, match=r"clap needs CLAP .*music_speech_audioset_epoch_15_esc_89\.98\.pt from"
    ):
        Clap()
    with pytest.raises(UserError, match=r"clap_630k needs CLAP HTSAT-tiny 630k-audioset weights"):
        CLAP["clap_630k"].extractor()


def test_real_sounds_with_captions_end_to_end(shared_dir: Path) -> None:
    folder = shared_dir / "clips" / "clap_audio"
    captions = {"dog": "a medium-sized dog howling and barking", "train": "a fast electric train passing by"}
    items = items_in(folder, captions)
    extractor, metric = SmallClap(), CLAP["clap"]()
    for place, item in enumerate(items):
        metric.update(place, extractor.run(extractor.load(item)))
    scores_N = metric.per_clip(2)["clap_score"]
    assert float(metric.compute()["clap_score"]) == pytest.approx(float(scores_N.mean()))
    for item, score in zip(items, scores_N.tolist(), strict=True):
        with av.open(str(folder / f"{item.id}.wav")) as file:  # 16 bits, 48 kHz, mono: nothing to resample
            read_S = torch.from_numpy(np.concatenate([x.to_ndarray()[0] for x in file.decode(audio=0)]))
        piece_P = clap_sound.fill_piece(clap_sound.round_to_int16(read_S.float() / 32768))
        with torch.no_grad():
            audio_1E = extractor.network.sounds(piece_P[None])
            text_1E = extractor.network.texts(*extractor.tokenizer([captions[item.id]]))
        assert score == pytest.approx(float(cosines(audio_1E, text_1E)), abs=1e-6)
