"""Checkpoints and runs, presets and folders of weights, results: what sampling, export, doctor and boards read."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from .corpus import GOLDENS, TINY, Corpus, linked, put
from .mutations import (
    any_value,
    as_yaml,
    hostile_pickle,
    spoiled_bytes,
    spoiled_json,
    spoiled_value,
    spoiled_yaml,
)
from .outcomes import Case


def command(main: Callable[[], Any], arguments: Sequence[str]) -> Callable[[], Any]:
    """A command of Hydra's, called with these arguments."""

    def call() -> Any:
        from hydra.core.global_hydra import GlobalHydra

        before = sys.argv
        sys.argv = ["ovi", *arguments]
        try:
            return main()
        finally:
            sys.argv = before
            GlobalHydra.instance().clear()

    return call


def _export(*arguments: Any) -> Callable[[], Any]:
    from ovi_lab.export.cli import main

    return lambda: main([str(a) for a in arguments])


def spoiled_safetensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header or other bytes."""
    change = rng.randrange(4)
    length = int.from_bytes(data[:8], "little")
    if change == 0:
        return spoiled_bytes(rng, data)
    if change == 1:
        return rng.choice((0, 1, length * 2, 2**40, 2**63, 2**64 - 1)).to_bytes(8, "little") + data[8:]
    header = json.loads(data[8 : 8 + length])
    text = spoiled_json(rng, header) if change == 2 else json.dumps(_other_tensor(rng, header)).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _other_tensor(rng: random.Random, header: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    tensor = dict(header[name])
    change = rng.randrange(5)
    if change == 0:
        tensor["shape"] = rng.choice(
            ([2**62, 2], [0], [], [-1], tensor["shape"] + [1], [2**31, 2**31], ["a"], [1.5])
        )
    elif change == 1:
        tensor["dtype"] = rng.choice(("F8_E4M3", "I8", "BOOL", "F64", "C64", "X", None, "F16"))
    elif change == 2:
        begin, end = tensor["data_offsets"]
        tensor["data_offsets"] = rng.choice(
            ([end, begin], [begin, end + 2**40], [-8, end], [0, 0], [begin], "x")
        )
    elif change == 3:
        return {(f"{name}\x1b[31m" if n == name else n): t for n, t in header.items()}
    else:
        return {n: t for n, t in header.items() if n != name}
    return {**header, name: tensor}


def checkpoints(rng: random.Random, corpus: Corpus, folder: Path) -> Case:
    """A run, a checkpoint folder, a Lightning file, a DeepSpeed folder: one of its files is spoiled."""
    return rng.choice((_of_run, _of_run, _of_run, _of_lightning, _of_zero))(rng, corpus, folder)


def _of_run(rng: random.Random, corpus: Corpus, folder: Path) -> Case:
    run = folder / "run"
    linked(corpus.run, run)
    (newest,) = sorted((run / "checkpoints").iterdir())[-1:]
    listing = newest / "checkpoint.json"
    what = rng.choice(("config", "config", "config", "listing", "tensors", "tensors", "state", "extra"))
    if what == "config":
        good = yaml.safe_load((newest / "config.yaml").read_text())
        content = spoiled_yaml(rng, good) if rng.random() < 0.6 else _other_part(rng, good)
        put(newest / "config.yaml", content)
        put(run / "config.yaml", content)
    elif what == "listing":
        put(listing, spoiled_json(rng, json.loads(listing.read_text())))
    elif what == "tensors":
        file = rng.choice(sorted(newest.rglob("*.safetensors")))
        put(file, spoiled_safetensors(rng, file.read_bytes()))
    elif what == "state":
        file = newest / "trainer_state.pt"
        put(file, hostile_pickle(rng) if rng.random() < 0.5 else spoiled_bytes(rng, file.read_bytes()))
    else:
        put(newest / rng.choice(("model.safetensors.index.json", "model.pt", "x\x1b[31m")), rng.randbytes(64))
    if what != "listing" and rng.random() < 0.7:
        _listed_anew(listing, newest)
    source = rng.choice((run, run / "last", newest))
    which = rng.random()
    if which < 0.6:
        call = _export(source, "--out", "out", *rng.choice(([], ["--raw"], ["--to", "comfyui"])))
    elif which < 0.8:
        call = _sampled(source)
    else:
        call = _trained(corpus, rng.choice((f"init_from={source}", f"resume={source}")))
    return Case(call, f"the {what} of a run")


def _other_part(rng: random.Random, good: dict[str, Any]) -> bytes:
    """A configuration with a node that is instantiated, where the good one has one of ours or a plain value."""
    part = rng.choice(
        ("model", "text", "data", "task", "timesteps", "optim", "latent_shapes", "codec", "sampler")
    )
    content = dict(good)
    if rng.random() < 0.5 or not isinstance(good.get(part), dict):
        content[part] = any_value(rng)
    else:
        content[part] = spoiled_value(rng, good[part])
    return as_yaml(content).encode("utf-8", "surrogatepass")


def _listed_anew(listing: Path, folder: Path) -> None:
    """A listing that vouches for what is there, as a stranger would write it."""
    content = json.loads(listing.read_text())
    for name in content["files"]:
        data = (folder / name).read_bytes()
        content["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    put(listing, json.dumps(content).encode())


def _sampled(source: Path) -> Callable[[], Any]:
    from ovi_lab.sample import main

    arguments = [f"checkpoint={source}", "prompt=a red ball bounces", "sampler.steps=1", "out=out", "size=32"]
    return command(main, arguments)


def _trained(corpus: Corpus, *overrides: str) -> Callable[[], Any]:
    from ovi_lab.train import main

    return command(
        main, [*TINY, "evaluation=none", f"data.root={corpus.folder}/data", "run_dir=out", *overrides]
    )


def _of_lightning(rng: random.Random, corpus: Corpus, folder: Path) -> Case:
    shutil.copytree(corpus.lightning, folder / "in")
    file = folder / "in" / "epoch0.ckpt"
    what = rng.choice(("pickle", "bytes", "bytes", "content", "config"))
    if what == "pickle":
        put(file, hostile_pickle(rng))
    elif what == "bytes":
        put(file, spoiled_bytes(rng, file.read_bytes()))
    elif what == "content":
        _resaved(rng, file)
    else:
        good = yaml.safe_load((folder / "in" / "config.yaml").read_text())
        put(folder / "in" / "config.yaml", spoiled_yaml(rng, good))
    if rng.random() < 0.2:
        return Case(_trained(corpus, f"init_from={file}"), f"{what} of a Lightning checkpoint")
    return Case(_export(file, "--out", "out"), f"{what} of a Lightning checkpoint")


def _resaved(rng: random.Random, file: Path) -> None:
    import torch

    try:
        content = torch.load(file, weights_only=True)
    except pickle.UnpicklingError:  # DeepSpeed's files hold classes of its own
        put(file, spoiled_bytes(rng, file.read_bytes()))
        return
    key = rng.choice([k for k in content])
    if isinstance(content[key], dict) and rng.random() < 0.7:
        inner = rng.choice(list(content[key]))
        content[key][inner] = rng.choice((None, 1, "x", [], torch.zeros(2, 0), torch.zeros(3).to_sparse(),
                                          torch.zeros(2, dtype=torch.complex64), torch.zeros(2, 2).t()))  # fmt: skip
    else:
        content[key] = any_value(rng)
    try:
        torch.save(content, file)
    except (RecursionError, UnicodeError):
        torch.save({}, file)


def _of_zero(rng: random.Random, corpus: Corpus, folder: Path) -> Case:
    stage = rng.choice((1, 2, 3))
    source = folder / "in"
    shutil.copytree(GOLDENS / "zero" / f"stage{stage}", source)
    file = rng.choice(sorted(p for p in source.rglob("*") if p.is_file() and p.name != "weights.safetensors"))
    what = rng.choice(("bytes", "pickle", "content"))
    if file.suffix == ".yaml":
        put(file, spoiled_yaml(rng, yaml.safe_load(file.read_text())))
    elif file.suffix != ".pt":
        put(
            file,
            rng.choice((b"", b"../..", b"/etc", b"global_step4", b"\xff\x00", b"x" * 5000, b"a\x1b[31m")),
        )
    elif what == "pickle":
        put(file, hostile_pickle(rng))
    elif what == "bytes":
        put(file, spoiled_bytes(rng, file.read_bytes()))
    else:
        _resaved(rng, file)
    return Case(_export(source, "--out", "out"), f"{file.name} of a ZeRO-{stage} checkpoint ({what})")


def presets(rng: random.Random, corpus: Corpus, folder: Path) -> Case:
    """A folder of released weights with a spoiled preset, tokenizer, index or file of weights."""
    weights = folder / "w"
    linked(corpus.small, weights)
    what = rng.choice(("preset", "preset", "preset", "tokenizer", "tensors", "pickle"))
    if what == "preset":
        file = weights / "preset.yaml"
        put(file, spoiled_yaml(rng, yaml.safe_load(file.read_text())))
    elif what == "tokenizer":
        file = rng.choice(sorted(p for p in weights.rglob("*.json")))
        put(file, spoiled_json(rng, json.loads(file.read_text())))
    elif what == "tensors":
        file = rng.choice(sorted(weights.rglob("*.safetensors")))
        put(file, spoiled_safetensors(rng, file.read_bytes()))
    else:
        file = rng.choice(sorted(weights.rglob("*.pth")))
        put(file, hostile_pickle(rng) if rng.random() < 0.5 else spoiled_bytes(rng, file.read_bytes()))
    which = rng.random()
    if which < 0.6:
        from ovi_lab.doctor import main as doctor

        call: Callable[[], Any] = lambda: doctor([f"weights={weights}"])  # noqa: E731
    elif which < 0.9:
        from ovi_lab.sample import main as sample

        call = command(sample, [f"checkpoint={weights}", "prompt=rain", "--plan", "gpu=24GB"])
    else:
        call = _export(
            weights / "Ovi" / "model.safetensors" if rng.random() < 0.5 else weights, "--out", "out"
        )
    return Case(call, f"{what} of a folder of weights ({file.relative_to(weights)})")


def results(rng: random.Random, corpus: Corpus, folder: Path) -> Case:
    """A study of two arms; the results or the values by clip of one run are spoiled."""
    study = folder / "study"
    good = json.loads((corpus.run / "results.json").read_text())
    rows = [json.loads(line) for line in (corpus.run / "per_clip.jsonl").read_text().splitlines()]
    for arm in ("a", "b"):
        run = study / arm / "seed_0"
        run.mkdir(parents=True)
        shutil.copytree(corpus.run / "clips", run / "clips")
        (run / "results.json").write_text(json.dumps({**good, "name": arm}))
        (run / "per_clip.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = study / "a" / "seed_0"
    if rng.random() < 0.6:
        what = "results.json"
        changed = {**good, "name": "a"}
        if rng.random() < 0.4:
            # a metric: where ranks come from
            name = rng.choice(list(changed["metrics"]))
            changed["metrics"] = {**changed["metrics"], name: spoiled_value(rng, changed["metrics"][name])}
            put(run / what, json.dumps(changed).encode("utf-8", "surrogatepass"))
        else:
            put(run / what, spoiled_json(rng, changed))
    else:
        what = "per_clip.jsonl"
        number = rng.randrange(len(rows))
        lines = [json.dumps(row).encode() for row in rows]
        lines[number] = spoiled_json(rng, rows[number])
        put(run / what, b"\n".join(lines) + rng.choice((b"\n", b"", b"\n\n{")))
    from ovi_eval.cli import main

    if rng.random() < 0.6:
        arguments = ["leaderboard", "study", "--out", "out"]
    else:
        arguments = [
            "compare",
            "study/a/seed_0",
            "study/b/seed_0",
            "--json",
            "out/c.json",
            "--markdown",
            "out/c.md",
        ]
    return Case(lambda: main(arguments), what, lambda text: "left out" in text or "!" in text)
