"""The parts of a released model in memory: text encoder, towers, picture codec, sound codec; and what they are by hash.

Types: the towers and the Wan2.2 VAE compute in the type that is asked for; the text encoder in the one of its
file (bf16, as published); the sound codec in float32, since BigVGAN's sines are audible when rounded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from ovi_eval.common.plain_data import read_json
from ovi_eval.errors import EvalError
from ovi_lab.checkpoints.folder import file_digest
from ovi_lab.checkpoints.released import ReleasedModel, load_released
from ovi_lab.codecs.mmaudio import MMAudioCodec
from ovi_lab.codecs.wan22 import Wan22VAE
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.released.layout import Layout
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


class Digests:
    """SHA-256 of files, computed beside other work and kept for the next time under size and time of change.

    Args:
        files: by the names that they are to have in the result.
        kept: file that remembers; None takes `ovi_lab/sha256.json` in the user's cache folder.
    """

    def __init__(self, files: Mapping[str, Path], kept: Path | None = None) -> None:
        self._kept = kept or default_cache() / "sha256.json"
        self._known = _read_kept(self._kept)
        self._found: dict[str, Future[str]] = {name: Future() for name in files}
        # a daemon: who leaves because of a mistake does not wait for forty gigabytes to be hashed
        Thread(target=self._work, args=(dict(files),), name="sha256", daemon=True).start()

    def _work(self, files: dict[str, Path]) -> None:
        for name, path in files.items():
            try:
                self._found[name].set_result(self._digest(path))
            except OSError as error:
                self._found[name].set_exception(error)

    def result(self) -> dict[str, str]:
        """Hex digests by name; waits for what is not finished. Raises UserError where a file cannot be read."""
        try:
            return {name: future.result() for name, future in self._found.items()}
        except OSError as error:
            raise UserError(f"weights cannot be read ({error}): make the file readable") from error

    def _digest(self, path: Path) -> str:
        facts = path.stat()
        key = f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
        if key not in self._known:
            self._known[key] = file_digest(path)
            # a convenience: where the place cannot be written, the next time takes as long
            with suppress(OSError):
                self._kept.parent.mkdir(parents=True, exist_ok=True)
                temporary = self._kept.with_name(f".{self._kept.name}.{os.getpid()}.tmp")
                temporary.write_text(json.dumps(_read_kept(self._kept) | self._known, indent=0))
                temporary.replace(self._kept)
        return self._known[key]


def default_cache() -> Path:
    """The user's cache folder for this package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovi_lab"


def _read_kept(path: Path) -> dict[str, str]:
    try:
        content: Any = read_json(path)
    except EvalError:
        return {}
    return {str(k): str(v) for k, v in content.items()} if isinstance(content, dict) else {}
