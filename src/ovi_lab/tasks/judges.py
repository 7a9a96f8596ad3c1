"""Training of the networks through which the clips of a generated world are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ovi_eval.ball.judges import Judges, JudgeSet, save_judges
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.mouth.sync import MouthJudges
from ovi_lab.common.seeding import generator_for
from ovi_lab.data.worlds import get_world
from ovi_lab.errors import UserError
from ovi_lab.tasks.step_log import log_with_step
from ovi_lab.tasks.task import Task, steps_now

KINDS: dict[str, type[JudgeSet]] = {"bouncing_ball": Judges, "speaking_mouth": MouthJudges}
"""The judges of each world."""


class _Rendered:
    """Clips of a world, batch by batch, in an order fixed by the seed."""

    def __init__(
        self, world: str, count: int, world_seed: int, batch_size: int, order_seed: int | None
    ) -> None:
        self.count, self.batch_size, self.order_seed = count, batch_size, order_seed
        # Rendered once: a clip costs more to draw than a judge costs to train on it.
        self.clips = get_world(world).render(range(count), world_seed)

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __getitem__(self, index: int) -> ClipSet:
        if index >= len(self):
            raise IndexError(index)
        order = torch.arange(self.count)
        if self.order_seed is not None:
            order = torch.randperm(self.count, generator=generator_for(self.order_seed, "judges order"))
        rows = order[index * self.batch_size : (index + 1) * self.batch_size]
        return self.clips[rows]


class JudgeTraining(Task):
    """The judges of a world side by side, each with its own loss, on real clips of the world that are blurred a little.

    At the end they are written to `path` with their provenance, where the accuracies on unseen clips stand.

    Args:
        world: which world to judge.
        num_train, num_eval, train_seed, eval_seed: clips; other seeds than those of the models' data.
        batch_size: clips a step.
        lr: highest learning rate by judge.
        path: where the judges go; None puts them into the installed `ovi_eval`, for everybody's scores.
        seed: of the initial values, the order and the blur.

    Raises:
        UserError: a world without judges, or an unknown judge under `lr`.
    """

    def __init__(
        self,
        world: str,
        num_train: int,
        num_eval: int,
        train_seed: int,
        eval_seed: int,
        batch_size: int,
        lr: dict[str, float],
        path: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if world not in KINDS:
            raise UserError(f"task.world is {world!r}; there are judges of {', '.join(KINDS)}")
        self.settings: dict[str, Any] = {
            "world": world,
            "train_clips": num_train,
            "eval_clips": num_eval,
            "train_seed": train_seed,
            "eval_seed": eval_seed,
            "batch_size": batch_size,
            "learning_rates": dict(lr),
        }
        self.seed = seed
        self.path = Path(path) if path else None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.judges = KINDS[world]()
        if set(lr) != set(self.judges.parts()):
            expected = ", ".join(self.judges.parts())
            raise UserError(f"task.lr has {sorted(lr)}, expected a rate for each of {expected}")
        for name, part in self.judges.parts().items():
            self.add_module(name, part)
        self.trained_parameters = self.total_parameters = sum(p.numel() for p in self.parameters())
        self._scores: dict[str, list[float]] = {}

    def _loader(self, train: bool) -> Any:
        """Clips of the training seed in random order, or those of the evaluation seed."""
        split = "train" if train else "eval"
        s = self.settings
        rendered = _Rendered(
            s["world"], s[f"{split}_clips"], s[f"{split}_seed"], s["batch_size"], self.seed if train else None
        )
        # items are batches already
        return DataLoader(rendered, batch_size=None, shuffle=False, collate_fn=lambda clips: clips)  # type: ignore[arg-type]

    def train_dataloader(self) -> Any:
        return self._loader(True)

    def val_dataloader(self) -> Any:
        return self._loader(False)

    def configure_optimizers(self) -> Any:
        """AdamW with each judge's own rate, one cycle over the run."""
        rates = self.settings["learning_rates"]
        groups = [
            {"params": list(part.parameters()), "lr": rates[name]}
            for name, part in self.judges.parts().items()
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            [group["lr"] for group in groups],
            total_steps=int(self.trainer.max_steps),
            pct_start=0.1,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, clips: ClipSet, batch_idx: int) -> Tensor:
        """The sum of the three losses; no judge's parameters are in another's."""
        total: Tensor = torch.zeros(())
        found: dict[str, Any] = {}
        for name in self.judges.parts():
            draws = generator_for(self.seed, "judges blur", name, self.global_step)
            loss, scores = self.judges.parts()[name].loss(clips, draws)  # type: ignore[operator]
            total = total + loss
            found |= {f"train/{name}_{k}": v for k, v in scores.items()}
        if steps_now(self.trainer) and self.trainer._logger_connector.should_update_logs:
            log_with_step(self.trainer, {**found, "train/loss": total})
        return total

    def validation_step(self, clips: ClipSet, batch_idx: int) -> None:
        for name in self.judges.parts():
            loss, scores = self.judges.parts()[name].loss(clips)  # type: ignore[operator]
            for key, value in {**scores, "loss": loss}.items():
                self._scores.setdefault(f"{name}_{key}", []).append(float(value))

    def on_validation_epoch_end(self) -> None:
        """Means over all batches; after training, the judges are written with them."""
        means = {key: sum(values) / len(values) for key, values in self._scores.items()}
        self._scores = {}
        self.log_dict({f"val/{key}": value for key, value in means.items()})
        if self.trainer.state.fn == "validate" and self.trainer.is_global_zero:
            provenance = {
                **self.settings,
                "seed": self.seed,
                "steps": self.trainer.fit_loop.epoch_loop.global_step,
                "accuracy": {
                    part: {
                        key.removeprefix(f"{part}_"): round(value, 4)
                        for key, value in means.items()
                        if key.startswith(part)
                    }
                    for part in self.judges.parts()
                },
                "made_by": f"ovi-train experiment={self.judges.experiment}",
            }
            save_judges(self.judges, provenance, self.path)
