"""The parts of a released model in memory: text encoder, towers, picture codec, sound codec; and what they are by hash.

Types: the towers and the Wan2.2 VAE compute in the type that is asked for; the text encoder in the one of its
file (bf16, as published); the sound codec in float32, since BigVGAN's sines are audible when rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ovi_lab.checkpoints.presets import ReleasedModel, load_released
from ovi_lab.checkpoints.weights_layout import Layout
from ovi_lab.codecs.mmaudio import MMAudioCodec
from ovi_lab.codecs.wan22 import Wan22VAE
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.text import UMT5Text

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Parts:
    """All of a model that sampling runs."""

    preset: ReleasedModel
    text: UMT5Text
    towers: TwinDiT
    video: Wan22VAE
    sound: MMAudioCodec


def load_parts(
    preset: ReleasedModel,
    layout: Layout,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    on_part: Callable[[int, int, str], None] | None = None,
    long_prompts: str = "refuse",
) -> Parts:
    """Load every part, strictly by name and shape; small parts first, so that a wrong file is told soon.

    Args:
        preset: sizes of all parts.
        layout: where they lie.
        dtype: of the towers and the Wan2.2 VAE.
        device: to put everything on. On the CPU, what keeps its file's type stays the mapped file.
        on_part: called with parts done, parts in all and the name of the next.
        long_prompts: what becomes of texts of more tokens than umT5 reads, see `ovi_lab.text.lengths`.

    Raises:
        UserError: a file is damaged, holds code, or another model or size; or parts do not belong together.
    """
    said = on_part or (lambda done, total, name: None)
    said(0, 4, "sound codec")
    sound = MMAudioCodec.from_files(
        layout.audio_vae, layout.vocoder, preset.audio_codec, torch.float32, device
    )
    said(1, 4, "picture codec")
    video = Wan22VAE.from_file(layout.video_vae, preset.video_codec, dtype, device)
    said(2, 4, "text encoder")
    text_dim = preset.model_config["video"].get("text_dim", 4096)
    text = UMT5Text(
        layout.text_encoder,
        layout.tokenizer,
        text_dim,
        configuration=preset.text_encoder,
        too_long=long_prompts,
        option="long_prompts=",
    )
    text = text.to(device).eval()
    said(3, 4, "towers")
    towers = load_released(layout.model, preset.model_config, dtype, device)
    said(4, 4, "")
    for codec, tower in ((video, "video"), (sound, "audio")):
        width = towers.tower_configs[tower].in_dim  # type: ignore[index]
        if codec.channels != width:
            raise UserError(
                f"the {tower} codec has {codec.channels} channels and the {tower} tower {width}: the preset "
                f"{preset.name} does not fit together"
            )
    return Parts(preset, text, towers, video, sound)
