"""A LoRA fine-tuning through the trainer: only the adapter changes, and whoever reads the run gets merged weights."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from helpers.run_parts import load_run
from ovi_lab.checkpoints import Checkpoint, resolve_checkpoint
from ovi_lab.checkpoints.opening import model_weights
from ovi_lab.common.paths import config_dir
from ovi_lab.common.progress import SilentReporter
from ovi_lab.errors import UserError
from ovi_lab.export.export import export_run
from ovi_lab.runs.run import execute
from ovi_lab.weights.tensor_files import TensorFiles

pytest.importorskip("peft")

SMALL = (
    "debug=fast",
    "data.num_train=16",
    "data.num_eval=4",
    "samples.every_n_steps=0",
    "logger.tensorboard=false",
)
LORA = ("adapter=lora", "adapter.rank=4", "optim=adamw", "optim.factory.lr=0.01", "trainer.max_steps=4")


def train(run_dir: Path, *overrides: str) -> Path:
    GlobalHydra.instance().clear()
    place = [f"run_dir={run_dir}", f"data.root={run_dir.parent / 'data'}"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", overrides=[*SMALL, *place, *overrides])
    execute(config, SilentReporter())
    return run_dir


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("lora") / "base", "experiment=fusion", "evaluation=none")


@pytest.fixture(scope="module")
def tuned(base) -> Path:
    return train(base.parent / "tuned", *LORA, f"init_from.all={base}/last")


def merged(run: Path, ema: bool = False) -> dict[str, torch.Tensor]:
    return dict(model_weights(Checkpoint.open(resolve_checkpoint(run)), ema=ema).stream())


@pytest.mark.slow
def test_only_the_adapter_is_trained_and_the_rest_is_what_it_began_from(base, tuned):
    start = Checkpoint.open(base / "last").weights("model", ema=True)
    stored = Checkpoint.open(tuned / "last").weights("model")
    kept = {n.replace(".base_layer", ""): t for n, t in stored.items() if "lora_" not in n}
    assert kept.keys() == start.keys()
    assert all(torch.equal(kept[n], t) for n, t in start.items())
    assert any(bool(t.abs().sum() > 0) for n, t in stored.items() if "lora_B" in n)


@pytest.mark.slow
def test_sampling_export_and_init_from_take_the_merged_weights(base, tuned, tmp_path):
    averaged = merged(tuned, ema=True)
    assert averaged.keys() == Checkpoint.open(base / "last").weights("model").keys()
    model = load_run(tuned / "last").towers
    assert all(torch.equal(t, averaged[n]) for n, t in model.state_dict().items())
    export_run(tuned, tmp_path, dtype=torch.float32)
    exported = dict(TensorFiles.open(tmp_path / "model.safetensors").stream())
    assert all(torch.equal(t, averaged[n]) for n, t in exported.items())
    on = train(tmp_path / "on", f"init_from.all={tuned}/last", "freeze=all_but_fusion", "optim=adamw")
    end = Checkpoint.open(on / "last").weights("model")
    assert all(torch.equal(end[n], t) for n, t in averaged.items() if "_fusion" not in n)


@pytest.mark.slow
def test_a_resumed_fine_tuning_ends_with_the_same_bits(base, tuned):
    whole = merged(tuned)
    again = base.parent / "again"
    checkpoints = tuned / "checkpoints" / "step_000003"
    train(again, *LORA, f"init_from.all={base}/last", f"resume={checkpoints}")
    assert all(torch.equal(t, whole[n]) for n, t in merged(again).items())


def test_an_adapter_beside_a_freeze_rule_is_refused(base):
    with pytest.raises(UserError, match="use freeze=nothing with it"):
        train(base.parent / "refused", *LORA, "freeze=ffn", f"init_from.all={base}/last")
