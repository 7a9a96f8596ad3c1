"""Ways to spoil bytes, plain values and the text of JSON and YAML; all of them drawn from the generator given."""

from __future__ import annotations

import copy
import json
import os
import random
import re
from typing import Any

import yaml

SECRET = "the-secret-of-the-fuzz-test"
"""The value of the environment variable FUZZ_SECRET, which no output may show."""
MARKER = "code_ran"
"""The file that spoiled files try to make by running code, in the working folder."""

_SIGNS = (
    "\x1b[31mred\x1b[0m", "a\r\nb", "\x00", "\u202etxt.exe", "\u2028", "[bold]x[/] [/nope] [link=http://x]y[/link]",
    "<script>alert(1)</script>", "![x](http://x)|`x`", "`$(touch code_ran)`", "\ud83d", "é" * 300, "x" * 5000,
)  # fmt: skip
_PATHS = (
    "../../../../etc/hostname", "/etc/hostname", "/dev/zero", "/nope/none", ".", "", "a/b/../../../c", "C:\\x",
    "http://127.0.0.1:9/x", "file:///etc/hostname", "~", "con\x1b[2J.mp4",
)  # fmt: skip
_NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 10**9, 10**18, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, 1e-300, 1.5, 0.9999, float("nan"),
    float("inf"), float("-inf"),
)  # fmt: skip
_NODES: tuple[Any, ...] = (
    {"_target_": "os.system", "_args_": [f"touch {MARKER}"]},
    {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [MARKER]}},
    {
        "_target_": "ovi_lab.models.TwinDiT",
        "_partial_": True,
        "video": {"_target_": "os.mkdir", "_args_": [MARKER]},
    },
    {"_partial_": True},
    "${oc.env:FUZZ_SECRET}",
    "${oc.env:HOME}",
    "${nope}",
    "${eval:1}",
)


def any_value(rng: random.Random) -> Any:
    """A value that nobody expects: of another type, huge, deep, foreign or hostile."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice((None, True, False, [], {}, [[]], {"": None}, "nan", "null", "1", " "))
    if kind <= 2:
        return rng.choice(_NUMBERS)
    if kind == 3:
        return rng.choice(_SIGNS)
    if kind == 4:
        return rng.choice(_PATHS)
    if kind == 5:
        return copy.deepcopy(rng.choice(_NODES))
    if kind == 6:
        return [rng.choice(_NUMBERS) for _ in range(rng.choice((1, 2, 3, 4, 100)))]
    deep: Any = 1
    for _ in range(rng.choice((70, 300, 900))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return deep


def spoiled_value(rng: random.Random, value: Any) -> Any:
    """A copy of a plain value, changed in one place or in a few."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _changed(rng, value)
    return value


def _changed(rng: random.Random, value: Any) -> Any:
    holder: Any = None
    place: Any = None
    node = value
    while isinstance(node, (dict, list)) and node and (holder is None or rng.random() < 0.75):
        holder = node
        place = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        node = node[place]
    if holder is None:
        return any_value(rng)
    change = rng.randrange(10)
    if change == 0:
        del holder[place]
    elif change == 1 and isinstance(holder, dict):
        holder[rng.choice((*_SIGNS, *_PATHS, "new", "_target_", "__class__"))] = holder.pop(place)
    elif change == 1:
        holder.extend(holder * rng.choice((1, 3)))
    elif change == 2 and isinstance(holder, dict):
        holder[rng.choice(("new", *_SIGNS, *_PATHS))] = any_value(rng)
    elif change == 3 and isinstance(node, str):
        holder[place] = node + rng.choice(_SIGNS)
    elif change == 3 and isinstance(node, (int, float)) and not isinstance(node, bool):
        holder[place] = rng.choice((-node, node + 1, node * 1000, node / 7, str(node), [node]))
    elif change == 4 and isinstance(node, list) and node:
        holder[place] = rng.choice((node[:-1], node * 2, node[::-1], [node], node[0]))
    else:
        holder[place] = any_value(rng)
    return value


def spoiled_json(rng: random.Random, value: Any) -> bytes:
    """JSON of a spoiled value, now and then with text that JSON does not have."""
    text = json.dumps(spoiled_value(rng, value) if rng.random() < 0.85 else value)
    change = rng.randrange(16)
    if change == 0:
        numbers = list(re.finditer(r"\d+", text))
        if numbers:
            found = rng.choice(numbers)
            huge = rng.choice(("1" * 5000, "1e999", "-", "01", "0x10", "NaN"))
            text = text[: found.start()] + huge + text[found.end() :]
    elif change == 1:
        text = "[" * 100_000
    elif change == 2:
        text = text.replace(",", ",,", 1) if rng.random() < 0.5 else text[:1] + text
    elif change == 3:
        text = text.replace("{", '{"name": 1, "name": 2, ', 1)
    elif change == 4:
        return spoiled_bytes(rng, text.encode("utf-8", "surrogatepass"))
    elif change == 5:
        return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")), "surrogatepass")
    return text.encode("utf-8", "surrogatepass")


def as_yaml(value: Any) -> str:
    """YAML of a value; JSON, which is YAML too, of one that PyYAML cannot write."""
    try:
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, UnicodeError, RecursionError):
        return json.dumps(value)


def spoiled_yaml(rng: random.Random, value: Any) -> bytes:
    """YAML of a spoiled value, now and then with aliases, tags or broken lines."""
    spoiled = spoiled_value(rng, value) if rng.random() < 0.85 else value
    text = as_yaml(spoiled)
    change = rng.randrange(14)
    if change == 0:
        bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        for level in range(1, 12):
            bomb += f"a{level}: &a{level} [" + ",".join([f"*a{level - 1}"] * 9) + "]\n"
        text = bomb + text
    elif change == 1:
        text += f"extra: !!python/object/apply:os.system ['touch {MARKER}']\n"
    elif change == 2:
        text = text.replace(": ", ":\t", 3)
    elif change == 3:
        text += "extra: " + "[" * 5000 + "]" * 5000 + "\n"
    elif change == 4:
        text = text + text
    elif change == 5:
        return spoiled_bytes(rng, text.encode("utf-8", "surrogatepass"))
    elif change == 6:
        text += "extra: &x [*x]\n"
    return text.encode("utf-8", "surrogatepass")


def spoiled_bytes(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """Bytes flipped, cut, doubled, spliced, with other numbers in what may be fields of lengths."""
    if not data:
        return rng.randbytes(rng.choice((0, 1, 100)))
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        # headers decide most: half of all changes are made near the beginning
        reach = min(len(made), rng.choice((64, 512, 4096, len(made) or 1)))
        at = rng.randrange(reach) if reach else 0
        change = rng.randrange(9)
        if change == 0:
            for _ in range(rng.choice((1, 3, 20))):
                if made:
                    made[rng.randrange(min(len(made), reach))] ^= 1 << rng.randrange(8)
        elif change == 1:
            del made[rng.randrange(len(made) + 1) :]
        elif change == 2:
            made[at:at] = made[at : at + rng.choice((1, 16, 512, 5000))]
        elif change == 3:
            del made[at : at + rng.choice((1, 4, 16, 512, 5000))]
        elif change == 4:
            piece = other or data
            begin = rng.randrange(len(piece))
            length = rng.choice((8, 100, 1000))
            made[at : at + length] = piece[begin : begin + length]
        elif change == 5:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(
                (0, 1, (1 << (8 * width - 1)) - 1, (1 << (8 * width)) - 1, rng.getrandbits(8 * width))
            )
            made[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif change == 6:
            numbers = list(re.finditer(rb"\d+", bytes(made[:65536])))
            if numbers:
                found = rng.choice(numbers)
                digits = rng.choice((b"0", b"-1", b"9" * len(found[0]), b"7" * len(found[0]), b"1" * 30))
                made[found.start() : found.end()] = digits
        elif change == 7:
            made[at : at + rng.choice((4, 64, 512))] = rng.randbytes(rng.choice((4, 64, 512)))
        else:
            length = rng.choice((4, 64, 512, 4096))
            made[at : at + length] = bytes(len(made[at : at + length]))
    return bytes(made)


def hostile_pickle(rng: random.Random) -> bytes:
    """A pickle that would make the marker file if it were run."""
    import pickle

    class Runs:
        def __init__(self, call: Any, *arguments: Any) -> None:
            self.call, self.arguments = call, arguments

        def __reduce__(self) -> Any:
            return (self.call, self.arguments)

    inside = rng.choice(
        (Runs(os.system, f"touch {MARKER}"), Runs(os.mkdir, MARKER), Runs(eval, f"open('{MARKER}','w')"))
    )
    outer = rng.choice(
        (inside, {"state_dict": inside}, {"state_dict": {"model.x": inside}}, {"module": inside})
    )
    return pickle.dumps(outer, protocol=rng.choice((0, 2, 4)))
