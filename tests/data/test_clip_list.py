"""The list of clips as columns in a file: the same clips as the indexes name, made once, never believed blindly."""

import contextlib
import json
import logging
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.batch_orders import CASES, PICTURES, fingerprint_of, order_of, shapes_of
from helpers.latent_shards import write_latents
from ovi_lab.data import clip_columns, clip_list, loading, shapes
from ovi_lab.data.batch_order import EpochSampler
from ovi_lab.data.buckets import AudioTokens, Buckets
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.index import index_path, read_index
from ovi_lab.data.loading import ClipLoader
from ovi_lab.data.shapes import ClipShapes
from ovi_lab.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "batch_order.json").read_text())


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Two pictures, sound of several lengths; one sample of each shard has no text, one no picture."""
    whole = [{**shape, "text": (3, 6)} for shape in shapes_of("mixed", 24) if shape is not None]
    whole[5].pop("text")
    whole[17].pop("video")
    return [
        write_latents(tmp_path / f"m-{n:03d}.tar", whole[12 * n : 12 * n + 12], audio="x") for n in range(2)
    ]


@pytest.fixture
def in_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_list, "KEPT_FROM", 0)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards whose contents were read, in the order of reading."""
    found: list[str] = []

    def reading(path: Path):
        found.append(path.name)
        return read_index(path)

    monkeypatch.setattr(clip_columns, "read_index", reading)
    return found


def described(data: ClipDataset) -> list[object]:
    """All that a data set says of its clips."""
    facts = [data.kinds, data.left_out, data.parts, data.shard_facts, vars(data.made_of)]
    return [list(data.entries), [data.shapes[n] for n in range(len(data))], list(data.known_bad), *facts]


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_batches_is_what_it_was_before_columns(name: str) -> None:
    assert order_of(CASES[name]) == GOLDEN["orders"][name]


@pytest.mark.parametrize("name", ["some unknown", "random cuts", "longer cut"])
def test_the_order_does_not_depend_on_the_pieces_it_is_computed_in(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "CHUNK", 97)
    assert order_of(CASES[name]) == GOLDEN["orders"][name]


def test_a_fingerprint_is_what_it_was_before_columns(tmp_path: Path) -> None:
    assert fingerprint_of(tmp_path) == GOLDEN["fingerprint"]


def test_a_kept_list_is_made_once_and_says_what_the_indexes_say(
    shards: list[Path], made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = ClipDataset(shards)
    expected = [entry for shard in shards for entry in read_index(shard).entries]
    assert [entry.key for entry in in_memory.entries] == [
        entry.key for n, entry in enumerate(expected) if n not in (5, 17)
    ]
    assert not (shards[0].parent / ".ovi_lab").exists()
    monkeypatch.setattr(clip_list, "KEPT_FROM", 0)
    made.clear()
    first, later = ClipDataset(shards), ClipDataset(shards)
    assert made == ["m-000.tar", "m-001.tar"]
    assert described(first) == described(later) == described(in_memory)
    assert [entry.members for entry in later.entries[:3]] == [entry.members for entry in expected[:3]]
    assert torch.equal(later[7]["video"], in_memory[7]["video"])
    assert later.entries.kept is not None
    assert later.entries.kept.parent == shards[0].parent / ".ovi_lab"
    assert later.entries[-1] == list(in_memory.entries)[-1]
    with pytest.raises(IndexError):
        later.entries[22]


@pytest.mark.usefixtures("in_file")
def test_what_a_worker_receives_does_not_grow_with_the_clips(shards: list[Path], tmp_path: Path) -> None:
    few = ClipDataset(shards)
    many = ClipDataset(write_latents(tmp_path / "n.tar", [{"video": PICTURES[0], "audio": (9, 5)}] * 200))
    assert len(pickle.dumps(many)) < len(pickle.dumps(few)) + 200
    assert described(pickle.loads(pickle.dumps(few))) == described(few)


@pytest.mark.usefixtures("in_file")
def test_a_list_counts_only_for_the_shards_and_options_it_was_made_with(
    shards: list[Path], made: list[str]
) -> None:
    def reread(**settings) -> bool:
        made.clear()
        ClipDataset(shards, **settings)
        return bool(made)

    assert reread()
    assert not reread()
    assert reread(modalities=["audio"])
    assert reread(stored_text=False)
    assert reread(audio_tokens=AudioTokens(min=30))
    assert not reread(audio_tokens=AudioTokens(min=30))
    assert not reread()
    index_path(shards[0]).unlink()
    assert reread()
    assert not reread()
    write_latents(shards[1], [{"video": PICTURES[0], "audio": (30, 5), "text": (2, 6)}] * 3)
    assert reread()
    assert len(ClipDataset(shards)) == 14
    kept = sorted((shards[0].parent / ".ovi_lab").glob("clips-*.columns"))
    assert len(kept) == 4  # one for each of the options, whatever became of the shards


@pytest.mark.usefixtures("in_file")
def test_processes_that_start_together_make_it_once(shards: list[Path], made: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: described(ClipDataset(shards)), range(4)))
    assert made == ["m-000.tar", "m-001.tar"]
    assert found[1:] == found[:-1]


@pytest.mark.usefixtures("in_file")
def test_where_the_shards_folder_cannot_be_written_the_users_cache_holds_it(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / ".ovi_lab").write_text("no folder can be made here")
    kept = ClipDataset(shards).entries.kept
    assert kept is not None
    assert kept.parent == tmp_path / "cache" / "ovi_lab"
    monkeypatch.setenv("XDG_CACHE_HOME", str(shards[0]))
    with pytest.raises(
        UserError, match=r"kept in .*\.ovi_lab or .*, and neither can be written: make one of them writable"
    ):
        ClipDataset(shards)


@pytest.mark.usefixtures("in_file")
def test_a_damaged_list_is_made_again_or_named(shards: list[Path], made: list[str]) -> None:
    whole = ClipDataset(shards)
    file = whole.entries.kept
    assert file is not None
    data = file.read_bytes()
    length = int.from_bytes(data[8:16], "little")
    arrays = json.loads(data[16 : 16 + length])["arrays"]

    def damaged(content: bytes) -> list[object]:
        file.unlink()  # the old one stays as it was for who has it open
        file.write_bytes(content)
        made.clear()
        return described(ClipDataset(shards))

    def changed(name: str, number: int, value: int) -> bytes:
        """The file with one number of an array changed."""
        kind, _, offset = arrays[name]
        size = int(kind[-1])
        start = 16 + length + offset + number * size
        return data[:start] + value.to_bytes(size, "little") + data[start + size :]

    expected = described(whole)
    no_number = data.replace(b'"counts": [', b'"counts": ["x", ', 1)
    for content in (
        b"",
        b"x" * 99,
        data[:-70],
        data[:40],
        no_number,
        changed("forms", 3, 77),
        changed("layouts", 0, 9),
    ):
        assert damaged(content) == expected
        assert made == ["m-000.tar", "m-001.tar"]
    for name, value in (("places", 2**63), ("places", 513), ("key_ends", 2**40), ("first_places", 2**50)):
        with pytest.raises(UserError, match=r"clips-\w+\.columns is damaged at clip 4: delete it"):
            damaged(changed(name, 16 if name == "places" else 4, value))
    # Whatever is changed, clips come or one line does: no other error.
    draw = random.Random(4)
    for _ in range(60):
        at = draw.randrange(len(data))
        flipped = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        with contextlib.suppress(UserError):
            damaged(flipped)


def test_a_bad_clip_is_replaced_by_the_next_of_its_shape_however_many_there_are(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ClipDataset(shards)
    known = [data.shapes[n] for n in range(len(data))]
    for piece in (3, 100):
        monkeypatch.setattr(shapes, "CHUNK", piece)
        for number in (0, 7, 21):
            after = [(number + step) % len(data) for step in range(1, len(data))]
            alike = [n for n in after if known[n] == known[number]]
            assert list(data._in_place_of(number)) == [number, *alike, *(n for n in after if n not in alike)]


def test_a_clip_takes_a_few_bytes_of_an_epoch() -> None:
    count = 30_000
    length_N = (20 + np.arange(count) * 7 % 300).astype(np.uint32)
    columns = ClipShapes([{"audio": (0, 5)}], np.zeros(count, np.uint32), length_N)
    for cut, most in ((None, 5.5), (AudioTokens(10, 200, "random"), 9.5)):
        order = EpochSampler(Buckets(columns, tokens_per_batch=4000, audio_tokens=cut))._steps(0)
        arrays = [order.numbers, order.start_S, order.size_S, *(order.cuts or ())]
        assert sum(array.nbytes for array in arrays) < most * count


def test_many_known_bad_clips_are_counted_and_the_first_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "NAMED", 2)
    samples = [{"audio": (9, 5)}] * 6 + [{"audio": (9, 5), "video": PICTURES[0]}] * 30
    loader = ClipLoader(ClipDataset(write_latents(tmp_path / "a.tar", samples)), 4)
    with caplog.at_level(logging.WARNING):
        loader.summarise()
    assert caplog.text.count("train data: skipped a.tar: a-000") == 2
    assert "train data: skipped 4 more" in caplog.text
    assert "train data: 6 bad of 36 clips skipped: a-0000, a-0001" in caplog.text


def test_training_makes_no_list_of_all_clips(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """At ten million clips the list of validation's batches takes 1.6 GB and ten seconds."""

    def listed(buckets: Buckets) -> list[list[int]]:
        raise AssertionError("a loader that shuffles listed its clips in order")

    monkeypatch.setattr(Buckets, "in_order", listed)
    data = ClipDataset(shards)
    assert len(next(iter(ClipLoader(data, 4)))["id"]) == 4
    with pytest.raises(AssertionError, match="listed"):
        ClipLoader(data, 4, shuffle=False)
