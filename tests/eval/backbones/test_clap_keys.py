"""The names of laion_clap's checkpoints and of transformers' ClapModel, both ways, and files that are no checkpoint."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers.clap_files import SMALL, published, small_checkpoint
from ovi_eval.backbones.clap import AUDIO_630K, MUSIC_SPEECH, TransformersTowers, as_built, load_clap
from ovi_eval.backbones.clap_keys import (
    ONLY_TRANSFORMERS,
    POSITIONS,
    TABLES,
    TINY,
    Size,
    shift_mask,
    to_laion,
    to_transformers,
    without_counterpart,
)
from ovi_eval.errors import UserError


def state(size: Size) -> dict[str, Tensor]:
    with torch.device("meta"):
        return TransformersTowers(size).model.state_dict()


def test_random_tensors_come_back_bit_for_bit_and_queries_keys_and_values_are_cut_in_this_order() -> None:
    checkpoint = {
        name: torch.randn_like(tensor) if tensor.is_floating_point() else torch.randint_like(tensor, 9)
        for name, tensor in small_checkpoint().items()
    }
    mapped = to_transformers(checkpoint, state(SMALL))
    assert mapped.keys() == state(SMALL).keys() - set(ONLY_TRANSFORMERS)
    back = to_laion(mapped)
    assert checkpoint.keys() == back.keys() | without_counterpart(SMALL).keys()
    assert all(checkpoint[name].equal(tensor) for name, tensor in back.items())
    at = "audio_model.audio_encoder.layers.1.blocks.0.attention.self"
    cut = [mapped[f"{at}.{kind}.bias"] for kind in ("query", "key", "value")]
    assert torch.cat(cut).equal(checkpoint["audio_branch.layers.1.blocks.0.attn.qkv.bias"])


def test_computed_tensors_are_those_of_the_architecture() -> None:
    encoder = TransformersTowers(SMALL).model.audio_model.audio_encoder
    for stage, side in enumerate((64, 32, 16)):
        theirs = encoder.layers[stage].blocks[1].get_attn_mask(side, side, torch.float32, torch.device("cpu"))
        assert theirs.equal(shift_mask(stage))
    index = encoder.layers[0].blocks[0].attention.self.relative_position_index
    assert as_built(SMALL)["audio_branch.layers.0.blocks.0.attn.relative_position_index"].equal(index)


def with_numbers_of_numpy(tensors: dict[str, Tensor]) -> dict[str, object]:
    """As training saves it: numpy's numbers beside the tensors, and the counter that older files hold."""
    content = published(tensors | {POSITIONS: torch.arange(514)[None]})
    scores = {"best": np.float64(0.9), "epoch": np.int64(15), "top": {"recall": np.float32(0.5)}}
    return {**content, **scores, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}}


@pytest.mark.parametrize("form", [published, with_numbers_of_numpy, dict, None])
def test_checkpoints_are_read_in_all_their_forms(
    form: Callable[[dict[str, Tensor]], object] | None, tmp_path: Path
) -> None:
    tensors, path = small_checkpoint(), tmp_path / ("clap.pt" if form else "clap.safetensors")
    if form:
        torch.save(form(tensors), path)
    else:
        save_file(tensors, path)
    loaded = load_clap(path, MUSIC_SPEECH, SMALL)
    state = loaded.network.state_dict()
    wanted = to_transformers(tensors, loaded.network.model.state_dict())
    assert all(state[f"model.{name}"].equal(tensor) for name, tensor in wanted.items())
    assert state.keys() - {f"model.{name}" for name in wanted} == {
        f"model.{name}" for name in ONLY_TRANSFORMERS
    }
    assert not any(tensor.is_meta for tensor in state.values())
    assert not loaded.network.training


QKV = "audio_branch.layers.0.blocks.0.attn.qkv.weight"
MASK = "audio_branch.layers.1.blocks.1.attn_mask"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop(QKV), f"{QKV} is missing; fetch CLAP"),
        (lambda t: t.update(other=torch.ones(1)), "other is unknown"),
        (lambda t: t.update({QKV: t[QKV][:3]}), r"is float32 \[3, 16\] instead of float32 \[48, 16\]"),
        (lambda t: t.update({QKV: t[QKV].half()}), "is float16 .* instead of float32"),
        (lambda t: t["logit_scale_a"].fill_(torch.nan), "logit_scale_a is not finite"),
        (lambda t: t[TABLES[2]].mul_(1.01), f"{TABLES[2]} holds other numbers than it is built with"),
        (lambda t: t[MASK].zero_(), f"{MASK} holds other numbers"),
        (lambda t: t.update({"audio_branch.patch_embed.mel_conv2d.weight": torch.ones(1)}), "feature fusion"),
        (lambda t: [t.pop(name) for name in list(t)[5:]], "and [0-9]+ more; fetch"),
    ],
)
def test_other_tensors_are_refused_in_one_line(
    change: Callable[[dict[str, Tensor]], object], text: str, tmp_path: Path
) -> None:
    path, tensors = tmp_path / "clap.pt", small_checkpoint()
    change(tensors)
    torch.save(published(tensors), path)
    with pytest.raises(UserError, match=text) as caught:
        load_clap(path, MUSIC_SPEECH, SMALL)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Malicious:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (Path.touch, (Path("touched"),))  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.slow
def test_other_files_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = tmp_path / "whole.pt"
    torch.save(published(small_checkpoint()), whole)
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:100_000])
    torch.save({"state_dict": {}, "run": Malicious()}, tmp_path / "runs.pt")
    torch.save({"state_dict": [1, 2]}, tmp_path / "list.pt")
    torch.save({"state_dict": {"module.epoch": 3}}, tmp_path / "numbers.pt")
    torch.save(published(small_checkpoint()), tmp_path / "new.pt", pickle_protocol=4)
    (tmp_path / "numpy.pt").write_bytes(pickle.dumps({"state_dict": np.zeros(3)}))
    for name, text in (
        ("none.pt", "no such file; it should hold CLAP HTSAT-base music_speech_audioset weights"),
        ("cut.pt", "is not a whole file of torch.save"),
        ("runs.pt", "is code and no tensor or plain value"),
        ("list.pt", "holds no tensors by name under state_dict; fetch CLAP"),
        ("numbers.pt", "holds no tensors by name"),
        ("new.pt", "save its state_dict as new.safetensors"),
        ("numpy.pt", "pickled in a way that is not read"),
    ):
        with pytest.raises(UserError, match=re.escape(str(tmp_path / name)) + ".*" + f"({text})") as caught:
            load_clap(tmp_path / name, MUSIC_SPEECH, SMALL)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "touched").exists()
    with pytest.raises(UserError, match=r"HTSAT-tiny: .*; fetch CLAP HTSAT-tiny 630k-audioset weights"):
        load_clap(whole, AUDIO_630K, TINY)
