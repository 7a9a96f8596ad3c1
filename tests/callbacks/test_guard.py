"""Bad steps: left out without a trace within a limit, or stopped with the batch saved; alike on all ranks."""

import json
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file

from helpers import watched
from helpers.forks import ranks, wait_for_all
from helpers.watched import Clips, Recorder, Towers, loader, trainer
from ovi_lab.callbacks.gradients import GradientNorms
from ovi_lab.callbacks.guard import Guard
from ovi_lab.errors import UserError


def train(tmp_path, guard, clips, steps=6, others=(), task=None, **settings):
    task = task or Towers()
    recorder = Recorder()
    fit = trainer(
        tmp_path, "auto", 1, [GradientNorms(), guard, recorder, *others], max_steps=steps, **settings
    )
    fit.fit(task, loader(clips))
    return task, recorder, fit


class Moments(Callback):
    """The optimiser's state after each step, as text."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *args):
        states = trainer.optimizers[0].state.values()
        self.seen.append([[v.tolist() for v in state.values()] for state in states])


def test_a_step_left_out_changes_neither_weights_nor_the_optimiser(tmp_path, caplog):
    guard, moments = Guard(tmp_path, on_bad_step="skip"), Moments()
    _, recorder, fit = train(tmp_path, guard, Clips(6, bad=(3, 0)), others=[moments], gradient_clip_val=1.0)
    assert recorder.weights[3] == recorder.weights[2]
    assert moments.seen[3] == moments.seen[2]
    assert recorder.weights[4] != recorder.weights[3]
    assert fit.global_step == 6
    assert (guard.skipped, guard.in_a_row, guard.skipped_at) == (1, 0, 4)
    assert float(fit.callback_metrics["guard/skipped"]) == 1
    line = next(r.getMessage() for r in caplog.records if "left out" in r.getMessage())
    assert [w for w in ("step 3", "video loss is not finite", "r0n3c0, r0n3c1") if w not in line] == []


def test_a_guard_changes_nothing_where_nothing_is_wrong(tmp_path):
    runs = [
        train(tmp_path, guard, Clips(6), gradient_clip_val=0.5)[1].weights
        for guard in (Guard(tmp_path), Guard(tmp_path, "skip", spike_factor=1e6, window=2), Callback())
    ]
    assert runs[0] == runs[1] == runs[2]


def test_a_spike_is_left_out_by_the_median_and_does_not_enter_it(tmp_path):
    guard = Guard(tmp_path, "skip", spike_factor=8, window=3, max_skips_in_a_row=9)
    _, recorder, _ = train(tmp_path, guard, Clips(6, bad=(4, 0), value=30.0))
    assert recorder.weights[4] == recorder.weights[3]
    assert guard.skipped == 1
    kept = [recorder.norms[i]["total"] for i in (2, 3, 5)]
    assert guard.state_dict()["norms"] == pytest.approx(kept)
    # the same spike passes where none is looked for
    passing = Guard(tmp_path, "skip")
    _, recorder, _ = train(tmp_path, passing, Clips(6, bad=(4, 0), value=30.0))
    assert passing.skipped == 0
    assert recorder.weights[4] != recorder.weights[3]


def test_stopping_names_the_step_and_saves_the_batch(tmp_path):
    with pytest.raises(UserError) as error:
        train(tmp_path, Guard(tmp_path), Clips(6, bad=(3, 0)), steps=3, accumulate_grad_batches=2)
    message = str(error.value)
    assert "\n" not in message
    saved = tmp_path / "inspect" / "step_000001_rank_0.safetensors"
    what = "the video loss is not finite at step 1 (first clip r0n2c0)"
    assert [w for w in (what, "no checkpoint was written yet", str(saved)) if w not in message] == []
    tensors = load_file(saved)
    assert torch.equal(tensors["0.video"], Clips(6)[2]["video"])
    assert tensors["1.video"].isnan().all()
    assert tensors["0.sigma_video"].tolist() == pytest.approx([0.1, 0.2])
    assert torch.equal(tensors["1.text.0"], Clips(6)[3]["text"][0])
    second = json.loads(saved.with_suffix(".json").read_text())["batches"][1]
    assert (second["id"], second["caption"]) == (["r0n3c0", "r0n3c1"], ["a", "b"])
    assert math.isnan(float(second["loss"]["video"]))
    assert math.isfinite(float(second["loss"]["audio"]))
    assert {p.suffix for p in saved.parent.iterdir()} == {".safetensors", ".json"}


def test_too_many_skips_stop(tmp_path):
    class Worse(Clips):
        def __getitem__(self, number):
            batch = super().__getitem__(number)
            return {**batch, "video": batch["video"] * math.inf} if number >= 2 else batch

    with pytest.raises(
        UserError, match=r"at step 4 .*after 2 steps left out in a row \(guard.max_skips_in_a_row\)"
    ):
        train(tmp_path, Guard(tmp_path, "skip", max_skips_in_a_row=2), Worse(6))
    with pytest.raises(UserError, match=r"after 1 steps left out in all \(guard.max_skips\)"):
        train(tmp_path, Guard(tmp_path, "skip", max_skips=1), Worse(6))


class Going:
    """A loader that says where it is, as the real one does."""

    def __init__(self, clips):
        self.clips, self.at = clips, 0

    def __len__(self):
        return len(self.clips)

    def __iter__(self):
        while self.at < len(self.clips):
            self.at += 1
            yield self.clips[self.at - 1]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_what_it_counts_is_resumed(tmp_path):
    class Save(Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "at_4.ckpt")

    clips, settings = Clips(8, bad=(2, 0)), {"spike_factor": 50, "window": 3}
    whole, resumed = (Guard(tmp_path, "skip", **settings) for _ in range(2))
    fit = trainer(tmp_path, "auto", 1, [whole, Save()], max_steps=8)
    fit.fit(Towers(), Going(clips))
    fit = trainer(tmp_path, "auto", 1, [resumed], max_steps=8)
    fit.fit(Towers(), Going(clips), ckpt_path=tmp_path / "at_4.ckpt", weights_only=True)
    assert whole.state_dict() == resumed.state_dict()
    assert whole.skipped == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"on_bad_step": "panic"}, "guard.on_bad_step is 'panic'"),
        ({"spike_factor": 1}, "above 1"),
        ({"window": 1}, "2"),
    ],
)
def test_bad_settings_are_named(settings, words, tmp_path):
    with pytest.raises(UserError, match=words):
        Guard(tmp_path, **settings)


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory):
    """The same training on two ranks under DDP, FSDP2 and ZeRO 1 to 3; a batch of rank 1 goes wrong."""
    pytest.importorskip("deepspeed")
    out = tmp_path_factory.mktemp("ranks")
    return out, wait_for_all(ranks(watched.train_under_all, out))


def recorded(out: Path, strategy: str, rank: int) -> dict:
    return json.loads((out / f"{strategy}_{rank}.json").read_text())


@pytest.mark.slow
def test_ddp_accumulates_in_its_buckets_also_after_a_step_left_out(of_two_ranks):
    first, *others = recorded(of_two_ranks[0], "ddp", 0)["places"]
    assert len(first) == 8  # before any pass was reduced
    # from the second step on in the bucket that DDP has made in the order of the gradients
    assert others[0] != others[1]
    assert others[1:] == [others[1]] * (watched.STEPS * watched.ACCUMULATE - 2)
    assert len(others[1]) == 1


@pytest.mark.parametrize("strategy", watched.STRATEGIES)
@pytest.mark.slow
def test_all_ranks_leave_the_same_step_out_under_every_strategy(strategy, of_two_ranks):
    out, outputs = of_two_ranks
    first, second = (recorded(out, strategy, rank) for rank in range(2))
    weights = torch.tensor(first["weights"])
    assert torch.equal(weights, torch.tensor(second["weights"]))
    assert (first["skipped"], first["at"]) == (second["skipped"], second["at"]) == (1, 3)
    assert torch.equal(weights[2], weights[1])
    assert not torch.equal(weights[3], weights[2])
    reference = torch.tensor(recorded(out, "ddp", 0)["weights"])
    torch.testing.assert_close(weights, reference, rtol=0, atol=1e-5)
    assert "clips r1n4c0, r1n4c1, r1n5c0, r1n5c1" in outputs[0]


@pytest.mark.parametrize("strategy", watched.STRATEGIES)
@pytest.mark.slow
def test_gradient_norms_by_part_are_those_of_ddp(strategy, of_two_ranks):
    out, _ = of_two_ranks
    reference = recorded(out, "ddp", 0)["norms"]
    for rank in range(2):
        for step, norms in enumerate(recorded(out, strategy, rank)["norms"]):
            assert norms.keys() == {"video_model", "audio_model", "fusion", "total"}
            assert norms == pytest.approx(reference[step], rel=1e-4, nan_ok=True)


@pytest.mark.slow
def test_all_ranks_report_the_same_stop_and_the_one_it_concerns_saves_its_batch(of_two_ranks):
    out, _ = of_two_ranks
    messages = {(out / f"stopped_{rank}.txt").read_text() for rank in range(2)}
    assert len(messages) == 1
    assert "the video loss is not finite at step 1 (first clip r1n1c0)" in messages.pop()
    assert [p.name for p in (out / "inspect").glob("*.safetensors")] == ["step_000001_rank_1.safetensors"]
