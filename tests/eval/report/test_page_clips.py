"""Which clips the page shows, where it finds them and how it makes them small."""

import wave
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from helpers.eval_study import BENCHMARKS, MODELS, NO_FACE, scored
from ovi_eval.clips.picture import decode_video
from ovi_eval.clips.sound import decode_audio
from ovi_eval.clips.writing import write_mp4
from ovi_eval.errors import UserError
from ovi_eval.ranking.columns import Column
from ovi_eval.ranking.table import Row
from ovi_eval.report.html.clip_store import ClipStore, PageClip
from ovi_eval.report.html.clips import sources_of
from ovi_eval.report.html.models import extremes, without_value
from ovi_eval.report.html.small_clip import SECONDS, SIDE, small_clip
from ovi_eval.results.clip_files import ClipFinder

OVI = MODELS[0]


def test_extremes_go_by_the_direction(tmp_path):
    result = scored(OVI, BENCHMARKS[0], tmp_path)
    values = [0.5, 0.1, None, 0.9, 0.4, 0.1]
    result = replace(
        result, clips=[replace(c, values={"m": v}) for c, v in zip(result.clips, values, strict=False)]
    )

    def ends(direction, **options):
        found = extremes(result, Column("m", "m", "m", direction), 2, **options)
        return found and [[r.clip.id[-1] for r in part] for part in (found.worst, found.best)]

    assert ends("higher") == [["5", "1"], ["3", "0"]]
    assert ends("lower") == [["3", "0"], ["1", "5"]]
    assert ends("closer_to_reference", target=0.45) == [["3", "5"], ["0", "4"]]
    assert ends("closer_to_reference") is None
    assert ends("higher", among={"clip_0000", "clip_0003", "clip_0004"}) == [["4"], ["3"]]
    assert ends("higher", among={"clip_0001", "clip_0005"}) is None
    assert [clip.id for clip in without_value(scored(OVI, BENCHMARKS[0], tmp_path))] == [
        "clip_0002",
        "clip_0001",
    ]


def looked_for(result, *roots):
    return ClipFinder([result], roots).of(result)


def empty_files(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_clips_are_found_in_the_runs_own_folder_and_nowhere_else(tmp_path):
    run = tmp_path / "run"
    kinds = ("clip_0000.mp4", "clip_0001.webm", "other.mp4", "clip_0002.txt")
    empty_files(run / "clips", *kinds)
    elsewhere = empty_files(tmp_path / "elsewhere", *kinds)
    result = replace(scored(OVI, "", tmp_path), folder=run, provenance={})
    found = looked_for(result)
    assert {path.parent for path in found.files.values()} == {run / "clips"}
    assert set(found.files) == {"clip_0000", "clip_0001"}  # `other` is no clip of the run
    assert not found.left_out
    (run / "clips").rename(run / "mine")
    assert set(looked_for(replace(result, provenance={"clips": "mine"})).files) == {"clip_0000", "clip_0001"}
    for told in (str(elsewhere), "../elsewhere", "mine/../../elsewhere", "elsewhere", "\0", "x" * 5000):
        found = looked_for(replace(result, provenance={"clips": told}))
        assert not found.files
        assert "--clips" in found.left_out
    for told in (["no", "text"], 3, None, ""):
        assert looked_for(replace(result, provenance={"clips": told})).files == {}


def test_links_that_lead_outside_of_the_run_are_left_out_and_told(tmp_path):
    run, private = tmp_path / "run", empty_files(tmp_path / "private", "clip_0000.mp4", "clip_0001.mp4")
    run.mkdir()
    result = replace(scored(OVI, "", tmp_path), folder=run, provenance={})
    (run / "clips").symlink_to(private)
    assert looked_for(result).files == {}
    assert "clips is a link that leads outside" in looked_for(result).left_out
    (run / "clips").unlink()
    (empty_files(run / "clips", "clip_0002.mp4") / "clip_0000.mp4").symlink_to(private / "clip_0000.mp4")
    (run / "clips" / "clip_0001.mp4").symlink_to("clip_0002.mp4")
    found = looked_for(result)
    assert set(found.files) == {"clip_0001", "clip_0002"}  # a link within the folder is followed
    assert found.left_out == "1 files are links that lead outside"
    (private / "loop").symlink_to("loop")
    assert looked_for(replace(result, folder=private, provenance={"clips": "loop"})).files == {}
    ids = [
        replace(clip, id=name) for clip, name in zip(result.clips, ("../x", "/x", "a/../../x"), strict=False)
    ]
    empty_files(tmp_path, "x.mp4")
    assert looked_for(replace(result, clips=ids)).files == {}
    linked = tmp_path / "linked"
    linked.symlink_to(run)  # what the user names may be a link
    assert set(looked_for(replace(result, folder=linked)).files) == {"clip_0001", "clip_0002"}


def test_clips_elsewhere_are_found_below_the_folders_that_the_user_names(tmp_path):
    root = tmp_path / "generated"
    for below in ("m/B/seed_1", "m/B/seed_2", "n", "scored"):
        empty_files(root / below, "clip_0000.mp4")
    base = replace(scored(OVI, "", tmp_path), folder=tmp_path / "results", provenance={})

    def place(result, *roots):
        found = looked_for(result, *roots).files
        return found and found["clip_0000"].parent.relative_to(root).as_posix()

    m = replace(base, name="m", benchmark="B", seed=2)
    assert place(m, root) == "m/B/seed_2"
    assert place(replace(m, seed=3), root) == {}
    assert place(replace(base, name="n"), tmp_path / "generated" / "..", root) == "n"
    assert place(replace(base, name="n"), root / "n") == "n"
    assert place(replace(base, name="o"), root / "n") == {}
    told = replace(base, name="o", provenance={"clips": "scored"})
    assert place(told, root) == place(told, root / "scored") == "scored"
    with pytest.raises(UserError, match=r"--clips .*gone: no such folder"):
        looked_for(base, tmp_path / "gone")


def test_a_folder_that_several_runs_would_take_is_nobodys(tmp_path):
    empty_files(tmp_path / "generated" / "Verse-Bench", "clip_0000.mp4")
    base = replace(scored(OVI, "", tmp_path), folder=tmp_path, provenance={"clips": "Verse-Bench"})
    runs = [replace(base, name=name, source=tmp_path / name) for name in ("a", "b")]
    finder = ClipFinder(runs, [tmp_path / "generated"])
    assert finder.of(runs[0]).files == finder.of(runs[1]).files == {}
    assert finder.notes(runs) == [
        "clips of a; b: several runs have clips in a folder named Verse-Bench; lay them out as NAME/BENCHMARK"
    ]


def test_metrics_scored_one_after_the_other_are_one_run(tmp_path):
    whole = scored(OVI, "", tmp_path)
    first = replace(
        whole,
        metrics={"clap": whole.metrics["clap"]},
        clips=[replace(c, values={"clap": c.values.get("clap")}, reasons={}) for c in whole.clips],
    )
    second = replace(
        whole,
        metrics={"sync_c": whole.metrics["sync_c"]},
        clips=[replace(c, values={"sync_c": c.values.get("sync_c")}, caption=None) for c in whole.clips],
    )
    (source,) = sources_of(Row(OVI, "measured", [first, second]), "", None, ClipFinder())
    assert set(source.run.metrics) == {"clap", "sync_c"}
    assert set(source.run.clips[0].values) == {"clap", "sync_c"}
    assert source.run.clips[1].reasons == {"sync": NO_FACE}
    assert source.run.clips[1].caption == whole.clips[1].caption
    apart = sources_of(Row(OVI, "measured", [first, replace(first)]), "", None, ClipFinder())
    assert len(apart) == 2


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """640 x 360, 7 s at 10 fps, a tone that sets in after 3 s."""
    path = tmp_path_factory.mktemp("big") / "big.mp4"
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 255, (70, 9, 16, 3), dtype=torch.uint8, generator=draw)
    frames = coarse.repeat_interleave(40, 1).repeat_interleave(40, 2)
    time = torch.arange(7 * 16000) / 16000
    return write_mp4(path, frames, 10.0, 0.5 * torch.sin(2800 * time) * (time > 3), 16000)


@pytest.mark.slow
def test_a_big_clip_is_made_small(big, tmp_path):
    assert big.stat().st_size > 200_000
    clip = small_clip(big)
    assert len(clip.mp4) < 0.5 * big.stat().st_size
    video, audio = decode_video(clip.mp4, name="small"), decode_audio(clip.mp4, name="small")
    assert tuple(video.frames_THWC.shape) == (60, 180, SIDE, 3)
    assert len(video.frames_THWC) / video.fps == pytest.approx(SECONDS)
    assert len(audio.wave_S) / audio.sample_rate == pytest.approx(SECONDS, abs=0.07)
    loud = audio.wave_S.abs() > 0.2
    assert int(loud.float().argmax()) / audio.sample_rate == pytest.approx(3.0, abs=0.03)
    assert clip.cut
    assert not clip.silent
    original = decode_video(big).frames_THWC[::10, 4::8, 4::8].float()
    shown = video.frames_THWC[::10, 2::4, 2::4].float()
    assert float((original[: len(shown)] - shown).abs().mean()) < 12


def test_small_clips_stay_as_they_are_and_silent_ones_are_shown(big, tmp_path):
    frames = decode_video(big).frames_THWC[:10, ::8, ::8].contiguous()
    little = write_mp4(tmp_path / "little.mp4", frames, 25.0, torch.zeros(6400), 16000)
    assert small_clip(little).mp4 == little.read_bytes()
    mute = tmp_path / "mute.mkv"
    with av.open(str(mute), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(5):
            picture = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 90, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    clip = small_clip(mute)
    assert clip.silent
    assert tuple(clip.frames_THWC.shape) == (5, 64, 96, 3)
    assert decode_video(clip.mp4, name="mute").frames_THWC.float().mean() == pytest.approx(90, abs=3)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(big.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"broken\.mp4: "):
        small_clip(broken)


def test_sound_alone_is_shown_by_its_spectrogram(tmp_path):
    tone = np.sin(2 * np.pi * 1000 * np.arange(8 * 8000) / 8000)
    with wave.open(str(tmp_path / "clip_0000.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((tone * 9000).astype("<i2").tobytes())
    clip = small_clip(tmp_path / "clip_0000.wav")
    assert clip.blind
    assert clip.cut
    audio = decode_audio(clip.mp4, name="small")
    assert len(audio.wave_S) / audio.sample_rate == pytest.approx(SECONDS, abs=0.07)
    spectrum = torch.fft.rfft(audio.wave_S[: audio.sample_rate]).abs()
    assert int(spectrum.argmax()) == pytest.approx(1000, abs=2)
    assert int(decode_video(clip.mp4, name="small").frames_THWC.max()) < 20
    (shown,) = ClipStore(10**6).read([tmp_path / "clip_0000.wav"])
    assert isinstance(shown, PageClip)
    assert shown.note == "the first 6 s, sound alone"
    assert shown.seconds == pytest.approx(SECONDS)
    result = replace(scored(OVI, "", tmp_path), folder=tmp_path, provenance={"clips": "."})
    assert looked_for(result).files["clip_0000"].suffix == ".wav"
    (tmp_path / "clip_0000.mp4").write_bytes(b"")
    assert looked_for(result).files["clip_0000"].suffix == ".mp4"
