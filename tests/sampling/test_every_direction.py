"""Clips of which files give a part, from request to mp4: what is kept to the sample, what is made, and a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers import media_makers
from helpers.given_clips import FPS, FRAMES, LENGTH, RATE, TOKEN, moving, request_of, write_files
from ovi_eval.cli import main as score
from ovi_eval.clips.clip import read_clip
from ovi_eval.clips.writing import write_mp4
from ovi_eval.results.reading import read
from ovi_lab.data.decode import MediaClip, json_bytes, read_media
from ovi_lab.data.media_format import MediaFormat
from ovi_lab.flow import SamplerSettings
from ovi_lab.sampling.batch import record_of
from ovi_lab.sampling.clip_files import read_record
from ovi_lab.sampling.clip_files import write_clip as write_made
from ovi_lab.sampling.given_media import CROSS_FADE
from ovi_lab.sampling.opening import open_bundle
from ovi_lab.sampling.pipeline import OviPipeline
from ovi_lab.sampling.requests import Request

SETTINGS = SamplerSettings(steps=1, video_guidance=1.0, audio_guidance=1.0)
QUICK = ["sampler.steps=1", "sampler.video_guidance=1", "sampler.audio_guidance=1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def pipeline(small_ovi: Path) -> OviPipeline:
    return OviPipeline.load(open_bundle(small_ovi, length=LENGTH), SETTINGS)


def as_training_reads(file: Path, frames: int, size: tuple[int, int]) -> MediaClip:
    """By the reader of shards: a clip's file as a sample's member."""
    members = {"mp4": file.read_bytes(), "json": json_bytes({"caption": "x"})}
    return read_media(members, MediaFormat(frames, *size, FPS, RATE))


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


@pytest.mark.slow
def test_a_batch_of_all_modes_is_made_and_resumed(
    typed, small_ovi: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """One row cannot be made; a file that has changed makes another clip. All are scored as any clips are, the long one
    too."""
    for name in ("long", "short", "silent"):
        (tmp_path / f"{name}.mp4").write_bytes(files[name].read_bytes())
    lines = [
        "text_prompt,id,video_path,audio_path,start_path,clip_path,redo,seconds",
        "a,sound,silent.mp4,,,,,",
        "c,on,,,short.mp4,,,",
        "d,part,,,,long.mp4,audio:0.3-0.6,",
        "e,mute,,silent.mp4,,,,",
        "f ||| g,longer,,,,,,1.6",
    ]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    command = (f"checkpoint={small_ovi}", "prompts=p.csv", "variants=2", f"length={LENGTH}", *QUICK)
    code, out, err = typed(*command)
    assert code == 2
    assert len(out.splitlines()) == 8
    assert err.count("the given sound silent.mp4 has no sound") == 2
    assert err.count("sound: picture of silent.mp4 is given from 0.00 to 1.04 s (30 to 24 frames/s") == 1
    record, whole = read_record(tmp_path / "clips/part_seed1.mp4")
    assert whole
    assert record["given"] == {"video": "long.mp4", "audio": "long.mp4"}
    assert record["given_seconds"] == {"video": [[0.0, 1.0417]], "audio": [[0.0, 0.288], [0.608, 1.0417]]}
    code, out, _ = typed(*command)
    assert (code, out.count("finished before")) == (2, 8)
    metrics = ("temporal_flickering", "av_align_javis")
    assert score(["score", "clips", "--metrics", ",".join(metrics), "--out", "s.json", "--no-cache"]) == 0
    scored = {clip.id: clip for clip in read("s.json").clips}
    assert {"sound_seed0", "longer_seed0"} <= scored.keys()
    assert all(isinstance(clip.values[name], float) for clip in scored.values() for name in metrics)
    assert len(read_clip(tmp_path / "clips/longer_seed0.mp4").frames_THWC) == 37
    media_makers.clip(tmp_path / "short.mp4", seconds=0.6, fps=30, rate=44100, picture=moving)  # with clicks
    code, out, err = typed(*command)
    assert (code, out.count("finished before")) == (2, 6)
    assert "on_seed0.mp4 was made with another given_sha256" in err
    code, out, err = typed(*command, "keep_given=false")
    assert out.count("finished before") == 2  # of which nothing is given
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
