"""`ovi-data captions`: asked of an endpoint that fails in all ways, exported, joined; the shards of a new build."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image

from helpers.chat_server import GOOD, ChatServer, chat_server
from helpers.forks import Fork
from helpers.small_videos import RATE, RECIPE, moving, write
from ovi_lab.data.build import assemble
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.captioning.ask import AskedCaptions, ask_all
from ovi_lab.data.build.captioning.assembled import taken_up
from ovi_lab.data.build.captioning.endpoint import ChatEndpoint
from ovi_lab.data.build.clip_captions import BOOK
from ovi_lab.data.build.recipe import Recipe, read_recipe
from ovi_lab.data.decode import read_media
from ovi_lab.data.index import read_index
from ovi_lab.data.shards import ShardReader
from ovi_lab.errors import UserError

KEEP = {"still_share": {"max": 0.5}, "motion": {"min": 0.01}}
PLAIN: dict[str, Any] = {
    **RECIPE,
    "without_caption": "drop",
    "keep": KEEP,
    "steps": ["motion", "fingerprints"],
}
QUIET = BuildOptions(quiet=True)
ASKED = ["a-000", "b-000", "sub/c-000", "tone-000"]
"""Clips without a caption of their own that are kept otherwise."""


@pytest.fixture(scope="module")
def recipe_of_captions() -> Recipe:
    return read_recipe("planted", PLAIN)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips without a caption (one silent), one with, a still, and a copy of one."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(("a.mp4", "b.mp4", "sub/c.mp4", "told.mp4")):
        write(folder / name, moving(seed))
    (folder / "told.txt").write_text("Colours wander. Audio: hiss")
    write(folder / "tone.mp4", moving(7), torch.zeros(RATE * 5 // 4))
    write(folder / "still.mp4", moving(5)[:1].repeat(20, 1, 1, 1))
    write(folder / "z_again.mp4", moving(0))
    return folder


@pytest.fixture(scope="module")
def built_once(videos: Path, recipe_of_captions: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    build(videos, out, recipe_of_captions, QUIET)
    return out


@pytest.fixture
def shards(built_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built_once, tmp_path / "shards"))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as found:
        yield found


def rows_in(shards: Path) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in map(json.loads, (shards / "clips.jsonl").read_text().splitlines())}


def captions_in(shards: Path) -> dict[str, str]:
    """By key, as a loader reads them."""
    entries = [entry for shard in sorted(shards.glob("*.tar")) for entry in read_index(shard).entries]
    return {entry.key: read_media(ShardReader().read(entry)).caption for entry in entries}


def digests(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir()) if p.is_file()}


def ask(shards: Path, server: ChatServer, at_once: int = 1, **settings: Any) -> AskedCaptions:
    endpoint = ChatEndpoint(server.url, "captioner-1", pause=0.01, **settings)
    with taken_up(shards) as assembly:
        return ask_all(assembly, endpoint, assembly.wanting(), at_once, "AUDCAP", quiet=True)


@pytest.mark.slow
def test_asked_captions_are_in_the_shards_as_a_new_build_has_them(
    videos: Path, recipe_of_captions: Recipe, shards: Path, server: ChatServer, ovi_data: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert captions_in(shards) == {"told-000": "Colours wander. Audio: hiss"}
    monkeypatch.setenv("OVI_CAPTIONS_KEY", "sk-secret")
    silent = "Nothing but wandering colours is seen."
    server.faults = [GOOD, "I'm sorry, I cannot help.", GOOD, f"```text\n{GOOD}\n```", silent]
    printed = ovi_data("captions", shards, "--ask", server.url, "--sound-tag", "Audio", "--at-once", 1)
    assert "4 clips, 4 answered 1 of them when asked again" in printed
    assert "sk-secret" not in printed
    listed = GOOD.replace("<AUDCAP>", "Audio: ").removesuffix("<ENDAUDCAP>")
    told = {"told-000": "Colours wander. Audio: hiss"}
    assert captions_in(shards) == {**dict.fromkeys(ASKED[:3], listed), "tone-000": silent, **told}
    rows = rows_in(shards)
    assert rows["z_again-000"]["dropped_by"] == ["caption"]  # a copy is not asked for
    assert rows["still-000"]["dropped_by"] == ["still_share", "motion", "caption"]  # in the recipe's order
    assert rows["a-000"]["caption_by"] == "captioner-1"
    # what was sent: 7 frames, the sound where there is one, the key, and again what was wrong
    first, second, again, _, fifth = server.asked
    assert (first.model, first.key, len(first.pictures)) == ("captioner-1", "Bearer sk-secret", 7)
    assert first.pictures[0] == (48, 48)
    assert first.seconds == pytest.approx(1.0, abs=0.02)
    assert again.turns[0] == "I'm sorry, I cannot help."
    assert "declines" in again.turns[1]
    assert second.text == again.text
    assert fifth.seconds is None
    assert "has no sound" in fifth.text
    # nothing is asked twice, and a new build gives the same bytes
    assert "0 clips, 0 answered" in ovi_data("captions", shards, "--ask", server.url)
    assert len(server.asked) == 5
    before = digests(shards)
    build(videos, shards, recipe_of_captions, QUIET)
    assert digests(shards) == before
    # the other form for all, and back
    ovi_data("captions", shards, "--sound-tag", "AUDCAP")
    assert captions_in(shards)["a-000"] == GOOD
    assert captions_in(shards)["told-000"] == "Colours wander. <AUDCAP>hiss<ENDAUDCAP>"
    assert rows_in(shards)["told-000"]["caption_of_file"] == "Colours wander. Audio: hiss"
    assert "4 captions to Audio" in ovi_data("captions", shards, "--sound-tag", "Audio")
    assert captions_in(shards)["told-000"] == "Colours wander. Audio: hiss"


@pytest.mark.slow
def test_failures_are_waited_out_counted_or_final(shards: Path, server: ChatServer) -> None:
    server.faults = [
        429,
        500,
        "closed",
        GOOD,
        "half",
        "html",
        GOOD,
        "nonsense.",
        "<S>no end",
        400,
        500,
        500,
        500,
        500,
    ]
    found = ask(shards, server, tries=4)
    assert (found.clips, found.answered) == (4, 2)
    assert found.nonsense == {"<S> in the prompt (at <S>no end…) is never closed: put <E> after it": 1}
    assert found.failed == {"status 400: no, None, not now": 1}
    assert [key for key, _ in found.examples] == ["sub/c-000", "tone-000"]
    # the rest is asked again, and only that
    server.faults, server.asked = [], []
    assert ask(shards, server).clips == 2
    assert len(server.asked) == 2


@pytest.mark.slow
def test_slow_answers_time_out_and_several_are_asked_at_once(shards: Path, server: ChatServer) -> None:
    server.faults = ["slow"] * 4
    found = ask(shards, server, at_once=4, timeout=0.3, tries=1)
    assert found.failed == {"timed out": 4}


def test_an_endpoint_that_refuses_or_is_not_there_stops_at_once(shards: Path, server: ChatServer) -> None:
    server.faults = [GOOD, 401]
    with pytest.raises(
        UserError, match=r"refuses \(status 401: no, Bearer …, not now\); give its key in"
    ) as error:
        ask(shards, server, key="sk-secret")
    assert "sk-secret" not in str(error.value)
    server.faults = [307]
    with pytest.raises(UserError, match="status 307"):
        ask(shards, server)
    assert len(server.asked) == 3
    server.shutdown()
    server.server_close()
    # three clips are left, fewer than it takes to give up: each failure is counted
    assert ask(shards, server, tries=2).failed.total() == 3


def test_an_answer_that_a_kill_has_cut_off_is_asked_again(shards: Path, server: ChatServer) -> None:
    assert ask(shards, server).answered == 4
    book = shards / ".build" / BOOK
    book.write_bytes(book.read_bytes()[:-20])
    assert ask(shards, server).clips == 1
    assert ask(shards, server).clips == 0


def ask_alone(shards: Path, url: str) -> None:
    """A command as a process of its own."""
    with taken_up(shards) as assembly:
        ask_all(assembly, ChatEndpoint(url, "captioner-1"), assembly.wanting(), 1, "AUDCAP", quiet=True)


@pytest.mark.slow
def test_a_killed_command_goes_on_with_the_rest(shards: Path, server: ChatServer) -> None:
    server.faults = [GOOD, GOOD, "slow"]
    fork = Fork(ask_alone, shards, server.url)
    book, begun = shards / ".build" / BOOK, time.monotonic()
    while not (book.is_file() and book.read_bytes().count(b"\n") == 2) and time.monotonic() - begun < 120:
        time.sleep(0.02)
    fork.signal(signal.SIGKILL)
    fork.process.join(60)
    server.faults = []
    assert ask(shards, server).clips == 2
    assert len(captions_in(shards)) == 1  # shards are written when all is asked
    with taken_up(shards) as assembly:
        assert assembly.write().kept.total() == 5


@pytest.mark.slow
def test_what_is_exported_is_captioned_and_joined(
    videos: Path, recipe_of_captions: Recipe, shards: Path, tmp_path: Path, ovi_data: Callable[..., str]
) -> None:
    todo = tmp_path / "todo"
    printed = ovi_data("captions", shards, "--export", todo)
    assert "clips 4" in printed
    listed = [json.loads(line) for line in (todo / "clips.jsonl").read_text().splitlines()]
    assert [row["id"] for row in listed] == ASKED
    assert all(Image.open(todo / frame).size == (48, 48) for row in listed for frame in row["frames"])
    assert [len(row["frames"]) for row in listed] == [7] * 4
    with wave.open(str(todo / listed[0]["sound"])) as sound:
        assert sound.getnframes() / sound.getframerate() == pytest.approx(1.0, abs=0.02)
    assert listed[3]["sound"] is None
    # one is left empty, one is of another clip, one is out of form
    listed[0] |= {"caption": GOOD, "by": "a person"}
    listed[1] |= {"caption": GOOD, "sha256": "0" * 64}
    listed[2] |= {"caption": "Someone talks <E>"}
    more = [{"id": "still-000", "caption": "A still."}, {"id": "nobody", "caption": "Nobody."}]
    table = todo / "clips.jsonl"
    table.write_text("".join(f"{json.dumps(row)}\n" for row in [*listed, *more]))
    printed = ovi_data("captions", shards, "--join", table, code=1)
    assert "joined 1 empty 1 rows without a caption not kept 1 rows of clips that are kept out" in printed
    assert "the clip was cut anew since" in printed
    assert "<E> in the prompt (at <E>…) closes nothing" in printed
    assert "nobody: no clip has this key" in printed
    assert "kept out 4 for want of a caption" in printed
    assert set(captions_in(shards)) == {"a-000", "told-000"}
    assert rows_in(shards)["a-000"]["caption_by"] == "a person"
    before = digests(shards)
    build(videos, shards, recipe_of_captions, QUIET)
    assert digests(shards) == before
    # a text that is put beside the file afterwards is newer
    (videos / "a.txt").write_text("The file's own words.")
    build(videos, shards, recipe_of_captions, QUIET)
    (videos / "a.txt").unlink()
    assert captions_in(shards)["a-000"] == "The file's own words."
    (todo / "notes.txt").write_text("mine")
    assert "holds notes.txt, which is of no export" in ovi_data("captions", shards, "--export", todo, code=2)
    assert (todo / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_empty_captions_are_kept_where_the_recipe_says_so(
    videos: Path, tmp_path: Path, ovi_data: Callable[..., str]
) -> None:
    recipe, out, table = tmp_path / "mine.yaml", tmp_path / "out", tmp_path / "captions.csv"
    recipe.write_text(yaml.safe_dump({**PLAIN, "without_caption": "empty"}))
    ovi_data("build", videos, out, "--recipe", recipe)
    assert captions_in(out)["a-000"] == ""
    table.write_text("id,caption\nb-000,Colours. Audio: hiss\n")
    printed = ovi_data("captions", out, "--join", table, "--sound-tag", "AUDCAP")
    assert "kept 5 of 7 clips" in printed
    assert "3 of them without a caption" in printed
    assert captions_in(out)["b-000"] == "Colours. <AUDCAP>hiss<ENDAUDCAP>"


def test_shards_that_cannot_be_written_leave_those_that_were_there(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ovi_data: Callable[..., str]
) -> None:
    before = digests(shards)
    table = tmp_path / "captions.jsonl"
    table.write_text(json.dumps({"id": "a-000", "caption": GOOD}))

    def full(*_: object) -> None:
        raise UserError("no space left on the disk while writing it; free some, or choose another folder")

    monkeypatch.setattr(assemble.StoredMedia, "of", full)
    assert "no space left" in ovi_data("captions", shards, "--join", table, code=2)
    assert digests(shards) == before
    assert not list(shards.glob(".shards*"))


def test_a_build_that_is_not_whole_is_refused(
    shards: Path, tmp_path: Path, ovi_data: Callable[..., str]
) -> None:
    export = ["captions", shards, "--export", tmp_path / "todo"]
    with FileLock(shards / ".build" / "lock"):
        assert "another build is writing to" in ovi_data(*export, code=2)
    item = next(path for path in (shards / ".build").glob("*.json") if "index" not in path.name)
    item.rename(tmp_path / "item")
    assert "started anew and stopped; run it again first" in ovi_data(*export, code=2)
    (tmp_path / "item").rename(item)
    (shards / "manifest.json").rename(tmp_path / "manifest")
    assert "is not finished; run its ovi-data build again" in ovi_data(*export, code=2)
    (tmp_path / "manifest").rename(shards / "manifest.json")
    shutil.rmtree(shards / ".build")
    assert "which holds the clips that captions are joined to; build again" in ovi_data(*export, code=2)
    assert not (tmp_path / "todo").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do: give --export DIR, --join TABLE, --ask URL or --sound-tag"),
        (
            ["--ask", "127.0.0.1:8000"],
            "--ask 127.0.0.1:8000: expected an address such as http://127.0.0.1:8000/v1",
        ),
        (["--ask", "http://me:pw@host/v1"], "the address holds a user name or password"),
        (["--ask", "http://127.0.0.1:9/v1", "--tries", "0"], "--tries is 0; expected a number above 0"),
        (
            ["--ask", "http://127.0.0.1:9/v1", "--timeout", "nan"],
            "--timeout is nan; expected a number above 0",
        ),
        (
            ["--ask", "http://127.0.0.1:9/v1", "--tries", "1"],
            "http://127.0.0.1:9/v1 does not answer (Connection",
        ),
        (["--join", "none.jsonl"], "none.jsonl: no such file"),
        (["--join", "nobody.csv"], "names none of the 7 clips by their keys, such as a-000"),
        (["--sound-tag", "Sound"], "'Sound' is unknown; there are AUDCAP, Audio"),
        (["--export", "todo", "--join", "x.csv"], "not allowed with argument"),
    ],
)
def test_slips_are_one_line(
    built_once: Path, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ovi_data: Callable[..., str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("nobody.csv").write_text("id,caption\nx,Words.\n")
    assert message in ovi_data("captions", built_once, *arguments, code=2)


def test_models_of_an_endpoint(server: ChatServer) -> None:
    assert ChatEndpoint(server.url).find_model() == "captioner-1"
    server.models = ["one", "two"]
    with pytest.raises(UserError, match=r"has 2 models \(one, two\); name one by --model"):
        ChatEndpoint(server.url).find_model()
    with pytest.raises(UserError, match=r"/v2/models refuses \(status 404: no such page\)"):
        ChatEndpoint(server.url.replace("v1", "v2")).find_model()
