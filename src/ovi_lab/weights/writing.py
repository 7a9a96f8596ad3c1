"""Writing safetensors one tensor at a time, so that a model larger than the memory can be exported to one file.

Format: https://github.com/huggingface/safetensors (the length of the header, 8 bytes little-endian; the header,
JSON padded by spaces to a multiple of 8; the values of all tensors without gaps).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovi_lab.weights.tensor_files import DTYPES


def save_file(
    path: Path, listing: Mapping[str, tuple[str, tuple[int, ...]]], tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a .safetensors file.

    Args:
        path: the file; one that is there is replaced.
        listing: type (in safetensors' word) and shape of every tensor, by name.
        tensors: name and tensor, each once, in any order; only one is held at a time.

    Raises:
        ValueError: a tensor is not as listed, or one is missing.
        OSError: the disk is full or the place cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    # wide types first: each tensor then starts at a multiple of its type's size
    for name, (word, shape) in sorted(listing.items(), key=lambda item: -DTYPES[item[1][0]].itemsize):
        size = DTYPES[word].itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": word, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    left = set(listing)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors:
            start, stop = header[name]["data_offsets"]
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            if list(tensor.shape) != header[name]["shape"] or len(values) != stop - start:
                raise ValueError(f"{name} is {list(tensor.shape)}, expected {header[name]['shape']}")
            file.seek(8 + len(text) + start)
            file.write(values.numpy().data)
            left.discard(name)
    if left:
        raise ValueError(f"{sorted(left)[0]} was not given ({len(left)} tensors missing)")
