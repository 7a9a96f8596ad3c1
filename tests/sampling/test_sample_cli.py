"""`ovi-sample` as it is typed: released models from prompt to mp4, batches that are resumed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from helpers.forks import ranks, run_module
from ovi_eval.clips.clip import read_clip
from ovi_eval.clips.picture import decode_video
from ovi_lab.common.command_line import check
from ovi_lab.common.paths import config_dir
from ovi_lab.flow import SamplerSettings
from ovi_lab.sampling.arguments import hydra_arguments
from ovi_lab.sampling.batch import plan_rows
from ovi_lab.sampling.clip_files import read_record
from ovi_lab.sampling.opening import open_bundle
from ovi_lab.sampling.requests import Request

QUICK = ["sampler.steps=1", "sampler.video_guidance=1", "sampler.audio_guidance=1", "length=0.2"]


def only_line(err: str) -> str:
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.slow
def test_a_prompt_becomes_a_clip_with_the_released_settings(typed, small_ovi: Path) -> None:
    """The settings' fifty steps take most of a minute at the full number of blocks: one step stands for them."""
    prompt = (
        'It\'s raining; a man says <S>Hello, world!<E> (softly) [1] ${x} {y} \\. Audio: soft rain, "wind"'
    )
    code, out, err = typed(f"checkpoint={small_ovi}", f"prompt={prompt}", "sampler.steps=1", "preview=true")
    assert code == 0, err
    path = Path(out.strip())
    said, following = err.splitlines()[-2:]
    assert said == "1 clip in clips, 1 of them new"
    assert following == "next: ovi-eval score clips --out clips/results.json"
    assert path.name == "It_s_raining__a_man_says_Hello__world___softly___1_seed0.mp4"
    record, whole = read_record(path)
    assert whole
    assert record["prompt"] == prompt
    assert record["sampler"] == {
        "solver": "unipc", "steps": 1, "shift": 5.0, "video_guidance": 4.0, "audio_guidance": 3.0,
        "skip_layers": [11],
    }  # fmt: skip
    assert record["negative_video"] == "jitter, bad hands, blur, distortion"
    assert record["negative_audio"] == "robotic, muffled, echo, distorted"
    assert len(record["weights"]) == 5
    assert all(len(digest) == 64 for digest in record["weights"].values())
    assert decode_video(path).frames_THWC.shape == (121, 64, 64, 3)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].duration * container.streams.audio[0].time_base == pytest.approx(
            121 / 24, abs=1e-3
        )
    with Image.open(path.with_suffix(".png")) as sheet:
        assert sheet.size == (4 * 64, 3 * 64)
    assert {p.suffix for p in path.parent.iterdir()} == {".mp4", ".png", ".jsonl"}


@pytest.mark.slow
def test_an_image_becomes_a_clips_first_frame(typed, small_ovi: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 50), (250, 20, 20)).save(tmp_path / "it's, red.png")
    code, out, err = typed(
        f"checkpoint={small_ovi}", "prompt=x", "image=it's, red.png", "count=2", "seed=4", "out=a b", *QUICK
    )
    assert code == 0, err
    paths = [Path(line) for line in out.splitlines()]
    assert [p.name for p in paths] == ["x_seed4.mp4", "x_seed5.mp4"]
    records = [read_record(p)[0] for p in paths]
    assert [r["seed"] for r in records] == [4, 5]
    assert {r["image"] for r in records} == {"it's, red.png"}
    assert {tuple(r["size"]) for r in records} == {(96, 64)}
    first = [decode_video(p).frames_THWC[0].float() for p in paths]
    assert (first[0] - first[1]).abs().mean() < 12  # the same image, as far as the codecs keep it


@pytest.mark.slow
def test_a_batch_is_resumed_where_it_stopped(typed, small_ovi: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    table = tmp_path / "prompts.csv"
    rows = [
        "text_prompt,image_path,id",
        '"rain, wind",,a',
        "snow <S>open,,bad",
        "sun,b.png,b",
        "dark,gone.png,c",
    ]
    table.write_text("\n".join(rows))
    command = (f"checkpoint={small_ovi}", "prompts=prompts.csv", "variants=2", "out=clips", *QUICK)
    code, out, err = typed(*command)
    assert code == 2
    assert only_line(err) == "error: 2 of 6 rows were left out, named above"
    assert "left out: bad: prompts.csv row 2: <S> in the prompt" in err
    assert "left out: c: prompts.csv row 4: no image at" in err
    names = ["a_seed0.mp4", "a_seed1.mp4", "b_seed0.mp4", "b_seed1.mp4"]
    clips = tmp_path / "clips"
    assert sorted(p.name for p in clips.glob("*.mp4")) == names
    log = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    assert [line["file"] for line in log] == names
    assert [line["prompt"] for line in log] == ["rain, wind", "rain, wind", "sun", "sun"]
    assert [line["image"] for line in log] == [None, None, "b.png", "b.png"]

    # killed in between: one clip missing, one cut short, others finished
    before = {name: (clips / name).read_bytes() for name in names}
    (clips / names[0]).unlink()
    (clips / names[2]).write_bytes(before[names[2]][:-400])
    table.write_text("\n".join([*rows[:2], rows[3]]))
    code, out, err = typed(*command)
    assert code == 0, err
    assert sorted(line.split()[0].split("/")[1] for line in out.splitlines() if "finished before" in line) == [
        names[1], names[3],
    ]  # fmt: skip
    assert (clips / names[1]).read_bytes() == before[names[1]]
    assert (clips / names[3]).read_bytes() == before[names[3]]
    # made again: the same sound to the last bit, the same picture to the encoder's
    for name in (names[0], names[2]):
        (tmp_path / name).write_bytes(before[name])
        one, two = read_clip(tmp_path / name), read_clip(clips / name)
        assert torch.equal(one.wave_S, two.wave_S)
        assert float((one.frames_THWC.float() - two.frames_THWC.float()).abs().mean()) < 1
    log = [json.loads(line)["file"] for line in (clips / "clips.jsonl").read_text().splitlines()]
    assert sorted(log) == names

    # nothing to do loads nothing
    (small_ovi / "MMAudio").rename(small_ovi / "hidden")
    try:
        code, _, err = typed(*command)
        assert (code, "no MMAudio VAE" in err) == (2, True)
    finally:
        (small_ovi / "hidden").rename(small_ovi / "MMAudio")
    code, out, _ = typed(*command)
    assert (code, out.count("finished before")) == (0, 4)

    # another request under the same names is refused, or made where that is said
    code, out, err = typed(*command, "aspect=16:9")
    assert code == 2
    assert "a_seed0.mp4 was made with another size: overwrite=true makes it again" in err
    assert out.count("finished before") == 2  # the image's shape goes before aspect
    (clips / names[1]).write_bytes(b"a film of mine")
    code, _, err = typed(*command)
    assert code == 2
    assert "a_seed1.mp4 was made by something else" in err
    assert (clips / names[1]).read_bytes() == b"a film of mine"
    code, out, _ = typed(*command, "overwrite=true")
    assert (code, out.count("finished before")) == (0, 3)
    assert read_record(clips / names[1])[1]


@pytest.mark.slow
def test_prompts_that_are_too_long_are_refused_or_cut_where_it_is_said(
    typed, small_ovi: Path, tmp_path: Path
) -> None:
    """Their end, where speech and sound stand, is never lost without a word."""
    long = "a wide view " * 300
    rows = [{"prompt": f"{long}<S>Hello.<E> Audio: rain"}, {"prompt": "x", "negative_audio": long}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ovi = f"checkpoint={small_ovi}"
    code, _, err = typed(ovi, f"prompt={rows[0]['prompt']}", *QUICK)
    assert code == 2
    assert "tokens and 512 are read" in only_line(err)
    assert "long_prompts=cut_middle or cut_end" in only_line(err)
    code, _, err = typed(ovi, "prompts=p.jsonl", *QUICK)
    assert code == 2
    assert "left out: 0001_seed0: the text 'a wide view" in err
    assert "left out: 0002_seed0: the text 'a wide view" in err
    assert not list(tmp_path.rglob("*.mp4"))
    code, _, err = typed(ovi, "prompt=x", "long_prompts=cut", *QUICK)
    assert "long_prompts is 'cut'; expected one of refuse, cut_end, cut_middle" in only_line(err)
    code, out, err = typed(ovi, f"prompt={rows[0]['prompt']}", "long_prompts=cut_middle", *QUICK)
    assert code == 0, err
    record, _ = read_record(Path(out.strip()))
    assert record["prompt"] == rows[0]["prompt"]
    assert record["read_as"].startswith("a wide view a wide view")
    assert record["read_as"].endswith("<S>Hello.<E> Audio: rain")
    assert len(record["read_as"]) < len(record["prompt"])


def test_a_cut_that_parts_a_tag_from_its_end_is_refused(small_ovi: Path) -> None:
    bundle, settings = open_bundle(small_ovi), SamplerSettings()
    view = "a wide view " * 300
    requests = [Request("parted", f"a <S>{view}<E> {view} rain"), Request("whole", f"{view} <S>a<E> rain")]
    fitting, bad = plan_rows(requests, bundle, settings, "cut_middle")
    assert [plan.request.id for plan in fitting] == ["whole"]
    assert bad[0].id == "parted_seed0"
    assert "without its middle <S> in the prompt" in bad[0].reason
    assert [plan.prompt for plan in plan_rows(requests, bundle, settings, "cut_end")[0]] == [
        request.prompt for request in requests
    ]
    assert len(plan_rows(requests, bundle, settings, "refuse")[1]) == 2


@pytest.mark.slow
def test_strict_stops_at_the_first_bad_row(typed, small_ovi: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "rain"}\n{"prompt": "<S>open"}\n')
    code, _, err = typed(f"checkpoint={small_ovi}", "prompts=p.jsonl", "strict=true", *QUICK)
    assert code == 2
    assert "p.jsonl row 2" in only_line(err)
    assert not (tmp_path / "clips").exists()


@pytest.mark.slow
def test_a_stopped_batch_says_how_to_resume(
    typed, small_ovi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(target: str, *_: object, **__: object) -> None:
        Path(target).write_bytes(b"half a clip")
        raise KeyboardInterrupt

    monkeypatch.setattr("ovi_eval.clips.writing.encode_mp4", stopped)
    code, out, err = typed(f"checkpoint={small_ovi}", "prompt=rain", *QUICK)
    assert code == 130
    assert "stopped: run the same command again to make the clips that are missing" in err
    assert not out
    assert [p.name for p in (tmp_path / "clips").iterdir()] == []


@pytest.mark.slow
def test_mistakes_are_one_line_and_leave_nothing(typed, small_ovi: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 900)).save(tmp_path / "long.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "p.csv").write_text("text_prompt\nrain\n")
    ovi, rain = f"checkpoint={small_ovi}", "prompt=rain"
    for arguments, words in (
        ([ovi], "prompt= and prompts= are neither given"),
        ([ovi, rain, "prompts=p.csv"], "both given"),
        ([ovi, "prompts=p.csv", "image=text.png"], "in its column image_path"),
        ([ovi, "prompts=none.csv"], "no such file"),
        ([ovi, "prompt=he says <S>hello"], "never closed: put <E> after it"),
        ([ovi, "prompt="], "the prompt is empty"),
        ([ovi, rain, "size=5"], "give HEIGHTxWIDTH"),
        ([ovi, rain, "size=100x5000"], "50.0 times as long as wide"),
        ([ovi, rain, "aspect=wide"], "WIDTH:HEIGHT"),
        ([ovi, rain, "aspect=1:1", "size=64x64"], "both given"),
        ([ovi, rain, "image=none.png"], "no image at none.png"),
        ([ovi, rain, "image=text.png"], "cannot be read"),
        ([ovi, rain, "image=long.png"], "45.0 times as long as wide"),
        ([ovi, rain, "seed=-1"], "seed is -1"),
        ([ovi, rain, "count=0"], "count is 0"),
        ([ovi, rain, "sampler.skip_layers=[12]"], "small has blocks 0 to 11"),
        ([ovi, rain, "sampler.steps=0"], "steps is 0"),
        ([ovi, rain, "dtype=fp8"], "dtype is 'fp8'"),
        ([ovi, rain, "device=cuda:99"], "device=cuda:99 cannot be used here"),
        ([ovi, rain, "offload=sometimes"], "offload is 'sometimes'"),
        ([ovi, rain, "preview=maybe"], "preview is 'maybe'"),
        ([ovi, rain, "sequence_parallel=2"], "sequence_parallel is 2 with 1 process"),
        ([ovi, rain, "weights=nowhere"], "weights=nowhere is no folder"),
        ([ovi, rain, "sampler=heun"], "unknown sampler 'heun'"),
        ([ovi, rain, "imge=x"], "did you mean image?"),
        (["checkpoint=ovi_960x960_10s", rain], "weights= is not given"),
        (["checkpoint=ovi_960x960_10s", rain, f"weights={tmp_path}"], "no Ovi towers at"),
        (["checkpoint=ovi_720x720_5s", rain, f"weights={small_ovi}"], "does not fit this model"),
        (["checkpoint=ovi_1080p", rain], "no checkpoint at ovi_1080p"),
        ([rain], "checkpoint is not given"),
    ):
        code, out, err = typed(*arguments)
        assert code == 2, arguments
        assert words in only_line(err), (arguments, err)
        assert not out.strip()
    assert not list(tmp_path.glob("clips/*.mp4"))


def test_damaged_weights_are_one_line_and_leave_nothing(typed, own_ovi: Path, tmp_path: Path) -> None:
    vae = own_ovi / "Wan2.2-TI2V-5B/Wan2.2_VAE.pth"
    vae.write_bytes(vae.read_bytes()[:5000])
    code, _, err = typed(f"checkpoint={own_ovi}", "prompt=rain", *QUICK)
    assert code == 2
    assert "Wan2.2_VAE.pth (5000 bytes) is cut short" in only_line(err)
    assert not (tmp_path / "clips").exists()


@pytest.mark.slow
def test_texts_reach_the_configuration_as_they_were_typed() -> None:
    texts = (
        "a, b", "a=b", "it's", "'", '"Hi" she says "x"', "'a' or 'b'", '"', 'say "x"', "a\\", "a\\'b", "\\\\'",
        "${x}", "$", "{a: b}", "[", "(",
        "!", "null and void", "'", "ends in \\\\", "\n two lines",
        "ü雨", "<S>a<E>", "x~y@z#1 %",
    )  # fmt: skip
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for text in texts:
            arguments = hydra_arguments([f"prompt={text}"])
            config = compose("sample", overrides=arguments)
            assert OmegaConf.to_container(config, resolve=True, throw_on_missing=False)["prompt"] == text
    check(arguments, config_dir(), "sample")
    assert hydra_arguments(["prompt='as, it is'", "image=null", "out=", "--help"]) == [
        "prompt='as, it is'", "image=null", "out=", "--help",
    ]  # fmt: skip


def test_released_models_take_the_released_sampler_unless_another_is_named(small_ovi: Path) -> None:
    assert "sampler=ovi" in hydra_arguments([f"checkpoint={small_ovi}"])
    assert "sampler=ovi" in hydra_arguments(["checkpoint=ovi_720x720_5s", "sampler.steps=3"])
    assert "sampler=ovi" not in hydra_arguments(["checkpoint=ovi_720x720_5s", "sampler=euler"])
    assert "sampler=ovi" not in hydra_arguments(["checkpoint=runs/fusion/last"])
    assert "sampler=ovi" not in hydra_arguments([])


@pytest.mark.slow
def test_too_little_memory_is_reported_before_loading(
    typed, small_ovi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovi_lab.sampling.command.LARGE", 0)
    monkeypatch.setattr("ovi_lab.planning.sampling_report.available_host_memory", lambda: 2**20)
    monkeypatch.setattr("ovi_lab.sampling.command.OviPipeline", None)  # nothing is to be loaded
    code, _, err = typed(f"checkpoint={small_ovi}", "prompt=rain", *QUICK)
    assert code == 2
    assert "small at 64x64 needs about" in only_line(err)
    assert not (tmp_path / "clips").exists()


@pytest.mark.slow
def test_processes_share_the_rows_and_may_share_a_clip(small_ovi: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("text_prompt\nrain\nsnow\n<S>open\nsun\nwind\n")

    def launch(out: str, *more: str) -> tuple[list[int], str]:
        arguments = [f"checkpoint={small_ovi}", "prompts=p.csv", f"out={out}", *QUICK, *more]
        both = ranks(run_module, "ovi_lab.sample", arguments, cwd=tmp_path)
        return [fork.wait() for fork in both], both[0].output + both[1].output

    codes, said = launch("sharded")
    assert any(codes)  # a row was left out
    assert said.count("left out: 0003") == 1, said
    names = [f"000{row}_seed0.mp4" for row in (1, 2, 4, 5)]
    assert sorted(p.name for p in (tmp_path / "sharded").glob("*.mp4")) == names
    logs = {p.name: p.read_text().count("\n") for p in (tmp_path / "sharded").glob("*.jsonl")}
    assert logs == {"clips.jsonl": 2, "clips.rank1.jsonl": 2}
    _, said = launch("shared", "sequence_parallel=2")
    assert sorted(p.name for p in (tmp_path / "shared").glob("*.mp4")) == names, said
    for name in names:
        assert read_record(tmp_path / "shared" / name) == read_record(tmp_path / "sharded" / name)
        one, two = (decode_video(tmp_path / out / name).frames_THWC.float() for out in ("sharded", "shared"))
        assert float((one - two).abs().mean()) < 1
