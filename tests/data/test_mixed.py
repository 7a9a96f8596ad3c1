"""Mixed data: clips that lack a modality, from several sources with weights, in batches of one kind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.latent_shards import endless, first, write_latents
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.loading import ABSENT, KIND
from ovi_lab.data.module import OviDataModule
from ovi_lab.data.weighted_draw import WeightedDraw
from ovi_lab.errors import UserError

BOTH = {"video": (4, 3, 4, 4), "audio": (20, 5)}
SHAPES: dict[str, list[dict[str, tuple[int, ...]]]] = {
    "av": [{**BOTH, "audio": (20 + n % 3, 5)} for n in range(30)],
    "sound": [{"audio": (18 + n % 5, 5)} for n in range(12)],
    "silent": [{"video": BOTH["video"]}] * 9 + [{"video": (4, 1, 4, 4)}] * 7,
}
WEIGHTS = {"av": 0.5, "sound": 0.3, "silent": 0.2}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("mixed")
    return {name: str(write_latents(folder / f"{name}.tar", shapes)) for name, shapes in SHAPES.items()}


def module(
    shards: dict[str, str], weights: dict[str, float] | None = WEIGHTS, **settings: Any
) -> OviDataModule:
    sources = [
        {"shards": path, **({} if weights is None else {"weight": weights[name]})}
        for name, path in shards.items()
        if weights is None or name in weights
    ]
    return OviDataModule(world=None, sources=sources, **{"batch_size": 2, **settings})


def loader(data: OviDataModule, rank: int = 0, world: int = 1) -> Any:
    return data._loader(data.train_dataset, True, "train", rank, world)


def seen(batch: dict[str, Any]) -> Any:
    return (
        batch["id"],
        batch[KIND],
        [batch[m][0].flatten()[0].item() for m in ("video", "audio") if m in batch],
    )


def test_batches_are_of_one_kind_and_have_what_it_has(shards: dict[str, str]) -> None:
    data = module(shards)
    order = data.order()
    kinds = {"both": (), "sound": ("video",), "silent_video": ("audio",), "still": ("audio",)}
    found: Counter[str] = Counter()
    for batch in first(loader(data), 3 * order.num_batches, dict):
        assert tuple(batch[ABSENT]) == kinds[batch[KIND]]
        sources = {name.rpartition("-")[0] for name in batch["id"]}
        expected = {"both": "av", "sound": "sound"}.get(batch[KIND], "silent")
        assert sources == {expected}
        if batch[KIND] in ("silent_video", "still"):
            assert {video.shape[1] for video in batch["video"]} == {1 if batch[KIND] == "still" else 3}
        found[batch[KIND]] += len(batch["id"])
    share = {kind: count / sum(found.values()) for kind, count in found.items()}
    assert share["both"] == pytest.approx(0.5, abs=0.05)
    assert share["sound"] == pytest.approx(0.3, abs=0.05)
    assert set(found) == set(kinds)


def test_all_ranks_have_batches_of_one_kind_and_of_the_same_clips(shards: dict[str, str]) -> None:
    steps = 20
    by_rank = [first(loader(module(shards), rank, 2), steps, seen) for rank in (0, 1)]
    assert [kind for _, kind, _ in by_rank[0]] == [kind for _, kind, _ in by_rank[1]]
    together = first(loader(module(shards, batch_size=4)), steps, seen)
    assert [a + b for (a, *_), (b, *_) in zip(*by_rank, strict=True)] == [ids for ids, *_ in together]


@pytest.mark.parametrize(("taken", "workers"), [(5, 0), pytest.param(31, 2, marks=pytest.mark.slow)])
def test_an_order_is_resumed_with_any_number_of_workers(
    shards: dict[str, str], taken: int, workers: int
) -> None:
    whole = first(loader(module(shards)), taken + 20, seen)
    before, after = loader(module(shards)), loader(module(shards, num_workers=workers))
    first(before, taken, seen)
    after.load_state_dict(before.state_dict())
    assert first(after, 20, seen) == whole[taken:]


def test_no_clip_of_a_source_comes_again_before_all_others_have() -> None:
    draw = WeightedDraw([10, 4, 1000], [0.25, 0.7, 0.05], seed=3)
    assert draw.size == sum(draw.taken) == 1014
    drawn = np.concatenate([draw.numbers(epoch) for epoch in range(6)])
    for begin, count in ((0, 10), (10, 4), (14, 1000)):
        own = drawn[(drawn >= begin) & (drawn < begin + count)]
        for start in range(0, len(own), count):
            piece = own[start : start + count]
            assert len(set(piece.tolist())) == len(piece)
    assert set(draw.numbers(1).tolist()) != set(draw.numbers(2).tolist())
    assert (WeightedDraw([10, 4, 1000], [0.25, 0.7, 0.05], seed=3).numbers(4) == draw.numbers(4)).all()


def test_without_weights_an_epoch_has_every_clip_once(shards: dict[str, str]) -> None:
    data = module(shards, weights=None, batch_size=1)
    ids = [batch["id"][0] for batch in first(loader(data), 58, dict)]
    assert len(set(ids)) == len(ids) == sum(map(len, SHAPES.values()))


def test_a_bad_clip_is_replaced_by_one_of_its_kind(shards: dict[str, str], tmp_path: Path) -> None:
    sound = SHAPES["sound"][:2]
    path = write_latents(tmp_path / "few.tar", [*sound, {"video": (4, 3, 4, 4)}])
    dataset = ClipDataset([path, shards["av"]], require="any")
    latents = dataset.read

    def damaged(number: int) -> Any:
        from ovi_lab.data.index import BadSampleError

        if number == 0:
            raise BadSampleError("it is damaged")
        return latents(number)

    dataset.read = damaged  # type: ignore[method-assign]
    assert dataset[0]["id"] == "few-0001"


def test_validation_takes_every_clip_in_batches_of_one_kind(shards: dict[str, str]) -> None:
    data = module(shards, val=list(shards.values()), batch_size=4)
    batches = list(data._loader(data.eval_dataset, False, "val"))
    assert sum(len(batch["id"]) for batch in batches) == 58
    assert {tuple(batch[ABSENT]) for batch in batches} == {(), ("video",), ("audio",)}
    for batch in batches:
        assert all(len(batch[m]) == len(batch["id"]) for m in ("video", "audio") if m in batch)


def test_shapes_of_a_clip_are_those_of_one_with_all(shards: dict[str, str]) -> None:
    backwards = dict(reversed(shards.items()))
    assert module(backwards).latent_shapes == {"video": (4, 3, 4, 4), "audio": (20, 5)}
    apart = module(shards, {"sound": 0.6, "silent": 0.4})
    assert apart.latent_shapes == {"video": (4, 3, 4, 4), "audio": (18, 5)}


def test_a_budget_of_tokens_holds_for_every_kind(shards: dict[str, str]) -> None:
    data = module(shards, tokens_per_batch=140, patch_size=(1, 2, 2))
    for batch in first(loader(data), 40, dict):
        tokens = sum(batch[m][0].shape[1] * (4 if m == "video" else 0) for m in ("video",) if m in batch)
        tokens += max((len(a) for a in batch.get("audio", ())), default=0)
        assert tokens * len(batch["id"]) <= 140
        assert (tokens + 24) * (len(batch["id"]) + 1) > 100


def test_long_sound_is_cut_where_it_has_no_picture(
    shards: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """To 21 tokens, others in each epoch and the same after a resume; with a picture, longer sound is left out."""
    cut = {"audio_tokens": {"max": 21}}
    data = module({"av": shards["av"], "sound": shards["sound"]}, {"av": 0.5, "sound": 0.5}, **cut)
    steps = 4 * data.order().num_batches
    assert "10 of 42 clips are left out for the length of their sound" in caplog.text
    stored = ClipDataset(shards["sound"], require="any")
    whole = {clip["id"]: clip for clip in map(stored.__getitem__, range(len(stored)))}
    begins: dict[str, set[int]] = {}

    def taken(batch: dict[str, Any]) -> Any:
        for name, audio in zip(batch["id"], batch["audio"], strict=True):
            assert len(audio) <= 21
            if "video" not in batch and len(whole[name]["audio"]) > 21:
                assert len(audio) == 21
                at = [n for n in range(2) if torch.equal(audio, whole[name]["audio"][n : n + 21])]
                begins.setdefault(name, set()).update(at)
        return batch["id"], [audio.sum().item() for audio in batch["audio"]]

    seen_once = first(loader(data), steps, taken)
    assert any(len(at) == 2 for at in begins.values())
    before, after = loader(data), loader(data)
    first(before, 7, taken)
    after.load_state_dict(before.state_dict())
    assert first(after, steps - 7, taken) == seen_once[7:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": []}, r"data.sources is empty"),
        (
            {"sources": [{"shards": "a.tar", "weight": 0.4}, {"shards": "b.tar", "weight": 0.4}]},
            r"0.4 \+ 0.4 = 0.8",
        ),
        ({"sources": [{"shards": "a.tar", "weight": 0.4}, {"shards": "b.tar"}]}, "no weight for b.tar"),
        ({"sources": [{"weight": 1.0}]}, "data.sources.0 names no shards"),
        ({"sources": [{"shards": "a.tar", "wieght": 1.0}]}, "wieght"),
        ({"sources": [{"shards": "a.tar"}], "train": "b.tar"}, "data.sources and data.shards .* set one"),
        (
            {"sources": [{"shards": "nowhere-{000..002}.tar"}]},
            "nowhere-000.tar and 2 more of 3 does not exist",
        ),
        (
            {"sources": [{"shards": "AV", "weight": 0.999}, {"shards": "SOUND", "weight": 0.001}]},
            "is no clip in an epoch",
        ),
        (
            {"sources": [{"shards": "AV"}, {"shards": "SOUND"}], "require": "all"},
            "no usable clip in .*sound.tar; .* no video",
        ),
        ({"sources": [{"shards": "AV"}], "require": "some"}, "data.require is 'some'"),
    ],
)
def test_sources_that_do_not_fit_are_refused(
    settings: dict[str, Any], message: str, shards: dict[str, str], tmp_path: Path
) -> None:
    named = {"AV": shards["av"], "SOUND": shards["sound"]}
    for source in settings["sources"]:
        source["shards"] = named.get(source.get("shards"), source.get("shards"))
        if source["shards"] is None:
            del source["shards"]
    with pytest.raises(UserError, match=message) as error:
        OviDataModule(world=None, root=tmp_path, **settings).order()
    assert "\n" not in str(error.value)


def test_what_lacks_a_part_is_a_bad_clip_of_plain_shards(shards: dict[str, str]) -> None:
    dataset = ClipDataset([shards["av"], shards["sound"]])
    assert len(dataset) == 30
    assert "no video latents" in str(dataset.known_bad[0])
    assert torch.equal(dataset[3]["video"], ClipDataset(shards["av"], require="any")[3]["video"])


def test_endless_epochs_follow_each_other(shards: dict[str, str]) -> None:
    data = module(shards)
    batches = endless(loader(data))
    drawn = Counter(i for _ in range(4 * data.order().num_batches) for i in next(batches)["id"])
    batches.close()
    assert max(drawn.values()) - min(drawn[f"sound-{n:04d}"] for n in range(12)) <= 4
