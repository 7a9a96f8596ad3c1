"""The loader: one order whatever the workers, the same batches after a resume, every rank its own."""

from operator import itemgetter
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers.latent_shards import first
from ovi_lab.codecs import LatentCodec
from ovi_lab.data.batch_order import EpochSampler
from ovi_lab.data.buckets import Buckets
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.loading import REPEATED, ClipLoader, collate
from ovi_lab.errors import UserError


def ids(loader: ClipLoader) -> list[list[str]]:
    return [batch["id"] for batch in loader]


def test_a_batch(latents_shard: Path) -> None:
    batch = next(iter(ClipLoader(ClipDataset(latents_shard), 4)))
    assert set(batch) == {"id", "caption", "video", "audio", "meta"}
    assert batch["video"].shape == (4, 24, 16, 2, 2)
    assert batch["audio"].shape == (4, 81, 12)
    assert batch["video"].dtype == batch["audio"].dtype == torch.float32
    assert all(c.endswith("drum") for c in batch["caption"])
    assert [f"bouncing_ball-1-{m['index']:06d}" for m in batch["meta"]] == batch["id"]


def test_media_and_latents_load_alike(media_shard: Path, latents_shard: Path, codec: LatentCodec) -> None:
    """The one loader, the codec in the worker or before: the same batches."""
    for a, b in zip(
        ClipLoader(ClipDataset(media_shard, codec), 16),
        ClipLoader(ClipDataset(latents_shard), 16),
        strict=True,
    ):
        assert (a["id"], a["caption"], a["meta"]) == (b["id"], b["caption"], b["meta"])
        torch.testing.assert_close(a["video"], b["video"], atol=1e-5, rtol=0)
        torch.testing.assert_close(a["audio"], b["audio"], atol=1e-4, rtol=0)


def test_epochs_are_shuffled_anew_and_runs_repeat(latents_shard: Path) -> None:
    dataset = ClipDataset(latents_shard)
    loader = ClipLoader(dataset, 10, seed=3)
    first, second = ids(loader), ids(loader)
    assert [len(b) for b in first] == [10] * 4  # 48 clips: the remainder is dropped
    assert first != second
    again = ClipLoader(dataset, 10, seed=3)
    assert [ids(again), ids(again)] == [first, second]
    assert ids(ClipLoader(dataset, 10, seed=4)) != first


def test_validation_is_in_order_and_whole(latents_shard: Path) -> None:
    dataset = ClipDataset(latents_shard)
    batches = ids(ClipLoader(dataset, 10, shuffle=False))
    assert [len(b) for b in batches] == [10, 10, 10, 10, 8]
    assert [key for b in batches for key in b] == [e.key for e in dataset.entries]


@pytest.mark.parametrize(("places", "limit"), [(2, 1.0), (3, 1.0), (8, 1.0), (2, 3), (3, 0.5)])
def test_validation_batches_are_distributed_in_turn(latents_shard: Path, places: int, limit: float) -> None:
    def loader(rank: int, world_size: int) -> ClipLoader:
        dataset = ClipDataset([latents_shard])
        return ClipLoader(dataset, 3, False, rank=rank, world_size=world_size, limit=limit)

    whole = ids(loader(0, 1))
    shared = [list(loader(rank, places)) for rank in range(places)]
    assert len({len(batches) for batches in shared}) == 1
    own = {
        number * places + rank: batch["id"]
        for rank, batches in enumerate(shared)
        for number, batch in enumerate(batches)
        if REPEATED not in batch
    }
    assert [own[number] for number in sorted(own)] == whole
    assert sorted(own) == list(range(len(whole)))


def test_loading_leaves_the_global_generator_alone(latents_shard: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ids(ClipLoader(ClipDataset(latents_shard), 8))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("before", "after", "consumed"), [*((0, 0, n) for n in (0, 1, 3, 6)), (2, 0, 3), (0, 2, 8)]
)
def test_a_resumed_loader_continues_where_it_was(
    latents_shard: Path, before: int, after: int, consumed: int
) -> None:
    """With 6 batches an epoch, 6 is between epochs and 8 inside the second; the workers may change."""
    dataset = ClipDataset(latents_shard)
    expected = first(ClipLoader(dataset, 8, seed=2), consumed + 7, itemgetter("id"))[consumed:]
    loader = ClipLoader(dataset, 8, seed=2, num_workers=before)
    first(loader, consumed, itemgetter("id"))
    resumed = ClipLoader(dataset, 8, seed=2, num_workers=after)
    resumed.load_state_dict(loader.state_dict())
    assert first(resumed, 7, itemgetter("id")) == expected


def test_every_rank_has_its_own_clips_in_equal_steps() -> None:
    ranks = [list(EpochSampler(Buckets([None] * 50, 4), 1, rank, world_size=3)) for rank in range(3)]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[4] * 4] * 3
    together = [n for batches in ranks for batch in batches for n in batch]
    assert len(set(together)) == len(together)
    # A step's batches of all ranks are what one rank with a batch as large as theirs together would have had.
    alone = list(EpochSampler(Buckets([None] * 50, 12), seed=1))
    assert [[n for batches in ranks for n in batches[step]] for step in range(4)] == alone


def test_a_batch_larger_than_the_data_is_refused(latents_shard: Path) -> None:
    with pytest.raises(UserError, match=r"than the 48 clips there are: give data.batch_size=48 or less"):
        EpochSampler(Buckets([None] * 48, 49), world_size=2)
    two_shapes = [{"audio": (9, 5)}] * 48 + [{"audio": (99, 5)}] * 40
    with pytest.raises(
        UserError,
        match=r"a batch of 64 on each of 2 ranks needs more than the 88 clips there are: give data.batch_size=44",
    ):
        EpochSampler(Buckets(two_shapes, 64), world_size=2)
    with pytest.raises(UserError, match="batch_size is 0"):
        ClipLoader(ClipDataset(latents_shard), 0)


def test_shapes_that_differ_come_as_lists() -> None:
    def sample(frames: int) -> dict:
        video, audio = torch.zeros(2, frames, 1, 1), torch.zeros(5, 3)
        return {"id": "a", "caption": "b", "meta": {}, "video": video, "audio": audio}

    batch = collate([sample(3), sample(4)])
    assert [v.shape[1] for v in batch["video"]] == [3, 4]
    assert batch["audio"].shape == (2, 5, 3)


class Recorder(LightningModule):
    """Trains a single number, and remembers which clips it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[str]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["id"])
        return self.weight * batch["audio"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def train(shard: Path, folder: Path, steps: int, stop: int, resume: Path | None = None) -> list[list[str]]:
    """The clips of each step; a checkpoint every `stop` steps."""
    module = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        callbacks=[ModelCheckpoint(folder, "step-{step}", every_n_train_steps=stop, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ClipLoader(ClipDataset(shard), 8, seed=5), ckpt_path=resume and str(resume))
    return module.seen


@pytest.fixture(scope="module")
def straight(latents_shard: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The clips of a run that is not interrupted."""
    return train(latents_shard, tmp_path_factory.mktemp("straight"), 14, 14)


@pytest.mark.parametrize("stop", [2, 6, 9])
def test_a_lightning_run_resumed_in_the_middle_of_an_epoch_sees_the_same_batches(
    latents_shard: Path, straight: list[list[str]], tmp_path: Path, stop: int
) -> None:
    assert train(latents_shard, tmp_path, stop, stop) == straight[:stop]
    (checkpoint,) = tmp_path.glob("*.ckpt")
    assert train(latents_shard, tmp_path, 14, stop, checkpoint) == straight[stop:]
