"""`ovi-export`: writes a checkpoint's weights in the released layout or ComfyUI's."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ovi_eval.common.boundary import LineParser, command
from ovi_eval.common.shown import shown
from ovi_lab import __version__
from ovi_lab.common.following import sampling, typed
from ovi_lab.errors import UserError
from ovi_lab.export import TARGETS

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes of a size such as 5GB, 500MB or 1.5GiB.

    Raises:
        UserError: not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", text.strip().upper())
    unit = _UNITS.get(match.group(2)) if match else None
    if match is None or unit is None or float(match.group(1)) * unit < 1:
        raise UserError(f"--max-shard-size is {text!r}; expected a size such as 5GB or 500MB")
    return int(float(match.group(1)) * unit)


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(prog="ovi-export", description="A checkpoint as weights in the released layout.")
    parser.examples = (
        (
            "ovi-export runs/fusion/last --out fusion.safetensors",
            "a run's averaged weights, in the released layout",
        ),
        ("ovi-export runs/fusion --to comfyui --dtype bf16 --out fusion_comfyui.safetensors", "for ComfyUI"),
        (
            "ovi-export runs/ovi_11b_stage3 --raw --max-shard-size 5GB --out ovi",
            "raw weights in several files",
        ),
    )
    parser.add_argument("--version", action="version", version=f"ovi-export {__version__}")
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="a run, its `last`, a checkpoint folder (ours, DeepSpeed's), a Lightning .ckpt or a .safetensors",
    )
    parser.add_argument("--to", choices=TARGETS, default="ovi", help="layout of the weights (ovi)")
    parser.add_argument("--out", type=Path, required=True, help="file (.safetensors) or folder to write")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--ema", dest="ema", action="store_true", default=None, help="averaged weights")
    which.add_argument(
        "--raw", dest="ema", action="store_false", help="raw weights (default: averaged, if any)"
    )
    parser.add_argument("--dtype", choices=("bf16", "fp32"), help="of the weights (default: as stored)")
    parser.add_argument("--max-shard-size", metavar="SIZE", help="such as 5GB (default: one file)")
    parser.add_argument(
        "--config", help="config.yaml of a checkpoint that brings none, or a released model's name"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    return parser


@command("ovi-export")
def main(argv: Sequence[str] | None = None) -> int:
    """The command `ovi-export`; returns 0, or 2 after one line on standard error."""
    arguments = _parser().parse_args(argv)
    import torch

    from ovi_lab.export.export import export_run

    size = arguments.max_shard_size
    done = export_run(
        arguments.run,
        arguments.out,
        target=arguments.to,
        ema=arguments.ema,
        dtype={"bf16": torch.bfloat16, "fp32": torch.float32}.get(arguments.dtype),
        max_shard_size=None if size is None else parse_size(size),
        overwrite=arguments.overwrite,
        config=arguments.config,
    )
    for note in done.notes:
        print(f"note: {shown(note, None)}", file=sys.stderr)
    for name in done.files:
        print(done.folder / name)
    # on stderr: what is printed is the list of files
    size = sum((done.folder / name).stat().st_size for name in done.files)
    print(f"{size / 1e9:.3g} GB in {len(done.files)} files for {arguments.to}", file=sys.stderr)
    print(f"next: {_following(done.folder, done.files[0], arguments.to)}", file=sys.stderr)
    return 0


def _following(folder: Path, file: str, target: str) -> str:
    """What to do with an export, by its layout and its latents."""
    from ovi_eval.common.plain_data import read_json

    if target == "comfyui":
        return "put it into ComfyUI/models/diffusion_models"
    video = read_json(folder / "config.json").get("model", {}).get("video") or {}
    if video.get("in_dim") == 48:  # channels of the released models' pictures
        return f"{sampling('ovi_720x720_5s', weights=True)}, with it as DIR/Ovi/model.safetensors"
    return f"ovi-train init_from={typed(folder / file)} name=… trains a model of that size from it"


if __name__ == "__main__":
    sys.exit(main())
