"""Batches run over the end of an epoch: the same clips a step on any number of ranks, whatever is accumulated."""

from itertools import islice
from operator import itemgetter

import pytest
import torch

from helpers.latent_shards import endless, first, write_latents
from ovi_lab.common.seeding import generator_for
from ovi_lab.data.batch_order import EpochSampler, Place
from ovi_lab.data.buckets import AudioTokens, Buckets
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.loading import ClipLoader


def stream(sampler: EpochSampler):
    """A rank's batches without an end."""
    while True:
        yield from sampler
        sampler.place = sampler.after(sampler.place, len(sampler))


def steps(count: int, clips: int, batch: int, ranks: int, group: int, **settings) -> list[list[int]]:
    """The numbers of the clips that each of the first optimiser steps sees."""
    rows = [
        stream(EpochSampler(Buckets([None] * clips, batch), 3, rank, ranks, group, **settings))
        for rank in range(ranks)
    ]
    seen = []
    for _ in range(count):
        batches = [list(islice(row, group)) for row in rows]
        seen.append([n for at in range(group) for of_rank in batches for n in of_rank[at]])
    return seen


def row_of_epochs(clips: int, batch: int, count: int) -> list[int]:
    """Shuffle after shuffle, each without what does not fill a batch."""
    numbers, epoch = [], 0
    while len(numbers) < count:
        order = torch.randperm(clips, generator=generator_for("order", 3, epoch)).tolist()
        numbers, epoch = numbers + order[: clips // batch * batch], epoch + 1
    return numbers[:count]


@pytest.mark.parametrize(
    ("clips", "batch", "micro_batches"),
    [(20, 4, 2), (1, 1, 8), (14, 2, 8), (22, 4, 6), (3, 2, 4), (24, 4, 6), (7, 1, 4), (5, 2, 12)],
)
def test_a_step_sees_the_next_clips_on_any_number_of_ranks(
    clips: int, batch: int, micro_batches: int
) -> None:
    at_once = batch * micro_batches
    row = row_of_epochs(clips, batch, 9 * at_once)
    expected = [row[at : at + at_once] for at in range(0, len(row), at_once)]
    for ranks in [n for n in range(1, 9) if micro_batches % n == 0]:
        assert steps(9, clips, batch, ranks, micro_batches // ranks) == expected


def test_an_iteration_has_whole_groups_and_about_the_batches_of_an_epoch() -> None:
    def length(clips: int, ranks: int, group: int, **settings) -> int:
        return len(EpochSampler(Buckets([None] * clips, 4), world_size=ranks, group=group, **settings))

    assert [length(40, 1, group) for group in (1, 2, 3, 4, 5, 10, 20)] == [10, 10, 9, 8, 10, 10, 20]
    assert [length(40, 2, group) for group in (1, 2, 5, 10)] == [5, 4, 5, 10]
    assert length(44, 4, 1) == 3
    assert length(40, 1, 2, limit=3) == 4
    assert length(40, 2, 1, limit=0.5) == 2


def test_a_limit_cuts_every_epoch_and_no_step() -> None:
    whole = row_of_epochs(20, 4, 20), row_of_epochs(20, 4, 40)[20:]
    row = [n for epoch in whole for n in epoch[:12]]
    assert steps(3, 20, 4, 1, 2, limit=3) == [row[:8], row[8:16], row[16:24]]


def test_clips_of_several_shapes_stay_together_in_a_step_of_all_ranks() -> None:
    shapes = [{"audio": (length, 5)} for length in (10, 90) for _ in range(24)]
    ranks = [stream(EpochSampler(Buckets(shapes, 2), 1, rank, 2, group=4)) for rank in range(2)]
    seen = [[next(row) for row in ranks] for _ in range(40)]
    for a, b in seen:
        assert len({n // 24 for n in (*a, *b)}) == 1
        assert not set(a) & set(b)
    assert not Buckets(shapes, 2).one_bucket
    cut = AudioTokens(5, 81, "random")
    assert not Buckets([{"audio": (81, 5)}] * 9, 2, audio_tokens=cut).one_bucket
    assert Buckets([{"audio": (81, 5)}] * 9, 2, audio_tokens=AudioTokens(max=40)).one_bucket


@pytest.mark.parametrize(("ranks", "group"), [(1, 3), (2, 2), (1, 7)])
def test_the_state_is_that_of_whole_groups_and_resumes_from_each(tmp_path, ranks: int, group: int) -> None:
    clips = ClipDataset(write_latents(tmp_path / "a.tar", [{"audio": (4, 2)}] * 11), modalities=["audio"])

    def loaders() -> list[ClipLoader]:
        return [
            ClipLoader(clips, 2, seed=5, rank=r, world_size=ranks, group=group, prefetch=2)
            for r in range(ranks)
        ]

    straight = [first(loader, 8 * group, itemgetter("id")) for loader in loaders()]
    started = loaders()
    running = [endless(loader) for loader in started]
    for handed in range(1, 5 * group):
        for n, (batches, loader) in enumerate(zip(running, started, strict=True)):
            assert next(batches)["id"] == straight[n][handed - 1]
            kept = handed // group * group
            assert loader.state_dict() == dict(
                zip(("epoch", "position"), divmod(kept * ranks, 5), strict=True)
            )
        if handed % group in (0, 1):
            for n, resumed in enumerate(loaders()):
                resumed.load_state_dict(started[n].state_dict())
                assert first(resumed, 8 * group - kept, itemgetter("id")) == straight[n][kept:]
    for batches in running:
        batches.close()


def test_a_place_further_on_is_found_without_going_there() -> None:
    sampler = EpochSampler(Buckets([None] * 11, 2), 0, 1, 2, group=3)
    assert sampler.after(Place(4, 3), 6) == Place(7, 0)
    assert sampler.after(Place(0, 7), 0) == Place(1, 2)
