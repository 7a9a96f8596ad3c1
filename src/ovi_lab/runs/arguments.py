"""The command line of ovi-train and ovi-plan as a shell leaves it, made ready for Hydra."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ovi_lab.data.shard_names import joined_shards


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra is to see it: shard patterns as lists, and one path after init_from= for everything."""
    ready = list(arguments)
    for key in ("data.shards", "data.train", "data.val"):
        ready = joined_shards(ready, key)
    return [re.sub(r"^init_from=(?!{)", "init_from.all=", argument) for argument in ready]
