"""Every forward pass, stage and gradient stored from the reference."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.twin_goldens import golden_twin, mean_squares, read_golden, stored, tower_settings
from ovi_lab.models import Given, TwinDiT, TwinOutput
from ovi_lab.models.norms import AdaptiveLayerNorm, LayerNorm, RMSNorm

ATOL = 2e-5
Golden = tuple[TwinDiT, dict[str, Tensor], dict[str, str]]

JOINT = {
    "joint": {},
    "joint_ffclean": {"first_frame": True},
    "joint_slg1": {"skip_layers": [1]},
    "joint_negvtext_slg2_ffclean": {"first_frame": True, "skip_layers": [2], "negative": True},
    "video_only": {"modalities": ["video"]},
    "video_only_ffclean": {"modalities": ["video"], "first_frame": True},
    "audio_only": {"modalities": ["audio"]},
}


@pytest.fixture(scope="module")
def golden(goldens: Path) -> Golden:
    tensors, metadata = read_golden(goldens / "fusion_tiny.safetensors")
    return golden_twin(goldens), tensors, metadata


@pytest.fixture(scope="module")
def golden_bf16(goldens: Path) -> TwinDiT:
    return golden_twin(goldens, torch.bfloat16)


def run_case(model: TwinDiT, tensors: dict[str, Tensor], case: str, as_list: bool) -> TwinOutput:
    options: dict[str, Any] = dict(JOINT[case])
    modalities = options.pop("modalities", ["video", "audio"])
    text, t = tensors["inputs/text"], tensors["inputs/t"]
    texts = {"video": tensors["inputs/text_neg"] if options.pop("negative", False) else text, "audio": text}
    arguments: dict[str, Any] = {}
    for modality in modalities:
        latents = tensors[f"inputs/{modality}"]
        arguments[modality] = [latents] if as_list else latents[None]
        arguments[f"t_{modality}"] = t
        arguments[f"text_{modality}"] = [texts[modality]]
    if options.pop("first_frame", False):
        options["given"] = Given.first_frame(arguments["video"])
    with torch.no_grad():
        return model(**arguments, **options)


def run_batch(model: TwinDiT, tensors: dict[str, Tensor], first_frame: bool) -> TwinOutput:
    b2 = stored(tensors, "inputs_b2/")
    videos = [tensors["inputs/video"], b2["video1"]]
    with torch.no_grad():
        return model(
            videos,
            [tensors["inputs/audio"], b2["audio1"]],
            t_video=b2["t"],
            t_audio=b2["t"],
            text_video=[b2["vtext0"], b2["vtext1"]],
            text_audio=[b2["atext0"], b2["atext1"]],
            given=Given.first_frame(videos) if first_frame else None,
        )


def of_batch(out: TwinOutput) -> dict[str, Tensor]:
    """Both clips' predictions under the names that they are stored by."""
    return {f"{m}{index}": getattr(out, m)[index] for m in ("video", "audio") for index in range(2)}


def relative_l2(got: Tensor, want: Tensor) -> float:
    return float((got.float() - want.float()).norm() / want.float().norm())


@pytest.mark.parametrize("as_list", [False, True], ids=["tensor", "list"])
@pytest.mark.parametrize("case", JOINT)
def test_forward_matches_the_reference(golden: Golden, case: str, as_list: bool) -> None:
    model, tensors, _ = golden
    out = run_case(model, tensors, case, as_list)
    for modality in ("video", "audio"):
        want = tensors.get(f"out/{case}.{modality}")
        got = getattr(out, modality)
        if want is None:
            assert got is None
            continue
        assert isinstance(got, list) == as_list
        torch.testing.assert_close(got[0], want, atol=ATOL, rtol=0)


@pytest.mark.parametrize("clean", [False, True])
def test_padded_batch_matches_the_reference(golden: Golden, clean: bool) -> None:
    model, tensors, _ = golden
    out = run_batch(model, tensors, clean)
    for name, got in of_batch(out).items():
        want = tensors[f"out/b2{'_ffclean' if clean else ''}.{name}"]
        torch.testing.assert_close(got, want, atol=ATOL, rtol=0)


def test_every_stored_stage_matches_the_reference(golden: Golden) -> None:
    model, tensors, _ = golden
    seen: dict[str, Tensor] = {}
    hooks = []

    def watch(module: torch.nn.Module, *names: str) -> None:
        def keep(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            seen.update(zip(names, outputs, strict=True))

        hooks.append(module.register_forward_hook(keep))

    for modality in ("video", "audio"):
        tower = model.tower(modality)
        watch(tower.time_embedding, f"{modality}.e")
        watch(tower.time_projection, f"{modality}.e0")
        watch(tower.text_embedding, f"{modality}.context")
        for part in ("self_attn", "cross_attn", "ffn"):
            watch(tower.get_submodule(f"blocks.0.{part}"), f"{modality}.block0.{part}")
    for index, block in enumerate(model.twin_blocks):
        watch(block, f"video.block{index}", f"audio.block{index}")
    watch(model.get_submodule("video_model.patch_embedding"), "video.tokens")
    watch(model.get_submodule("audio_model.patch_embedding.0"), "audio.patch_conv_in")
    watch(model.get_submodule("audio_model.patch_embedding.2.w1"), "audio.patch_mlp_w1")
    watch(model.get_submodule("audio_model.patch_embedding"), "audio.patch_embed")
    run_case(model, tensors, "joint", as_list=False)
    for hook in hooks:
        hook.remove()
    seen["audio.tokens"] = seen["audio.patch_embed"]
    stages = stored(tensors, "out/inter.")
    assert set(stages) == set(seen)
    for name, want in stages.items():
        torch.testing.assert_close(
            seen[name].reshape(want.shape), want, atol=ATOL, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_gradients_match_the_reference(golden: Golden) -> None:
    model, tensors, metadata = golden
    model.zero_grad()
    t, text = tensors["inputs/t"], [tensors["inputs/text"]]
    texts = {"text_video": text, "text_audio": text}
    latents = (tensors["inputs/video"][None], tensors["inputs/audio"][None])
    loss = mean_squares(model(*latents, t_video=t, t_audio=t, **texts))
    loss.backward()
    torch.testing.assert_close(loss.detach(), tensors["out/grad.loss"], rtol=1e-5, atol=0)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    order = json.loads(metadata["grad"])["norms_order"]
    assert sorted(order) == sorted(gradients)
    norms = torch.stack([gradients[name].norm() for name in order])
    torch.testing.assert_close(norms, tensors["out/grad.norms"], rtol=1e-5, atol=0)
    whole = {n: want for n, want in stored(tensors, "out/grad.").items() if n not in ("norms", "loss")}
    assert len(whole) == 4
    assert all(relative_l2(gradients[name], want) < 1e-5 for name, want in whole.items())
    model.zero_grad()


@pytest.mark.parametrize("case", JOINT)
def test_bf16_stays_within_its_rounding(golden: Golden, golden_bf16: TwinDiT, case: str) -> None:
    tensors = golden[1]
    out = run_case(golden_bf16, tensors, case, as_list=False)
    for modality in ("video", "audio"):
        got = getattr(out, modality)
        if got is None:
            continue
        assert got.dtype == torch.bfloat16
        assert relative_l2(got[0], tensors[f"out/{case}.{modality}"]) < 3e-2
        assert relative_l2(got[0], tensors[f"out_bf16/{case}.{modality}"]) < 3e-2


def test_bf16_padded_batch(golden: Golden, golden_bf16: TwinDiT) -> None:
    out = run_batch(golden_bf16, golden[1], first_frame=True)
    for name, got in of_batch(out).items():
        assert relative_l2(got, golden[1][f"out/b2_ffclean.{name}"]) < 3e-2


def test_autocast_stays_within_its_rounding(golden: Golden) -> None:
    model, tensors, _ = golden
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run_case(model, tensors, "joint_ffclean", as_list=False)
    for modality in ("video", "audio"):
        assert relative_l2(getattr(out, modality)[0], tensors[f"out/joint_ffclean.{modality}"]) < 3e-2


def test_epsilons_are_the_configured_ones(golden: Golden) -> None:
    # A wrong epsilon of 1e-5 would change the stored outputs by less than the tolerance.
    norms = [m for m in golden[0].modules() if isinstance(m, RMSNorm | LayerNorm | AdaptiveLayerNorm)]
    assert len(norms) > 40
    assert {norm.eps for norm in norms} == {1e-6}


class TestAudioTowerAlone:
    """`audio_tower_tiny`: one tower, which a TwinDiT without a video tower is."""

    @pytest.fixture(scope="class")
    def alone(self, goldens: Path) -> tuple[TwinDiT, dict[str, Tensor]]:
        tensors, metadata = read_golden(goldens / "audio_tower_tiny.safetensors")
        model = TwinDiT(None, tower_settings(json.loads(metadata["config"])))
        weights = stored(tensors, "weights/")
        model.load_state_dict({f"audio_model.{name}": v for name, v in weights.items()}, strict=True)
        return model, tensors

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_outputs(self, alone: tuple[TwinDiT, dict[str, Tensor]], dtype: torch.dtype) -> None:
        model, x = copy.deepcopy(alone[0]).to(dtype), alone[1]
        inputs = stored(x, "inputs/")
        audios, texts = ([inputs[f"{what}{i}"] for i in range(2)] for what in ("audio", "text"))
        with torch.no_grad():
            single = model(None, audios[0][None], t_audio=inputs["t"][:1], text_audio=texts[:1]).audio
            both = model(None, audios, t_audio=inputs["t"], text_audio=texts).audio
        for name, got in zip(("single.audio", "b2.audio0", "b2.audio1"), (*single, *both), strict=True):
            if dtype == torch.float32:
                torch.testing.assert_close(got, x[f"out/{name}"], atol=ATOL, rtol=0)
            else:
                assert relative_l2(got, x[f"out/{name}"]) < 3e-2

    def test_patch_embedding_stages(self, alone: tuple[TwinDiT, dict[str, Tensor]]) -> None:
        model, x = alone
        patch = model.get_submodule("audio_model.patch_embedding")
        audio = x["inputs/audio0"][None]
        with torch.no_grad():
            stages = {"conv": patch[0](audio), "patch_embed": patch(audio)}
            hidden = torch.nn.functional.silu(stages["conv"])
            stages |= {"w1": patch[2].w1(hidden), "w3": patch[2].w3(hidden)}
        for name, got in stages.items():
            torch.testing.assert_close(got, x[f"out/inter.{name}"], atol=ATOL, rtol=0)
