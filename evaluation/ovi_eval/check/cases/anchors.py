"""Numbers that sources give for published weights: they run where the published file is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from ovi_eval.backbones import i3d, panns, vggish
from ovi_eval.backbones.whisper import SAMPLE_RATE, Whisper, published_folder
from ovi_eval.check.case import CannotRunError, Cases, Setting
from ovi_eval.check.lines import Line, close, same
from ovi_eval.clips.items import FileItem
from ovi_eval.clips.sound import decode_pcm16
from ovi_eval.common.needs import find_folder
from ovi_eval.common.weights import load_published
from ovi_eval.metrics.error_rates import plain, word_edits
from ovi_eval.metrics.lip_sync import SyncNetTracks
from ovi_eval.stats.frechet import frechet_distance

CASES = Cases()
EXTRA_JSON = "extra_golden.json"
ANCHORS = "real_weight_anchors_from_sources"
FASTVIDEO = "fastvideo_reference_scores"
GUDGUD = "frechet-audio-distance@55971f6c"


@CASES.case(
    "anchors.fvd_zeros_ones",
    "FVD (stylegan-v)",
    "JunyaoHu@5f751734, README",
    f"{EXTRA_JSON}: {ANCHORS}",
    slow=True,
)
def fvd_zeros_ones(setting: Setting) -> Iterator[Line]:
    network = i3d.load_i3d(setting.real_weights(i3d.FILE)).network
    golden = setting.goldens.json(EXTRA_JSON, ANCHORS)

    def distance(frames: int) -> float:
        # Eight equal clips: one is enough, and its row stands eight times.
        sets = []
        for level in (0, 255):
            clip = torch.full((1, frames, 64, 64, 3), level, dtype=torch.uint8)
            sets.append(i3d.features(network, clip).expand(8, -1))
        return frechet_distance(*sets)

    why = "the source's own implementations agree to 1e-3"
    expected = golden["fvd_zeros_vs_ones_8x30x3x64x64_styleganv"]
    yield close("black against white, 30 frames", distance(30), expected, rtol=1e-3, why=why)
    for frames, expected in enumerate(golden["fvd_zeros_vs_ones_first_n_frames_10_to_30"], start=10):
        quantity = f"black against white, first {frames} frames"
        yield close(quantity, distance(frames), expected, rtol=1e-3, why=why)


def _sines(count: int, noise: float, generator: np.random.Generator) -> list[Tensor]:
    """The source's test sounds: sines from 100 to 1000 Hz, 6 s at 16 kHz, as 16-bit numbers that wrap at +1."""
    times = np.linspace(0, 6, 6 * 16000)
    sounds = []
    for hz in np.linspace(100, 1000, count):
        samples = np.sin(2 * np.pi * hz * times)
        samples = samples + generator.normal(0, 1, len(samples)) * noise * np.abs(samples).max()
        wrapped = (np.trunc(2**15 * samples).astype(np.int64) + 2**15) % 2**16 - 2**15
        sounds.append(torch.from_numpy(wrapped).float() / 2**15)
    return sounds


def _sine_lines(
    features: Callable[[list[Tensor]], Tensor], expected: Mapping[str, list[float]], atol: float
) -> Iterator[Line]:
    """Distances of ten clean sines to five with noise, at two levels of noise; `expected` by who gave them."""
    generator = np.random.default_rng(0)
    background = features(_sines(10, 0, generator))
    for number, noise in enumerate((1e-4, 1e-5)):
        found = frechet_distance(background, features(_sines(5, noise, generator)))
        for source, distances in expected.items():
            quantity = f"sines with noise {number + 1}, {source}"
            why = "the noise is unseeded; the source's own tolerance"
            yield close(quantity, found, distances[number], rtol=0, atol=atol, why=why)


@CASES.case("anchors.fad_sines", "FAD (VGGish)", f"{GUDGUD}, README", f"{EXTRA_JSON}: {ANCHORS}", slow=True)
def fad_sines(setting: Setting) -> Iterator[Line]:
    loaded = load_published(vggish.VGGish, setting.real_weights(vggish.FILE), vggish.FILE)
    if loaded.as_published is False:
        raise CannotRunError(f"{loaded.path} is not the published file; needs {vggish.FILE.needs()}")

    def features(sounds: list[Tensor]) -> Tensor:
        return torch.cat([vggish.embed(loaded.network, wave_S) for wave_S in sounds])

    golden = setting.goldens.json(EXTRA_JSON, ANCHORS, "fad_sine_vggish")
    yield from _sine_lines(features, {name: golden[name] for name in ("google_research", "gudgud96")}, 2.0)


@CASES.case("anchors.fd_sines", "FD (PANNs)", f"{GUDGUD}, README", f"{EXTRA_JSON}: {ANCHORS}", slow=True)
def fd_sines(setting: Setting) -> Iterator[Line]:
    network = load_published(panns.Cnn14, setting.real_weights(panns.FILE), panns.FILE).network

    def features(sounds: list[Tensor]) -> Tensor:
        # The source ran the sounds' 2048 features together, so that its distance is one of single numbers.
        return panns.hear(network, torch.stack(sounds)).features.flatten()[:, None]

    golden = setting.goldens.json(EXTRA_JSON, ANCHORS, "fad_sine_vggish", "pann_16k")
    yield from _sine_lines(features, {"all features as one": golden}, 5e-4)


@CASES.case(
    "anchors.syncnet_example",
    "Sync-C, Sync-D",
    "syncnet_python@6efbb1c3, README",
    f"{EXTRA_JSON}: {ANCHORS}",
    slow=True,
)
def syncnet_example(setting: Setting) -> Iterator[Line]:
    path = setting.clip("sync/example.avi")
    setting.need(*SyncNetTracks.needs)
    extractor = SyncNetTracks()
    features = extractor.run(extractor.load(FileItem(path, path.stem)))
    golden = setting.goldens.json(EXTRA_JSON, ANCHORS, "syncnet_example_avi")
    best = int(features["confidence"].argmax())
    yield same("offset", float(features["offset"][best]), golden["offset"])
    why = "the release's own figures for it moved by 1.4 and 0.4 with FFmpeg and torch"
    distance, confidence = (float(features[key][best]) for key in ("distance", "confidence"))
    yield close("Sync-D", distance, golden["min_dist"], rtol=0, atol=0.2, why=why)
    yield close("Sync-C", confidence, golden["confidence"], rtol=0, atol=0.2, why=why)


@CASES.case(
    "anchors.whisper_ltx2",
    "WER",
    "FastVideo@2f3d4074, whisper-base",
    f"{FASTVIDEO}/audio.wer.json: *",
    slow=True,
)
def whisper_ltx2(setting: Setting) -> Iterator[Line]:
    path = setting.clip("ltx2/ltx2.mp4")
    folder = published_folder()
    setting.need(folder)
    whisper = Whisper(find_folder(folder, "this"), torch.device("cpu"))
    heard = plain(whisper.write_down(whisper.prepare(decode_pcm16(path, SAMPLE_RATE) / 32768)))
    golden = setting.goldens.json(f"{FASTVIDEO}/audio.wer.json")
    yield same("transcript, plain", heard, golden["details"]["transcription"])
    edits, words = word_edits(plain(golden["details"]["reference_text"]), heard)
    yield same("WER", edits / words, golden["score"])


CASES.not_run(
    "anchors.cd_fvd_example",
    "FVD (cd-fvd)",
    "content-debiased-fvd issue 2",
    f"{EXTRA_JSON}: {ANCHORS}",
    reason="the source does not give the clips it scored",
)
CASES.not_run(
    "anchors.fadtk_samples",
    "FAD (VGGish), CLAP",
    "fadtk@ec74b1f9",
    f"{EXTRA_JSON}: {ANCHORS}",
    reason="needs the statistics of fma_pop, which fadtk keeps outside its repository",
)
