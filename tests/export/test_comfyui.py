"""The layout of ComfyUI's Ovi loader: names of the full-size model, values of a small one.

`LoaderTower` has the parameters that ComfyUI-WanVideoWrapper builds for Ovi (nodes_model_loading.py at commit
3317577, wanvideo/modules/model.py at commit 0cf30c6), by name and shape, written down from reading those.
"""

import gzip
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from helpers.twin_goldens import TINY_AUDIO, TINY_VIDEO
from ovi_lab.checkpoints.presets import released_model
from ovi_lab.export.cli import main
from ovi_lab.export.comfyui import comfyui_name, comfyui_obstacles
from ovi_lab.export.export import export_run
from ovi_lab.models import TwinDiT

AUDIO = {k: v for k, v in TINY_AUDIO.items() if not k.startswith("patch")}
WIDTH, INNER, BLOCKS = 3072, 14336, 30


class Modulated(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.modulation = nn.Parameter(torch.empty(1, rows, WIDTH))


class Attention(nn.Module):
    def __init__(self, fused=False):
        super().__init__()
        for name in ("q", "k", "v", "o", *(("k_fusion", "v_fusion") if fused else ())):
            setattr(self, name, nn.Linear(WIDTH, WIDTH))
        for name in ("norm_q", "norm_k", *(("norm_k_fusion",) if fused else ())):
            setattr(self, name, nn.RMSNorm(WIDTH))
        if fused:
            self.pre_attn_norm_fusion = nn.LayerNorm(WIDTH)


class Block(Modulated):
    def __init__(self):
        super().__init__(6)
        self.self_attn, self.cross_attn = Attention(), Attention(fused=True)
        self.norm3 = nn.LayerNorm(WIDTH)
        self.ffn = nn.Sequential(nn.Linear(WIDTH, INNER), nn.GELU(), nn.Linear(INNER, WIDTH))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1 = nn.Conv1d(WIDTH, 8192, 7, bias=False)
        self.w2 = nn.Conv1d(8192, WIDTH, 7, bias=False)
        self.w3 = nn.Conv1d(WIDTH, 8192, 7, bias=False)


class LoaderTower(nn.Module):
    def __init__(self, channels, outputs, patch):
        super().__init__()
        self.patch_embedding = patch
        self.text_embedding = nn.Sequential(nn.Linear(4096, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.time_embedding = nn.Sequential(nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = Modulated(2)
        self.head.head = nn.Linear(WIDTH, outputs)


def loader():
    """What ComfyUI's loader makes for Ovi: the video tower, with the audio tower as its `audio_model`."""
    with torch.device("meta"):
        video = LoaderTower(48, 4 * 48, nn.Conv3d(48, WIDTH, (1, 2, 2)))
        patch = nn.Sequential(nn.Conv1d(20, WIDTH, 7), nn.SiLU(), Convolutions())
        video.audio_model = LoaderTower(20, 20, patch)
    return video


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_the_full_size_has_the_loaders_names_and_shapes(goldens):
    preset = released_model("ovi_960x960_10s")
    with torch.device("meta"):
        model = TwinDiT(**preset.model)
    renamed = {comfyui_name(name): tensor for name, tensor in model.state_dict().items()}
    expected = shapes(loader().state_dict())
    assert shapes(renamed) == expected
    assert sum(tensor.numel() for tensor in renamed.values()) == 11_660_753_108
    assert comfyui_obstacles(model.settings) == []
    with gzip.open(goldens / "ovi_state_dict_keys.txt.gz", "rt") as lines:
        released = [line.split("\t")[0] for line in lines if not line.startswith("#")]
    assert {comfyui_name(name) for name in released} == expected.keys()


def exported(tmp_path, target, **settings):
    model = TwinDiT(TINY_VIDEO, AUDIO, **settings)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    config = {"model": {"video": TINY_VIDEO, "audio": AUDIO, **settings}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return model, export_run(tmp_path / "weights.safetensors", tmp_path / target, target=target)


def test_values_are_the_same_under_other_names(tmp_path):
    model, done = exported(tmp_path, "comfyui")
    held = load_file(tmp_path / "comfyui" / "model.safetensors")
    own = model.state_dict()
    assert len(held) == len(own)
    for name, tensor in own.items():
        tower, _, rest = name.partition(".")
        place = rest if tower == "video_model" else name
        assert torch.equal(held[place.replace(".modulation.modulation", ".modulation")], tensor)
    # by these the loader knows Ovi, and it takes nothing off the names of a file that starts otherwise
    assert any(name.startswith("blocks.") for name in held)
    assert any(name.startswith("audio_model.") for name in held)
    assert not any(name.startswith(("video_model.", "model.")) for name in held)
    assert json.loads((tmp_path / "comfyui" / "config.json").read_text())["layout"] == "comfyui"
    card = (tmp_path / "comfyui" / "README.md").read_text()
    assert "ComfyUI/models/diffusion_models" in card
    assert "load_released" not in card
    # the loader builds the released size whatever it is given: a small model does not load, and that is said
    assert done.notes[0].startswith(
        "ComfyUI's loader expects otherwise: video dim is 64, not 3072; video num_heads"
    )
    assert all(f"- {note}\n" in card for note in done.notes)


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"fusion": {"direction": "video_to_audio"}}, "the towers do not read each other in every block"),
        ({"rope": {"mode": "constant", "factor": 1.0}}, "positions are scaled by constant 1, not 0.19676"),
        ({"rope": {"mode": "clip_ratio"}}, "audio positions are scaled by clip_ratio"),
    ],
)
def test_what_the_loader_would_do_otherwise_is_said(tmp_path, settings, fact):
    _, done = exported(tmp_path, "comfyui", **settings)
    assert any(fact in note for note in done.notes)


def test_one_tower_alone_is_said_and_shards_are_refused(tmp_path, capsys):
    settings = TwinDiT(None, AUDIO).settings
    assert "there is no video tower" in comfyui_obstacles(settings)
    exported(tmp_path, "ovi")
    command = [str(tmp_path / "weights.safetensors"), "--to", "comfyui", "--out", str(tmp_path / "out")]
    assert main([*command, "--max-shard-size", "1MB"]) == 2
    assert "ComfyUI reads no shards" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
