"""Batches read ahead: the same ones, their position exact, faults where they belong, nothing left running."""

import threading
import time
from operator import itemgetter
from pathlib import Path

import pytest
import torch

from helpers.latent_shards import endless, first, write_latents
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.loading import ClipLoader
from ovi_lab.data.prefetch import Prefetcher
from ovi_lab.errors import UserError


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = [{"video": (2, 1, 2, 2), "audio": (6, 3), "text": (1 + n % 3, 4)} for n in range(24)]
    return write_latents(tmp_path_factory.mktemp("prefetch") / "a.tar", samples)


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("data prefetch")]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("prefetch", [1, 4])
def test_what_is_read_ahead_changes_neither_order_nor_state(shard: Path, workers: int, prefetch: int) -> None:
    dataset = ClipDataset(shard)
    plain = first(ClipLoader(dataset, 4, seed=1), 15, itemgetter("id"))
    ahead = ClipLoader(dataset, 4, seed=1, num_workers=workers, prefetch=prefetch)
    batches = endless(ahead)
    for count in range(1, 9):  # through the end of the first epoch, at 6
        assert next(batches)["id"] == plain[count - 1]
        assert ahead.state_dict() == {"epoch": count // 6, "position": count % 6}
    batches.close()
    assert not threads()
    resumed = ClipLoader(dataset, 4, seed=1, num_workers=2 - workers, prefetch=5 - prefetch)
    resumed.load_state_dict(ahead.state_dict())
    assert first(resumed, 7, itemgetter("id")) == plain[8:]
    assert not threads()


def test_text_embeddings_come_as_a_list(shard: Path) -> None:
    batch = next(iter(ClipLoader(ClipDataset(shard), 4, shuffle=False)))
    assert [tuple(t.shape) for t in batch["text"]] == [(1, 4), (2, 4), (3, 4), (1, 4)]
    assert [float(t[0, 0]) for t in batch["text"]] == [0, 1, 2, 3]
    without = next(iter(ClipLoader(ClipDataset(shard, stored_text=False), 4)))
    assert "text" not in without


def test_it_reads_ahead_while_the_batch_is_used() -> None:
    """Depth 2 holds two batches besides the one in use, and no more."""
    read = []

    def source():
        for n in range(10):
            read.append(n)
            yield {"n": n}

    with Prefetcher(source(), depth=2) as batches:
        assert next(batches) == {"n": 0}
        deadline = time.monotonic() + 10
        while len(read) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert read == [0, 1, 2]
        assert [batch["n"] for batch in batches] == list(range(1, 10))
        assert next(batches, None) is None
    assert not threads()


def test_a_fault_comes_where_its_batch_would_have_come() -> None:
    def source():
        yield 1
        yield 2
        raise UserError("the third")

    for depth in (0, 1, 5):
        with Prefetcher(source(), depth) as batches:
            assert [next(batches), next(batches)] == [1, 2]
            with pytest.raises(UserError, match="the third"):
                next(batches)


def test_waiting_is_counted(shard: Path) -> None:
    def slow():
        for n in range(3):
            time.sleep(0.05)
            yield n

    with Prefetcher(slow()) as batches:
        list(batches)
        assert 0.14 < batches.waited_s < 1
    loader = ClipLoader(ClipDataset(shard), 4)
    list(loader)
    one = loader.waited_s
    list(loader)
    assert loader.waited_s > one > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_are_on_the_gpu_and_whole(shard: Path) -> None:
    dataset = ClipDataset(shard)
    device = torch.device("cuda", torch.cuda.current_device())
    expected = list(ClipLoader(dataset, 4, seed=1))
    for batch, plain in zip(ClipLoader(dataset, 4, seed=1, prefetch=2, device=device), expected, strict=True):
        assert batch["video"].device == batch["text"][0].device == device
        assert torch.equal(batch["video"].cpu(), plain["video"])
