"""Batches of one shape and equal tokens: one order for all workers and ranks, the same after a resume."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from helpers.latent_shards import first, write_latents
from ovi_lab.data.batch_order import EpochSampler, Place
from ovi_lab.data.buckets import AudioTokens, Buckets
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.loading import ClipLoader
from ovi_lab.data.module import OviDataModule
from ovi_lab.errors import UserError
from ovi_lab.strategies.replicated import SingleProcess

WIDE, TALL = (4, 3, 4, 8), (4, 3, 8, 2)


def mixed(count: int) -> list[dict]:
    """Two pictures' shapes and sound of 20 to 99 tokens, in no order."""
    draws = torch.rand(count, 2, generator=torch.Generator().manual_seed(3)).tolist()
    return [{"video": WIDE if a < 0.6 else TALL, "audio": (20 + int(80 * b), 5)} for a, b in draws]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("mixed")
    samples = mixed(240)
    return [write_latents(folder / f"m-{s:03d}.tar", samples[80 * s : 80 * s + 80]) for s in range(3)]


def tokens(batch: dict, patch: tuple[int, int, int] = (1, 2, 2)) -> int:
    """With padding, as the towers count them."""
    pictures = [v.shape[1] * v.shape[2] * v.shape[3] // (patch[1] * patch[2]) for v in batch["video"]]
    return len(pictures) * (max(pictures) + max(len(a) for a in batch["audio"]))


def loader(shards: list[Path], seed: int = 1, budget: int = 600, **settings) -> ClipLoader:
    dataset = ClipDataset(shards)
    buckets = Buckets(dataset.shapes, tokens_per_batch=budget, patch_size=(1, 2, 2))
    return ClipLoader(dataset, seed=seed, buckets=buckets, **settings)


def test_batches_have_one_picture_like_lengths_and_equal_tokens(shards: list[Path]) -> None:
    full, batches = 0, list(loader(shards))
    for batch in batches:
        assert len({v.shape for v in batch["video"]}) == 1
        assert tokens(batch) <= 600
        # As many as fit: with one more clip of the bucket's longest (9 % longer, at most) it would be too much.
        full += 1.1 * tokens(batch) * (1 + 1 / len(batch["id"])) > 600
    assert full > 0.9 * len(batches)
    assert len({len(batch["id"]) for batch in batches}) > 3


def test_little_is_padding_where_there_are_many_clips() -> None:
    shapes = mixed(20000)
    sampler = EpochSampler(Buckets(shapes, tokens_per_batch=600, patch_size=(1, 2, 2)), world_size=4)
    sound = [[shapes[n]["audio"][0] for n in batch] for batch in sampler]
    assert sum(max(lengths) * len(lengths) for lengths in sound) < 1.05 * sum(map(sum, sound))
    assert 4 * sum(map(len, sound)) > 0.99 * 20000


def test_every_clip_comes_once_but_for_what_is_left_over(shards: list[Path]) -> None:
    seen = [key for batch in loader(shards) for key in batch["id"]]
    assert len(seen) == len(set(seen))
    assert len(seen) > 0.9 * 240
    sampler = loader(shards).order
    numbers: set[int] = set()
    for epoch in range(40):  # other epochs drop others
        sampler.place = Place(epoch, 0)
        numbers.update(n for batch in sampler for n in batch)
    assert numbers == set(range(240))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_order_is_that_of_no_workers(shards: list[Path], workers: int) -> None:
    whole = [batch["id"] for batch in loader(shards)]
    assert [batch["id"] for batch in loader(shards, num_workers=workers, prefetch=2)] == whole
    assert [batch["id"] for batch in loader(shards, seed=2)] != whole


@pytest.mark.parametrize("consumed", [0, 1, 7, "epoch", "later"])
def test_resumed_anywhere_it_continues_the_same(shards: list[Path], consumed: int | str) -> None:
    straight = loader(shards)
    steps = len(straight)
    count = {"epoch": steps, "later": 2 * steps + 3}.get(consumed, consumed)
    expected = first(straight, count + 5, lambda batch: batch["id"])[count:]
    stopped = loader(shards, prefetch=3)
    first(stopped, count, len)
    state = stopped.state_dict()
    assert set(state) == {"epoch", "position"}
    resumed = loader(shards)
    resumed.load_state_dict(state)
    assert first(resumed, 5, lambda batch: batch["id"]) == expected


def test_ranks_have_the_same_bucket_and_other_clips(shards: list[Path]) -> None:
    ranks = [list(loader(shards, rank=rank, world_size=3, budget=300)) for rank in range(3)]
    assert len({len(batches) for batches in ranks}) == 1
    seen: set[str] = set()
    for step in zip(*ranks, strict=True):
        assert len({len(batch["id"]) for batch in step}) == 1
        assert len({batch["video"][0].shape for batch in step}) == 1
        ids = [key for batch in step for key in batch["id"]]
        assert not seen & set(ids)
        assert len(ids) == len(set(ids))
        seen |= set(ids)


def test_validation_sees_all_within_the_budget(shards: list[Path]) -> None:
    batches = list(loader(shards, shuffle=False))
    assert sum(len(batch["id"]) for batch in batches) == 240
    assert max(tokens(batch) for batch in batches) <= 600


def test_cuts_are_a_function_of_seed_epoch_and_number(tmp_path: Path) -> None:
    cut = AudioTokens(min=10, max=40, crop="random")
    stored = np.array([80, 81, 12, 30] * 50)
    starts, lengths = cut.cutter(seed=1, epoch=2)(stored)
    in_pieces = cut.cutter(seed=1, epoch=2)
    for part in (slice(0, 3), slice(3, 200)):  # what comes after changes nothing
        piece = in_pieces(stored[part])
        assert np.array_equal(piece, (starts[part], lengths[part]))
    assert int(lengths.min()) >= 10
    assert int(lengths[stored >= 80].max()) == 40
    assert int(lengths[2::4].max()) <= 12
    assert bool((starts + lengths <= stored).all())
    assert len(set(lengths[::4].tolist())) > 15
    for other in ((2, 2), (1, 3)):
        assert not np.array_equal(cut.cutter(*other)(stored)[1], lengths)
    kept = AudioTokens(max=40).cutter(1, 2)(stored)[1]
    assert np.array_equal(kept, np.minimum(stored, 40))


@pytest.mark.parametrize("crop", ["longer", "random"])
def test_sound_alone_is_cut_and_fills_its_budget(tmp_path: Path, crop: str) -> None:
    write_latents(tmp_path / "a.tar", [{"audio": (81, 5)} for _ in range(64)])
    data = OviDataModule(
        world=None,
        root=tmp_path,
        shards=str(tmp_path / "a.tar"),
        modalities=["audio"],
        audio_tokens={"min": 8, "max": 40, "crop": crop},
        tokens_per_batch=160,
        prefetch=1,
        seed=4,
    )
    assert data.latent_shapes == {"audio": (40, 5)}
    epochs = [list(data.train_dataloader())] * 2
    again = list(data.train_dataloader())
    lengths = []
    for batch, same in zip(epochs[0], again, strict=True):
        assert "video" not in batch
        for n, (audio, other) in enumerate(zip(batch["audio"], same["audio"], strict=True)):
            assert torch.equal(audio, other)
            number, begins = divmod(float(audio[0, 0]), 1)
            assert number == batch["meta"][n]["n"]
            torch.testing.assert_close(audio[:, 0] - number, begins + torch.arange(len(audio)) / 1000)
            lengths.append(len(audio))
        assert len(batch["audio"]) * max(len(a) for a in batch["audio"]) <= 160
    assert set(lengths) == {40} if crop == "longer" else len(set(lengths)) > 8
    assert data.clips_per_batch() == pytest.approx(len(lengths) / len(epochs[0]))
    train = data.train_dataloader()
    whole = first(train, 2 * len(train) + 2, lambda batch: (batch["id"], [len(a) for a in batch["audio"]]))
    assert whole[0][0] == epochs[0][0]["id"]
    assert whole[len(train)] != whole[0]  # another epoch, other clips and cuts
    resumed = data.train_dataloader()
    resumed.load_state_dict({"epoch": 1, "position": 3})
    again = first(resumed, 4, lambda batch: (batch["id"], [len(a) for a in batch["audio"]]))
    assert again == whole[len(train) + 3 : len(train) + 7]


def test_every_epoch_of_random_cuts_has_as_many_steps() -> None:
    shapes = [{"audio": (81, 5)}] * 100
    buckets = Buckets(shapes, tokens_per_batch=90, audio_tokens=AudioTokens(5, 81, "random"), seed=0)
    sampler = EpochSampler(buckets, 0)
    for epoch in range(20):
        sampler.place = Place(epoch, 0)
        assert len(list(sampler)) == len(sampler)


def test_clips_too_short_or_beside_a_picture_too_long_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = [{"video": WIDE, "audio": (length, 5)} for length in (10, 20, 20, 30)]
    write_latents(tmp_path / "a.tar", samples)
    settings = {"world": None, "root": tmp_path, "shards": str(tmp_path / "a.tar"), "batch_size": 1}
    both = OviDataModule(**settings, audio_tokens={"min": 20, "max": 20})
    assert len(both.train_dataset) == 2
    assert "2 of 4 clips are left out for the length of their sound" in caplog.text
    alone = OviDataModule(**settings, audio_tokens={"min": 20, "max": 20}, modalities=["audio"])
    assert len(alone.train_dataset) == 3
    with pytest.raises(UserError, match="crop=random cuts sound and would part it from its picture"):
        OviDataModule(**settings, audio_tokens={"crop": "random"})
    with pytest.raises(UserError, match="leaves 4 out for their length"):
        _ = OviDataModule(**settings, audio_tokens={"min": 90}).train_dataset


def test_edges_may_be_given_and_lengths_beyond_them_have_a_bucket_of_their_own() -> None:
    shapes = [{"audio": (length, 5)} for length in (8, 10, 11, 20, 90)]
    buckets = Buckets(shapes, tokens_per_batch=100, audio_edges=[10, 20])
    assert buckets.edges_E.tolist() == [10, 20, 90]
    assert buckets.of_epoch(0).tolist() == [0, 0, 1, 1, 2]
    assert buckets.batch_B.tolist() == [10, 5, 1]


def test_wrong_settings_are_one_line() -> None:
    shapes = [{"video": WIDE, "audio": (20, 5)}] * 3
    several = [{"video": (1, 1, 1, n), "audio": (9, 5)} for n in (1, 10, 100)]
    for make, message in [
        (lambda: Buckets(shapes, tokens_per_batch=50), "is 50, less than the 116 tokens of one clip"),
        (lambda: Buckets(shapes, tokens_per_batch=0), "tokens_per_batch is 0"),
        (lambda: Buckets(shapes, audio_edges=[5, 5]), r"audio_edges is \[5, 5\]; expected ascending"),
        (lambda: Buckets([None], tokens_per_batch=50), "these shards hold media"),
        (lambda: AudioTokens(crop="half"), r"audio_tokens.crop is 'half': expected longer or random"),
        (lambda: AudioTokens(min=9, max=3), "min 9 and max 3"),
        (lambda: EpochSampler(Buckets(several, 2)), "than the 3 clips there are, at most 1 of one shape"),
    ]:
        with pytest.raises(UserError, match=message):
            make()


def test_clips_of_a_rare_shape_are_named(caplog: pytest.LogCaptureFixture) -> None:
    few = {"video": TALL, "audio": (9, 5)}
    EpochSampler(Buckets([{"video": WIDE, "audio": (9, 5)}] * 8 + [few], 2))
    assert "1 of 9 clips are never trained on" in caplog.text


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("cut", [None, AudioTokens(20, 81, "random")])
def test_few_clips_make_batches_where_they_fill_none_of_the_budget(
    ranks: int, cut: AudioTokens | None, caplog: pytest.LogCaptureFixture
) -> None:
    lengths = [{"audio": (81 + 10 * n, 5)} for n in range(5)]
    sampler = EpochSampler(
        Buckets(lengths, tokens_per_batch=16384, audio_tokens=cut, seed=3), world_size=ranks
    )
    assert f"the 5 clips fill no batch of data.tokens_per_batch: {5 // ranks} make a batch" in caplog.text
    numbers = []
    for epoch in range(12):
        sampler.place = Place(epoch, 0)
        batches = list(sampler)
        assert {len(batch) for batch in batches} == {5 // ranks}
        numbers += [pick if cut is None else pick.number for batch in batches for pick in batch]
    assert set(numbers) == set(range(5))
    with pytest.raises(UserError, match="use fewer processes, or more clips"):
        EpochSampler(Buckets(lengths, tokens_per_batch=16384), world_size=6)


def test_a_fingerprint_is_of_shards_seed_and_batches(shards: list[Path], tmp_path: Path) -> None:
    settings = {"world": None, "root": tmp_path, "shards": [str(p) for p in shards]}
    changes = (
        {},
        {"seed": 1},
        {"batch_size": 3},
        {"tokens_per_batch": 700},
        {"modalities": ["audio"]},
        {"modalities": ["audio"], "audio_tokens": {"max": 30}},
        {"shards": settings["shards"][:2]},
        {"shards": settings["shards"][::-1]},
    )
    prints = {OviDataModule(**{**settings, **change}).fingerprint() for change in changes}
    assert len(prints) == 8
    same = OviDataModule(**settings, num_workers=2, prefetch=1, quiet=True)
    assert same.fingerprint() in prints
    assert len(same.fingerprint()) == 16


def test_ranks_of_a_group_that_shares_a_clip_share_their_batches(shards: list[Path], tmp_path: Path) -> None:
    def ids(rank: int, sequence_parallel: int | None) -> list[list[str]]:
        strategy = (SingleDeviceStrategy if sequence_parallel is None else SingleProcess)(torch.device("cpu"))
        strategy.global_rank, strategy.world_size = rank, 4
        if sequence_parallel is not None:
            strategy.sequence_parallel = sequence_parallel
        data = OviDataModule(world=None, root=tmp_path, shards=[str(p) for p in shards], batch_size=2)
        data.trainer = SimpleNamespace(strategy=strategy, accumulate_grad_batches=1)
        return [batch["id"] for batch in itertools.islice(data.train_dataloader(), 4)]

    assert ids(3, 2) == ids(2, 2) != ids(1, 2)
    assert ids(3, 1) == ids(3, None) != ids(2, 1)
