"""Shards of `ovi-data build` are trained on: the same losses from their clips and from their latents."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.small_videos import moving, write
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.recipe import read_recipe
from ovi_lab.data.cli import main

RECIPE = {
    "clips": {"frames": 32, "fps": 16, "pixels": 32 * 32, "multiple": 32, "sample_rate": 16000},
    "without_caption": "empty",
}


def losses(run: Path) -> list[tuple[float, float]]:
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return [(float(row["train/loss_video"]), float(row["train/loss_audio"])) for row in rows]


@pytest.mark.slow
def test_clips_and_their_latents_give_the_same_losses(trained: Callable[..., Path], tmp_path: Path) -> None:
    for n in range(4):
        write(tmp_path / "videos" / f"{n}.mp4", moving(n, 36))
        (tmp_path / "videos" / f"{n}.txt").write_text(f"colour number {n}")
    built, _ = build(
        tmp_path / "videos", tmp_path / "shards", read_recipe("small", RECIPE), BuildOptions(quiet=True)
    )
    assert built.kept == {"train": 4}
    (shard,) = built.shards
    codec, latents = tmp_path / "codec.safetensors", tmp_path / "latents"
    assert main(["fit-codec", str(shard), "--out", str(codec)]) == 0
    assert main(["latents", str(shard), "--codec", str(codec), "--out", str(latents / "small")]) == 0
    (encoded,) = latents.glob("*.tar")
    same = ["experiment=real_clips", "trainer.max_steps=3", "data.batch_size=4", f"data.codec={codec}"]
    same += ["trainer.log_every_n_steps=1", "data.num_workers=0", "data.prefetch=0"]
    media = ["data.height=32", "data.width=32", "data.sample_rate=16000"]
    from_clips = trained([*same, f"data.train={shard}", *media], tmp_path / "from_clips")
    from_latents = trained(
        [*same, "data=latents", f"data.shards={encoded}", "data.tokens_per_batch=null"],
        tmp_path / "from_latents",
    )
    first, second = losses(from_clips), losses(from_latents)
    assert len(first) == 3
    assert first == [pytest.approx(pair, rel=1e-5) for pair in second]
