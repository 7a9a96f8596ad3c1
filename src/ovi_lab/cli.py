"""`ovi-lab COMMAND …`: every command of the project under one name; `ovi-lab --help` lists them."""

from __future__ import annotations

import runpy
import sys

from ovi_eval.common.boundary import one_line
from ovi_eval.common.shown import did_you_mean, shown
from ovi_lab import __version__
from ovi_lab.errors import UserError

COMMANDS = {
    "train": ("ovi_lab.train", "train a model, or run a study of several"),
    "sample": ("ovi_lab.sample", "clips from a released model or from a run"),
    "plan": ("ovi_lab.plan", "memory, time and cost of a run, before it is launched"),
    "rehearse": ("ovi_lab.rehearse", "a run on GPUs that are not there: waits, memory, kernels by line"),
    "data": ("ovi_lab.data.cli", "clips: make, pack, inspect, encode"),
    "export": ("ovi_lab.export.cli", "a checkpoint in the released layout or ComfyUI's"),
    "stages": ("ovi_lab.stages.__main__", "the paper's three training stages at the smallest size"),
    "sync-metrics": (
        "ovi_lab.sync_metrics.__main__",
        "which fault each sync metric sees, where the truth is known",
    ),
    "attention": ("ovi_lab.sampling.attention_map", "what each tower looks at in the other, as a picture"),
    "demo": ("ovi_lab.demo", "a page on this machine where a model is sampled by hand"),
    "small": ("ovi_lab.sampling.small_ovi", "a whole Ovi of random weights, a few megabytes"),
    "doctor": ("ovi_lab.doctor", "what is installed, which weights are whole"),
    "eval": ("ovi_eval.cli", "score clips, rank models, list and check metrics"),
}
EXAMPLES = (
    ("ovi-lab train experiment=fusion", "a small fused model of the bouncing ball, scored at the end"),
    ("ovi-lab sample --help", "what a command takes, with examples"),
    ("ovi-lab doctor", "whether everything is installed that you need"),
)


def main() -> None:
    """Run the command that the first word names; the exit code is that command's."""
    words = sys.argv[1:]
    with one_line("ovi-lab"):
        if not words or words[0] in ("-h", "--help"):
            print(_help())
            return
        if words[0] == "--version":
            print(f"ovi-lab {__version__}")
            return
        if words[0] not in COMMANDS:
            offer = did_you_mean(words[0], COMMANDS) or f"there are {', '.join(COMMANDS)}"
            raise UserError(f"unknown command {shown(words[0])!r}; {offer}")
    sys.argv = [f"ovi-{words[0]}", *words[1:]]
    # as `python -m MODULE` does: Lightning starts the program of __main__ again for each further process
    runpy.run_module(COMMANDS[words[0]][0], run_name="__main__", alter_sys=True)


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(
        [
            "usage: ovi-lab COMMAND …\n",
            "Train, sample and score Ovi. Each command is also one of its own, such as ovi-train; each answers --help.",
            "\nCommands:",
            *(f"  {name:<{width}}{what}" for name, (_, what) in COMMANDS.items()),
            "\nExamples:",
            *(f"  {line}\n      {what}" for line, what in EXAMPLES),
        ]
    )


if __name__ == "__main__":
    main()
