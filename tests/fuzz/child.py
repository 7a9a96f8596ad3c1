"""The process that runs cases one after another: started, watched and, where it hangs or dies, replaced by the parent.

Reads a JSON line for each case from standard input, answers with one on the descriptor that it was started with.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from . import kinds_commands, kinds_data, kinds_models
from .corpus import Corpus
from .mutations import SECRET
from .outcomes import observe

KINDS = {
    "shards": kinds_data.shards,
    "indices": kinds_data.indices,
    "media": kinds_data.media,
    "captions": kinds_data.captions,
    "checkpoints": kinds_models.checkpoints,
    "presets": kinds_models.presets,
    "results": kinds_models.results,
    "overrides": kinds_commands.overrides,
}
ADDRESS_SPACE = 12 * 2**30
"""Bytes that the process may map: libraries take about 4 GiB of it, and no case needs much."""


def generator(kind: str, seed: int, number: int) -> random.Random:
    """The generator of one case, by its name."""
    return random.Random(f"ovi-lab fuzz test/{kind}/{seed}/{number}")


def run_case(kind: str, seed: int, number: int, corpus: Corpus, root: Path) -> dict[str, str]:
    """Prepare and run one case in a new folder, which is removed again."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=root))
    before = Path.cwd()
    os.chdir(folder)
    try:
        case = KINDS[kind](generator(kind, seed, number), corpus, folder)
        return observe(case).as_dict()
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(int(sys.argv[1]), "w")
    root = Path(sys.argv[2])
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["FUZZ_SECRET"] = SECRET
    os.environ["OVI_EVAL_CACHE"] = str(root / "cache")
    import torch

    torch.set_num_threads(1)
    corpus = Corpus(root / f"corpus-{os.getpid()}")
    os.chdir(root)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked.get("prepare"):
            _ = corpus.run, corpus.small, corpus.lightning, corpus.media, corpus.images
            seen = {"outcome": "ready"}
        else:
            seen = run_case(asked["kind"], asked["seed"], asked["number"], corpus, root)
        answers.write(json.dumps(seen) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
