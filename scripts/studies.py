"""Remake the recorded studies, or a small part of each, and hold it against the record.

    make studies                                # all, one after another: hours
    make studies ARGS=sync_filter               # these
    make studies ARGS=quick                     # a few steps and clips of each, against experiments/quick.json: minutes
    make studies ARGS="quick --record"          # write that file anew, after a change that moves numbers on purpose

The studies and their commands are in experiments/studies.yaml. A study is made in runs/NAME, where what is finished is
not made again; a quick one in a folder of its own, always anew. Ends with code 1 where something does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"
QUICK = EXPERIMENTS / "quick.json"
MODULES = {
    "ovi-train": "ovi_lab.train",
    "ovi-stages": "ovi_lab.stages",
    "ovi-sync-metrics": "ovi_lab.sync_metrics",
}
SMALL = (
    "debug=fast",
    "trainer.max_steps=4",
    "sampler.steps=2",
    "samples.every_n_steps=0",
    "evaluation.num_clips=8",
    "evaluation.num_mp4=0",
    "logger.tensorboard=false",
)
BOUNDS = {"losses": [0.005, 0.002], "others": [0.05, 0.05]}
"""Of a quick run against its record: a share of the recorded value, and a least difference that counts. One machine
gives the same digits; another one rounds otherwise, which may move an event of a clip across the edge of its window."""


def studies() -> dict[str, dict[str, Any]]:
    """The recorded studies by name."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((EXPERIMENTS / "studies.yaml").read_text())
    return found


def last_of_each(arguments: Sequence[str]) -> list[str]:
    """Settings of which each key stands once: the last one given."""
    return list({argument.partition("=")[0]: argument for argument in arguments}.values())


def run(study: Mapping[str, Any], more: Sequence[str], folder: Path, together: bool = False) -> int:
    """Run a study's command below a folder; its exit code. `together`: beside others, so what it says is kept until it
    ends."""
    program, *arguments = shlex.split(study["command"])
    alone = ["hydra.launcher.workers=1"] if together and program == "ovi-train" else []
    arguments = last_of_each([*arguments, *more, *alone])
    command = [sys.executable, "-m", MODULES[program], *arguments]
    told = f"\n$ {program} {shlex.join(arguments)}"
    if not together:
        print(told, flush=True)
        return subprocess.run(command, cwd=folder, check=False).returncode
    ended = subprocess.run(
        command, cwd=folder, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(told, ended.stdout, sep="\n", flush=True)
    return ended.returncode


def results(name: str, study: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The leaderboard that a study has left below a folder."""
    file = folder / "runs" / name / study.get("results", "") / "results.json"
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def summary(board: Mapping[str, Any]) -> dict[str, Any]:
    """What of a leaderboard is recorded: by arm its seeds, configuration hashes and values."""
    return {
        arm["name"]: {
            "seeds": arm["seeds"],
            "config_hashes": list(dict.fromkeys(run["config_hash"] for run in arm["runs"])),
            "values": {column: cell["value"] for column, cell in arm["metrics"].items()},
        }
        for arm in board["arms"]
    }


def differences(
    recorded: Mapping[str, Any], now: Mapping[str, Any], bounds: Mapping[str, Sequence[float]]
) -> Iterator[str]:
    """A line for everything of a summary that is not as recorded, within the bounds."""
    for name in dict.fromkeys([*recorded, *now]):
        if name not in now or name not in recorded:
            yield f"{name}: {'is not there now' if name not in now else 'is not in the record'}"
            continue
        before, after = recorded[name], now[name]
        for key in ("seeds", "config_hashes"):
            if before[key] != after[key]:
                yield f"{name}: {key} were {before[key]}, are {after[key]}"
        for column in dict.fromkeys([*before["values"], *after["values"]]):
            old, new = before["values"].get(column), after["values"].get(column)
            share, least = bounds["losses" if column.startswith("loss/") else "others"]
            if old is None or new is None:
                yield f"{name}: {column} was {old}, is {new}"
            elif abs(new - old) > max(share * abs(old), least):
                yield f"{name}: {column} was {old:.6g}, is {new:.6g}"


def quick(names: Sequence[str], record: bool) -> list[str]:
    """Run a small part of each study anew, one a core at a time; what does not hold, a line each. `record`: write the
    record instead."""
    stored: dict[str, Any] = json.loads(QUICK.read_text()) if QUICK.is_file() else {"studies": {}}
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        folder, known = Path(place), studies()

        def small(name: str) -> int:
            study = known[name]
            return run(
                study, [*(SMALL if study.get("trains", True) else ()), *study["quick"]], folder, together=True
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            codes = list(pool.map(small, names))
        for name, code in zip(names, codes, strict=True):
            study = known[name]
            if code:
                bad.append(f"{name}: the command has failed")
                continue
            board = results(name, study, folder)
            now = summary(board)
            if record:
                commit = board["arms"][0]["runs"][0]["provenance"]["git"]
                stored["studies"][name] = {"commit": commit, "arms": now}
            elif name not in stored["studies"]:
                bad.append(f"{name}: has no record; --record makes one")
            else:
                before = stored["studies"][name]["arms"]
                bad += [f"{name}: {line}" for line in differences(before, now, stored["bounds"])]
    if record:
        QUICK.write_text(json.dumps({"bounds": BOUNDS, "studies": stored["studies"]}, indent=1) + "\n")
    return bad


def whole(names: Sequence[str]) -> list[str]:
    """Run each study; what failed, and each claim that came out otherwise than recorded."""
    bad = []
    for name in names:
        study = studies()[name]
        if run(study, [], ROOT):
            bad.append(f"{name}: the command has failed")
            continue
        recorded = json.loads((EXPERIMENTS / name / "results.json").read_text())["findings"]
        now = results(name, study, ROOT)["findings"]
        if len(now) != len(recorded):
            bad.append(f"{name}: {len(recorded)} claims are recorded, and there are {len(now)} now")
            continue
        for number, (before, after) in enumerate(zip(recorded, now, strict=True), 1):
            if before["outcome"] != after["outcome"]:
                bad.append(
                    f"{name}: claim {number} was {before['outcome']}, is {after['outcome']}: {after['text']}"
                )
    return bad


def main(arguments: Sequence[str] | None = None) -> int:
    """Remake what is asked for; the exit code."""
    known = list(studies())
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="STUDY", help=f"quick, and studies ({', '.join(known)}; all)"
    )
    parser.add_argument("--record", action="store_true", help="with quick: write the record anew")
    options = parser.parse_args(arguments)
    short = "quick" in options.names
    names = [name for name in options.names if name != "quick"] or known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no study is named {unknown[0]!r}; there are {', '.join(known)}")
    if options.record and not short:
        parser.error("--record goes with quick")
    bad = quick(names, options.record) if short else whole(names)
    for line in bad:
        print(f"studies: {line}", file=sys.stderr)
    if not bad:
        done = "recorded" if options.record else "as recorded"
        print(f"\n{len(names)} {'study' if len(names) == 1 else 'studies'}: {done}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
