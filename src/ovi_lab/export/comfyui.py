"""The names by which ComfyUI loads Ovi.

Source: kijai/ComfyUI-WanVideoWrapper, the node pack that runs Ovi in ComfyUI; `WanVideoModelLoader` in
nodes_model_loading.py (read at commit 3317577) and `WanModel` in wanvideo/modules/model.py (commit 0cf30c6).
Its loader takes one file from ComfyUI/models/diffusion_models. It knows Ovi by `audio_model.*` beside bare
`blocks.*`, builds the video tower from the bare names and the audio tower, with the video tower's sizes, as
`audio_model`, and reads every parameter by its own name: `blocks.i.modulation` where the released file says
`blocks.i.modulation.modulation`. (It renames a released file to that by itself; this is the result.) The width alone
decides on heads and blocks: 3072 means 24 and 30. The audio tower's positions are scaled by 0.19676, whatever it was
trained with. ComfyUI itself has no Ovi, and reads no index of shards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_MODULATION = re.compile(r"(blocks\.\d+\.modulation)\.modulation$")
_VIDEO = "video_model."
_SIZES = {"dim": 3072, "num_heads": 24, "num_layers": 30, "freq_dim": 256, "text_len": 512, "text_dim": 4096}
_CHANNELS = {"video": 48, "audio": 20}
_ROPE_FACTOR = 0.19676


def comfyui_name(name: str) -> str:
    """The name of a released tensor in ComfyUI's loader."""
    return _MODULATION.sub(r"\1", name).removeprefix(_VIDEO)


def comfyui_obstacles(settings: Mapping[str, Any]) -> list[str]:
    """Reasons why ComfyUI's loader cannot run a model of these settings (`TwinDiT.settings`) as it was trained."""
    found = []
    video, audio = settings["video"], settings["audio"]
    for tower, own in (("video", video), ("audio", audio)):
        if own is None:
            found.append(f"there is no {tower} tower")
            continue
        wanted = _SIZES | {"in_dim": _CHANNELS[tower]}
        found += [f"{tower} {k} is {own[k]}, not {v}" for k, v in wanted.items() if own[k] != v]
    if video is not None and audio is not None:
        if video["ffn_dim"] != audio["ffn_dim"]:
            found.append(f"the towers' ffn_dim differ, {video['ffn_dim']} and {audio['ffn_dim']}")
        fusion = settings["fusion"]
        if (fusion["direction"], fusion["blocks"]) != ("bidirectional", "all"):
            found.append("the towers do not read each other in every block")
        rope = settings["rope"]
        if rope["mode"] != "constant" or abs(rope["factor"] - _ROPE_FACTOR) > 5e-6:
            found.append(
                f"audio positions are scaled by {rope['mode']} {rope['factor']:g}, not {_ROPE_FACTOR}"
            )
        if rope.get("video_factor", 1.0) != 1.0:
            found.append(f"video positions are scaled by {rope['video_factor']:g}")
        if audio["patch_kernel_size"] != 7 or audio["patch_hidden_dim"] not in (None, 8192):
            found.append("the audio patch embedding is not the released one")
    return found
