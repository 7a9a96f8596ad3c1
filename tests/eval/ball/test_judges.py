"""The judges: what they were trained to tell, their file, and the metrics that look through them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.ball_clips import broken_clips, real_clips, score
from ovi_eval.ball import detectors, networks
from ovi_eval.ball.judges import HEADER, WEIGHTS, Judges, load_judges, save_judges
from ovi_eval.ball.references import with_late_sound, with_others_sound
from ovi_eval.ball.sync import shift_distances
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.errors import UserError

UNSEEN = 991  # a seed no judge was trained on


@pytest.fixture(scope="module")
def judges() -> Judges:
    return load_judges()


def sync(clips: ClipSet) -> dict[str, float]:
    values = score(clips, names=["ball/sync"]).values
    return {key.removeprefix("ball/"): value.value for key, value in values.items()}


# --- the committed judges ---


def test_they_say_where_they_come_from(judges: Judges) -> None:
    assert judges.provenance["world"]
    assert judges.provenance["accuracy"]
    assert judges.variant == f"judges {judges.sha256[:12]}"
    assert WEIGHTS.stat().st_size < 2_000_000


@pytest.mark.parametrize("which", ["video", "audio"])
def test_they_tell_what_how_many_and_when(judges: Judges, which: str) -> None:
    clips = real_clips(64, UNSEEN)
    judge = judges.parts()[which]
    _, scores = judge.loss(clips)
    assert float(scores["kind_accuracy"]) == 1.0
    assert float(scores["count_accuracy"]) > 0.85
    _, _, when_NT = judge.squeeze.answers(judge.features(clips))
    likely_NT = when_NT.sigmoid()
    step = 2.025 / when_NT.shape[1]
    at = [min(int(t / step), when_NT.shape[1] - 1) for clip in clips.meta for t in clip["landings_s"]]
    whose = [n for n, clip in enumerate(clips.meta) for _ in clip["landings_s"]]
    assert float((likely_NT[whose, at] > 0.3).float().mean()) > 0.9
    assert float(likely_NT.mean()) < 0.25


def test_features_have_a_scale(judges: Judges) -> None:
    clips = real_clips(96, UNSEEN)
    for judge in (judges.video, judges.audio):
        features = judge.features(clips)
        assert features.shape == (96, 64)
        assert 0.5 < float(features.std(dim=0).mean()) < 1.5


def test_features_take_longer_clips(judges: Judges) -> None:
    clips = real_clips(4)
    longer = replace(
        clips,
        frames_NTHWC=torch.cat([clips.frames_NTHWC, clips.frames_NTHWC[:, :16]], dim=1),
        waves_NS=torch.cat([clips.waves_NS, clips.waves_NS[:, :8100]], dim=1),
    )
    assert judges.video.features(longer).shape == judges.audio.features(longer).shape == (4, 64)
    assert set(sync(longer)) == {"sync_c", "sync_d", "sync_d0", "sync_shift_ms"}


# --- training them ---


@pytest.mark.parametrize("which", ["video", "audio", "sync"])
@pytest.mark.slow
def test_a_few_steps_lower_the_loss(which: str) -> None:
    torch.manual_seed(0)
    judge = Judges().parts()[which]
    clips, generator = real_clips(48), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        rows = torch.randint(0, 48, (16,), generator=generator)
        loss, parts = judge.loss(clips[rows], generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        assert all(not value.requires_grad for value in parts.values())
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


def test_without_a_generator_nothing_is_drawn() -> None:
    judge, clips = networks.BallSyncNet().eval(), real_clips(8)
    assert judge.loss(clips)[0].item() == judge.loss(clips)[0].item()
    first, second = (judge.loss(clips, torch.Generator().manual_seed(s))[0] for s in (1, 2))
    assert first.item() != second.item()


def test_clips_without_their_truth_are_refused() -> None:
    clips = real_clips(2)
    bare = replace(clips, meta=[])
    with pytest.raises(UserError, match=f"{clips.ids[0]}: judges are trained on clips whose meta has colour"):
        Judges().video.loss(bare)


# --- their file ---


def test_saved_judges_come_back_the_same(tmp_path: Path) -> None:
    torch.manual_seed(1)
    made, path = Judges(), tmp_path / "judges.safetensors"
    saved = save_judges(made, {"world": "a", "steps": 3}, path)
    loaded = load_judges(path)
    assert (loaded.sha256, loaded.provenance) == (saved.sha256, {"world": "a", "steps": 3})
    assert not any(p.requires_grad for part in loaded.parts().values() for p in part.parameters())
    clips = real_clips(4)
    made.video.eval()
    assert torch.equal(made.video.features(clips), loaded.video.features(clips))
    again = save_judges(loaded, {"steps": 3, "world": "a"}, tmp_path / "again.safetensors")
    assert again.sha256 == saved.sha256


def test_other_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "judges.safetensors"
    save_judges(Judges(), {}, path)
    header = {HEADER: '{"format": "ovi_eval.ball_judges/1"}'}
    tensors = load_file(path)
    tensors.pop("video.encoder.out.weight")
    tensors["sync.heard.bias"] = torch.zeros(7)
    tensors["extra"] = torch.zeros(1)
    save_file(tensors, path, metadata=header)
    wanted = (
        r"video\.encoder\.out\.weight is missing; extra is unknown; "
        r"sync\.heard\.bias is float32 \[7\] instead of float32 \[32\]"
    )
    with pytest.raises(UserError, match=wanted):
        load_judges(path)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "judges.safetensors"
    with pytest.raises(UserError, match="experiment=judges"):
        load_judges(path)
    path.write_bytes(WEIGHTS.read_bytes()[:5000])
    with pytest.raises(UserError, match="no readable safetensors"):
        load_judges(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="format is None"):
        load_judges(path)
    sick = Judges()
    sick.sync.sharpness.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"unusable judges: sync\.sharpness is not finite"):
        save_judges(sick, {}, path)


# --- SyncNet's measures ---


def test_windows_of_one_moment_are_centred_together() -> None:
    at = networks.same_moment(28, 32 / 2.025)
    frames = (torch.arange(28) + 2.5) * 2.025 / 32
    tokens = (at + 6.5) * 0.025
    assert float((frames - tokens).abs().max()) <= 0.0125 + 1e-6
    assert int(at[0]) == 0
    assert int(at[-1]) <= 68


def test_distances_find_a_planted_shift_and_pad_with_zeros() -> None:
    """Sound windows that equal the picture's, 4 tokens late; checked against the sum written out."""
    generator = torch.Generator().manual_seed(0)
    heard = torch.nn.functional.normalize(torch.randn(1, 69, 8, generator=generator), dim=-1)
    at = networks.same_moment(28, 32 / 2.025)
    seen = heard[:, (at + 4).clamp(max=68)]
    distances = shift_distances(seen, heard, 32 / 2.025)[0]
    assert distances.shape == (51,)
    assert int(distances.argmin()) - 25 == 4
    for shift in (-25, -3, 0, 4, 25):
        total = 0.0
        for window in range(28):
            place = int(at[window]) + shift
            other = heard[0, place] if 0 <= place < 69 else torch.zeros(8)
            total += float((seen[0, window] - other).norm())
        assert float(distances[shift + 25]) == pytest.approx(total / 28, abs=1e-5)


def test_real_clips_are_in_sync_and_those_with_other_sound_are_not(judges: Judges) -> None:
    clips = real_clips(64, UNSEEN)
    real, other = sync(clips), sync(with_others_sound(clips, 0))
    assert real["sync_shift_ms"] < 5
    assert real["sync_d"] == pytest.approx(real["sync_d0"], abs=0.01)
    assert real["sync_d0"] < 0.6
    assert real["sync_c"] > 0.65
    assert other["sync_c"] < 0.45
    assert other["sync_d0"] > 1.1
    assert other["sync_shift_ms"] > 200


@pytest.mark.parametrize("ms", [50, 100, 150])
def test_only_shift_0_and_the_predicted_shift_see_late_sound(judges: Judges, ms: int) -> None:
    clips = real_clips(64, UNSEEN)
    real, late = sync(clips), sync(with_late_sound(clips, ms / 1000))
    assert late["sync_shift_ms"] == pytest.approx(ms, abs=5)
    assert late["sync_c"] > 0.85 * real["sync_c"]
    assert late["sync_d0"] > real["sync_d0"] + 0.003 * ms


def test_clips_shorter_than_a_window_are_missing(judges: Judges) -> None:
    clips = real_clips(2)
    short = replace(clips, frames_NTHWC=clips.frames_NTHWC[:, :4], waves_NS=clips.waves_NS[:, :2000])
    reasons = score(short, names=["ball/sync"]).reasons
    assert reasons == [{"ball/sync": "the clip is shorter than SyncNet's window"}] * 2
    with pytest.raises(UserError, match="looks at 5 frames and 13 tokens"):
        judges.sync(short)


# --- Fréchet distances in judges' features ---


@pytest.mark.parametrize("name", ["ball/frechet_video", "ball/frechet_audio"])
@pytest.mark.slow
def test_frechet_tells_real_from_worse_and_worse(name: str) -> None:
    reference, real = real_clips(), real_clips(96, UNSEEN)

    def distance(clips: ClipSet) -> float:
        return score(clips, reference, [name]).values[name].value

    noise = torch.Generator().manual_seed(0)

    def spoilt(amount: float) -> ClipSet:
        frames = real.frames_NTHWC.float()
        frames = frames + amount * 255 * torch.randn(frames.shape, generator=noise)
        waves = real.waves_NS + 0.3 * amount * torch.randn(real.waves_NS.shape, generator=noise)
        return replace(real, frames_NTHWC=frames.clamp(0, 255).to(torch.uint8), waves_NS=waves.clamp(-1, 1))

    one_colour = real[[n for n, meta in enumerate(real.meta) if meta["colour"] in ("red", "green")]]
    same, some, much = distance(real), distance(spoilt(0.15)), distance(spoilt(0.5))
    assert same < some < much
    assert distance(one_colour) > 1.2 * same
    assert distance(reference) < 1e-8


def test_frechet_leaves_broken_clips_out() -> None:
    value = score(broken_clips(), real_clips(), ["ball/frechet_audio"]).values["ball/frechet_audio"]
    assert (value.n, value.coverage) == (5, 5 / 8)
    assert value.value is not None
    nothing = score(broken_clips()[:2], real_clips(), ["ball/frechet_audio"]).values["ball/frechet_audio"]
    assert (nothing.value, nothing.n) == (None, 0)


def test_judges_hear_drums_where_detectors_do(judges: Judges) -> None:
    clips = real_clips(32, UNSEEN)
    kind_NK, _, _ = judges.audio.squeeze.answers(judges.audio.features(clips))
    assert kind_NK.argmax(1).tolist() == detectors.pitch(detectors.heard(clips)).tolist()
