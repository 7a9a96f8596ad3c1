"""Every metric has a page with its definition, and the pages name no metric that is not there."""

import re
from pathlib import Path

from ovi_eval.registry import METRICS
from ovi_eval.results.metric_titles import TITLES

PAGES = Path(__file__).resolve().parents[3] / "docs" / "metrics"


def test_every_metric_and_value_is_on_a_page_and_in_the_list() -> None:
    listed = (PAGES / "README.md").read_text(encoding="utf-8")
    rows = [line for line in listed.splitlines() if line.startswith("| [")]
    listed_names = {name for row in rows for name in re.findall(r"`([a-z0-9_/]+)`", row)}
    assert listed_names == {*METRICS}
    for row in rows:
        names, pages = re.findall(r"`([a-z0-9_/]+)`", row), re.findall(r"\(([a-z_]+\.md)\)", row)
        text = "".join((PAGES / page).read_text(encoding="utf-8") for page in pages)
        for name in names:
            assert name in text, (name, pages)
            for spec in METRICS[name].values:
                assert spec.key in text or spec.key.removeprefix(name) in text, (spec.key, pages)


def test_every_value_has_a_title_of_its_own() -> None:
    keys = {spec.key for metric in METRICS.values() for spec in metric.values}
    assert keys == {key for key in TITLES if not key.startswith("validation_")}
    assert len(set(TITLES.values())) == len(TITLES)
    assert max(map(len, TITLES.values())) <= 50


def test_no_page_is_left_out_of_the_list() -> None:
    listed = (PAGES / "README.md").read_text(encoding="utf-8")
    for page in PAGES.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in listed
