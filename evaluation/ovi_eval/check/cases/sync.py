"""SyncNet with generated weights: cepstra, embeddings, distances, and a real crop as the release reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch

from ovi_eval.backbones import syncnet
from ovi_eval.backbones.mfcc import mfcc
from ovi_eval.backbones.syncnet_crop import read_crop
from ovi_eval.check.case import Cases, Setting, keys_of
from ovi_eval.check.cases.audio import architecture
from ovi_eval.check.generated import clip, wave
from ovi_eval.check.lines import Line, close, same

CASES = Cases()
SYNC, SYNC_JSON, SYNC_KEYS = "syncnet_golden.safetensors", "syncnet_golden.json", "syncnet_keys.txt.gz"
RELEASE = "syncnet_python@6efbb1c3"
METRIC = "Sync-C, Sync-D"
CROP = "sync/ovi_two_men_fixedcrop224_25fps.mp4"
CROP_KEY = "ovi_two_men_fixedcrop224"
JUDGED = ("planted", "evaluate.lrs3_strict_crop", f"evaluate.{CROP_KEY}")
FLOAT32 = "the reference keeps float32"
DIFFERENCE = "a difference of two distances, each in float32"


@CASES.case(
    "sync.mfcc",
    METRIC,
    f"{RELEASE}, python_speech_features 0.6",
    f"{SYNC}: mfcc.*",
    f"{SYNC_JSON}: mfcc_float_input_differs_maxabs",
)
def cepstra(setting: Setting) -> Iterator[Line]:
    sound = setting.goldens.tensor(SYNC, "mfcc.wave16k_int16").numpy()
    yield same("the generated wave", bool(np.array_equal(sound, wave(16000, 3.0))), True)
    expected = setting.goldens.tensor(SYNC, "mfcc.python_speech_features")
    why = "float64 on both sides"
    yield close("cepstra [299, 13]", mfcc(sound), expected, rtol=1e-9, atol=1e-9, why=why)
    expected = setting.goldens.json(SYNC_JSON, "mfcc_float_input_differs_maxabs")
    why = "the rest of the cepstra differ by less"
    yield close(
        "what scaling to [-1, 1] would change",
        float(np.log(32768.0**2)),
        expected,
        rtol=0,
        atol=1e-3,
        why=why,
    )


@CASES.case(
    "sync.distances",
    METRIC,
    RELEASE,
    *keys_of(SYNC, "lip_feat", "aud_feat", "pdist", "mdist"),
    *keys_of(SYNC_JSON, "synthetic_hashfill", "n_keys", "params"),
    f"{SYNC_KEYS}: *",
)
def distances(setting: Setting) -> Iterator[Line]:
    golden, numbers = setting.goldens.tensor, setting.goldens.json
    found_RV = syncnet.shift_distances(golden(SYNC, "lip_feat"), golden(SYNC, "aud_feat"))
    yield close("distances [31, 45]", found_RV, golden(SYNC, "pdist"), rtol=1e-6, why=FLOAT32)
    sync, expected = syncnet.judge(found_RV), numbers(SYNC_JSON, "synthetic_hashfill")
    yield close("mean by shift [31]", sync.mean_R, golden(SYNC, "mdist"), rtol=1e-6, why=FLOAT32)
    yield close("Sync-D", sync.distance, expected["min_dist_LSE_D"], rtol=1e-6, why=FLOAT32)
    atol = 1e-6 * expected["min_dist_LSE_D"]
    yield close("Sync-C", sync.confidence, expected["conf_LSE_C"], rtol=0, atol=atol, why=DIFFERENCE)
    yield same("offset", sync.offset, expected["offset"])
    yield architecture(setting, SYNC_KEYS, syncnet.SyncNet)
    with torch.device("meta"):
        network = syncnet.SyncNet()
    yield same("number of tensors", len(network.state_dict()), numbers(SYNC_JSON, "n_keys"))
    count = sum(weight.numel() for weight in network.parameters())
    yield same("parameters", count, numbers(SYNC_JSON, "params"))


@CASES.case(
    "sync.judged",
    METRIC,
    RELEASE,
    *keys_of(SYNC, "planted.mdist", "evaluate.*"),
    *keys_of(SYNC_JSON, "planted", "evaluate_hashfill.*"),
)
def judged(setting: Setting) -> Iterator[Line]:
    for key in JUDGED:
        expected = setting.goldens.json(SYNC_JSON, key.replace("evaluate.", "evaluate_hashfill."))
        sync = syncnet.judge(setting.goldens.tensor(SYNC, f"{key}.mdist")[:, None])
        name = key.removeprefix("evaluate.")
        yield same(f"offset, {name}", sync.offset, expected["offset"])
        yield close(f"Sync-D, {name}", sync.distance, expected["min_dist"], rtol=1e-6, why=FLOAT32)
        atol = 1e-6 * expected["min_dist"]
        yield close(f"Sync-C, {name}", sync.confidence, expected["conf"], rtol=0, atol=atol, why=DIFFERENCE)
        if "n_windows" in expected:
            count = syncnet.windows_of(expected["frames"], expected["audio_samples"])
            yield same(f"windows, {name}", count, expected["n_windows"])


def _network(setting: Setting) -> syncnet.SyncNet:
    return setting.keep("syncnet", lambda: setting.network(syncnet.SyncNet, syncnet.FILE, SYNC_KEYS))


@CASES.case(
    "sync.embeddings",
    METRIC,
    RELEASE,
    *keys_of(SYNC, "lip_feat", "aud_feat"),
    f"{SYNC_JSON}: clip_50x224x224_sha256",
)
def embeddings(setting: Setting) -> Iterator[Line]:
    pictures = clip(50, 224, 224)
    digest = setting.goldens.json(SYNC_JSON, "clip_50x224x224_sha256")
    yield same("sha256 of the generated clip", hashlib.sha256(pictures.tobytes()).hexdigest(), digest)
    sound = setting.goldens.tensor(SYNC, "mfcc.wave16k_int16").numpy()
    found = syncnet.embeddings(_network(setting), torch.from_numpy(pictures), sound)
    for what, key, found_VE in zip(("picture", "sound"), ("lip_feat", "aud_feat"), found, strict=True):
        expected_VE = setting.goldens.tensor(SYNC, key)
        atol = 1e-5 * float(expected_VE.abs().max())
        why = "1e-5 of the largest, for values near zero"
        yield close(f"embeddings [45, 1024] of the {what}", found_VE, expected_VE, atol=atol, why=why)


@CASES.case(
    "sync.real_crop",
    METRIC,
    f"{RELEASE}, FFmpeg 9.0.2",
    f"{SYNC}: evaluate.{CROP_KEY}.mdist",
    f"{SYNC_JSON}: evaluate_hashfill.{CROP_KEY}",
    slow=True,
)
def real_crop(setting: Setting) -> Iterator[Line]:
    path = setting.clip(CROP)
    expected = setting.goldens.json(SYNC_JSON, f"evaluate_hashfill.{CROP_KEY}")
    crop = read_crop(path)
    yield same("frames", len(crop.frames_FHWC), expected["frames"])
    yield same("samples", len(crop.wave_S), expected["audio_samples"])
    digest = hashlib.sha256(crop.wave_S.tobytes()).hexdigest()
    yield same("sha256 of the samples", digest, expected["audio_sha256"])
    sync = syncnet.measure(_network(setting), *crop)
    means = setting.goldens.tensor(SYNC, f"evaluate.{CROP_KEY}.mdist")
    yield close("mean distance by shift [31]", sync.mean_R, means)
    yield same("offset", sync.offset, expected["offset"])
    yield close("Sync-D", sync.distance, expected["min_dist"])
    atol = 1e-5 * expected["min_dist"]
    why = "a difference of two distances, each within 1e-5"
    yield close("Sync-C", sync.confidence, expected["conf"], rtol=0, atol=atol, why=why)


CASES.not_run(
    "sync.lrs3_crop",
    METRIC,
    RELEASE,
    f"{SYNC_JSON}: evaluate_hashfill.lrs3_strict_crop",
    reason="the crop's clip is not available; sync.judged judges its distances",
)
