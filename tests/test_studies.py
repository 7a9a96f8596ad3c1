"""`make studies`: each recorded study has its command, and a quick run of it is held against its record."""

import copy
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import studies  # noqa: E402

RECORD = json.loads(studies.QUICK.read_text())
ABLATION = RECORD["studies"]["fusion_ablation"]["arms"]


def test_every_recorded_study_has_a_command_and_a_quick_record():
    recorded = {path.parent.name for path in studies.EXPERIMENTS.glob("*/results.json")}
    assert set(studies.studies()) == recorded == set(RECORD["studies"])
    for study in RECORD["studies"].values():
        assert study["commit"]
        for arm in study["arms"].values():
            assert arm["seeds"]
            assert all(len(digest) == 12 for digest in arm["config_hashes"])
            assert arm["values"]


def test_what_is_not_as_recorded_is_named_and_what_rounding_moves_is_not():
    def compared(change):
        now = copy.deepcopy(ABLATION)
        change(now)
        return list(studies.differences(ABLATION, now, RECORD["bounds"]))

    def value(column, factor):
        return lambda now: now["none"]["values"].update({column: ABLATION["none"]["values"][column] * factor})

    assert compared(lambda now: None) == []
    assert compared(value("loss/validation_video", 1.001)) == []
    (line,) = compared(value("loss/validation_video", 1.02))
    assert line.startswith("none: loss/validation_video was ")
    (line,) = compared(value("ball/frechet_video", 1.2))
    assert line.startswith("none: ball/frechet_video was ")
    (line,) = compared(lambda now: now["none"].update(config_hashes=["0" * 12]))
    assert line.startswith("none: config_hashes were ")
    assert compared(lambda now: now.pop("none")) == ["none: is not there now"]
    (line,) = compared(lambda now: now["none"]["values"].pop("ball/onset_f1"))
    assert line.endswith("is None")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["fusion_ablatio"], "no study is named 'fusion_ablatio'"), (["--record"], "--record goes with quick")],
)
def test_what_is_asked_wrongly_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        studies.main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("study", "trains"), [("fusion_ablation", True), ("sync_metrics", False)])
def test_only_a_study_that_trains_gets_the_settings_of_a_short_training(study, trains, monkeypatch):
    given = []
    monkeypatch.setattr(studies, "run", lambda entry, more, folder, together: given.extend(more) or together)
    assert studies.quick([study], record=False) == [f"{study}: the command has failed"]
    assert ("debug=fast" in given) == trains
    assert set(studies.studies()[study]["quick"]) <= set(given)


def test_a_later_setting_replaces_an_earlier_one():
    assert studies.last_of_each(["a=1", "b=2", "a=3"]) == ["a=3", "b=2"]


@pytest.mark.slow
def test_a_quick_run_of_the_ablation_is_as_recorded(capsys):
    assert studies.main(["quick", "fusion_ablation"]) == 0, capsys.readouterr().err
