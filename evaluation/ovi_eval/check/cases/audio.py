"""VGGish and Cnn14 with generated weights: front ends, features, logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ovi_eval.backbones import panns, vggish
from ovi_eval.check.case import Cases, Setting, keys_of
from ovi_eval.check.generated import published_keys, wave
from ovi_eval.check.lines import Line, at_most, close, members, same
from ovi_eval.clips.writing import resample

CASES = Cases()
AUDIO, AUDIO_JSON = "audio_golden.safetensors", "audio_golden.json"
VGGISH_KEYS, PANNS_KEYS = "vggish_keys.txt.gz", "panns_cnn14_16k_keys.txt.gz"
FAD, FD = "FAD (VGGish)", "FD, IS, KL (PANNs)"
AV_BENCHMARK = "av-benchmark@050a5cdb"


def architecture(setting: Setting, keys: str, build: Callable[[], nn.Module]) -> Line:
    """Whether a network has exactly the published file's names and shapes."""
    with torch.device("meta"):
        own = {(name, tuple(tensor.shape)) for name, tensor in build().state_dict().items()}
    published = {(name, shape) for name, shape, _ in published_keys(setting.goldens.path(keys))}
    return members("published file's names and shapes", own, published)


def _golden_wave(setting: Setting) -> Tensor:
    return setting.goldens.tensor(AUDIO, "wave16k_int16").float() / 32768


@CASES.case(
    "vggish.front_end",
    FAD,
    AV_BENCHMARK,
    *keys_of(AUDIO, "wave16k_int16", "vggish.mel_matrix", "vggish.log_mel_examples", "vggish.log_mel_full"),
    f"{VGGISH_KEYS}: *",
)
def vggish_front_end(setting: Setting) -> Iterator[Line]:
    golden = setting.goldens.tensor
    made = torch.from_numpy(wave(16000, 3.0))
    yield same("the generated wave", bool(made.equal(golden(AUDIO, "wave16k_int16"))), True)
    wave_S = golden(AUDIO, "wave16k_int16").double() / 32768
    why = "the reference keeps float32"
    matrix, whole = golden(AUDIO, "vggish.mel_matrix"), golden(AUDIO, "vggish.log_mel_full")
    yield close("mel matrix [257, 64]", vggish.mel_matrix(), matrix, rtol=1e-5, atol=1e-7, why=why)
    examples, why64 = golden(AUDIO, "vggish.log_mel_examples"), "float64 on both sides"
    yield close("log-mel patches", vggish.patches(wave_S), examples, rtol=0, atol=1e-9, why=why64)
    yield close("log-mel, whole", vggish.log_mel(wave_S), whole, rtol=1e-5, atol=1e-5, why=why)
    yield architecture(setting, VGGISH_KEYS, vggish.VGGish)


@CASES.case(
    "vggish.resampling",
    FAD,
    f"{AV_BENCHMARK}, resampy 0.4.3",
    *keys_of(AUDIO, "wave44k_stereo_int16", "resampy_44k_to_16k", "vggish.log_mel_examples_from44k_resampy"),
    f"{AUDIO_JSON}: resampler_spread_logmel_vs_resampy_best",
)
def vggish_resampling(setting: Setting) -> Iterator[Line]:
    golden = setting.goldens.tensor
    expected = golden(AUDIO, "vggish.log_mel_examples_from44k_resampy").double()
    found = vggish.patches(golden(AUDIO, "resampy_44k_to_16k"))
    why = "the reference keeps float32"
    yield close("log-mel of resampy's 44.1 -> 16 kHz", found, expected, rtol=0, atol=1e-4, why=why)
    mono_S = golden(AUDIO, "wave44k_stereo_int16").float().mean(1) / 32768
    away = (vggish.patches(resample(mono_S, 44100, vggish.SAMPLE_RATE)) - expected).abs()
    spread = setting.goldens.json(AUDIO_JSON, "resampler_spread_logmel_vs_resampy_best")
    ffmpeg = spread["ffmpeg_swr_ac1_ar16000_s16"]
    why = "resamplers differ; no farther from resampy than the five of the golden"
    for what, key, value in (
        ("mean", "logmel_meanabs", away.mean()),
        ("largest", "logmel_maxabs", away.max()),
    ):
        bound = max(each[key] for each in spread.values())
        quantity = f"FFmpeg against resampy, {what} difference"
        yield at_most(quantity, float(value), bound, ffmpeg[key], why)


@CASES.case(
    "vggish.embedding",
    FAD,
    AV_BENCHMARK,
    f"{AUDIO}: vggish.hashfill_embedding_no_relu",
    f"{AUDIO_JSON}: params",
    slow=True,
)
def vggish_embedding(setting: Setting) -> Iterator[Line]:
    network = setting.network(vggish.VGGish, vggish.FILE, VGGISH_KEYS)
    count = sum(weight.numel() for weight in network.parameters())
    yield same("parameters", count, setting.goldens.json(AUDIO_JSON, "params"))
    expected = setting.goldens.tensor(AUDIO, "vggish.hashfill_embedding_no_relu")[0]
    found = vggish.embed(network, _golden_wave(setting))
    yield close("features [3, 128], generated weights", found, expected, atol=1e-4, why="values near zero")


@CASES.case(
    "panns.front_end", FD, f"{AV_BENCHMARK}, torchlibrosa 0.1.0", f"{AUDIO}: panns.melW", f"{PANNS_KEYS}: *"
)
def panns_front_end(setting: Setting) -> Iterator[Line]:
    expected = setting.goldens.tensor(AUDIO, "panns.melW")
    why = "the reference keeps float32"
    yield close("mel matrix [257, 64]", panns.mel_matrix(), expected, rtol=1e-5, atol=1e-8, why=why)
    yield architecture(setting, PANNS_KEYS, panns.Cnn14)


@CASES.case(
    "panns.network",
    FD,
    f"{AV_BENCHMARK}, torchlibrosa 0.1.0",
    *keys_of(AUDIO, "panns.logmel_16k", "panns.hashfill_*"),
    f"{AUDIO_JSON}: panns_params",
    slow=True,
)
def panns_network(setting: Setting) -> Iterator[Line]:
    golden = setting.goldens.tensor
    network = setting.network(panns.Cnn14, panns.FILE, PANNS_KEYS, panns.transform_tables())
    count = sum(weight.numel() for weight in network.parameters())
    yield same("parameters", count, setting.goldens.json(AUDIO_JSON, "panns_params"))
    waves_NS = _golden_wave(setting)[None]
    with torch.no_grad():
        found = network.log_mel(waves_NS)[0]
    yield close(
        "log-mel [301, 64] in dB", found, golden(AUDIO, "panns.logmel_16k"), atol=1e-3, why="decibels"
    )
    heard = panns.hear(network, waves_NS)
    why = "values near zero, float32 sums of thousands"
    features, logits = golden(AUDIO, "panns.hashfill_2048"), golden(AUDIO, "panns.hashfill_logits")
    yield close("features [2048], generated weights", heard.features, features, atol=2e-3, why=why)
    yield close("logits [527], generated weights", heard.logits, logits, atol=2e-3, why=why)
