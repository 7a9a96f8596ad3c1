"""The table of experiments/README.md against the recorded results, and what every record says of where it is from."""

import json
import re
from pathlib import Path

import pytest

from ovi_eval.common.number_format import format_number

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
RECORDED = {
    path.parent.name: json.loads(path.read_text()) for path in sorted(EXPERIMENTS.glob("*/results.json"))
}
VERDICTS = {
    "supported": "supported",
    "not supported": "not_supported",
    "no answer": "unknown",
    "cannot be asked at this size": None,
}


def table():
    """Its rows: paper, measured, verdict, study and number of the claim (None where there is none)."""
    rows = []
    for line in (EXPERIMENTS / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) != 4 or cells[0] in ("what the paper says", "") or set(line) <= set("|-"):
            continue
        link = re.fullmatch(r"\[(\w+)\]\((\w+)/README\.md\)(?:, claim (\d+))?", cells[3])
        rows.append((*cells[:3], link[1] if link else None, int(link[3]) if link and link[3] else None))
    return rows


def test_every_claim_of_every_record_has_its_row_and_its_verdict():
    rows = table()
    claims = {(study, number): verdict for _, _, verdict, study, number in rows if number}
    outcomes = {
        (study, number): finding["outcome"]
        for study, board in RECORDED.items()
        for number, finding in enumerate(board["findings"], 1)
    }
    assert {key: VERDICTS[verdict] for key, verdict in claims.items()} == outcomes
    assert {study for *_, study, _ in rows if study} == set(RECORDED)
    assert all(verdict in VERDICTS for _, _, verdict, *_ in rows)


@pytest.mark.parametrize("row", [row for row in table() if row[3]], ids=lambda row: f"{row[3]}, {row[4]}")
def test_every_number_of_the_table_is_in_the_record(row):
    _, measured, _, study, number = row
    board = RECORDED[study]
    if number:
        evidence = board["findings"][number - 1]["evidence"]
        trends, others = ([e for e in evidence if ("trend" in e) == kind] for kind in (True, False))
        values = [v for e in others for v in (e["a"], e["b"], e["difference"])]
        values += [v for e in trends for v in (*e["means"], e["slope"])]
        values += [v for e in evidence for v in (*(e["interval"] or ()), e["margin"])]
    else:
        values = [cell["value"] for arm in board["arms"] for cell in arm["metrics"].values()]
    named = re.findall(r"[−-]?\d+\.\d+", measured)
    assert bool(named) == (row[2] != "no answer")
    assert set(named) <= {format_number(value, 3) for value in values}


def test_what_cannot_be_asked_names_no_study_and_no_number():
    for _, measured, verdict, study, _ in table():
        assert (study is None) == (verdict == "cannot be asked at this size")
        assert study or not re.search(r"\d\.\d", measured)


@pytest.mark.parametrize("study", RECORDED)
def test_every_recorded_number_says_its_commit_configuration_and_seed(study):
    for arm in RECORDED[study]["arms"]:
        assert len(arm["runs"]) >= len(arm["seeds"]) >= 3
        for run in arm["runs"]:
            assert re.fullmatch(r"[0-9a-f]{12}", run["config_hash"])
            assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?", run["provenance"]["git"])
            assert type(run["seed"]) is int
            assert run["seed"] in arm["seeds"]
    for reference in RECORDED[study]["references"]:
        assert all(run["provenance"]["git"] for run in reference["runs"])
