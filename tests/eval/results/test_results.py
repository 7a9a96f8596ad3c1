"""results.json: what is written is read back, and what a stranger may have got wrong is named."""

import json
import re
from dataclasses import asdict, fields, replace
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest

from helpers.eval_study import run, write_study
from ovi_eval.errors import UserError
from ovi_eval.ranking.leaderboard import build_leaderboard
from ovi_eval.results.files import CLIP_FIELDS, LEADERBOARD_SCHEMA, ClipScores, MetricValue, RunResults
from ovi_eval.results.find_runs import find_runs
from ovi_eval.results.reading import read


def test_what_is_written_is_read_back(tmp_path):
    made = run("none", 2, notes=["sampled with 8 steps"])
    made = replace(
        made, clips=[*made.clips, ClipScores("broken", {"ball/onset_f1": None}, failed="no sound")]
    )
    path = made.write(tmp_path)
    assert path == tmp_path / "results.json"
    assert read(path) == read(tmp_path) == made
    assert read(path).folder == tmp_path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["per_clip.jsonl", "results.json"]
    assert json.loads(path.read_text())["schema"] == "ovi_eval.results/1"


FULL = MetricValue(
    12.5,
    40,
    "lower",
    kind="frechet",
    ci95=(11.0, 14.5),
    dimension=128,
    bias=2.25,
    weights={"vggish.pt": "ab" * 32},
    preprocessing="16 kHz mono, 0.96 s patches",
    warnings=("40 clips are fewer than 128 dimensions",),
    comparable=False,
)
FULL_JSON = asdict(FULL)


def test_what_a_value_rests_on_and_why_clips_lack_one_are_read_back(tmp_path):
    made = run("none", 2, benchmark="Verse-Bench", metrics={"fad/vggish": FULL})
    reasons = {"fad": "shorter than 0.96 s", "sync": "no face track"}
    made = replace(made, clips=[*made.clips, ClipScores("short", {}, reasons=reasons)])
    read_back = read(made.write(tmp_path))
    assert read_back == made
    assert read_back.metrics["fad/vggish"].warnings == FULL.warnings
    lines = [json.loads(line) for line in (tmp_path / "per_clip.jsonl").read_text().splitlines()]
    assert lines[-1] == {"id": "short", "reasons": reasons}
    assert "reasons" not in lines[0]


def test_a_file_from_before_these_fields_is_read(tmp_path):
    path = run("none", 0).write(tmp_path)
    data = json.loads(path.read_text())
    del data["benchmark"]
    for metric in data["metrics"].values():
        for key in ("dimension", "bias", "weights", "preprocessing", "warnings", "comparable", "ci95"):
            del metric[key]
    path.write_text(json.dumps(data))
    assert read(path) == run("none", 0)


def test_a_metric_cannot_take_the_name_of_a_field(tmp_path):
    made = run("none", 0, clips=[ClipScores("a", {"reasons": 1.0})])
    with pytest.raises(UserError, match="clip a: a metric cannot be named 'reasons'"):
        made.write(tmp_path)


def test_two_results_in_one_folder_keep_their_clips_apart(tmp_path):
    for name in ("ours", "theirs"):
        run(name, None, n_clips=4).write(tmp_path / f"{name}.json")
    assert read(tmp_path / "ours.json") == run("ours", None, n_clips=4)
    assert (tmp_path / "theirs.per_clip.jsonl").is_file()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_and_nothing_written(tmp_path, value):
    made = run("none", 0)
    metrics = {**made.metrics, "ball/sync_c": MetricValue(value, 3, "higher")}
    with pytest.raises(UserError, match=r"metrics\[ball/sync_c\]\.value"):
        replace(made, metrics=metrics).write(tmp_path)
    clips = [ClipScores("a", {"ball/sync_c": value})]
    with pytest.raises(UserError, match="clip a, ball/sync_c"):
        replace(made, clips=clips).write(tmp_path)
    with pytest.raises(UserError, match=r"losses\[val\]"):
        replace(made, losses={"val": value}).write(tmp_path)
    with pytest.raises(UserError, match="provenance"):
        replace(made, provenance={"speed": value}).write(tmp_path)
    assert not (tmp_path / "results.json").exists()


def edited(path, field, value):
    """The results file with another value in a field, given by its keys with " > " between; ... removes it."""
    data = json.loads(path.read_text())
    *outer, last = field.split(" > ")
    place = reduce(getitem, outer, data)
    place[last] = value
    if value is ...:
        del place[last]
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("schema", "ovi_eval.results/9", "schema is 'ovi_eval.results/9'"),
        ("schema", ..., "schema is None"),
        ("schema", "ovi_eval.leaderboard/1", "is a leaderboard over runs"),
        ("name", ..., "field name is missing"),
        ("name", " ", "field name is empty"),
        ("name", "n" * 10**6, "has 1000000 characters"),
        ("seed", "0", "field seed must be a whole number or null, found text"),
        ("seed", True, "field seed must be a whole number or null, found true or false"),
        ("seed", 10**30, "field seed is"),
        ("kind", "guessed", "field kind is 'guessed', expected one of measured, reference"),
        ("benchmark", 7, "field benchmark must be text or null, found a whole number"),
        ("n_clips", 1.5, "field n_clips must be a whole number"),
        ("n_clips", 10**18, "n_clips is 1000000000000000000, expected 10000000 or fewer"),
        ("n_clips", -1, "n_clips is -1, expected 0 or more"),
        ("metrics", [], "field metrics must be an object, found a list"),
        ("metrics > f1", 0.5, r"field metrics\[f1\] must be an object, found a number"),
        ("metrics", {f"m{i}": FULL_JSON for i in range(1000)}, "holds 1000 metrics"),
        ("metrics > f1 > value", "0.5", r"field metrics\[f1\].value must be a number or null, found text"),
        ("metrics > f1 > value", None, r"metrics\[f1\].value is null though n is 40"),
        ("metrics > f1 > value", 1e300, r"value is 1e\+300, expected a size of 1e\+15 or less"),
        ("metrics > f1 > n", 10**18, "n is 1000000000000000000, expected 10000000 or fewer"),
        ("metrics > f1 > n", 41, "n is 41, more than the 40 clips of the run"),
        ("metrics > f1 > n", 0, "n is 0 though it has a value"),
        ("metrics > f1 > n", -1, r"metrics\[f1\].n is -1, expected 0 or more"),
        ("metrics > f1 > n", 3.0, "n must be a whole number"),
        ("metrics > f1 > version", ..., r"field metrics\[f1\].version is missing"),
        ("metrics > f1 > version", "v" * 600, "has 600 characters, expected 500 or fewer"),
        ("metrics > f1 > direction", "up", "direction is 'up', expected one of higher, lower"),
        ("metrics > f1 > kind", "sum", r"metrics\[f1\].kind is 'sum', expected one of mean, frechet, set"),
        ("metrics > f1 > coverage", 1.5, "coverage is 1.5, expected a share"),
        ("metrics > f1 > coverage", -1, "coverage is -1.0, expected a share"),
        ("metrics > f1 > coverage", 0.5, "coverage is 0.5, but n is 40 of n_clips 40"),
        ("metrics > f1 > ci95", [0.1], r"field metrics\[f1\].ci95 must be two numbers"),
        ("metrics > f1 > ci95", [0.1, "x"], r"field metrics\[f1\].ci95.high must be a number, found text"),
        ("metrics > f1 > ci95", [2.0, 1.0], r"metrics\[f1\].ci95 is \[2.0, 1.0\], expected the lower bound"),
        ("metrics > f1 > ci95", [-1e300, 1e300], "expected a size of"),
        ("metrics > f1 > distinct", 50, "distinct is 50, expected 40 or fewer"),
        ("metrics > f1 > dimension", 2.5, r"metrics\[f1\].dimension must be a whole number or null"),
        ("metrics > f1 > dimension", 0, r"metrics\[f1\].dimension is 0, expected 1 or more"),
        ("metrics > f1 > bias", "small", r"metrics\[f1\].bias must be a number or null, found text"),
        ("metrics > f1 > weights", ["x"], r"metrics\[f1\].weights must be an object or null, found a list"),
        ("metrics > f1 > weights", {"x.pt": 3}, r"metrics\[f1\].weights.x.pt must be text"),
        ("metrics > f1 > weights", {str(i): "x" for i in range(200)}, "weights holds 200 files"),
        ("metrics > f1 > preprocessing", 3, r"metrics\[f1\].preprocessing must be text or null"),
        ("metrics > f1 > warnings", "few", r"metrics\[f1\].warnings must be a list or null, found text"),
        ("metrics > f1 > warnings", ["few", 3], r"metrics\[f1\].warnings\[1\] must be text"),
        ("metrics > f1 > warnings", ["w" * 30000], "has 30000 characters, expected 20000 or fewer"),
        ("metrics > f1 > comparable", "no", r"metrics\[f1\].comparable must be true or false, found text"),
        ("losses > val_loss_audio", "low", "field losses.val_loss_audio must be a number"),
        ("losses", {f"m{i}": 1 for i in range(1000)}, "holds 1000 losses"),
        ("per_clip", "../elsewhere.jsonl", "must be the name of a file beside it"),
        ("per_clip", "/etc/passwd", "must be the name of a file beside it"),
        ("per_clip", "\0", "must be the name of a file beside it"),
        ("per_clip", "gone.jsonl", "per-clip values gone.jsonl are missing"),
    ],
)
def test_a_wrong_field_is_refused_in_one_line_that_names_it(tmp_path, field, value, named):
    path = run("none", 0, metrics={"f1": FULL}).write(tmp_path)
    edited(path, field, value)
    with pytest.raises(UserError, match=named) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("written", "instead", "named"),
    [
        ('"n_clips": 40', '"n_clips": NaN', "holds NaN"),
        ("0.123456", "1" + "0" * 400, r"metrics\[ball/onset_f1\].value is too large a number"),
        ("0.123456", "1e400", "holds the number 1e400, too large for any float"),
        ("0.123456", "1" * 5000, "is no JSON"),
        ('"metrics": {', '"metrics": ' + "[" * 100_000, "nested deeper than 64"),
        ('"seed": 0', '"seed": 0, "seed": 1', "names the key seed twice"),
        ('"seed": 0', '"seed": 0' + " " * (16 * 2**20), "is larger than"),
        ("}", "", "is no JSON"),
        ('"none"', "\udcff", "is no UTF-8 text"),
    ],
)
def test_broken_json_and_numbers_beyond_all_bounds_are_refused(tmp_path, written, instead, named):
    made = run("none", 0, clips=())
    metrics = {"ball/onset_f1": replace(made.metrics["ball/onset_f1"], value=0.123456)}
    path = replace(made, metrics=metrics).write(tmp_path)
    assert written in path.read_text()
    path.write_text(path.read_text().replace(written, instead), errors="surrogateescape")
    with pytest.raises(UserError, match=named) as caught:
        read(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"id": "x", "ball/onset_f1": "high"}', "line 41.ball/onset_f1 must be a number or null"),
        ('{"ball/onset_f1": 1}', "line 41.id is missing"),
        ('{"id": "clip_0003"}', "the id 'clip_0003' a second time"),
        ('{"id": "x", "ball/onset_f1": NaN}', "line 41: holds NaN"),
        ('{"id": "x", "reasons": "none"}', "line 41.reasons must be an object or null, found text"),
        ('{"id": "x", "reasons": {"sync": 3}}', "line 41.reasons.sync must be text"),
        ('{"id": "x"', "line 41: is no JSON"),
        ('{"id": "x", "ball/onset_f1": 1' + "0" * 400 + "}", "line 41.ball/onset_f1 is too large a number"),
        ('{"id": "x", "ball/onset_f1": ' + "1" * 5000 + "}", "line 41: is no JSON"),
        ('{"id": "x", "reasons": ' + '{"a":' * 5000 + "1" + "}" * 5001, "line 41: is nested deeper"),
        ("7", "line 41 must be an object"),
    ],
)
def test_a_bad_line_of_the_clips_is_named(tmp_path, line, named):
    run("none", 0).write(tmp_path)
    with (tmp_path / "per_clip.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=named):
        read(tmp_path)


def test_versions_are_text_whatever_a_file_holds(tmp_path):
    path = run("none", 0).write(tmp_path)
    edited(path, "metrics > ball/onset_f1 > version", 3)
    assert read(path).metrics["ball/onset_f1"].version == "3"


def test_runs_are_found_below_a_study_and_what_is_unfinished_is_named(tmp_path):
    study = write_study(tmp_path, seeds=(0, 1, 10))
    (study / "none" / "seed_1" / "results.json").unlink()
    half = study / "none" / "seed_10" / "results.json"
    half.write_text(half.read_text()[:100])
    (study / "none" / "seed_0" / "checkpoints").mkdir()
    found = find_runs([study, study / "none" / "seed_0", study / "none" / "seed_10"])
    labels = [run.label() for run in found.runs]
    assert labels[:3] == [f"bidirectional_scaled, seed {s}" for s in (0, 1, 10)]
    assert labels.count("none, seed 0") == 1
    assert len(found.missing) == 2
    reasons = {missing.folder.name: missing.reason for missing in found.missing}
    assert reasons["seed_1"] == "not finished: it has no results.json yet"
    assert "is no JSON" in reasons["seed_10"]


def test_the_results_of_a_runs_tasks_are_found_and_claims_may_name_them(tmp_path):
    folder = tmp_path / "none" / "seed_0"
    run("none", 0).write(folder)
    run("none", 0, benchmark="video_given").write(folder / "tasks" / "video_given")
    run("bidirectional_scaled", 0, benchmark="video_given").write(tmp_path / "scaled" / "seed_0")
    run("other", 0).write(folder / "elsewhere")  # below a run nothing else is looked into
    (folder / "tasks" / "outside").symlink_to(tmp_path / "scaled")
    found = find_runs([tmp_path / "none"])
    assert [(each.name, each.benchmark) for each in found.runs] == [("none", ""), ("none", "video_given")]
    assert [missing.folder.name for missing in found.missing] == ["outside"]
    claim = {"metric": "ball/onset_f1 on video_given", "arm": "bidirectional_scaled", "versus": "none"}
    (finding,) = build_leaderboard([tmp_path], claims=[claim]).findings
    assert finding.outcome == "supported"


def test_a_path_that_is_not_there_and_a_file_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        find_runs([tmp_path / "gone"])
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(UserError, match="schema is None"):
        find_runs([other])


def test_results_side_by_side_in_a_folder_are_found_and_other_files_left_alone(tmp_path):
    for seed in (10, 2):
        run("ours", seed, n_clips=4).write(tmp_path / f"ours_{seed}.json")
    (tmp_path / "captions.json").write_text('{"a": "a ball bounces"}')
    found = find_runs([tmp_path, tmp_path / "ours_2.json"])
    assert [(run.label(), run.source.name) for run in found.runs] == [
        ("ours, seed 2", "ours_2.json"),
        ("ours, seed 10", "ours_10.json"),
    ]
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(UserError, match=r"torn\.json: is no JSON"):
        find_runs([tmp_path])


def _page():
    return (Path(__file__).parents[3] / "docs" / "results_schema.md").read_text(encoding="utf-8")


def _described(heading):
    section = _page().split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \| (.+?) \|", section, flags=re.M)


def test_the_page_describes_every_field_and_no_other():
    run_fields = {f.name for f in fields(RunResults)} - {"folder", "source", "clips", "problems"}
    assert {name for name, _ in _described("results.json")} == run_fields | {
        "schema",
        "per_clip",
        "per_clip_sha256",
    }
    assert {name for name, _ in _described("A value under `metrics`")} == {
        f.name for f in fields(MetricValue)
    }
    assert {name for name, _ in _described("A line of per_clip.jsonl")} == set(CLIP_FIELDS)


def test_what_the_page_calls_optional_may_be_missing_and_nothing_else(tmp_path):
    path = run("none", 0, metrics={"m": FULL}).write(tmp_path)
    whole = path.read_text()
    for heading, place in (("results.json", ""), ("A value under `metrics`", "metrics > m > ")):
        for name, kind in _described(heading):
            path.write_text(whole)
            edited(path, f"{place}{name}", ...)
            if "optional" in kind:
                read(path)
            else:
                with pytest.raises(UserError, match=name):
                    read(path)


def test_the_example_of_the_page_is_read(tmp_path):
    example, lines = (
        re.search(rf"```{kind}\n(.*?)```", _page(), flags=re.S)[1] for kind in ("json", "jsonl")
    )
    (tmp_path / "results.json").write_text(example)
    (tmp_path / "per_clip.jsonl").write_text(lines)
    found = read(tmp_path)
    assert found.metrics["fad"].dimension == 128
    assert found.metrics["sync_c"].value == pytest.approx(sum(found.per_clip("sync_c").values()) / 2)
    assert found.clips[2].reasons["sync"] == "no face track of 50 frames"
    again = read(found.write(tmp_path / "again"))
    assert again == found


def test_recorded_leaderboards_have_the_schema_that_is_read():
    experiments = Path(__file__).resolve().parents[3] / "experiments"
    recorded = [json.loads(path.read_text())["schema"] for path in experiments.glob("*/results.json")]
    assert recorded
    assert set(recorded) == {LEADERBOARD_SCHEMA}
