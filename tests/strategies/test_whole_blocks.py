"""ZeRO 3 with compiled blocks: gathered by block, the first one too where nothing before it is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch._dynamo.utils import counters
from torch.multiprocessing.reductions import StorageWeakRef

from helpers.gathering import Gathering
from helpers.several import assert_trained_alike, start

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow


class Watching(Gathering):
    """Also writes `<run>/seen.json`: graphs compiled and breaks in them; gathered matrices that DeepSpeed freed in the
    first forward pass, and how many of them something still held when the backward pass began."""

    def __init__(self) -> None:
        super().__init__()
        self.freed: list[StorageWeakRef] = []
        self.told: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        from deepspeed.runtime.zero import partition_parameters

        self.free = free = partition_parameters.free_param

        def watched(parameter: Any) -> None:
            if len(parameter.ds_shape) == 2 and parameter.data.numel():
                self.freed.append(StorageWeakRef(parameter.data.untyped_storage()))
            free(parameter)

        partition_parameters.free_param = watched

    def on_train_batch_start(self, *_: Any) -> None:
        self.freed.clear()

    def on_before_backward(self, *_: Any) -> None:
        if not self.told:
            self.told = {"freed": len(self.freed), "held": sum(not one.expired() for one in self.freed)}

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        from deepspeed.runtime.zero import partition_parameters

        partition_parameters.free_param = self.free
        self.told |= {"graphs": counters["stats"]["unique_graphs"], "breaks": counters["graph_break"]}
        (Path(trainer.default_root_dir) / "seen.json").write_text(json.dumps(self.told))
        torch._dynamo.reset()
        counters.clear()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """Fusion alone is trained, so that the first block reads streams without gradients; samples at the end."""
    folder = tmp_path_factory.mktemp("runs")
    same = [
        "strategy=zero3", "freeze=all_but_fusion", "samples.every_n_steps=4", "samples.steps=1",
        "model.video.text_len=64", "model.audio.text_len=64",
    ]  # fmt: skip
    compiled = [
        "model.compile=blocks",
        "model.compile_backend=aot_eager",
        "model.activation_checkpointing=full",
    ]
    two = {"plain": same, "compiled": [*same, *compiled]}
    start(two, folder, data_root, 2, watched=Watching, together=True)
    assert not [path.read_text() for path in folder.glob("*.told")]
    return folder


def test_what_is_trained_is_the_same(runs: Path) -> None:
    logged = ("train/loss", "grad_norm/fusion", "grad_norm/total")
    assert_trained_alike(runs / "compiled", runs / "plain", 0, logged)


def test_samples_are_there(runs: Path) -> None:
    """Sampling opens the first block apart from the rest of it."""
    made = [{p.name for p in (runs / n / "samples/step_000004").iterdir()} for n in ("plain", "compiled")]
    assert made[0] == made[1] == {"0.mp4", "1.mp4", "2.mp4"}


def test_blocks_are_graphs_and_what_is_freed_is_gone(runs: Path) -> None:
    seen = json.loads((runs / "compiled" / "seen.json").read_text())
    assert seen["graphs"] > 0
    assert seen["breaks"] == {}
    assert seen["freed"] == json.loads((runs / "plain" / "seen.json").read_text())["freed"] > 0
    assert seen["held"] == 0
    gathered = json.loads((runs / "compiled" / "gathered.json").read_text())
    assert not any(gathered.values())
