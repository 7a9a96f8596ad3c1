"""Clips one by one: ids, captions, what belongs together, what they are made of."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from helpers.media_makers import clip
from helpers.small_metrics import Loudness, write_clips
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import find_items, items_in, reason_of
from ovi_eval.errors import UserError
from ovi_eval.scoring.runner import score_items


def write_sound(path: Path, level: float = 0.5) -> Path:
    soundfile.write(path, np.full(8000, level), 16000)
    return path


def test_clips_of_a_folder_and_below(tmp_path: Path) -> None:
    write_clips(tmp_path / "b", 2)
    write_clips(tmp_path, 1)
    write_sound(tmp_path / "z.wav")
    (tmp_path / ".hidden").mkdir()
    write_sound(tmp_path / ".hidden" / "h.wav")
    (tmp_path / "notes.md").write_text("")
    (tmp_path / "b" / "c01.txt").write_text("in a text file")
    (tmp_path / "captions.csv").write_text("id,caption\nc00,from the table\nb/c00.mp4,below\n")
    items = items_in(tmp_path)
    assert [item.id for item in items] == ["b/c00", "b/c01", "c00", "z"]
    assert [item.caption for item in items] == ["below", "in a text file", "from the table", ""]
    assert items[0].name == "c00.mp4"
    (tmp_path / "c00.txt").write_text("beside it")
    assert [(item.id, item.caption) for item in items_in(tmp_path / "c00.mp4")] == [("c00", "from the table")]
    assert [item.caption for item in items_in(tmp_path, {"z": "given"})][-1] == "given"


def test_links_are_followed_and_broken_ones_count_as_missing(tmp_path: Path) -> None:
    """A linked folder's clips are scored; a clip that is not there is missing with its reason."""
    folder = tmp_path / "set"
    write_clips(folder / "one", 1)
    write_clips(tmp_path / "two", 1)
    (folder / "two").symlink_to(tmp_path / "two")
    (folder / "again").symlink_to(tmp_path / "two")
    (folder / "c.mp4").symlink_to(tmp_path / "gone.mp4")
    (folder / "notes.md").write_text("")
    (folder / "one/c00.txt").write_text("a ball")
    found = find_items(folder)
    assert [(item.id, item.failed) for item in found.items] == [
        ("again/c00", None),
        ("c", "is a broken link"),
        ("one/c00", None),
    ]
    assert found.notes == [
        "1 file ignored (1 .md), 1 broken link: c.mp4, 1 link to a folder that is read already: two"
    ]
    scored = score_items(found.items, None, [Loudness])
    assert scored.values["loudness"].coverage == pytest.approx(2 / 3)
    assert scored.failed == {1: "is a broken link"}


def test_ids_are_the_same_in_both_forms_of_unicode(tmp_path: Path) -> None:
    write_clips(tmp_path, 1)
    (tmp_path / "c00.mp4").rename(tmp_path / "cafe\u0301.mp4")
    (item,) = items_in(tmp_path, {"caf\u00e9": "coffee"})
    assert (item.id, item.caption) == ("caf\u00e9", "coffee")
    assert item.video().frames_THWC.shape[0]


def test_a_sound_file_beside_is_heard_only_where_the_picture_has_none(tmp_path: Path) -> None:
    write_clips(tmp_path, 1)
    write_sound(tmp_path / "c00.wav", 0.9)
    clip(tmp_path / "mute.mp4", seconds=0.5, audio=None)
    write_sound(tmp_path / "mute.wav", 0.5)
    loud, mute = items_in(tmp_path)
    assert float(loud.audio(16000).wave_S.max()) < 0.2
    assert float(mute.audio(16000).wave_S.mean()) == pytest.approx(0.5, abs=1e-3)
    assert int(mute.pcm16(16000)[100]) == 16384
    before = mute.content()
    write_sound(tmp_path / "mute.wav", 0.4)
    assert items_in(tmp_path)[1].content() != before
    (tmp_path / "mute.wav").unlink()
    with pytest.raises(UserError, match=r"mute\.mp4: has no sound stream"):
        items_in(tmp_path)[1].audio()


def test_what_is_decoded_is_kept_until_released(tmp_path: Path) -> None:
    item = items_in(write_clips(tmp_path, 1))[0]
    assert item.video() is item.video()
    assert item.audio(8000) is item.audio(8000)
    assert item.audio(8000) is not item.audio(16000)
    kept = item.video()
    item.release()
    assert item.video() is not kept
    assert torch.equal(item.video().frames_THWC, kept.frames_THWC)


def test_rows_of_a_tensor_file_are_clips_too(tmp_path: Path) -> None:
    frames = torch.randint(0, 255, (2, 4, 8, 8, 3), dtype=torch.uint8)
    clips = ClipSet(
        ["a", "b"], ["one", "two"], frames, 8.0, torch.rand(2, 4000), 8000, [{}, {"failed": "lost"}]
    )
    clips.save(tmp_path / "clips.safetensors")
    for path in (tmp_path, tmp_path / "clips.safetensors"):
        first, second = items_in(path)
        assert (first.id, first.caption, first.failed, second.failed) == ("a", "one", None, "lost")
        assert torch.equal(first.video().frames_THWC, frames[0])
        assert len(first.audio(16000).wave_S) == 8000
        assert first.pcm16(8000).dtype == np.int16
        assert first.content() != second.content()


def test_folders_without_clips_or_with_unclear_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        items_in(tmp_path / "gone")
    with pytest.raises(UserError, match=r"holds no clips\.safetensors and no clip"):
        items_in(tmp_path)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(UserError, match="is no clip; name a folder"):
        items_in(tmp_path / "x.txt")
    write_sound(tmp_path / "a.wav")
    soundfile.write(tmp_path / "a.flac", np.zeros(100), 16000)
    with pytest.raises(UserError, match=r"a\.flac and a\.wav have the same id a; keep one"):
        items_in(tmp_path)
    (tmp_path / "a.flac").unlink()
    with pytest.raises(UserError, match="the captions name b, the clips are a"):
        items_in(tmp_path, {"b": "text"})


def test_a_file_whose_name_is_not_utf8_is_reported(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    write_sound(tmp_path / "a.wav").rename(path)
    with pytest.raises(UserError, match=r"caf\\udce9\.wav: its name is not UTF-8; rename it") as error:
        items_in(path)
    assert str(error.value).encode()
    write_sound(tmp_path / "b.wav")
    lost, good = sorted(items_in(tmp_path), key=lambda item: item.failed is None)
    assert (lost.id, lost.failed, good.failed) == ("caf\\udce9", "its name is not UTF-8; rename it", None)


def test_reasons_leave_the_clips_name_out(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav")
    item = items_in(tmp_path)[0]
    assert reason_of(UserError(f"{tmp_path / 'a.wav'}: is\n broken"), item) == "is broken"
    assert reason_of(UserError("a.wav: is broken"), item) == "is broken"
