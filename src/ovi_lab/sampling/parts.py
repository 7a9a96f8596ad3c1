"""The parts of a bundle loaded into memory: text encoder, towers, picture codec, sound codec.

Types: the towers and the Wan2.2 VAE compute in the requested type; umT5 in the one of its file (bf16, as published);
the sound codec in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ovi_lab.errors import UserError
from ovi_lab.models.config import Modality
from ovi_lab.sampling.bundle import Bundle, Parts

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_parts(
    bundle: Bundle,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    on_part: Callable[[int, int, str], None] | None = None,
    long_prompts: str = "refuse",
) -> Parts:
    """Load every part, strictly by name and shape; small parts first, so that a wrong file is reported soon.

    Args:
        bundle: what to load.
        dtype: of the towers and the Wan2.2 VAE.
        device: to put everything on. On the CPU, what keeps its file's type stays the mapped file.
        on_part: called with parts done, parts in all and the name of the next.
        long_prompts: how texts of more tokens than the encoder reads are handled, see `ovi_lab.text.lengths`.

    Raises:
        UserError: a file is damaged, holds code, or another model or size; or parts do not belong together.
    """
    report = on_part or (lambda done, total, name: None)
    report(0, 3, "codecs")
    video, sound = bundle.load_codecs(dtype, device)
    report(1, 3, "text encoder")
    text: Any = bundle.load_text(dtype, device, long_prompts)
    report(2, 3, "towers")
    towers = bundle.load_towers(dtype, device)
    report(3, 3, "")
    codecs: dict[Modality, Any] = {"video": video, "audio": sound}
    for modality, codec in codecs.items():
        config = towers.tower_configs.get(modality)
        if config is not None and config.in_dim != codec.channels:
            raise UserError(
                f"the {modality} codec has {codec.channels} channels and the {modality} tower {config.in_dim}: the "
                f"parts of {bundle.name} do not belong together"
            )
    return Parts(bundle.formats, text, towers, video, sound)
