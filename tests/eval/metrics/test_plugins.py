"""Plug-ins: other people's metrics by their entry points; what the built-in ones need, and their arithmetic."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import Item, MemoryItem
from ovi_eval.common.compiled import compiling
from ovi_eval.common.installation import install_hint
from ovi_eval.common.needs import lacking
from ovi_eval.common.weights import WEIGHTS_FOLDER
from ovi_eval.errors import UserError
from ovi_eval.metrics.plugins import BUILT_IN, audiobox, desync, from_packages, imagebind
from ovi_eval.metrics.plugins.desync import DeSync, SynchformerOffsets
from ovi_eval.metrics.plugins.face import FaceSimilarity
from ovi_eval.metrics.plugins.loading import at_rate, fill
from ovi_eval.metrics.plugins.speaker import SpeakerSimilarity, VoiceFeatures
from ovi_eval.scoring.runner import score_items

RATE = 16000

RAINY = """
from ovi_eval.metrics.base import Extractor, ItemMean, ValueSpec


class Loudness(Extractor):
    name = "loudness"

    def load(self, item):
        return item.audio().wave_S

    def run(self, loaded):
        return {"rms": loaded.double().square().mean().sqrt()[None]}


class Rms(ItemMean):
    name = "rms"
    values = (ValueSpec("rms", "closer_to_reference"),)
    extractor = Loudness

    def measure(self, features, reference=None):
        return [float(features["rms"])]


class Peak(Rms):
    name = "peak"
    values = (ValueSpec("peak", "lower"),)


class Twin(Loudness):
    name = "synchformer"


class Cached(Rms):
    name = "cached"
    values = (ValueSpec("cached", "lower"),)
    extractor = Twin


class Nameless(ItemMean):
    values = (ValueSpec("x", "lower"),)
    extractor = Loudness


BOTH = (Rms, Peak)
"""


def install(folder: Path, package: str, module: str, points: dict[str, str]) -> None:
    """As pip leaves a package: its module, and its metadata beside it."""
    (folder / f"{package}.py").write_text(module)
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "\n".join(f"{name} = {value}" for name, value in points.items())
    (about / "entry_points.txt").write_text(f"[ovi_eval.metrics]\n{lines}\n")


def clips(*waves: torch.Tensor, frames: int = 6, ids: tuple[str, ...] = ("a", "b")) -> list[Item]:
    generator = torch.Generator().manual_seed(3)
    shape = (len(waves), frames, 32, 48, 3)
    frames_NTHWC = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    captions = [""] * len(waves)
    rows = ClipSet(list(ids[: len(waves)]), captions, frames_NTHWC, 24.0, torch.stack(waves), RATE)
    return [MemoryItem(rows, place) for place in range(len(waves))]


def voice(pitch: float, seconds: float = 1.0) -> torch.Tensor:
    times = torch.arange(round(seconds * RATE)) / RATE
    return sum(
        (0.2 / k * torch.sin(2 * math.pi * pitch * k * times) for k in range(1, 6)), torch.zeros(len(times))
    )


def test_another_packages_metrics_join_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "rainy_metrics", RAINY, {"loud": "rainy_metrics:BOTH"})
    monkeypatch.syspath_prepend(str(tmp_path))
    metrics, faults = from_packages()
    assert faults == {}
    assert list(metrics) == ["rms", "peak"]
    scored = score_items(
        clips(torch.full((800,), 0.5), torch.full((800,), -0.25)), None, list(metrics.values())
    )
    assert scored.values["rms"].value == pytest.approx(0.375)
    assert [row["peak"] for row in scored.per_clip] == [0.5, 0.25]


def test_a_faulty_package_is_named_and_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {
        "absent": "rainy_metrics:Absent",
        "cached": "rainy_metrics:Cached",
        "good": "rainy_metrics:Rms",
        "late": "rainy_metrics:BOTH",
        "nameless": "rainy_metrics:Nameless",
        "other": "rainy_metrics:Loudness",
        "taken": "rainy_metrics:Peak",
    }
    install(tmp_path, "rainy_metrics", RAINY, points)
    install(
        tmp_path, "stormy_metrics", "raise RuntimeError('no\\nlicence')", {"storm": "stormy_metrics:Storm"}
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    metrics, faults = from_packages(taken=("peak", "fvd"))
    assert list(metrics) == ["rms"]
    for name, why in (
        ("absent", "has no attribute 'Absent'"),
        ("cached", "its extractor's name 'synchformer' is that of one of ovi-eval's"),
        ("late", "is the name of another metric or value"),
        ("nameless", "Nameless has no name"),
        ("other", "is no class of ItemMean or ItemSet"),
        ("storm", "no licence"),
        ("taken", "peak is the name of another metric or value"),
    ):
        assert faults[name].startswith(
            f"the package {'stormy' if name == 'storm' else 'rainy'}_metrics: its entry point "
        )
        assert why in faults[name]
        assert "\n" not in faults[name]


@pytest.mark.parametrize("metric", BUILT_IN, ids=lambda metric: metric.name)
def test_built_in_plug_ins_say_what_they_need(
    metric: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    lines = lacking(metric.extractor.needs, metric.name)
    assert lines
    for line in lines:
        assert line.startswith(f"{metric.name} needs ")
        assert "\n" not in line
        assert "pip install" in line or ("https://" in line and str(tmp_path) in line)
    with pytest.raises(UserError, match="needs"):
        metric.extractor()


def test_names_of_built_in_plug_ins_are_their_own() -> None:
    keys = [spec.key for metric in BUILT_IN for spec in metric.values]
    assert len(set(keys)) == len(keys)


def test_desync_is_the_mean_size_of_the_likeliest_offsets_in_the_first_and_the_last_window() -> None:
    logits_WK = torch.zeros(2, 21)
    logits_WK[0, 4], logits_WK[1, 13] = 5.0, 5.0  # -1.2 s and 0.6 s
    assert DeSync().measure({"logits": logits_WK}) == [pytest.approx(0.9, abs=1e-12)]
    assert desync.windows(14) == (slice(0, 14), slice(0, 14))
    with pytest.raises(UserError, match=r"13 segments of the 14 that DeSync needs: 4\.8 s"):
        desync.windows(13)


def test_synchformers_input_is_cut_as_it_says() -> None:
    extractor = SynchformerOffsets.__new__(SynchformerOffsets)  # its network is not to be had here
    (item,) = clips(voice(200, 5.0), frames=120)
    pictures, spectra = extractor.load(item)
    assert pictures.shape == (14, 16, 3, 224, 224)  # 5 s at 25 frames a second: 125 frames
    assert pictures.dtype == torch.uint8
    assert torch.equal(pictures[0, 8:], pictures[1, :8])
    assert spectra.shape == (14, 128, 66)
    (short,) = clips(voice(200, 4.5), frames=120)
    with pytest.raises(UserError, match="segments of the 14 that DeSync needs"):
        extractor.load(short)


def test_synchformers_spectrum_is_the_mel_spectrum_it_names() -> None:
    librosa = pytest.importorskip("librosa", reason=f"librosa is not installed: {install_hint('av-align')}")
    wave_S = voice(330, 0.64) + 0.01 * torch.randn(10240, generator=torch.Generator().manual_seed(1))
    with compiling():  # librosa's modules compile when they are first looked into
        power = librosa.feature.melspectrogram(
            y=wave_S.double().numpy(), sr=RATE, n_fft=1024, hop_length=160, win_length=400,
            n_mels=128, htk=True, norm=None, pad_mode="reflect",
        )  # fmt: skip
    wanted = (np.pad(np.log(power + 1e-6), ((0, 0), (0, 1))) + 4.2677393) / (2 * 4.5689974)
    assert np.allclose(desync.spectrum(wave_S).numpy(), wanted, atol=1e-3)


def test_frames_at_another_rate_are_those_that_have_begun() -> None:
    places = torch.arange(24)
    times = 0.5 + places.double() / 24
    assert at_rate(places, times, 24.0, 24).tolist() == places.tolist()
    assert at_rate(places, times, 25.0, 25).tolist() == [int(k * 24 / 25 + 1e-6) for k in range(25)]
    assert at_rate(places, times, 12.0, 12).tolist() == list(range(0, 24, 2))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 3)
    path = tmp_path / desync.FILE.name
    torch.save({"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, path)
    assert len(fill(network, path, desync.FILE)) == 64
    assert network.weight.tolist() == [[1, 1]] * 3
    assert not network.weight.requires_grad
    torch.save({"weight": torch.ones(3, 2)}, path)
    with pytest.raises(UserError, match="holds no weights of Synchformer") as error:
        fill(network, path, desync.FILE)
    assert "\n" not in str(error.value)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds no weights of Synchformer"):
        fill(network, path, desync.FILE)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"is not a whole file of torch.save"):
        fill(network, path, desync.FILE)


def test_imagebinds_input_is_cut_as_it_says() -> None:
    extractor = imagebind.ImageBindFeatures.__new__(imagebind.ImageBindFeatures)  # as above
    (item,) = clips(voice(200, 5.0), frames=120)
    pictures, spectra = extractor.load(item)
    assert pictures.shape == (15, 3, 2, 224, 224)
    assert spectra.shape == (3, 1, 128, 204)
    assert imagebind.starts(5.0, 5) == [0.0, 0.75, 1.5, 2.25, 3.0]
    assert imagebind.starts(1.0, 3) == [0.0] * 3
    frames_THWC = item.video().frames_THWC
    # 32x48 is drawn to 224x336; the crops of a stretch begin at columns 0, 56 and 112.
    assert torch.equal(pictures[0][..., 56:], pictures[1][..., :-56])
    assert torch.equal(pictures[1][..., 56:], pictures[2][..., :-56])
    colour = (frames_THWC[0].double().mean() / 255 - 0.449) / 0.269
    assert float(pictures[:3, :, 0].mean()) == pytest.approx(float(colour), abs=0.05)
    turned = imagebind._crops(frames_THWC[:2].transpose(1, 2))
    assert torch.allclose(turned[2].transpose(2, 3), imagebind._crops(frames_THWC[:2])[2], atol=1e-5)


def test_imagebinds_spectrum_is_kaldis_filter_bank() -> None:
    wave_S = voice(440, 2.0)
    found = imagebind.spectrum(wave_S) * 9.138 - 4.268
    assert torch.allclose(found[:, 198:], torch.zeros(128, 6), atol=1e-5)
    # One frame by hand: mean taken out, first differences, Hann, power, triangles in mel.
    frame = wave_S.double()[16000 : 16000 + 400].numpy() - float(wave_S.mean())
    frame = frame - frame.mean()
    frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
    power_K = np.abs(np.fft.rfft(frame * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)), 512)) ** 2

    def mel(hz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(hz) / 700)

    corners = np.linspace(mel(20), mel(8000), 130)
    bins_K = mel(np.arange(257) * 31.25)
    left, top, right = (corners[i : i + 128, None] for i in range(3))
    bands = np.clip(np.minimum((bins_K - left) / (top - left), (right - bins_K) / (right - top)), 0, None)
    wanted_B = np.log(np.maximum(bands @ power_K, np.finfo(np.float32).eps))
    assert np.allclose(found[:, 100].numpy(), wanted_B, atol=2e-3)


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WavLM for speaker verification with random weights, in the published layout."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    root = tmp_path_factory.mktemp("voices")
    config = WavLMConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        tdnn_dim=(16, 16, 16, 16, 24), xvector_output_dim=12,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        WavLMForXVector(config).save_pretrained(root / "wavlm-base-plus-sv")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(root / "wavlm-base-plus-sv")
    return root


def test_speaker_similarity_is_the_cosine_of_transformers_features(
    voices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Wav2Vec2FeatureExtractor, WavLMForXVector

    monkeypatch.setenv(WEIGHTS_FOLDER, str(voices))
    scored = clips(voice(120), voice(200))
    reference = clips(voice(200), voice(260), ids=("b", "a"))
    found = score_items(scored, reference, [SpeakerSimilarity])
    folder = voices / "wavlm-base-plus-sv"
    network = WavLMForXVector.from_pretrained(folder)
    hear = Wav2Vec2FeatureExtractor.from_pretrained(folder)

    def features(wave_S: torch.Tensor) -> torch.Tensor:
        return network(**hear(wave_S.numpy(), sampling_rate=RATE, return_tensors="pt")).embeddings[0].detach()

    wanted = float(torch.cosine_similarity(features(voice(120)), features(voice(260)), dim=0))
    assert [row["speaker_similarity"] for row in found.per_clip] == pytest.approx([wanted, 1.0], abs=1e-5)
    assert wanted < 0.999
    assert found.values["speaker_similarity"].variant.startswith("wavlm-base-plus-sv, weights ")
    quiet = clips(torch.zeros(RATE), voice(200, 0.3).repeat(4)[:RATE])
    assert score_items(quiet, reference, [SpeakerSimilarity]).reasons[0] == {
        "speaker_similarity": "its sound is silence"
    }
    with pytest.raises(UserError, match=r"too short for the network: 0\.300 s of 0\.500 s"):
        VoiceFeatures().load(clips(voice(200, 0.3))[0])


def test_speaker_weights_as_published_are_read_and_absent_ones_named(
    voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    folder = tmp_path / "wavlm-base-plus-sv"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((voices / folder.name / name).read_bytes())
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    with pytest.raises(UserError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        VoiceFeatures()
    tensors = load_file(voices / folder.name / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    assert list(VoiceFeatures().weights) == ["wavlm-base-plus-sv/pytorch_model.bin"]
    del tensors["feature_extractor.weight"]
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"such as feature_extractor\.weight"):
        VoiceFeatures()


def test_pairs_are_cosines_and_a_clip_alone_has_none() -> None:
    one = {"face": torch.nn.functional.normalize(torch.tensor([1.0, 2.0, 0.0]), dim=0)}
    other = {"face": torch.tensor([0.0, 1.0, 0.0])}
    assert FaceSimilarity().measure(one, other) == [pytest.approx(2 / math.sqrt(5))]
    picture = {"picture": torch.tensor([3.0, 4.0]), "sound": torch.tensor([1.0, 0.0])}
    assert imagebind.ImageBindScore().measure(picture) == [pytest.approx(0.6)]


def test_audiobox_rates_pieces_as_its_package_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aes = pytest.importorskip("audiobox_aesthetics.model.aes", reason="pip install audiobox_aesthetics")
    for name, value in (("encoder_layers", 1), ("encoder_embed_dim", 24), ("encoder_ffn_embed_dim", 24)):
        monkeypatch.setattr(aes.DEFAULT_AUDIO_CFG, name, value)
    monkeypatch.setattr(aes.DEFAULT_AUDIO_CFG, "encoder_attention_heads", 2)
    monkeypatch.setattr(aes.DEFAULT_AUDIO_CFG, "conv_pos_groups", 4)
    scales = {axis: {"mean": 5.0 + place, "std": 1.5} for place, axis in enumerate(audiobox.AXES)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        network = aes.AesMultiOutput(nth_layer=2, target_transform=scales)
        network.save_pretrained(tmp_path / "audiobox-aesthetics")
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    wave_S = voice(150, 12.5)
    found = score_items(clips(wave_S), None, [audiobox.AudioBoxAesthetics]).values
    pieces = torch.zeros(2, 1, 160000)
    pieces[0, 0], pieces[1, 0, :40000] = wave_S[:160000], wave_S[160000:]
    mask = torch.ones(2, 1, 160000, dtype=torch.bool)
    mask[1, 0, 40000:] = False
    with torch.no_grad():
        raw = network.eval()({"wav": pieces, "mask": mask})
    for place, axis in enumerate(audiobox.AXES):
        one, two = (float(x) * 1.5 + 5.0 + place for x in raw[axis])
        assert found[f"audiobox_{axis.lower()}"].value == pytest.approx((one + 0.25 * two) / 1.25, abs=1e-4)
