"""A whole Ovi of random weights, a few megabytes, in the released layout: what `ovi-small` writes.

Every part is there under its published names: towers, Wan2.2 VAE, MMAudio's VAE and vocoder, umT5 and its
tokenizer's files, with a preset.yaml that states their sizes. Latents have the real geometry (48 channels of 16 x
16 pixels and 4 frames; 20 channels of 512 samples), so that `ovi-sample checkpoint=OUT prompt="…"` goes the whole
real way in under a minute on a CPU. What it makes is noise.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from ovi_eval.common.files import write_whole
from ovi_lab.checkpoints import weights_layout
from ovi_lab.checkpoints.presets import PRESET_FILE
from ovi_lab.codecs import mmaudio, wan22
from ovi_lab.common.seeding import generator_for
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.text import umt5

TEXT: dict[str, Any] = {
    "vocabulary": 320,
    "dim": 64,
    "ffn_dim": 96,
    "num_heads": 4,
    "head_dim": 16,
    "num_layers": 2,
}
VIDEO_CODEC: dict[str, Any] = {"base_dim": 8, "decoder_base_dim": 8, "res_blocks": 1}
AUDIO_CODEC: dict[str, Any] = {"hidden": 32, "vocoder_channels": 128}
_TOWER: dict[str, Any] = {
    "dim": 48,
    "num_heads": 2,
    "num_layers": 12,
    "ffn_dim": 96,
    "freq_dim": 64,
    "text_dim": TEXT["dim"],
}
MODEL: dict[str, Any] = {
    "video": {**_TOWER, "in_dim": 48, "patch_size": [1, 2, 2], "text_len": 512},
    "audio": {**_TOWER, "in_dim": 20, "text_len": 512},
    "fusion": {"direction": "bidirectional"},
    "rope": {"mode": "constant", "factor": 0.19676},
}
"""Twelve blocks, so that the released settings, which leave block 11 out of the negative pass, hold as they are."""
AREA = (96, 96)


def write_small(out: str | Path, seed: int = 0, area: tuple[int, int] = AREA, name: str = "small") -> Path:
    """Write the whole layout below `out`; the same seed gives the same weights.

    Args:
        out: a folder that is new, empty, or holds an earlier small Ovi.
        seed: of every part.
        area: height and width in pixels whose product a clip's picture has, about.
        name: of the preset.

    Raises:
        UserError: `out` holds other files.
        UserError: it cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / PRESET_FILE).is_file())):
        raise UserError(f"{out} is there and is no small Ovi: name a new folder")
    video, audio = wan22.Wan22Config(**VIDEO_CODEC), mmaudio.MMAudioConfig(**AUDIO_CODEC)
    text = umt5.UMT5Config(**TEXT)
    with torch.device("meta"):
        towers = TwinDiT(**MODEL).state_dict()
    _save(out / weights_layout.MODEL, drawn(towers, seed, "towers", torch.bfloat16))
    names = published_vae_names(video)
    vae = {names[n]: t for n, t in wan22.build(video).state_dict().items()}
    _save(out / weights_layout.VIDEO_VAE, drawn(vae, seed, "Wan2.2 VAE", torch.float32))
    names = published_text_names(text)
    # transformers lists the one embedding table under two names, the published file under one
    encoder = {names[n]: t for n, t in umt5.build(text).state_dict().items() if n in names}
    _save(out / weights_layout.TEXT_ENCODER, drawn(encoder, seed, "umT5", torch.bfloat16))
    sound = mmaudio.build_vae(audio).state_dict()
    _save(out / weights_layout.AUDIO_VAE, drawn(sound, seed, "MMAudio VAE", torch.float32))
    _save(out / weights_layout.VOCODER, {"generator": vocoder_weights(audio, seed)})
    write_tokenizer(out / weights_layout.TOKENIZER)
    preset = {
        "name": name,
        "file": weights_layout.MODEL,
        "model": MODEL,
        "text_encoder": TEXT,
        "video_codec": VIDEO_CODEC,
        "audio_codec": AUDIO_CODEC,
        "video_latent_frames": 31,
        "audio_latents": 157,
        "area": list(area),
        "fps": 24,
        "sample_rate": 16000,
        "audio_tag": "Audio: {}",
    }
    lines = (
        f"# A whole small Ovi of random weights (seed {seed}): ovi-sample checkpoint={out.name} prompt=…\n"
    )
    write_whole(out / PRESET_FILE, lines + yaml.safe_dump(preset, sort_keys=False))
    return out


def drawn(own: Mapping[str, Tensor], seed: int, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random values for every name and shape of `own`: variance is kept from layer to layer.

    Matrices and filters are normal with variance 1 / fan-in; norms are 1 and biases small.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in own.items():
        leaf = name.rpartition(".")[2]
        if leaf == "gamma" or (tensor.dim() == 1 and leaf == "weight") or name == "data_std":
            value = torch.ones(tensor.shape)
        elif name in ("data_mean", "encoder.learnable_gain", "decoder.learnable_gain"):
            value = torch.zeros(tensor.shape)
        else:
            noise = torch.randn(tensor.shape, generator=generator_for(seed, "small Ovi", part, name))
            fan_in = tensor[0].numel() if tensor.dim() > 1 and leaf != "modulation" else 100
            value = noise / fan_in**0.5
        weights[name] = value.to(dtype)
    return weights


def vocoder_weights(config: mmaudio.MMAudioConfig, seed: int) -> dict[str, Tensor]:
    """The vocoder's tensors by the names of the published file, each weight as length and direction.

    Its resampling filters are no weights but a design: they are taken from the network itself.
    """
    with torch.random.fork_rng(devices=[]):
        own = mmaudio.build_vocoder(config, "cpu").state_dict()
    weights: dict[str, Tensor] = {}
    for name, tensor in own.items():
        published = name.replace("conv_post.0.", "conv_post.")
        if name.endswith(".filter"):
            weights[published] = tensor
        elif name.endswith((".alpha", ".beta")):
            weights[published] = torch.zeros(tensor.shape)
        elif tensor.dim() == 3:
            generator = generator_for(seed, "small Ovi", "BigVGAN", name)
            direction = torch.randn(tensor.shape, generator=generator)
            # a transposed convolution's outputs see as many taps as kernel / stride, which is 2 here
            taps = 2 * tensor.shape[0] if name.startswith("ups.") else tensor[0].numel()
            length = torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True) / taps**0.5
            if name.startswith("conv_post"):
                length = length / 32  # below what the last tanh would clip
            stem = published.removesuffix("weight") + "parametrizations.weight.original"
            weights |= {f"{stem}0": length, f"{stem}1": direction}
        else:
            weights[published] = torch.zeros(tensor.shape)
    return weights


def published_vae_names(config: wan22.Wan22Config) -> dict[str, str]:
    """The published Wan2.2 file's names, by the names that diffusers' network has for the same tensors."""
    block = [f"residual.{i}" for i in (0, 2, 3, 6)] + ["shortcut"]
    stems = ["conv1", "conv2"]
    for side, way, extra in (("encoder", "down", 0), ("decoder", "up", 1)):
        stems += [f"{side}.{inner}" for inner in ("conv1", "head.0", "head.2")]
        stems += [f"{side}.middle.{i}.{inner}" for i in (0, 2) for inner in block]
        stems += [f"{side}.middle.1.{inner}" for inner in ("norm", "to_qkv", "proj")]
        last = config.res_blocks + extra
        for level in range(len(config.multipliers)):
            inside = f"{side}.{way}samples.{level}.{way}samples"
            stems += [f"{inside}.{i}.{inner}" for i in range(last) for inner in block]
            # what changes the size comes after the level's residual blocks, in the same list
            stems += [f"{inside}.{last}.{inner}" for inner in ("resample.1", "time_conv")]
    names = [f"{stem}.{leaf}" for stem in stems for leaf in ("weight", "bias", "gamma")]
    return {wan22.diffusers_name(name): name for name in names}


def published_text_names(config: umt5.UMT5Config) -> dict[str, str]:
    """The published umT5 file's names, by the names that transformers' encoder has for the same tensors."""
    inner = ["norm1", "norm2", *(f"attn.{x}" for x in "qkvo"), "pos_embedding.embedding"]
    inner += ["ffn.gate.0", "ffn.fc1", "ffn.fc2"]
    stems = ["token_embedding", "norm"]
    stems += [f"blocks.{block}.{name}" for block in range(config.num_layers) for name in inner]
    return {umt5.transformers_name(f"{stem}.weight"): f"{stem}.weight" for stem in stems}


def write_tokenizer(folder: Path) -> None:
    """A tokenizer's files: one token for each byte of a text, and an end mark after it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>"]
    units = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE({word: i for i, word in enumerate(special + units)}, [], unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    whole.save_pretrained(folder)


def _save(path: Path, content: dict[str, Any]) -> None:
    if path.suffix == ".safetensors":
        write_whole(path, save(content))
        return
    # not straight to the file, whose name torch would write into it
    stream = io.BytesIO()
    torch.save(content, stream)
    write_whole(path, stream.getvalue())
