"""Files of a bad batch, for inspection."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ovi_eval.common.files import write_whole, written_whole


@dataclass(frozen=True)
class Seen:
    """One batch of a step: what went in, the sigmas [B] by modality, and the loss of each."""

    batch: Mapping[str, Any]
    sigmas: Mapping[str, Tensor]
    losses: Mapping[str, Tensor]


def save_for_inspection(place: Path, batches: Sequence[Seen], reason: str) -> None:
    """Write `<place>.safetensors` with all tensors of the batches and `<place>.json` with the rest, each atomically.

    Tensors are called `<micro-batch>.<name>`, with the clip's number behind where a batch is a list of clips.
    """
    tensors: dict[str, Tensor] = {}
    facts: list[dict[str, Any]] = []
    for number, seen in enumerate(batches):
        for name, value in (*seen.batch.items(), *((f"sigma_{m}", s) for m, s in seen.sigmas.items())):
            tensors.update((f"{number}.{key}", tensor) for key, tensor in _tensors(name, value))
        facts.append(
            {
                "id": list(seen.batch.get("id", ())),
                "caption": list(seen.batch.get("caption", ())),
                # JSON has no NaN
                "loss": {name: str(float(value)) for name, value in seen.losses.items()},
            }
        )
    with written_whole(place.with_name(f"{place.name}.safetensors")) as temporary:
        save_file(tensors, temporary)
    write_whole(
        place.with_name(f"{place.name}.json"), json.dumps({"reason": reason, "batches": facts}, indent=1)
    )


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, _own(value)
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            if isinstance(one, Tensor):
                yield f"{name}.{number}", _own(one)


def _own(tensor: Tensor) -> Tensor:
    # a copy: safetensors refuses tensors that share memory
    return tensor.detach().to("cpu", copy=True).contiguous()
