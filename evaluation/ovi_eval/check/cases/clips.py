"""Real clips: sound as it is decoded, DNSMOS by its published networks, and what needs no weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch

from ovi_eval.backbones import dnsmos
from ovi_eval.backbones.onnx_file import OnnxFile
from ovi_eval.check.case import Cases, Setting
from ovi_eval.check.lines import Line, close, same
from ovi_eval.clips.items import FileItem
from ovi_eval.clips.picture import decode_video
from ovi_eval.clips.sound import decode_audio, decode_pcm16
from ovi_eval.metrics.av_align import AV_ALIGN, PeaksOfSoundAndMotion, motion_peaks
from ovi_eval.metrics.dnsmos import ONNXRUNTIME

CASES = Cases()
CLIPS_JSON = "real_clips_open.json"
METADATA = "fastvideo_reference_scores/ltx2.metadata.json"
MOVA, JAVISDIT = "MOVA@595a9769", "JavisDiT@b505b37f"
DECODERS = "OpenCV and decoders differ by version in the last digits"


@CASES.case(
    "media.ltx2",
    "decoding",
    "FastVideo@2f3d4074",
    *(f"{METADATA}: {key}" for key in ("fps", "width", "height", "duration_seconds", "*audio*")),
)
def media(setting: Setting) -> Iterator[Line]:
    path = setting.clip("ltx2/ltx2.mp4")
    expected = setting.goldens.json(METADATA)
    video = decode_video(path, transform=lambda frame_HWC: torch.tensor(frame_HWC.shape[:2]))
    frames, (height, width) = len(video.frames_THWC), video.frames_THWC[0].tolist()
    audio = decode_audio(path, mono=False)
    for quantity, found, key in (
        ("width", width, "width"),
        ("height", height, "height"),
        ("frames a second", video.fps, "fps"),
        ("seconds", frames / video.fps, "duration_seconds"),
        ("has sound", bool(audio.wave_S.abs().max() > 0), "has_audio"),
        ("samples a second", audio.sample_rate, "audio_sample_rate"),
        ("channels", len(audio.wave_S), "audio_channels"),
    ):
        yield same(quantity, found, expected[key])


@CASES.case("dnsmos.sound", "DNSMOS", "FFmpeg 9.0.2", f"{CLIPS_JSON}: dnsmos")
def sound(setting: Setting) -> Iterator[Line]:
    for name, expected in setting.goldens.json(CLIPS_JSON, "dnsmos").items():
        pcm_S = decode_pcm16(setting.clip(name), dnsmos.SAMPLE_RATE)
        yield same(f"{Path(name).stem}: samples at 16 kHz", len(pcm_S), expected["n16k"])
        digest = hashlib.sha256(pcm_S.tobytes()).hexdigest()
        yield same(f"{Path(name).stem}: samples' sha256", digest, expected["pcm16k_sha256"])


@CASES.case("dnsmos.scores", "DNSMOS", f"{MOVA}, onnxruntime 1.32.0", f"{CLIPS_JSON}: dnsmos")
def scores(setting: Setting) -> Iterator[Line]:
    clips = setting.goldens.json(CLIPS_JSON, "dnsmos")
    paths = {name: setting.clip(name) for name in clips}
    setting.need(ONNXRUNTIME)
    overall = OnnxFile(setting.real_weights(dnsmos.P808_FILE), dnsmos.P808_FILE, "dnsmos")
    parts = OnnxFile(setting.real_weights(dnsmos.P835_FILE), dnsmos.P835_FILE, "dnsmos")
    why = "float32 networks; onnxruntime may differ by version"
    for name, expected in clips.items():
        shown = Path(name).stem
        wave_S = decode_pcm16(paths[name], dnsmos.SAMPLE_RATE) / 32768
        yield same(f"{shown}: segments", len(list(dnsmos.segments(wave_S))), int(expected["num_hops"]))
        mapped, raw = dnsmos.p835(parts, wave_S)
        found = {"P808": (dnsmos.p808(overall, wave_S), expected["P808_MOS"])}
        for place, key in enumerate(("SIG", "BAK", "OVRL")):
            found[key] = (float(mapped[place]), expected[key])
            found[f"{key}, raw"] = (float(raw[place]), expected[f"{key}_raw"])
        for key, pair in found.items():
            yield close(f"{shown}: {key}", *pair, rtol=0, atol=1e-5, why=why)


def _av_align(name: str, slow: bool) -> None:
    @CASES.case(
        f"av_align.{Path(name).stem}",
        "AV-Align",
        f"{JAVISDIT}; {MOVA}; OpenCV 5.0.0, librosa 0.11.0",
        f"{CLIPS_JSON}: av_align",
        slow=slow,
    )
    def av_align(setting: Setting) -> Iterator[Line]:
        expected = setting.goldens.json(CLIPS_JSON, "av_align", name)
        item = FileItem(setting.clip(name), name)
        setting.need(*PeaksOfSoundAndMotion.needs)
        extractor = PeaksOfSoundAndMotion()
        features = extractor.run(extractor.load(item))
        onsets_A, flow_T, fps = features["onsets"].numpy(), features["flow"].numpy(), float(features["fps"])
        yield same("frames a second", fps, expected["fps"])
        yield same("frames", len(flow_T), expected["frames"])
        yield same("onsets of sound", len(onsets_A), expected["n_audio_peaks"])
        first, why = expected["audio_peaks_first5"], "steps of 512 samples"
        yield close("the first 5 onsets", onsets_A[:5], first, rtol=1e-12, why=why)
        yield close("mean flow", float(flow_T.mean()), expected["flow_mean"], why=DECODERS)
        yield close("the first 5 flows", flow_T[:5], expected["flow_first5"], why=DECODERS)
        yield same("peaks of motion", len(motion_peaks(flow_T, fps)), expected["n_video_peaks"])
        for what, metric, key in (
            ("JavisBench", "av_align_javis", "iou_javisbench"),
            ("MOVA", "av_align_mova", "iou_mova_rule_same_onsets"),
        ):
            found = AV_ALIGN[metric]().measure(features)[0]
            yield close(f"AV-Align, {what}'s rule", found, expected[key], rtol=1e-9, why="counts of peaks")


for _name in (
    "latentsync/demo1_video.mp4",
    "ltx2/ltx2.mp4",
    "mova/mova_624x352.mp4",
    "ovi/kitchen_two_women_1280x704.mp4",
    "ovi/man_red_1504x608.mp4",
    "ovi/two_men_1344x704.mp4",
):
    _av_align(_name, slow=_name not in ("ovi/man_red_1504x608.mp4", "ovi/two_men_1344x704.mp4"))
