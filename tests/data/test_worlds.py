"""The worlds: the ball's rule, and that a second world is one file."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ovi_eval.ball import detectors
from ovi_lab.data import worlds
from ovi_lab.data.worlds import get_world, world_names
from ovi_lab.data.worlds.bouncing_ball import BouncingBall, _Plan
from ovi_lab.errors import UserError


@pytest.fixture(scope="module")
def clips():
    return get_world("bouncing_ball").render(range(64), seed=7)


def test_shapes_and_rates(clips) -> None:
    assert clips.frames_NTHWC.shape == (64, 32, 16, 16, 3)
    assert clips.waves_NS.shape == (64, 16200)
    assert clips.sample_rate == 8000
    assert clips.fps == pytest.approx(32 / 2.025)
    assert len(set(clips.ids)) == 64
    assert float(clips.waves_NS.abs().max()) <= 1


def test_a_clip_depends_on_seed_and_index_alone(clips) -> None:
    """Any subset, in any order and however many at once, gives the same clips; another seed gives others."""
    again = get_world("bouncing_ball").render([63, 5], seed=7)
    assert again.ids == [clips.ids[63], clips.ids[5]]
    assert torch.equal(again.frames_NTHWC, clips.frames_NTHWC[[63, 5]])
    assert torch.equal(again.waves_NS, clips.waves_NS[[63, 5]])
    assert again.meta == [clips.meta[63], clips.meta[5]]
    other = get_world("bouncing_ball").render([63, 5], seed=8)
    assert not torch.equal(other.waves_NS, again.waves_NS)


def test_landings_follow_the_rule() -> None:
    ball = BouncingBall()
    meta = [_Plan(3, index, ball.duration_s, ball.num_samples).meta() for index in range(200)]
    gaps = np.concatenate([np.diff(m["landings_s"]) for m in meta])
    assert gaps.min() >= 0.40
    assert gaps.max() <= 0.90
    assert np.abs(np.histogram(gaps, 5, (0.4, 0.9))[0] / len(gaps) - 0.2).max() < 0.1
    assert all(0 <= t < 2.025 for m in meta for t in m["landings_s"])
    assert all(m["landings_s"][0] <= 0.90 for m in meta)
    assert {m["count"] for m in meta} <= {2, 3, 4, 5, 6}
    assert {m["colour"] for m in meta} == {"red", "green", "blue", "yellow"}


def test_the_hit_sounds_at_its_time_and_pitch(clips) -> None:
    """Samples against the formula, written out hit by hit; the rest is burst, hum and hiss."""
    times = np.arange(16200) / 8000
    for n in range(6):
        meta = clips.meta[n]
        wave = clips.waves_NS[n].numpy().astype(np.float64)
        rest = wave.copy()
        for t in meta["landings_s"]:
            dt = np.maximum(times - t, 0)
            f = 2 * np.pi * meta["pitch_hz"] * dt
            rest -= (times >= t) * np.exp(-dt / 0.10) * (0.6 * np.sin(f) + 0.2 * np.sin(2 * f))
        # 60 ms after a hit its burst is gone; by 0.9 s so is the tone of a hit before the clip.
        quiet = times > 0.9
        for t in meta["landings_s"]:
            quiet &= (times < t) | (times > t + 0.06)
        assert np.abs(rest[quiet]).max() < 0.09
        assert np.abs(wave).max() > 0.5


def test_the_picture_flashes_in_the_balls_colour_when_it_lands(clips) -> None:
    frames = clips.frames_NTHWC.float() / 255
    for n, meta in enumerate(clips.meta):
        for t in meta["landings_s"]:
            after = int(
                np.ceil(t * clips.fps - 0.5)
            )  # the first frame whose centre is not before the landing
            if not 0 < after < 32:
                continue
            light = frames[n, :, 13:].mean((1, 2))
            rgb = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}[meta["colour"]]
            assert all(light[after, c] - light[after - 1, c] > 0.15 for c in rgb)


def test_what_is_seen_is_what_is_heard(clips) -> None:
    """The evaluation's detectors, which know nothing of the rule, find the landings in both, and what they
    were.
    """
    seen = detectors.landings(detectors.seen(clips), clips.fps)
    heard = detectors.onsets(detectors.heard(clips))
    found = total = 0
    for n, meta in enumerate(clips.meta):
        truth = [t for t in meta["landings_s"] if t > 0.1]
        total += len(truth)
        found += detectors.matched(truth, seen[n], 0.075) + detectors.matched(truth, heard[n], 0.075)
    assert found / (2 * total) > 0.97
    names = [m["colour"] for m in clips.meta]
    assert [detectors.COLOURS[k] for k in detectors.colour(detectors.seen(clips)).tolist()] == names
    assert [detectors.COLOURS[k] for k in detectors.pitch(detectors.heard(clips)).tolist()] == names


def test_captions_say_what_and_never_when(clips) -> None:
    for caption, meta in zip(clips.captions, clips.meta, strict=True):
        words = caption.split()
        assert set(words) <= set(BouncingBall.vocabulary)
        assert "drum" in words
        assert (meta["colour"] in words) == (not meta["vague"])
    assert sum(m["vague"] for m in clips.meta) == 32
    numbers = dict(enumerate(("zero", "one", "two", "three", "four", "five", "six")))
    assert all(numbers[m["count"]] in c for c, m in zip(clips.captions, clips.meta, strict=True))


def test_an_unknown_world_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"'pendulum'.*bouncing_ball"):
        get_world("pendulum")


def test_a_second_world_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file put among the worlds is found, and all of preparing, loading and decoding works with it."""
    (tmp_path / "blinking_light.py").write_text("""
import torch
from ovi_eval.clips.clipset import ClipSet
from ovi_lab.data.worlds import register

@register("blinking_light")
class BlinkingLight:
    name, version = "blinking_light", 1
    num_frames, height, width, sample_rate, num_samples = 16, 8, 8, 8000, 8000
    fps = 16.0
    vocabulary = ("a", "light")
    partials_hz = (440.0,)

    def render(self, indices, seed):
        generators = [torch.Generator().manual_seed(seed * 1000003 + i) for i in indices]
        on = torch.stack([torch.rand(16, generator=g) < 0.3 for g in generators])
        frames = (on[:, :, None, None, None] * 255).to(torch.uint8).expand(-1, -1, 8, 8, 3)
        time = torch.arange(8000) / 8000
        waves = 0.5 * torch.sin(2 * torch.pi * 440 * time) * on.repeat_interleave(500, 1)
        return ClipSet([f"light-{seed}-{i}" for i in indices], ["a light"] * len(on), frames.contiguous(),
                       self.fps, waves, 8000, [{"index": i} for i in indices])
""")
    monkeypatch.setattr(worlds, "__path__", [*worlds.__path__, str(tmp_path)])
    monkeypatch.setattr(worlds, "_REGISTRY", dict(worlds._REGISTRY))
    try:
        assert "blinking_light" in world_names()
        from ovi_lab.data.module import OviDataModule

        data = OviDataModule(
            "blinking_light", tmp_path / "data", num_train=8, num_eval=4, batch_size=4, quiet=True
        )
        data.prepare_data()
        batch = next(iter(data.train_dataloader()))
        assert batch["video"].shape == (4, 24, 8, 1, 1)
        assert batch["audio"].shape == (4, 40, 12)
        frames, waves = data.codec.decode(batch["video"], batch["audio"])
        assert frames.shape == (4, 16, 8, 8, 3)
        assert waves.shape == (4, 8000)
    finally:
        sys.modules.pop("ovi_lab.data.worlds.blinking_light", None)
