"""common/settings.py states what each setting of conf/ may be, and messages name what was expected."""

import math
from typing import Annotated, Any, Literal

import pytest
import yaml
from omegaconf import OmegaConf

from ovi_lab.codecs.band_vocoder import BandVocoder
from ovi_lab.common.fields import (
    AnyText,
    AtLeastOne,
    Count,
    Name,
    Positive,
    Share,
    Text,
    YesNo,
    checked,
    field_type,
    fields_of,
    number,
    signature,
    whole,
)  # fmt: skip
from ovi_lab.common.paths import config_dir
from ovi_lab.common.settings import EXAMPLES, TABLES
from ovi_lab.common.values import check_settings, check_values
from ovi_lab.errors import UserError
from ovi_lab.models.config import RopeConfig, TowerConfig


def test_every_value_that_has_no_default_is_named_with_an_example():
    lacking = set()
    for file in config_dir().rglob("*.yaml"):
        group = file.parent.relative_to(config_dir()).as_posix()
        prefix = "" if group in (".", "experiment") else f"{group}."
        content = OmegaConf.to_container(OmegaConf.load(file))
        lacking |= {f"{prefix}{key}" for key, value in leaves(content) if value == "???"}
    assert {"data.train", "checkpoint", "text.weights"} <= lacking
    assert lacking - EXAMPLES.keys() == set()
    assert all(f"{key.removesuffix('.all')}=" in EXAMPLES[key] for key in lacking)


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def defaults():
    """(file, place in the composed configuration, value) of every default."""
    for file in sorted(config_dir().rglob("*.yaml")):
        group = file.parent.relative_to(config_dir()).as_posix()
        if group.startswith(("hydra", "released")):
            continue
        text = file.read_text()
        content = yaml.safe_load(text) or {}
        for key in ("defaults", "hydra"):
            content.pop(key, None)
        prefix = "" if group == "." or "@package _global_" in text else f"{group}."
        name = "sample" if file.stem == "sample" else "train"
        for path, value in leaves(content, prefix):
            if not path.rpartition(".")[2].startswith("_"):
                yield file.relative_to(config_dir()).as_posix(), name, path, value


def test_every_default_is_of_its_type():
    found = list(defaults())
    assert len(found) > 300
    for file, name, path, value in found:
        if isinstance(value, str) and ("${" in value or value == "???"):
            continue
        value = float(value) if str(value)[:1].isdigit() and "e-" in str(value) else value
        # models, strategies and tasks judge some of their settings themselves; closed groups none
        hint = field_type(TABLES[name], path)
        group = path.rpartition(".")[0]
        parent = field_type(TABLES[name], group) if group else None
        if hint is not None:
            checked(hint, value, f"{file}: {path}")
        elif parent is not None:
            checked(parent, {path.rpartition(".")[2]: value}, f"{file}: {group}")


def test_every_type_belongs_to_a_setting():
    used = {(name, path) for _, name, path, _ in defaults()}
    inside = ("sampler.", "evaluation.sampler.", "val_metrics.sampler.", "model.video.", "model.audio.")

    def leaves_of(hint, prefix=""):
        for key, inner in fields_of(hint).items():
            yield from leaves_of(inner, f"{prefix}{key}.") if fields_of(inner) else [f"{prefix}{key}"]

    stated = {(name, path) for name, table in TABLES.items() for path in leaves_of(table)}
    assert len(stated) > 200
    assert [entry for entry in stated - used if not entry[1].startswith(inside)] == []


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (AtLeastOne, [1, 2**62], [0, -1, True, 1.0, "1", None, [1], 2**63, math.nan]),
        (Annotated[int, whole(0, 7)], [0, 7], [8, -1]),
        (Positive, [1, 1e-9, 0.5], [0, -1.0, math.nan, math.inf, "1", False, 10**400]),
        (Share | None, [0, 1, 0.5, None], [1.01, -0.1, "x"]),
        (YesNo, [True, False], [0, 1, "true", None]),
        (Literal["skip", "raise"], ["skip", "raise"], ["Skip", "", None, 1, True]),
        (list[Count], [[], [0, 3]], [[-1], 3, "3", [1.5], None, {"a": 1}]),
        (list[Share], [[0.9, 0.95]], [[2], 0.9]),
        (Text, ["a", "é b", 2026], ["", "  ", "a\nb", "a\x1b[31m", "\ud800", True, None, []]),
        (AnyText, ["", "a\nb"], [1, None]),
        (Name, ["a", "a/b", "x.y"], ["../a", "/a", "a/../b", "", "a\x1bb", "é" * 150]),
        (dict[str, Any], [{}, {"a": 1}], [[], 1, "a", None]),
    ],
)  # fmt: skip
def test_types(hint, good, bad):
    for value in good:
        checked(hint, value, "x")
    for value in bad:
        with pytest.raises(UserError, match=r"^x is "):
            checked(hint, value, "x")


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (AtLeastOne, "a whole number of at least 1"),
        (Share | None, "a number from 0 to 1 or null"),
        (Literal["skip", "raise"] | None, "skip, raise or null"),
        (list[Share], "a list of a number from 0 to 1, such as [0.9, 0.95]"),
        (Annotated[float, number(gt=1)], "a number above 1"),
        (Annotated[float, number(ge=0, lt=1)], "a number from 0 to below 1"),
    ],
)
def test_the_message_names_what_was_expected(hint, words):
    with pytest.raises(UserError) as refused:
        checked(hint, "abc", "guard.x")
    assert str(refused.value) == f"guard.x is 'abc': expected {words}"


def test_keys_of_a_settings_class_or_a_constructor():
    for hint, what in ((RopeConfig, "rope"), (signature(BandVocoder), "the audio codec")):
        with pytest.raises(UserError, match=rf"^{what} has unknown key 'fcator'.* Valid: "):
            checked(hint, {"fcator": 1}, what)
    with pytest.raises(
        UserError, match=r"^file: model\.video\.num_layers is not given: expected a whole number"
    ):
        checked(TowerConfig, {"dim": 2, "ffn_dim": 2, "num_heads": 2}, "file: model.video", modality="video")
    with pytest.raises(UserError) as refused:
        checked(TowerConfig, {"x": 1}, "model.video", modality="video")
    assert "modality" not in str(refused.value)  # which is no key of the file
    with pytest.raises(UserError, match=r"^the audio codec: seed is true: expected a whole number"):
        checked(signature(BandVocoder), {"seed": True}, "the audio codec")


def test_a_constructor_is_checked_by_the_table_of_its_group():
    check_settings("guard", {"window": 2, "self": object(), "spike_factor": None})
    with pytest.raises(UserError, match=r"^guard\.window is 1: expected a whole number of at least 2$"):
        check_settings("guard", {"window": 1})


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"seed": "abc"}, "seed is 'abc': expected a whole number from 0 to 4294967295"),
        (
            {"trainer": {"max_steps": None}},
            "trainer.max_steps is null: expected a whole number of at least 0",
        ),
        ({"trainer": 3}, "trainer is 3: expected settings such as trainer.accelerator=…"),
        ({"name": "${name}"}, "name is '${name}', which refers to itself"),
        ({"name": "${nope}"}, "name is '${nope}', which cannot be looked up: there is no such key"),
        (
            {"name": "${oc.env:NOPE_NOT_SET}"},
            "which cannot be looked up: Environment variable 'NOPE_NOT_SET' not",
        ),
        (
            {"name": "${nope:1}"},
            "name is '${nope:1}', which cannot be looked up: Unsupported interpolation type nope",
        ),
        ({"ema": {"dcay": 0.9}}, "ema has unknown key 'dcay', did you mean decay? Valid: decay"),
        ({"data": {"shards": "???"}}, "data.shards is not given, and has no default"),
        (
            {"optim": {"factory": {"betas": [0.9, 7]}}},
            "optim.factory.betas is [0.9, 7]: expected a list of 2: a number from 0 to 1",
        ),
        ({"name": "a\x1b[31m"}, "name is 'a\\x1b[31m'"),
    ],
)
def test_the_first_value_that_does_not_hold_is_told(content, line):
    with pytest.raises(UserError) as told:
        check_values(OmegaConf.create(content), "train")
    assert str(told.value).startswith(line) or line in str(told.value)
    assert "\n" not in str(told.value)
    assert "\x1b" not in str(told.value)


def test_what_others_judge_and_what_is_missing_yet_passes():
    good = {
        "data": {"shards": "???"},
        "trainer": {"max_steps": 3, "strategy": "anything"},
        "adapter": None,
        "mine": {"x": 1},
    }
    check_values(OmegaConf.create(good), "train", may_lack=True)


def test_a_value_that_stands_in_place_of_another_makes_it_none():
    sources = [{"shards": "a.tar", "weight": 1.0}]
    config = check_values(OmegaConf.create({"data": {"shards": "???", "sources": sources}}), "train")
    assert OmegaConf.to_container(config) == {"data": {"shards": None, "sources": sources}}
    with pytest.raises(UserError, match=r"data.sources.*wieght"):
        check_values(OmegaConf.create({"data": {"sources": [{"shards": "a", "wieght": 1}]}}), "train")


def test_numbers_are_text_where_text_is_meant():
    content = {"name": 2026, "arm_name": "${name}", "init_from": {"all": 3}, "trainer": {"devices": 2, "precision": 16},
               "data": {"root": 2026, "shards": [1, "b"], "train": 7, "batch_size": 4}, "resume": None}  # fmt: skip
    config = check_values(OmegaConf.create(content), "train")
    assert OmegaConf.to_container(config, resolve=True) == {
        "name": "2026", "arm_name": "2026", "init_from": {"all": "3"}, "trainer": {"devices": 2, "precision": "16"},
        "data": {"root": "2026", "shards": ["1", "b"], "train": "7", "batch_size": 4}, "resume": None,
    }  # fmt: skip
    sample = check_values(OmegaConf.create({"prompt": 1984, "size": 256, "out": 7, "count": 1}), "sample")
    assert sample == {"prompt": "1984", "size": 256, "out": "7", "count": 1}
