"""Where somebody keeps files, and their user and host names, are in nothing that is given to others."""

import json
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.eval_study import run, write_clips
from ovi_eval.cli import main
from ovi_eval.common.places import inside, shareable_path, stays_inside, without_places
from ovi_eval.results.reading import read


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/alice/clips/a.mp4: cannot be read", "a.mp4: cannot be read"),
        ("no module in '/usr/lib/python3/x.py', line 3", "no module in 'x.py', line 3"),
        ("at ~/private/b.wav and (/mnt/c/d)", "at b.wav and (d)"),
        (r"C:\Users\alice\a.mp4 and \\server\share\b.wav", "a.mp4 and b.wav"),
        ("file:///home/alice/a.mp4", "a.mp4"),
        ("file=/home/alice/models/", "file=…"),
        ("https://example.org/a/b.html", "https://example.org/a/b.html"),
        ("16/25/30 frames, and/or none; 24 kHz / mono", "16/25/30 frames, and/or none; 24 kHz / mono"),
        ({"/home/a/b": ["/home/a/c.pt", 3, None]}, {"b": ["c.pt", 3, None]}),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(text: object, told: object) -> None:
    assert without_places(text) == told


def test_a_folder_is_told_by_its_name_below_the_results(tmp_path: Path) -> None:
    (tmp_path / "run" / "clips").mkdir(parents=True)
    assert shareable_path(tmp_path / "run" / "clips", tmp_path / "run") == "clips"
    assert shareable_path(tmp_path / "run" / "clips", tmp_path / "elsewhere") == "clips"
    assert shareable_path(tmp_path / "run" / "clips", tmp_path) == "run/clips"


def test_only_what_stays_in_the_folder_is_inside(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "out").symlink_to(tmp_path)
    (tmp_path / "a" / "loop").symlink_to("loop")
    assert inside(tmp_path / "a", tmp_path / "a" / "out" / "a") == tmp_path / "a"
    for name in ("out", "loop", "gone", "..", "\0"):
        assert inside(tmp_path / "a", tmp_path / "a" / name) is None
    for name in ("", "/a", "../a", "a/../../b", "C:\\a", "\\\\server\\a", "..\\a", "a\0"):
        assert not stays_inside(name)
    assert stays_inside("a/b.c")


@pytest.mark.slow
def test_no_output_names_a_folder_or_the_host(tmp_path: Path) -> None:
    clips, out = tmp_path / "somebodys_clips", tmp_path / "out"
    write_clips(clips, 3, late=0.0)
    (clips / "broken.mp4").write_bytes(b"no clip")
    (clips / "empty.wav").write_bytes(b"")
    for path, name in ((out / "a.json", "a"), (clips / "b.json", "b")):
        words = ["score", clips, "--metrics", "temporal_flickering", "--out", path]
        assert main([*map(str, words), "--reference", str(clips), "--name", name, "--no-cache"]) == 0
    assert read(clips / "b.json").provenance["clips"] == "."
    assert read(out / "a.json").provenance["clips"] == "somebodys_clips"
    told = run("c", None, n_clips=2, notes=[f"sampled in {tmp_path}/x"], provenance={"clips": str(clips)})
    told = replace(told, clips=[replace(c, reasons={"m": f"{tmp_path}/x.mp4: broken"}) for c in told.clips])
    paths = [out / "a.json", clips / "b.json", told.write(out / "c.json")]
    assert main(["leaderboard", *map(str, paths), "--out", str(tmp_path / "board")]) == 0
    files = [str(tmp_path / name) for name in ("c.json", "c.md")]
    assert main(["compare", str(paths[0]), str(paths[1]), "--json", files[0], "--markdown", files[1]]) == 0
    shared = [*(tmp_path / "board").iterdir(), *map(Path, files), *out.glob("[ab]*"), *clips.glob("b.*")]
    assert len(shared) == 10
    for path in shared:
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content, path.name
        assert f"{Path.home()}/".encode() not in content, path.name
        if path.suffix in (".json", ".jsonl", ".md") and (host := socket.gethostname()) not in (
            "localhost",
            "",
        ):
            assert not re.search(rf"\b{re.escape(host)}\b", content.decode()), path.name
    page = (tmp_path / "board" / "leaderboard.html").read_text()
    assert "clips of a" in page  # which lie elsewhere, and are not shown unless they are named
    assert json.loads((tmp_path / "board" / "results.json").read_text())["arms"]
