"""Shard patterns on a command line; light, since every command line is read by it before anything else."""

from __future__ import annotations

from collections.abc import Sequence


def joined_shards(arguments: Sequence[str], key: str = "data.shards") -> list[str]:
    """A command line whose shard patterns Hydra can read.

    A shell makes `data.shards=a-{000..511}.tar` 512 arguments, of which Hydra would take the last: they become one
    list. Braces that the shell left alone, which Hydra takes for the beginning of a dictionary, are quoted.
    """
    values = [argument.removeprefix(f"{key}=") for argument in arguments if argument.startswith(f"{key}=")]
    if not values or (len(values) == 1 and "{" not in values[0]):
        return list(arguments)
    quoted = [value if value[:1] in "'\"[" else f"'{value}'" for value in values]
    joined = quoted[0] if len(quoted) == 1 else f"[{','.join(quoted)}]"
    first = next(n for n, argument in enumerate(arguments) if argument.startswith(f"{key}="))
    remaining = [argument for argument in arguments if not argument.startswith(f"{key}=")]
    return [*remaining[:first], f"{key}={joined}", *remaining[first:]]
