"""Clips scored one by one: the numbers, what is missing and why, the cache, several processes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch

from helpers.forks import ranks, wait_for_all
from helpers.small_metrics import METRICS, QUICK, Colours, Levels, LouderThan, Loudness
from ovi_eval.clips.items import Item, items_in
from ovi_eval.clips.writing import write_mp4
from ovi_eval.common import processes
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Details, Features, ValueSpec
from ovi_eval.metrics.frechet import FrechetOfSets
from ovi_eval.scoring.results_of import Scored
from ovi_eval.scoring.runner import ScoringOptions, score_items
from ovi_eval.stats.frechet import frechet_distance
from ovi_eval.stats.intervals import Interval
from ovi_eval.stats.kernel_distance import kernel_interval


def test_numbers_are_those_of_the_features(made: Path, real: Path, scored: Scored) -> None:
    extractor = Levels()
    mine, theirs = (
        [extractor.run(extractor.load(item)) for item in items_in(folder)] for folder in (made, real)
    )
    loud = [float(f["loudness"]) for f in mine]
    assert [row["loudness"] for row in scored.per_clip] == pytest.approx(loud, rel=1e-6)
    assert scored.values["loudness"].value == pytest.approx(sum(loud) / 7, rel=1e-6)
    apart = [float(a["loudness"] - b["loudness"]) for a, b in zip(mine, theirs[:7], strict=True)]
    assert scored.values["louder_than"].value == pytest.approx(sum(apart) / 7, rel=1e-6)
    sets = [torch.cat([f["colours"] for f in of]) for of in (mine, theirs)]
    assert scored.values["colours"].value == frechet_distance(*sets)
    assert {score.n for key, score in scored.values.items() if key != "loudness_above_half"} == {7}
    assert scored.values["loudness_above_half"].n == 0
    assert scored.values["loudness_above_half"].value is None
    assert scored.values["colours"].preprocessing == Levels.preprocessing
    assert not scored.failed


def test_intervals_are_seeded_and_hold_the_value(made: Path) -> None:
    first, again, other, without = (
        score_items(items_in(made), None, [Loudness], options).values["loudness"]
        for options in (None, None, ScoringOptions(seed=1), QUICK)
    )
    assert first == again
    assert first.ci95 is not None
    assert first.ci95[0] < first.value < first.ci95[1]
    assert other.ci95 != first.ci95
    assert without.ci95 is None


def spoiled(folder: Path, tmp_path: Path) -> Path:
    """The clips, with one broken, one dark, one without sound and one without picture."""
    path = tmp_path / "spoiled"
    path.mkdir()
    for file in sorted(folder.iterdir())[:3]:
        (path / file.name).write_bytes(file.read_bytes())
    (path / "broken.mp4").write_bytes(b"not a clip")
    whole = (folder / "c00.mp4").read_bytes()
    (path / "cut.mp4").write_bytes(whole[: len(whole) * 3 // 4])
    write_mp4(path / "dark.mp4", torch.zeros(8, 32, 32, 3, dtype=torch.uint8), 12.0, torch.rand(8000), 16000)
    soundfile.write(path / "sound.wav", np.random.default_rng(0).normal(size=8000) * 0.1, 16000)
    return path


def test_what_cannot_be_scored_is_missing_with_its_reason(made: Path, real: Path, tmp_path: Path) -> None:
    items = items_in(spoiled(made, tmp_path))
    scored = score_items(items, items_in(real), METRICS, QUICK)
    why = {item.id: reasons for item, reasons in zip(items, scored.reasons, strict=True)}
    assert why["c00"] == {}
    assert why["broken"]["loudness"].startswith("cannot be decoded")
    assert "broken.mp4" not in why["broken"]["loudness"]  # the clip's id is the key
    assert why["cut"]["colours"].startswith(("is cut off or damaged", "cannot be decoded"))
    assert why["dark"] == dict.fromkeys(("loudness", "louder_than", "colours"), "it is dark")
    assert "has no picture stream" in why["sound"]["loudness"]
    assert scored.values["loudness"].n == 3
    assert scored.values["loudness"].coverage == 3 / 7
    assert "dark" in scored.failed[[item.id for item in items].index("dark")]
    with pytest.raises(UserError, match=r"^broken.mp4: loudness: cannot be decoded"):
        score_items(items, items_in(real), METRICS, ScoringOptions(strict=True))


def test_broken_reference_clips_are_told(made: Path, tmp_path: Path) -> None:
    scored = score_items(items_in(made), items_in(spoiled(made, tmp_path)), [Colours, LouderThan], QUICK)
    assert scored.values["colours"].warnings == ("4 reference clips could not be looked at and are left out",)
    assert scored.values["louder_than"].n == 3
    assert scored.reasons[4] == {"louder_than": "the reference has no clip of this id that can be looked at"}


def test_features_that_are_not_finite_are_no_features(made: Path) -> None:
    class Broken(Levels):
        name = "broken_levels"

        def run(self, loaded):
            return {"loudness": torch.tensor(float("nan")), "colours": torch.zeros(1, 3)}

    class BrokenLoudness(Loudness):
        extractor = Broken

    scored = score_items(items_in(made), None, [BrokenLoudness], QUICK)
    assert scored.values["loudness"].n == 0
    assert scored.reasons[0] == {"loudness": "its features are not finite"}


def test_a_set_with_too_few_clips_has_no_value(made: Path, real: Path) -> None:
    class Whole(Colours):
        name = "whole"

        def value(self, scored_RD, reference_RD):
            return {"colours": float("nan") if len(scored_RD) < 9 else 1.0}

    score = score_items(items_in(made)[:1], items_in(real), [Whole], QUICK).values["colours"]
    assert (score.value, score.n, score.coverage) == (None, 0, 0.0)
    assert score.warnings == ("1 clip is too few for a value",)


def test_scorings_that_cannot_be_done_are_refused(made: Path, real: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="colours compares with real clips; give a reference"):
        score_items(items_in(made), None, [Colours])
    with pytest.raises(UserError, match="no clips to score"):
        score_items([], None, [Loudness])
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.mp4").write_bytes((made / "c00.mp4").read_bytes())
    with pytest.raises(UserError, match="no clip here has the id of one of the reference"):
        score_items(items_in(other), items_in(real), [LouderThan])


@pytest.mark.slow
def test_copies_of_clips_are_told_and_narrow_no_interval(made: Path, real: Path, tmp_path: Path) -> None:
    twice = tmp_path / "twice"
    twice.mkdir()
    for file in made.glob("*.mp4"):
        for letter in "ab":
            shutil.copy(file, twice / f"{file.stem}_{letter}.mp4")
    once, both = (
        score_items(items_in(folder), items_in(real), [Loudness, KernelOfColours, FrechetOfColours])
        for folder in (made, twice)
    )
    for key in ("loudness", "kernel_of_colours", "frechet_of_colours"):
        assert (once.values[key].n, both.values[key].n) == (7, 14)
        assert once.values[key].distinct == both.values[key].distinct == 7
        assert both.values[key].ci95 is not None
        width = [scored.values[key].ci95[1] - scored.values[key].ci95[0] for scored in (once, both)]
        assert width[1] == pytest.approx(width[0], rel=0.15)
    assert once.notes == ()
    assert once.copies == {}
    assert both.copies == {2 * place + 1: 2 * place for place in range(7)}
    assert both.notes == (
        "7 of 14 clips are copies by content of others, as c00_b of c00_a: intervals and tests rest on the 7 that "
        "differ",
    )


def test_copies_with_other_captions_are_measurements_of_their_own(made: Path, tmp_path: Path) -> None:
    class OfCaption(Loudness):
        name = "of_caption"
        values = (ValueSpec("of_caption", "higher"),)
        extractor = Reader

        def measure(self, features: Features, reference: Features | None = None) -> list[float]:
            return [float(features["length"])]

    for number in range(4):
        shutil.copy(next(made.glob("*.mp4")), tmp_path / f"{number}.mp4")
        (tmp_path / f"{number}.txt").write_text("x" * (number // 2 + 1))
    items = items_in(tmp_path)
    scored = score_items(items, None, [OfCaption])
    assert (scored.values["of_caption"].n, scored.values["of_caption"].distinct) == (4, 2)
    assert len(scored.copies) == 3


class Reader(Levels):
    """A network that looks at the caption too."""

    name = "reader"
    reads_caption = True

    def load(self, item: Item) -> str:
        return item.caption

    def run(self, loaded: str) -> Features:
        return {"length": torch.tensor(float(len(loaded)))}


class LouderThanHalf(Loudness):
    name = "louder_than_half"
    values = (ValueSpec("loud", "higher"), ValueSpec("loud_above_half", "higher"))


class FrechetOfColours(FrechetOfSets):
    name = "frechet_of_colours"
    values = (ValueSpec("frechet_of_colours", "lower"),)
    extractor = Levels
    feature = "colours"


class KernelOfColours(FrechetOfColours):
    """The kernel distance of the clips' mean colours."""

    name = "kernel_of_colours"
    values = (ValueSpec("kernel_of_colours", "lower"),)

    def details(self, seed: int, resamples: int) -> dict[str, Details]:
        low, high = kernel_interval(self.distinct(), self.distinct(reference=True))
        return {self.name: Details(Interval(low, high, "jackknife", len(self.distinct())))}


@pytest.mark.parametrize("where", ["load", "run", "measure", "compute"])
@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of\nmemory at /home/somebody/x.py"), MemoryError(), KeyError("fps")]
)
def test_what_one_clip_makes_a_library_raise_is_its_reason_and_ends_nothing(
    made: Path, where: str, error: Exception
) -> None:
    class Faulty(Levels):
        name = "faulty"

        def load(self, item: Item):
            if where == "load" and item.id == "c03":
                raise error
            return super().load(item)

        def run(self, loaded):
            if where == "run" and loaded[0] == "c03":
                raise error
            return {**super().run(loaded), "third": torch.tensor(loaded[0] == "c03")}

    class FaultyLoudness(Loudness):
        name = "faulty"
        values = (ValueSpec("faulty", "higher"), ValueSpec("faulty_above_half", "higher"))
        extractor = Faulty

        def measure(self, features: Features, reference: Features | None = None) -> list[float]:
            if where == "measure" and features["third"]:
                raise error
            return super().measure(features, reference)

        def compute(self):
            if where == "compute":
                raise error
            return super().compute()

    scored = score_items(items_in(made)[:4], None, [FaultyLoudness, Loudness], QUICK)
    assert scored.values["loudness"].n == 4
    name = type(error).__name__
    if where == "compute":
        assert scored.values["faulty"].value is None
        assert scored.values["faulty"].warnings[0].startswith(f"cannot be computed ({name}: ")
        return
    assert scored.values["faulty"].n == 3
    assert scored.reasons[3]["faulty"].startswith(f"cannot be measured ({name}: ")
    assert "\n" not in scored.reasons[3]["faulty"]
    (told,) = scored.notes
    assert told.startswith(f"faulty: 1 of 4 clips cannot be measured ({name}: ")
    assert "the first is c03; this is a fault of the metric or of a library" in told
    with pytest.raises(UserError, match=r"c03\.mp4: faulty: cannot be measured"):
        score_items(items_in(made)[3:4], None, [FaultyLoudness], ScoringOptions(strict=True))


def test_clips_that_go_through_a_network_together_fail_alone(made: Path, tmp_path: Path) -> None:
    class Together(Levels):
        name = "together"
        batch = 3
        sizes: ClassVar[list[int]] = []

        def run_batch(self, loaded: Sequence[Any]) -> list[Features]:
            self.sizes.append(len(loaded))
            return super().run_batch(loaded)

    class LoudnessTogether(Loudness):
        extractor = Together

    items = items_in(spoiled(made, tmp_path))  # of 7, "dark" fails in the network and three are never loaded
    expected = score_items(items, None, [Loudness], QUICK)
    assert score_items(items, None, [LoudnessTogether], QUICK) == expected
    assert Together.sizes == [2, 2, 1, 1]
    both = score_items(items, None, [LoudnessTogether, LouderThanHalf], QUICK)  # as few as any of them takes
    assert both.values["loudness"] == expected.values["loudness"]
    assert Together.sizes[4:] == [1, 1, 1, 1]


def test_one_process_of_several_may_score_alone(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = score_items(items_in(made), None, [Loudness], QUICK)
    monkeypatch.setattr(processes, "world", lambda: 2)
    monkeypatch.setattr(processes, "gathered", lambda value: pytest.fail("the other process never answers"))
    alone = ScoringOptions(resamples=False, alone=True)
    assert score_items(items_in(made), None, [Loudness], alone) == expected


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_decoding_ahead_changes_nothing(made: Path, real: Path, scored: Scored, workers: int) -> None:
    order: list[tuple[str, int, int]] = []
    options = ScoringOptions(resamples=False, workers=workers)
    found = score_items(items_in(made), items_in(real), METRICS, options, lambda *now: order.append(now))
    assert found == scored
    assert order == [("clips", n, 16) for n in range(1, 17)]
    assert Levels.runs[:9] == [f"c{n:02}" for n in range(9)]  # the reference, then the scored clips


def score_as_rank(clips: Path, real: Path, out: Path) -> None:
    with processes.together():
        found = score_items(items_in(clips), items_in(real), METRICS)
        out.with_suffix(f".{processes.rank()}").write_text(
            json.dumps(dataclasses.asdict(found), sort_keys=True)
        )


@pytest.mark.slow
def test_three_processes_give_the_numbers_of_one(made: Path, real: Path, tmp_path: Path) -> None:
    clips, out = spoiled(made, tmp_path), tmp_path / "scored.json"
    wait_for_all(ranks(score_as_rank, clips, real, out, world=3))
    alone = score_items(items_in(clips), items_in(real), METRICS)
    assert alone.values["loudness"].n == 3
    wanted = json.loads(json.dumps(dataclasses.asdict(alone)))
    for rank in range(3):
        assert json.loads(out.with_suffix(f".{rank}").read_text()) == wanted
