"""Many clips in memory and in one tensor file.

Shapes: N clips, T frames, H rows, W columns, 3 colours (RGB), S samples.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ovi_eval.common.files import written_whole
from ovi_eval.common.plain_data import parse_json
from ovi_eval.errors import UserError

CLIPS_FORMAT = "ovi_eval.clips/1"
HEADER = "clips"
"""The only key of the metadata: of several, safetensors would choose a random order at each write."""
INT16_SCALE = 32767.0
SILENT = 1e-4
"""Largest absolute sample of sound that counts as silence (about 3 steps of 16 bits)."""
FAILED = "failed"
"""Key of a clip's meta that holds, in words, why the clip cannot be scored."""


@dataclass
class ClipSet:
    """N clips of one size, rate and length.

    `frames_NTHWC` uint8 [N, T, H, W, 3]; `waves_NS` float32 [N, S] in [-1, 1]; `meta` holds the
    generator's facts of each. A clip whose sampling failed keeps its place, with the reason under meta["failed"].
    Raises UserError where numbers of clips, types or shapes do not fit.
    """

    ids: list[str]
    captions: list[str]
    frames_NTHWC: Tensor
    fps: float
    waves_NS: Tensor
    sample_rate: int
    meta: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.meta:
            self.meta = [{} for _ in self.ids]
        frames, waves = self.frames_NTHWC, self.waves_NS
        if frames.dim() != 5 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
            raise UserError(
                f"clips need frames [N, T, H, W, 3] of uint8, got {list(frames.shape)} of {frames.dtype}"
            )
        if waves.dim() != 2 or waves.dtype != torch.float32:
            raise UserError(f"clips need waves [N, S] of float32, got {list(waves.shape)} of {waves.dtype}")
        counts = {
            "ids": len(self.ids),
            "captions": len(self.captions),
            "frames": frames.shape[0],
            "waves": waves.shape[0],
            "meta": len(self.meta),
        }
        if len(set(counts.values())) != 1:
            listed = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise UserError(f"clips need as many of each, got {listed}")
        if not (self.fps > 0 and self.sample_rate > 0):
            raise UserError(
                f"clips need rates above 0, got {self.fps} frames/s and {self.sample_rate} samples/s"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> "ClipSet":
        """The clips of these places as a ClipSet, in the order given; one number gives a set of one."""
        rows = torch.arange(len(self))[list(index) if isinstance(index, Sequence) else index].reshape(-1)
        return replace(
            self,
            ids=[self.ids[i] for i in rows],
            captions=[self.captions[i] for i in rows],
            frames_NTHWC=self.frames_NTHWC[rows],
            waves_NS=self.waves_NS[rows],
            meta=[self.meta[i] for i in rows],
        )

    def with_waves(self, waves_NS: Tensor) -> "ClipSet":
        """The same clips with other sound [N, S]."""
        return replace(self, waves_NS=waves_NS)

    def save(self, path: str | Path) -> Path:
        """Writes one safetensors file atomically: frames uint8, waves int16, the rest as JSON.

        A clip whose sound is not finite is stored as silence with that reason under meta["failed"].
        Raises UserError where the file cannot be written.
        """
        path = Path(path)
        finite_N = torch.isfinite(self.waves_NS).all(dim=1)
        meta = [
            row if ok else {FAILED: "its sound is not finite", **row}
            for row, ok in zip(self.meta, finite_N.tolist(), strict=True)
        ]
        waves_NS = torch.where(finite_N[:, None], self.waves_NS, 0.0).clamp(-1, 1)
        header = {
            "format": CLIPS_FORMAT,
            "fps": float(self.fps),
            "sample_rate": int(self.sample_rate),
            "ids": self.ids,
            "captions": self.captions,
            "meta": meta,
        }
        tensors = {
            "frames": self.frames_NTHWC.contiguous(),
            "waves": (waves_NS * INT16_SCALE).round().to(torch.int16).contiguous(),
        }
        with written_whole(path) as temporary:
            save_file(tensors, temporary, metadata={HEADER: json.dumps(header)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> "ClipSet":
        """Reads what `save` wrote. Raises UserError naming a file that is missing, broken or another kind."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path}: no such file; name a clips.safetensors that sampling wrote")
        try:
            with safe_open(path, framework="pt") as file:
                header = parse_json((file.metadata() or {}).get(HEADER, "{}"), str(path))
                if header.get("format") != CLIPS_FORMAT:
                    found = header.get("format")
                    raise UserError(f'{path}: format is {found!r}, this version reads "{CLIPS_FORMAT}"')
                frames, waves = file.get_tensor("frames"), file.get_tensor("waves")
            if waves.dtype != torch.int16:
                raise UserError(f"{path}: waves are {waves.dtype}, expected int16; sample the clips again")
            return cls(
                ids=_list_of(str, header["ids"]),
                captions=_list_of(str, header["captions"]),
                frames_NTHWC=frames,
                fps=float(header["fps"]),
                waves_NS=waves.float() / INT16_SCALE,
                sample_rate=int(header["sample_rate"]),
                meta=_list_of(dict, header["meta"]),
            )
        except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            raise UserError(
                f"{path}: is no readable file of clips ({error}); sample the clips again"
            ) from error
        except UserError as error:
            raise error if str(path) in str(error) else UserError(f"{path}: {error}") from error


def _list_of(kind: type, values: Any) -> list[Any]:
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise ValueError("ids and captions must be lists of strings, meta a list of objects")
    return values
