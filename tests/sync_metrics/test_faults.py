"""Planting is exact: what a fault moves, adds, takes away or makes noisy is what it says, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ovi_lab.sync_metrics.faults import FAULTS, untouched
from ovi_lab.sync_metrics.scenes import SCENES, SoundTrack

CLIPS = 12


@pytest.fixture(scope="module", params=SCENES)
def scenes(request):
    return SCENES[request.param](range(CLIPS), 7)


def heard_as(scenes, changed, places=range(CLIPS)):
    """Whether the clips sound as the world makes them of tracks that `changed` gives."""
    return torch.from_numpy(np.stack([scenes.sound(n, changed(scenes.tracks[n])) for n in places]))


def test_the_track_as_it_was_drawn_is_the_worlds_own_sound(scenes):
    again = heard_as(scenes, lambda track: track)
    torch.testing.assert_close(again, scenes.clips.waves_NS, rtol=0, atol=1e-6)
    assert untouched(scenes).clips is scenes.clips


def test_meta_and_tracks_are_of_the_same_events(scenes):
    key = "landings_s" if scenes.short == "ball" else "onsets_s"
    for row, track in zip(scenes.clips.meta, scenes.tracks, strict=True):
        assert track.times[scenes.inside(track)].tolist() == row[key]


def loudness(wave_S):
    """Root mean square of every 5 ms, without its mean."""
    rms = wave_S.unfold(0, 40, 40).square().mean(dim=1).sqrt().double().numpy()
    return rms - rms.mean()


@pytest.mark.parametrize(("name", "sign"), [("late", 1), ("early", -1)])
@pytest.mark.parametrize("ms", [25.0, 200.0])
def test_a_planted_offset_is_recovered(scenes, name, sign, ms):
    """Where the loudness of the clip and of the faulty one fit each other best."""
    planted = FAULTS[name].plant(scenes, ms)
    np.testing.assert_allclose(planted.moved_ms, ms)
    for before, after in zip(scenes.clips.waves_NS, planted.clips.waves_NS, strict=True):
        fits = np.correlate(loudness(after), loudness(before), "full")
        lag = fits.argmax() - len(loudness(before)) + 1
        assert abs(5 * lag - sign * ms) <= 5
    assert torch.equal(planted.clips.frames_NTHWC, scenes.clips.frames_NTHWC)


def test_jitter_moves_each_event_by_itself_with_its_standard_deviation():
    many = SCENES["speaking_mouth"](range(150), 3)
    steps = []
    for place, track in enumerate(many.tracks):
        rng = many.random("jitter", place)
        steps += (0.05 * rng.standard_normal(len(track.times))).tolist()
    planted = FAULTS["jitter"].plant(many, 50.0)
    assert np.std(steps) == pytest.approx(0.05, rel=0.1)
    assert np.mean(steps) == pytest.approx(0.0, abs=0.006)
    assert planted.moved_ms.mean() == pytest.approx(50 * np.sqrt(2 / np.pi), rel=0.1)
    twice = FAULTS["jitter"].plant(many, 100.0)
    np.testing.assert_allclose(twice.moved_ms, 2 * planted.moved_ms)


def test_tempo_stretches_from_the_clips_start(scenes):
    planted = FAULTS["tempo"].plant(scenes, 10.0)
    for n, track in enumerate(scenes.tracks):
        inside = track.times[scenes.inside(track)]
        assert planted.moved_ms[n] == pytest.approx(100 * inside.mean())
    stretched = heard_as(scenes, lambda track: replace(track, times=track.times * 1.1))
    assert torch.equal(planted.clips.waves_NS, stretched)


def test_events_go_and_come_one_by_one(scenes):
    from ovi_lab.sync_metrics import faults

    for place, track in enumerate(scenes.tracks):
        count = len(scenes.inside(track))
        one, two = (faults._missing(scenes, place, track, size) for size in (1, 2))
        assert (len(scenes.inside(one)), len(scenes.inside(two))) == (count - 1, count - 2)
        assert set(two.times) < set(one.times) < set(track.times)
        more = faults._extra(scenes, place, track, 2)
        assert len(more.times) == len(track.times) + 2
        assert set(track.times) < set(more.times)
        new = more.times[len(track.times) :]
        apart = np.abs(new[:, None] - track.times).min()
        assert apart >= 0.14
        assert all(0 <= time < scenes.seconds for time in new)


@pytest.mark.parametrize("name", ["other_as_many", "other_any", "wrong_voice"])
def test_a_share_of_the_clips_is_exact_and_nested(scenes, name):
    def changed(size):
        planted = FAULTS[name].plant(scenes, size).clips.waves_NS
        return {n for n in range(CLIPS) if not torch.equal(planted[n], scenes.clips.waves_NS[n])}

    quarter, half, every = (changed(size) for size in (25.0, 50.0, 100.0))
    assert (len(quarter), len(half), len(every)) == (3, 6, 12)
    assert quarter < half < every


def test_another_clips_sound_is_of_a_clip_with_as_many_events():
    scenes = SCENES["bouncing_ball"](range(40), 5)
    waves, counts = scenes.clips.waves_NS, [row["count"] for row in scenes.clips.meta]
    planted = FAULTS["other_as_many"].plant(scenes, 100.0).clips.waves_NS
    source = [int((waves == wave).all(dim=1).nonzero()[0]) for wave in planted]
    assert all(n != own for n, own in enumerate(source))
    alike = [counts[n] == counts[own] for n, own in enumerate(source)]
    assert sum(alike) >= 38  # a number that only one clip has goes with the next one


def test_a_wrong_voice_is_right_in_time_and_another_in_pitch(scenes):
    planted = FAULTS["wrong_voice"].plant(scenes, 100.0)
    from ovi_lab.sync_metrics import faults

    voices = [faults._wrong_voice(scenes, n, track).voice for n, track in enumerate(scenes.tracks)]
    assert all(voice != track.voice for voice, track in zip(voices, scenes.tracks, strict=True))
    expected = np.stack(
        [scenes.sound(n, replace(track, voice=voices[n])) for n, track in enumerate(scenes.tracks)]
    )
    assert torch.equal(planted.clips.waves_NS, torch.from_numpy(expected))


def test_wrong_vowels_keep_consonants_and_change_every_vowel():
    from ovi_lab.sync_metrics import faults

    scenes = SCENES["speaking_mouth"](range(CLIPS), 7)
    for place, track in enumerate(scenes.tracks):
        for before, after in zip(track.words, faults._wrong_vowels(scenes, place, track).words, strict=True):
            assert (before[0], len(after)) == (after[0], 2)
            assert before[1] != after[1]


@pytest.mark.parametrize("decibels", [30.0, 10.0])
def test_noise_has_its_ratio_to_the_signal(scenes, decibels):
    before, after = scenes.clips.waves_NS, FAULTS["sound_noise"].plant(scenes, decibels).clips.waves_NS
    found = 10 * torch.log10(before.square().mean(dim=1) / (after - before).square().mean(dim=1))
    np.testing.assert_allclose(found.numpy(), decibels, atol=0.3)
    seen = FAULTS["picture_noise"].plant(scenes, decibels).clips.frames_NTHWC.float()
    clean = scenes.clips.frames_NTHWC.float()
    lit = clean.amin(dim=-1) > 60  # elsewhere half of the noise is cut off at black
    power = clean.square().flatten(1).mean(dim=1)
    for n in range(CLIPS):
        if int(lit[n].sum()) > 200:
            noise = (seen[n] - clean[n])[lit[n]].square().mean()
            assert 10 * float(torch.log10(power[n] / noise)) == pytest.approx(decibels, abs=1.5)


def test_the_same_seed_gives_the_same_fault_whatever_the_neighbours():
    world = SCENES["speaking_mouth"]
    few, many = world(range(3), 9), world(range(6), 9)
    for name in ("jitter", "missing", "extra", "sound_noise"):
        size = FAULTS[name].sizes[-1]
        a, b = (FAULTS[name].plant(scenes, size).clips.waves_NS[:3] for scenes in (few, many))
        assert torch.equal(a, b), name


def test_a_syllable_can_be_half_outside_the_clip():
    scenes = SCENES["speaking_mouth"](range(1), 4)
    track = scenes.tracks[0]
    first = SoundTrack(np.array([-0.1]), track.like[:1], track.words[:1], track.voice)
    inside = SoundTrack(np.array([0.4]), track.like[:1], track.words[:1], track.voice)
    cut, whole = scenes.sound(0, first), scenes.sound(0, inside)
    hiss = scenes.sound(0, track.take([]))
    np.testing.assert_allclose((cut - hiss)[:800], (whole - hiss)[4000:4800], atol=1e-6)
