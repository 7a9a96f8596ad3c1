"""From prompts to clips on the small Ovi: lengths, noise, first frames, options, what is read back from the file.

Clips are of one second; tests/sampling/test_sample_cli.py makes one of the released length.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from ovi_eval.clips.clip import read_clip
from ovi_eval.clips.picture import decode_video
from ovi_eval.clips.sound import decode_audio
from ovi_lab.checkpoints.presets import ReleasedModel, released_model
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings, Texts, noise_batch, sample
from ovi_lab.sampling.batch import record_of
from ovi_lab.sampling.bundle import released_formats
from ovi_lab.sampling.clip_files import read_record, write_clip, write_sheet
from ovi_lab.sampling.opening import open_bundle
from ovi_lab.sampling.pipeline import Clip, Options, OviPipeline, plan_request
from ovi_lab.sampling.requests import Request

LENGTH = 7 / 31
"""Of the released clips': 25 frames."""
SETTINGS = SamplerSettings(
    steps=2,
    video_guidance=4.0,
    audio_guidance=3.0,
    negative_video="jitter",
    negative_audio="echo",
    skip_layers=[11],
)


def load(folder: Path, settings: SamplerSettings = SETTINGS, **options: object) -> OviPipeline:
    return OviPipeline.load(open_bundle(folder, length=LENGTH), settings, Options(**options))  # type: ignore


@pytest.fixture(scope="module")
def pipeline(small_ovi: Path) -> OviPipeline:
    return load(small_ovi)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quiet picture of 48 rows and 96 columns, its right half red."""
    path = tmp_path_factory.mktemp("image") / "first.png"
    picture = Image.new("RGB", (96, 48), (20, 60, 120))
    picture.paste((200, 40, 30), (48, 0, 96, 48))
    picture.save(path)
    return path


@pytest.fixture(scope="module")
def clip(pipeline: OviPipeline) -> Clip:
    (made,) = pipeline.generate([Request("a", "a red ball <S>Hello.<E> Audio: rain", seed=3)])
    return made


@pytest.mark.slow
def test_a_clip_has_the_lengths_of_its_latents(clip: Clip) -> None:
    assert clip.video_latents.shape == (48, 7, 4, 4)
    assert clip.audio_latents.shape == (35, 20)
    assert clip.frames_THWC.shape == (25, 64, 64, 3)
    assert clip.frames_THWC.dtype == torch.uint8
    assert len(clip.wave_S) == round(25 / 24 * 16000)
    # noise, but neither flat nor clipped
    assert 20 < float(clip.frames_THWC.float().std()) < 120
    assert 60 < float(clip.frames_THWC.float().mean()) < 200
    assert 0.01 < float(clip.wave_S.std()) < 0.6
    assert float(clip.wave_S.abs().max()) <= 1


def test_the_file_decodes_to_the_same_clip(clip: Clip, pipeline: OviPipeline, tmp_path: Path) -> None:
    record = record_of(clip.plan, pipeline.parts.formats, SETTINGS, Options(), {"a.pth": "0f"})
    path = write_clip(
        tmp_path / "clip.mp4", clip.frames_THWC, clip.fps, clip.wave_S, clip.sample_rate, record
    )
    assert list(tmp_path.iterdir()) == [path]
    video, audio = decode_video(path), decode_audio(path)
    assert video.frames_THWC.shape == clip.frames_THWC.shape
    assert video.fps == 24
    assert float(video.times_T[-1]) == pytest.approx(1.0)
    # colours are stored at half size: of noise, the brightness is what stays
    light = torch.tensor([0.299, 0.587, 0.114])
    seen, made = ((f.float() @ light).flatten() for f in (video.frames_THWC, clip.frames_THWC))
    assert float(torch.corrcoef(torch.stack([seen, made]))[0, 1]) > 0.9
    # AAC comes in blocks of 1024; what the file says is the clip's
    assert 0 <= len(audio.wave_S) - len(clip.wave_S) < 1024
    assert len(read_clip(path).wave_S) == len(clip.wave_S)
    with av.open(str(path)) as container:
        kinds = {s.type: s for s in container.streams}
        assert kinds["video"].codec_context.name == "h264"
        assert kinds["video"].codec_context.pix_fmt == "yuv420p"
        assert kinds["audio"].codec_context.name == "aac"
        assert kinds["audio"].codec_context.sample_rate == 16000
        lengths = [float(s.duration * s.time_base) for s in container.streams]
        assert lengths == pytest.approx([25 / 24, 25 / 24], abs=2e-3)
        tags = container.metadata
    assert tags["prompt"] == "a red ball <S>Hello.<E> Audio: rain"
    assert tags["seed"] == "3"
    assert '"steps": 2' in tags["sampler"]
    assert tags["weights"] == '{"a.pth": "0f"}'
    assert read_record(path) == (record, True)


def test_a_file_that_lost_its_end_is_not_whole(clip: Clip, pipeline: OviPipeline, tmp_path: Path) -> None:
    record = record_of(clip.plan, pipeline.parts.formats, SETTINGS, Options(), {})
    path = tmp_path / "clip.mp4"
    write_clip(path, clip.frames_THWC, clip.fps, clip.wave_S, clip.sample_rate, record)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 9 // 10])
    assert read_record(path) == (record, False)
    for other in (b"", b"no clip", content[:200]):
        path.write_bytes(other)
        assert read_record(path) == (None, False)
    assert read_record(tmp_path / "none.mp4") == (None, False)


def test_the_latents_are_those_of_the_released_loop(pipeline: OviPipeline, clip: Clip) -> None:
    """The pipeline adds texts, noise and shapes to `sample`, whose numbers are held elsewhere."""
    prompts = ["a red ball <S>Hello.<E> Audio: rain", "jitter", "echo"]
    text, video, audio = (pipeline.parts.text([prompt])[0] for prompt in prompts)
    generator = torch.Generator().manual_seed(3)
    noise_v = torch.randn(48, 7, 4, 4, generator=generator)
    noise_a = torch.randn(35, 20, generator=torch.Generator().manual_seed(3))
    assert torch.equal(noise_batch([3], (35, 20), "audio", convention="reference")[0], noise_a)
    made = sample(
        pipeline.parts.towers,
        {"video": noise_v[None], "audio": noise_a[None]},
        Texts([text], [video], [audio]),
        SETTINGS,
    )
    assert made.video is not None
    assert made.audio is not None
    assert torch.equal(made.video[0], clip.video_latents)
    assert torch.equal(made.audio[0], clip.audio_latents)


def test_prompt_seed_negatives_and_size_each_make_another_clip(pipeline: OviPipeline, clip: Clip) -> None:
    base = clip.plan.request
    same, _ = pipeline.latents(pipeline.plan(base))
    assert torch.equal(same[0], clip.video_latents)
    for change in (
        {"prompt": "a blue ball"},
        {"seed": 4},
        {"negative_video": "calm"},
        {"negative_audio": "calm"},
    ):
        video, audio = pipeline.latents(pipeline.plan(dataclasses.replace(base, **change)))
        assert not torch.allclose(video[0], clip.video_latents, atol=1e-4), change
        assert not torch.allclose(audio[0], clip.audio_latents, atol=1e-5), change
    wide = pipeline.plan(dataclasses.replace(base, shape=(90, 160)))
    assert wide.size == (64, 96)
    assert wide.shapes["video"] == (48, 7, 4, 6)


def test_the_first_frame_is_the_image(pipeline: OviPipeline, image: Path) -> None:
    request = Request("i", "it moves", seed=1, image=image)
    plan = pipeline.plan(request)
    # the image's shape: nearest to the area of 64 x 64 with whole 32s, then aspect
    assert plan.size == (32, 96)
    held, clean = pipeline.given(plan)
    assert held.mask("video").tolist() == [[True, *[False] * 6]]
    given = clean["video"][:, :, :1]
    video, audio = pipeline.latents(plan)
    assert torch.equal(video[:, :, :1], given)
    assert float(video[:, :, 1:].std()) > 0.5
    free, _ = pipeline.latents(pipeline.plan(dataclasses.replace(request, image=None, shape=plan.size)))
    assert free.shape == video.shape
    assert not torch.allclose(free[:, :, 1:], video[:, :, 1:], atol=1e-3)
    # the decoder's first frame stands alone, so that it is the image as far as this VAE can tell
    frames, _ = pipeline.decode(video, audio)
    alone = pipeline.parts.video.decode(given)[0, 0]
    assert (frames[0].float() - alone.float()).abs().max() <= 1


def test_an_image_may_be_given_another_shape(pipeline: OviPipeline, image: Path) -> None:
    plan = pipeline.plan(Request("i", "it moves", image=image, shape=(64, 64)))
    assert plan.size == (64, 64)
    assert pipeline.given(plan)[1]["video"].shape[-2:] == (4, 4)


def test_options_change_no_clip_beyond_rounding(pipeline: OviPipeline, clip: Clip) -> None:
    plain = dataclasses.replace(SETTINGS, batch_passes=False, cache_text=False)
    for made in (
        OviPipeline(pipeline.parts, plain),
        OviPipeline(pipeline.parts, SETTINGS, Options(offload=True)),
    ):
        video, audio = made.latents(clip.plan)
        torch.testing.assert_close(video[0], clip.video_latents, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(audio[0], clip.audio_latents, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_half_precision_is_near_and_the_sound_codec_stays_float32(
    small_ovi: Path, pipeline: OviPipeline, clip: Clip
) -> None:
    unguided = dataclasses.replace(SETTINGS, video_guidance=1.0, audio_guidance=1.0)
    half, full = load(small_ovi, unguided, dtype="bf16"), OviPipeline(pipeline.parts, unguided)
    for found, wanted in zip(half.latents(clip.plan), full.latents(clip.plan), strict=True):
        assert float((found - wanted).norm() / wanted.norm()) < 5e-2
    assert {p.dtype for p in half.parts.video.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.parts.sound.vocoder.parameters()} == {torch.float32}


@pytest.mark.slow
def test_one_tile_changes_no_number(small_ovi: Path, clip: Clip) -> None:
    tiled = load(small_ovi, vae_tiling=True)
    frames, wave = tiled.decode(clip.video_latents[None], clip.audio_latents[None])
    assert frames.shape == clip.frames_THWC.shape
    assert (frames.float() - clip.frames_THWC.float()).abs().max() <= 1  # one tile holds 64 x 64
    assert torch.equal(wave, clip.wave_S)


def test_texts_are_embedded_once(pipeline: OviPipeline) -> None:
    fresh = OviPipeline(pipeline.parts, dataclasses.replace(SETTINGS, steps=1))
    calls: list[int] = []
    hook = fresh.parts.text.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    for request in (Request("a", "rain", 0), Request("a", "rain", 1), Request("b", "snow")):
        fresh.latents(fresh.plan(request))
    hook.remove()
    assert calls == [1, 1, 1, 1]


def test_latents_that_are_no_numbers_are_refused(pipeline: OviPipeline, clip: Clip) -> None:
    broken = clip.video_latents[None].clone()
    broken[0, 0, 5] = float("nan")
    with pytest.raises(UserError, match="video latents are not finite"):
        pipeline.decode(broken, clip.audio_latents[None])


@pytest.mark.parametrize("name", ["ovi_720x720_5s", "ovi_960x960_5s", "ovi_960x960_10s"])
def test_plans_of_the_real_models(name: str) -> None:
    preset: ReleasedModel = released_model(name)
    plan = plan_request(
        Request("a", "rain. <AUDCAP>drops<ENDAUDCAP>", shape=(9, 16)), released_formats(preset)
    )
    wanted = {"ovi_720x720_5s": (544, 960)}.get(name, (704, 1280))
    assert plan.size == wanted
    assert plan.frames == (241 if "10s" in name else 121)
    assert plan.shapes["video"] == (48, 61 if "10s" in name else 31, wanted[0] // 16, wanted[1] // 16)
    assert plan.shapes["audio"] == (314 if "10s" in name else 157, 20)
    assert plan.prompt.startswith("rain. <AUDCAP>" if "720" in name else "rain. Audio: ")


def test_a_sheet_shows_first_and_last(tmp_path: Path) -> None:
    frames = torch.arange(121, dtype=torch.uint8)[:, None, None, None].expand(121, 400, 800, 3).contiguous()
    with Image.open(write_sheet(tmp_path / "sheet.png", frames)) as sheet:
        assert sheet.size == (4 * 320, 3 * 160)
        assert sheet.getpixel((5, 5)) == (0, 0, 0)
        assert sheet.getpixel((4 * 320 - 5, 3 * 160 - 5)) == (120, 120, 120)
    with Image.open(write_sheet(tmp_path / "two.png", frames[:2, :40, :40])) as sheet:
        assert sheet.size == (80, 40)
