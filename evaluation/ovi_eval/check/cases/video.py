"""I3D with generated weights: preprocessing, logits of several lengths, layers, and FVD of two sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ovi_eval.backbones import i3d
from ovi_eval.check.case import Cases, Setting, keys_of
from ovi_eval.check.cases.audio import architecture
from ovi_eval.check.generated import clip
from ovi_eval.check.lines import Line, close, same
from ovi_eval.stats.frechet import frechet_distance

CASES = Cases()
I3D, I3D_JSON, I3D_KEYS = "i3d_golden.safetensors", "i3d_golden.json", "i3d_keys.txt.gz"
EXTRA, EXTRA_JSON = "extra_golden.safetensors", "extra_golden.json"
JUNYAO, PIERGIAJ, CD_FVD = "JunyaoHu@5f751734", "pytorch-i3d@05783d11", "cd-fvd@a1e037ab"
SMALL = "values near zero, float32 sums of thousands"


def _frames(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(clip(count, height, width, seed))[None]


def _network(setting: Setting, variant: str) -> i3d.I3D:
    path = setting.generated_weights(i3d.FILE, I3D_KEYS)
    return setting.keep(variant, lambda: i3d.load_i3d(path, variant).network)


def _eps(network: i3d.I3D) -> float:
    norm = network.get_submodule("Conv3d_1a_7x7.bn")
    assert isinstance(norm, nn.BatchNorm3d)
    return norm.eps


def _sample(prepared_CTHW: Tensor) -> Tensor:
    return prepared_CTHW[:, ::5, ::37, ::37]


@CASES.case(
    "i3d.preprocessing",
    "FVD (stylegan-v, videogpt)",
    JUNYAO,
    f"{I3D}: pre.*",
    *keys_of(I3D_JSON, "preprocess", "clip_16x96x160_sha256", "n_keys", "params"),
    f"{I3D_KEYS}: *",
)
def preprocessing(setting: Setting) -> Iterator[Line]:
    numbers = setting.goldens.json
    wide = _frames(16, 96, 160)
    digest = hashlib.sha256(wide.numpy().tobytes()).hexdigest()
    yield same("sha256 of the generated clip", digest, numbers(I3D_JSON, "clip_16x96x160_sha256"))
    found = i3d.preprocess(wide)[0]
    yield same("shape", list(found.shape), numbers(I3D_JSON, "preprocess", "shape"))
    why = "one rounding in float32"
    for variant in ("styleganv", "videogpt"):
        expected = setting.goldens.tensor(I3D, f"pre.{variant}.sub")
        yield close(f"{variant}, every 37th pixel", _sample(found), expected, rtol=0, atol=2e-6, why=why)
        total = numbers(I3D_JSON, "preprocess", f"{variant}_sum")
        yield close(
            f"{variant}, sum", float(found.double().sum()), total, rtol=1e-5, why="2.4 million roundings"
        )
    yield architecture(setting, I3D_KEYS, i3d.I3D)
    yield same("number of tensors", len(i3d.I3D().state_dict()), numbers(I3D_JSON, "n_keys"))
    count = sum(weight.numel() for weight in i3d.I3D().parameters())
    yield same("parameters", count, numbers(I3D_JSON, "params"))


@CASES.case("i3d.cd_fvd", "FVD (cd-fvd)", CD_FVD, f"{EXTRA}: pre.cdfvd.sub", f"{EXTRA_JSON}: cdfvd_*")
def cd_fvd(setting: Setting) -> Iterator[Line]:
    wide = _frames(16, 96, 160)
    found = i3d.preprocess(wide, "stretch")[0]
    expected = setting.goldens.tensor(EXTRA, "pre.cdfvd.sub")
    why = "one rounding in float32"
    yield close("stretched, every 37th pixel", _sample(found), expected, rtol=0, atol=2e-6, why=why)
    total = setting.goldens.json(EXTRA_JSON, "cdfvd_preprocess_sum")
    yield close(
        "stretched, sum", float(found.double().sum()), total, rtol=0, atol=0.1, why="2.4 million roundings"
    )
    away = float((found - i3d.preprocess(wide)[0]).double().abs().mean())
    expected_away = setting.goldens.json(EXTRA_JSON, "cdfvd_vs_styleganv_preprocess_mean_abs_diff_96x160")
    yield close("mean difference from cropping", away, expected_away, rtol=1e-5, why=why)


@CASES.case(
    "i3d.logits",
    "FVD (stylegan-v, videogpt)",
    JUNYAO,
    f"{I3D}: i3d.videogpt_eps1e-5.*",
    f"{I3D_JSON}: bn_eps",
    slow=True,
)
def logits(setting: Setting) -> Iterator[Line]:
    network = _network(setting, "videogpt")
    eps = setting.goldens.json(I3D_JSON, "bn_eps", "videogpt")
    yield close("batch norm's eps", _eps(network), eps, rtol=0)
    for frames, key in (
        (_frames(16, 96, 160), "logits"),
        *((_frames(count, 64, 64), f"logits_T{count}_64x64") for count in (10, 17, 25)),
    ):
        expected = setting.goldens.tensor(I3D, f"i3d.videogpt_eps1e-5.{key}")
        shown = f"logits [400] of {frames.shape[1]} frames {frames.shape[2]}x{frames.shape[3]}"
        yield close(shown, i3d.features(network, frames), expected, atol=1e-4, why=SMALL)


@CASES.case(
    "i3d.layers",
    "FVD (pytorch-i3d)",
    PIERGIAJ,
    f"{I3D}: i3d.piergiaj_eps1e-3.*",
    *keys_of(I3D_JSON, "endpoint_mean_std_eps1e-3", "bn_eps"),
)
def layers(setting: Setting) -> Iterator[Line]:
    network = _network(setting, "pytorch-i3d")
    golden = setting.goldens.tensor
    eps = setting.goldens.json(I3D_JSON, "bn_eps", "piergiaj")
    yield close("batch norm's eps", _eps(network), eps, rtol=0)
    endpoints = setting.goldens.json(I3D_JSON, "endpoint_mean_std_eps1e-3")
    seen: dict[str, tuple[list[int], float, float]] = {}

    def note(name: str) -> None:
        def hook(_: object, __: object, out: Tensor) -> None:
            seen[name] = (list(out.shape), float(out.double().mean()), float(out.double().std()))

        network.get_submodule(name).register_forward_hook(hook)

    for name in endpoints:
        note(name)
    by_time: list[Tensor] = []
    network.logits.register_forward_hook(lambda _, given, out: by_time.extend((given[0], out)))
    mean = i3d.features(network, _frames(16, 96, 160))
    pooled, per_time = (each.flatten(2) for each in by_time)
    for name, (shape, *moments) in endpoints.items():
        yield same(f"{name}, shape", *("x".join(map(str, each)) for each in (seen[name][0], shape)))
        yield close(f"{name}, mean and spread", seen[name][1:], moments)
    piergiaj = "i3d.piergiaj_eps1e-3"
    features = golden(I3D, f"{piergiaj}.feat1024_pertime")
    yield close("features [1024]", pooled, features, atol=1e-4, why=SMALL)
    yield close("logits by time", per_time, golden(I3D, f"{piergiaj}.logits_pertime"), atol=1e-4, why=SMALL)
    expected = golden(I3D, f"{piergiaj}.logits_meantime")
    yield close("logits [400]", mean, expected, atol=1e-4, why=SMALL)


@CASES.case(
    "i3d.fvd", "FVD (stylegan-v, videogpt)", JUNYAO, f"{I3D}: fvd.*", f"{I3D_JSON}: fvd_hashfill_*", slow=True
)
def fvd(setting: Setting) -> Iterator[Line]:
    network = _network(setting, "videogpt")
    first = torch.cat([_frames(16, 64, 64, seed) for seed in range(8)])
    second = torch.cat([_frames(16, 64, 64, seed) for seed in range(3, 11)]).flip(2).flip(4)
    found = [i3d.features(network, clips).double() for clips in (first, second)]
    golden = [setting.goldens.tensor(I3D, key) for key in ("fvd.FA", "fvd.FB")]
    for name, features_ND, expected_ND in zip("AB", found, golden, strict=True):
        yield close(f"features [8, 400] of set {name}", features_ND, expected_ND, atol=1e-4, why=SMALL)
    for features, shown in ((golden, "the golden's features"), (found, "the clips")):
        distance = frechet_distance(*features)
        tight = features is golden
        for key, rtol, why in (
            ("exact", 1e-12, "float64 on both sides"),
            ("videogpt_fp64", 1e-9, "float64 on both sides"),
            ("styleganv", 1e-6, "scipy's sqrtm of a singular matrix loses digits"),
        ):
            expected = setting.goldens.json(I3D_JSON, f"fvd_hashfill_A_B_{key}")
            quantity = f"FVD of {shown}, {key}"
            yield close(quantity, distance, expected, rtol=rtol if tight else 1e-4, why=why if tight else "")
