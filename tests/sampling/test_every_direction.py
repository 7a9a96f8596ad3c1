"""Clips of which files give a part: what is kept to the sample, what is made, how borders join, what is refused."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import media_makers
from helpers.made_clips import clicks, flashes, write_clip, write_wav
from ovi_eval.clips.clip import read_clip
from ovi_eval.clips.writing import write_mp4
from ovi_lab.checkpoints.presets import released_model
from ovi_lab.data.decode import MediaClip, json_bytes, read_media
from ovi_lab.data.media_format import MediaFormat
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.sampling.batch import record_of
from ovi_lab.sampling.bundle import Formats, lengthened, released_formats
from ovi_lab.sampling.clip_files import read_record
from ovi_lab.sampling.clip_files import write_clip as write_made
from ovi_lab.sampling.given_files import parse_redo
from ovi_lab.sampling.given_media import CROSS_FADE, GivenMedia, put_back, read_given
from ovi_lab.sampling.given_plan import plan_given
from ovi_lab.sampling.opening import open_bundle
from ovi_lab.sampling.pipeline import OviPipeline, plan_request
from ovi_lab.sampling.requests import Request, check_request, read_requests

LENGTH = 7 / 31
"""Of the released clips': 25 frames in 7 latent frames, 35 tokens of 512 samples."""
FRAMES, TOKEN, RATE, FPS = 25, 512, 16000, 24
SETTINGS = SamplerSettings(steps=1, video_guidance=1.0, audio_guidance=1.0)
QUICK = ["sampler.steps=1", "sampler.video_guidance=1", "sampler.audio_guidance=1"]


def moving(time: float) -> np.ndarray:
    """A smooth picture of 48 rows and 96 columns, another one at each moment."""
    y, x = np.mgrid[0:48, 0:96] / 80.0
    shades = [np.sin(3 * x + 2 * time), np.cos(2 * y - time), np.sin(x + y + 3 * time)]
    return ((np.stack(shades, -1) * 0.45 + 0.5) * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Clips of 30 frames and 44,100 samples a second, each with a chord: of 2 s, of 0.6 s, without sound; and a wav."""
    folder = tmp_path_factory.mktemp("files")
    times_S = np.arange(2 * 44100) / 44100
    chord_CS = sum(0.2 * np.sin(2 * np.pi * hz * times_S) for hz in (220, 331, 457))[None].astype(np.float32)
    about: dict[str, Any] = {"fps": 30, "rate": 44100, "picture": moving}
    write_wav(folder / "voice.wav", (chord_CS[0, ::2] * 32767).astype(np.int16), 22050)
    return {
        "long": media_makers.clip(folder / "long.mp4", seconds=2.0, wave_CS=chord_CS, **about),
        "short": media_makers.clip(folder / "short.mp4", seconds=0.6, wave_CS=chord_CS[:, :26460], **about),
        "silent": media_makers.clip(folder / "silent.mp4", seconds=2.0, audio=None, **about),
        "voice": folder / "voice.wav",
    }


@pytest.fixture(scope="module")
def pipeline(small_ovi: Path) -> OviPipeline:
    return OviPipeline.load(open_bundle(small_ovi, length=LENGTH), SETTINGS)


@pytest.fixture(scope="module")
def formats() -> Formats:
    short = released_formats(lengthened(released_model("ovi_720x720_5s"), LENGTH))
    return replace(short, length=LENGTH)


def as_training_reads(file: Path, frames: int, size: tuple[int, int]) -> MediaClip:
    """By the reader of shards: a clip's file as a sample's member."""
    members = {"mp4": file.read_bytes(), "json": json_bytes({"caption": "x"})}
    return read_media(members, MediaFormat(frames, *size, FPS, RATE))


def request_of(files: dict[str, Path], fields: dict[str, str], **more: Any) -> Request:
    named: dict[str, Any] = {k: parse_redo(v) if k == "redo" else files[v] for k, v in fields.items()}
    return Request("a", "it moves", seed=2, **named, **more)


MODES = [
    ({"video": "silent"}, {"video": [(0, 7)]}),
    ({"audio": "long"}, {"audio": [(0, 35)]}),
    ({"start": "short"}, {"video": [(0, 4)], "audio": [(0, 16)]}),
    ({"clip": "long", "redo": "audio:0.3-0.6"}, {"video": [(0, 7)], "audio": [(0, 9), (19, 35)]}),
    ({"clip": "long", "redo": "both:0-0.5"}, {"video": [(4, 7)], "audio": [(16, 35)]}),
    ({"clip": "long", "redo": "video:0.8-1.04"}, {"video": [(0, 5)], "audio": [(0, 35)]}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("fields", "spans"), MODES)
def test_what_is_given_stays_and_the_rest_is_made(
    pipeline: OviPipeline,
    files: dict[str, Path],
    tmp_path: Path,
    fields: dict[str, str],
    spans: dict[str, list[tuple[int, int]]],
) -> None:
    plan = pipeline.plan(request_of(files, fields))
    assert plan.size == ((64, 64) if "audio" in fields else (32, 96))
    assert {m: list(part.spans) for m, part in plan.given.parts.items()} == spans
    clip = pipeline.make(plan)
    assert clip.frames_THWC.shape == (FRAMES, *plan.size, 3)
    assert clip.wave_S.shape == (round(FRAMES / FPS * RATE),)

    # before the file is encoded: what training reads of the same file, to the last bit
    begins = "start" in fields
    read = as_training_reads(files["short" if begins else "long"], 13 if begins else FRAMES, plan.size)
    kept_T = torch.zeros(FRAMES, dtype=torch.bool)
    for first, end in spans.get("video", []):
        kept_T[max(0, 4 * first - 3) : 4 * end - 3] = True
        frames = slice(max(0, 4 * first - 3), 4 * end - 3)
        assert torch.equal(clip.frames_THWC[frames], read.frames_THWC[frames])
    fade = round(CROSS_FADE * RATE)
    for first, end in spans.get("audio", []):
        until = len(clip.wave_S) if end == 35 else end * TOKEN - fade
        samples = slice(first * TOKEN + fade * (first > 0), until)
        assert torch.equal(clip.wave_S[samples], read.wave_S[samples])
        assert float(clip.wave_S[samples].std()) > 0.1
    if "video" in spans and not kept_T.all() and not begins:
        assert not (clip.frames_THWC == read.frames_THWC)[~kept_T].all((1, 2, 3)).any()

    # latents: the codec's of the same media, and others where they are made
    if not begins:
        whole = {"video": pipeline.parts.video.encode(read.frames_THWC[None])[0].transpose(0, 1)}
        # tokens of 1.12 s: MMAudio's encoder attends to all of a sound, so that its length changes every token
        sound_S = as_training_reads(files["long"], 27, plan.size).wave_S[: 35 * TOKEN]
        whole["audio"] = pipeline.parts.sound.encode(sound_S[None])[0]
        made = {"video": clip.video_latents.transpose(0, 1), "audio": clip.audio_latents}
        for modality, part in plan.given.parts.items():
            mask_N = torch.from_numpy(part.mask[0])
            off_N = (made[modality] - whole[modality]).flatten(1).abs().amax(1)
            assert float(off_N[mask_N].max()) < 1e-3
            assert part.whole or float(off_N[~mask_N].min()) > 1e-2

    # in the mp4, as far as H.264 keeps it, with sound and picture of the right length
    record = record_of(plan, pipeline.parts.formats, SETTINGS, pipeline.options, {})
    path = write_made(tmp_path / "c.mp4", clip.frames_THWC, clip.fps, clip.wave_S, clip.sample_rate, record)
    found = read_clip(path)
    assert found.frames_THWC.shape == clip.frames_THWC.shape
    assert found.wave_S.shape == clip.wave_S.shape
    off_T = (found.frames_THWC.float() - clip.frames_THWC.float()).abs().mean((1, 2, 3))
    assert not kept_T.any() or float(off_T[kept_T].max()) < 4
    assert read_record(path) == (record, True)
    assert {m: len(digest) for m, digest in record["given_sha256"].items()} == dict.fromkeys(spans, 64)
    assert record.get("redo") == (str(plan.request.redo) if "redo" in fields else None)


@pytest.mark.slow
def test_through_the_codec_where_that_is_asked(pipeline: OviPipeline, files: dict[str, Path]) -> None:
    kept, coded = (
        pipeline.make(pipeline.plan(request_of(files, {"start": "short"}, keep_given=keep)))
        for keep in (True, False)
    )
    assert torch.equal(kept.video_latents, coded.video_latents)
    assert not (kept.frames_THWC == coded.frames_THWC)[:13].all((1, 2, 3)).any()
    assert torch.equal(kept.frames_THWC[13:], coded.frames_THWC[13:])
    assert torch.equal(kept.wave_S[16 * TOKEN :], coded.wave_S[16 * TOKEN :])
    frames, wave = pipeline.decode(coded.video_latents[None], coded.audio_latents[None])
    assert torch.equal(frames, coded.frames_THWC)
    assert torch.equal(wave, coded.wave_S)


@pytest.mark.slow
def test_what_is_made_follows_what_is_given(
    pipeline: OviPipeline, files: dict[str, Path], tmp_path: Path
) -> None:
    """An image beside a given sound is the first frame, and each of them changes the picture."""
    Image.fromarray(moving(0.0)).save(tmp_path / "first.png")
    image = {"image": tmp_path / "first.png", "shape": (32, 96)}
    clips = [
        pipeline.latents(pipeline.plan(Request("a", "x", seed=2, **fields)))
        for fields in (
            {**image},
            {**image, "audio": files["long"]},
            {"audio": files["long"], "shape": (32, 96)},
        )
    ]
    assert torch.equal(clips[0][0][:, :, :1], clips[1][0][:, :, :1])
    assert torch.equal(clips[1][1], clips[2][1])
    for one, other in ((0, 1), (1, 2)):
        assert float((clips[one][0] - clips[other][0])[:, :, 1:].abs().amax((0, 1, 3, 4)).min()) > 1e-3


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


@pytest.mark.slow
def test_a_batch_of_all_modes_is_made_and_resumed(
    typed, small_ovi: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """One row cannot be made; a file that has changed makes another clip."""
    for name in ("long", "short", "silent"):
        (tmp_path / f"{name}.mp4").write_bytes(files[name].read_bytes())
    lines = [
        "text_prompt,id,video_path,audio_path,start_path,clip_path,redo",
        "a,sound,silent.mp4,,,,",
        "c,on,,,short.mp4,,",
        "d,part,,,,long.mp4,audio:0.3-0.6",
        "e,mute,,silent.mp4,,,",
    ]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    command = (f"checkpoint={small_ovi}", "prompts=p.csv", "variants=2", f"length={LENGTH}", *QUICK)
    code, out, err = typed(*command)
    assert code == 2
    assert len(out.splitlines()) == 6
    assert err.count("the given sound silent.mp4 has no sound") == 2
    assert err.count("sound: picture of silent.mp4 is given from 0.00 to 1.04 s (30 to 24 frames/s") == 1
    record, whole = read_record(tmp_path / "clips/part_seed1.mp4")
    assert whole
    assert record["given"] == {"video": "long.mp4", "audio": "long.mp4"}
    assert record["given_seconds"] == {"video": [[0.0, 1.0417]], "audio": [[0.0, 0.288], [0.608, 1.0417]]}
    code, out, _ = typed(*command)
    assert (code, out.count("finished before")) == (2, 6)
    media_makers.clip(tmp_path / "short.mp4", seconds=0.6, fps=30, rate=44100, picture=moving)  # with clicks
    code, out, err = typed(*command)
    assert (code, out.count("finished before")) == (2, 4)
    assert "on_seed0.mp4 was made with another given_sha256" in err
    code, out, err = typed(*command, "keep_given=false")
    assert out.count("finished before") == 0
    assert "was made with another keep_given: overwrite=true makes it again" in err


@pytest.mark.slow
def test_real_clips_in_every_direction(typed, small_ovi: Path, shared_dir: Path, tmp_path: Path) -> None:
    """From prompt to mp4 with the whole command, at half of the released length."""
    clips = shared_dir / "clips"
    lines = [
        "text_prompt,id,video_path,audio_path,start_path,clip_path,redo",
        f"a,sound,{clips}/ovi/man_red_1504x608.mp4,,,,",
        f"b,picture,,{clips}/latentsync/demo1_audio.wav,,,",
        f"c,on,,,{tmp_path}/start.mp4,,",
        f"d,part,,,,{clips}/mova/mova_624x352.mp4,both:0.5-1.5",
    ]
    beginning = read_clip(clips / "ltx2/ltx2.mp4")
    wave_S = beginning.wave_S[: beginning.sample_rate]
    write_mp4(tmp_path / "start.mp4", beginning.frames_THWC[:24], 24, wave_S, beginning.sample_rate)
    (tmp_path / "p.csv").write_text("\n".join(lines))
    code, _, err = typed(f"checkpoint={small_ovi}", "prompts=p.csv", f"length={16 / 31}", *QUICK)
    assert code == 0, err
    for name in ("sound", "picture", "on", "part"):
        found = read_clip(tmp_path / f"clips/{name}_seed0.mp4")
        assert len(found.frames_THWC) == 61
        assert len(found.wave_S) == round(61 / 24 * 16000)
        assert float(found.wave_S.std()) > 1e-3
