"""What a LoRA adapter is: settings, the linear layers that they name, and the names of its parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from ovi_lab.common.fields import CLOSED, AnyText, PlainSettings, Positive, Width, number
from ovi_lab.errors import UserError

TARGETS: dict[str, str] = {
    "attention": r"\.blocks\.\d+\.(self_attn|cross_attn)\.[qkvo]$",
    "fusion": r"\.blocks\.\d+\.cross_attn\.[kv]_fusion$",
    "ffn": r"\.blocks\.\d+\.ffn\.\d+$",
    "all_linear": r"\.blocks\.\d+\.",
}
"""Sets of linear layers by name, each a regular expression searched in a layer's name."""

ADAPTER = "default"
"""PEFT's own name of a model's only adapter, a part of the names of its parameters."""
_ADAPTED = re.compile(rf"^(?P<layer>.+)\.lora_(?P<side>[AB])(\.{ADAPTER})?\.weight$")


Targets = Annotated[
    tuple[AnyText, ...],
    BeforeValidator(lambda targets: [targets] if isinstance(targets, str) else targets),
    Field(min_length=1, description=f"some of {', '.join(TARGETS)}, or regular expressions"),
]


@dataclass(frozen=True, config=CLOSED)
class LoraSettings(PlainSettings):
    """Low-rank adaptation, y = W x + (alpha / rank) B A x (Hu et al., arXiv 2106.09685)."""

    title = "adapter"

    rank: Width
    """Rank of B A: A is [rank, in], B [out, rank]."""
    alpha: Positive | None = None
    """None means `rank`: the product counts as it is."""
    targets: Targets = ("attention",)
    """Which linear layers: names of sets (`TARGETS`), or regular expressions searched in the layers' names."""
    dropout: Annotated[float, number(ge=0, lt=1)] = 0.0
    """Dropout on the input of A, in training."""
    base_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the model's own weights, which are not trained; None leaves it. The adapter stays float32."""

    @property
    def scaling(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def dtype(self) -> torch.dtype | None:
        """`base_dtype` as PyTorch's."""
        return None if self.base_dtype is None else getattr(torch, self.base_dtype)

    def layers(self, linear: Iterable[str]) -> list[str]:
        """The linear layers that the targets match, by name; UserError for a target that matches none."""
        names, found = list(linear), set()
        for target in self.targets:
            try:
                pattern = re.compile(TARGETS.get(target, target))
            except re.error as error:
                raise UserError(
                    f"adapter.targets: {target!r} is none of {', '.join(TARGETS)} and no regular expression ({error})"
                ) from error
            matched = {name for name in names if pattern.search(name)}
            if not matched:
                raise UserError(
                    f"adapter.targets: {target!r} matches no linear layer of this model, e.g. {names[-1]}; expected "
                    f"some of {', '.join(TARGETS)}, or regular expressions"
                )
            found |= matched
        return [name for name in names if name in found]


def base_name(name: str) -> str:
    """The name that a weight had before the adapter was added: the released one."""
    return name.replace(".base_layer.", ".")


def adapted_layer(name: str) -> tuple[str, str] | None:
    """The adapted layer and the side, A or B, of an adapter's parameter; None for any other parameter."""
    match = _ADAPTED.match(name)
    return None if match is None else (match["layer"], match["side"])
