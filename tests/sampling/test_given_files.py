"""Files that are given of a clip, before any weights are loaded: which seconds are kept, how borders join, what is
refused."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import media_makers
from helpers.given_clips import FPS, FRAMES, RATE, TOKEN, request_of, short_formats, write_files
from helpers.made_clips import clicks, flashes, write_clip, write_wav
from ovi_lab.errors import UserError
from ovi_lab.sampling.bundle import Formats
from ovi_lab.sampling.given_files import parse_redo
from ovi_lab.sampling.given_media import CROSS_FADE, GivenMedia, put_back, read_given
from ovi_lab.sampling.given_plan import plan_given
from ovi_lab.sampling.pipeline import plan_request
from ovi_lab.sampling.requests import check_request, read_requests


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def formats() -> Formats:
    return short_formats()


def test_a_border_does_not_click(formats: Formats, files: dict[str, Path]) -> None:
    """A tone of the file meets the same tone of the codec, fainter and shifted; without a cross-fade it jumps."""
    given = plan_given(request_of(files, {"clip": "long", "redo": "audio:0.3-0.6"}), formats)
    times_S = torch.arange(formats.samples) / RATE
    own, made = torch.sin(2 * math.pi * 220 * times_S), 0.6 * torch.sin(2 * math.pi * 220 * times_S + 1.5)
    frames = torch.zeros(FRAMES, 4, 4, 3, dtype=torch.uint8)
    shown, heard = put_back(GivenMedia(frames + 9, own), given, formats, frames, made)
    assert bool((shown == 9).all())
    first, last, fade = 9 * TOKEN, 19 * TOKEN, round(CROSS_FADE * RATE)
    steps = heard.diff().abs()
    cut = torch.cat([own[:first], made[first:last], own[last:]]).diff().abs()
    assert float(cut.max()) > 5 * float(own.diff().abs().max())
    assert float(steps.max()) < 1.2 * float(own.diff().abs().max())
    assert torch.equal(heard[: first - fade], own[: first - fade])
    assert torch.equal(heard[first:last], made[first:last])
    assert torch.equal(heard[last + fade :], own[last + fade :])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"video": "silent", "audio": "long"}, "video and audio are both given whole, and nothing is left to make"),
        ({"video": "silent", "start": "short"}, "video and start are both given: give one of"),
        ({"clip": "long"}, "clip is given without the part that is made anew: give redo=audio:1.5-3.0"),
        ({"redo": "audio:0-1"}, "redo is given without the clip"),
        ({"video": "voice"}, "the given video voice.wav has no picture"),
        ({"audio": "silent"}, "the given sound silent.mp4 has no sound"),
        ({"start": "silent"}, "the given beginning silent.mp4 has no sound"),
        ({"clip": "voice", "redo": "audio:0-1"}, "the clip to redo voice.wav has no picture"),
        ({"video": "short"}, "and the clip 1.04 s: give a longer file, or make the clip shorter with length=0.129"),
        ({"audio": "wav of 0.5 s"}, "the sound of the given sound half.wav lasts 0.50 s and the clip 1.04 s"),
        ({"start": "long"}, "lasts 2.00 s and the clip 1.04 s, so that nothing is left to make"),
        ({"clip": "long", "redo": "audio:0.5-1.1"}, "redo=audio:0.5-1.1 lies outside of the clip, which has 1.04 s"),
        ({"clip": "long", "redo": "both:0-1.04"}, "redo=both:0-1.04 leaves nothing of the clip"),
        ({"video": "text"}, "the given video text.mp4: cannot be decoded"),
        ({"video": "cut"}, "the given video half_long.mp4: cannot be decoded"),
        ({"video": "strip"}, "strip.mp4 is 16x96 (height x width), 6.0 times as long as wide"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_one_line(
    formats: Formats, files: dict[str, Path], tmp_path: Path, fields: dict[str, str], said: str
) -> None:
    own = dict(files)
    if fields.get("video") == "text":
        own["text"] = tmp_path / "text.mp4"
        own["text"].write_text("no video")
    elif fields.get("video") == "cut":
        own["cut"] = media_makers.half(files["long"])
    elif fields.get("video") == "strip":
        strip = np.zeros((16, 96, 3), np.uint8)
        own["strip"] = media_makers.clip(
            tmp_path / "strip.mp4", seconds=1.2, audio=None, picture=lambda _: strip
        )
    elif fields.get("audio", "").startswith("wav"):
        own[fields["audio"]] = write_wav(tmp_path / "half.wav", np.ones(8000, np.int16))
    with pytest.raises(UserError) as error:
        plan_request(check_request(request_of(own, fields)), formats)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "audio", "audio:1", "audio:2-1", "sound:1-2", "audio:-1-2", "audio:1-2-3", "audio:1s-2s"]
)
def test_a_malformed_redo_is_one_line(text: str) -> None:
    with pytest.raises(
        UserError, match=r"redo=.*(is not understood|ends before it begins).*redo=audio:1.5-3.0"
    ):
        parse_redo(text)


def test_a_model_of_one_modality_takes_what_it_makes(formats: Formats, files: dict[str, Path]) -> None:
    sound = replace(formats, shapes={"audio": formats.shapes["audio"]}, area=None)
    for fields, said in (
        ({"video": "long"}, "makes no picture: leave out video"),
        ({"audio": "long"}, "makes no more than the sound, and all of it is given"),
        ({"clip": "voice", "redo": "video:0-1"}, "makes no picture"),
    ):
        with pytest.raises(UserError, match=said):
            plan_given(request_of(files, fields), sound)
    for fields, spans in (
        ({"clip": "voice", "redo": "audio:0.3-0.6"}, ((0, 9), (19, 35))),
        ({"start": "short"}, ((0, 18),)),
    ):
        given = plan_given(request_of(files, fields), sound)
        assert given.video is None
        assert given.audio.spans == spans


def test_what_is_done_to_a_file_is_told(formats: Formats, files: dict[str, Path]) -> None:
    given = plan_given(request_of(files, {"clip": "long", "redo": "audio:0.3-0.6"}), formats)
    assert given.lines() == [
        "picture of long.mp4 is given from 0.00 to 1.04 s (30 to 24 frames/s; cut from 2.00 to 1.04 s)",
        "sound of long.mp4 is given from 0.00 to 0.29 s and 0.61 to 1.04 s (44100 to 16000 Hz; cut from 2.00 to "
        "1.04 s)",
    ]
    faint = plan_given(
        request_of(
            {"late": write_wav(files["voice"].with_name("late.wav"), np.ones(12000))}, {"audio": "late"}
        ),
        formats,
    )
    assert faint.lines() == [
        "sound of late.wav is given from 0.00 to 1.04 s (0.29 s of silence where it has no sound)"
    ]


@pytest.mark.parametrize(
    "fields", [{"clip": "late", "redo": "audio:0.9-1"}, {"audio": "late"}, {"start": "late"}]
)
def test_the_clip_begins_with_the_files_first_frame(
    formats: Formats, tmp_path: Path, fields: dict[str, str]
) -> None:
    """Also where its sound alone is given: picture and sound stay together."""
    length = 0.9 if "start" in fields else 2.0
    late = write_clip(
        tmp_path / "a.mp4", length, (0.6,), picture_start=0.25, sound_start=0.1, sound_seconds=length + 0.2
    )
    given = plan_given(request_of({"late": late}, fields), formats)
    media = read_given(given, formats, (48, 64))
    assert clicks(media.wave_S, RATE) == pytest.approx([0.35], abs=0.01)
    if media.frames_THWC is not None:
        assert flashes(media.frames_THWC, FPS) == pytest.approx([0.375])  # the first frame at or after 0.35 s
        assert media.frames_THWC.shape[1:3] == (48, 64)


def test_tables_of_prompts_name_given_files(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "media").symlink_to(files["long"].parent)
    rows = [
        {"video_path": "media/silent.mp4", "aspect": "1:1"},
        {"audio_path": "media/voice.wav"},
        {"start_path": "media/short.mp4"},
        {"clip_path": "media\\long.mp4", "redo": "both:0.5-1"},
        {"video_path": "media/none.mp4"},
        {"clip_path": "media/long.mp4"},
        {"clip_path": "media/long.mp4", "redo": "early"},
    ]
    names = ["text_prompt", "video_path", "audio_path", "start_path", "clip_path", "redo", "aspect"]
    with (tmp_path / "p.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({"text_prompt": "x", **row} for row in rows)
    requests, bad = read_requests(tmp_path / "p.csv", shape=(9, 16))
    found = [(r.video, r.audio, r.start, r.clip, r.redo, r.shape) for r in requests]
    folder = tmp_path / "media"
    assert found == [
        (folder / "silent.mp4", None, None, None, None, (1000, 1000)),
        (None, folder / "voice.wav", None, None, None, (9, 16)),
        (None, None, folder / "short.mp4", None, None, None),
        (None, None, None, folder / "long.mp4", parse_redo("both:0.5-1"), None),
    ]
    for row, said in zip(
        bad, ("no file at", "without the part", "redo=early is not understood"), strict=True
    ):
        assert said in row.reason
        assert row.reason.startswith("p.csv row ")
