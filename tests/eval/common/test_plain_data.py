"""The reader of foreign YAML and JSON: plain values, or one line that says what is wrong."""

import json

import pytest
from omegaconf import OmegaConf

from ovi_eval.common.plain_data import MAX_DEPTH, parse_json, parse_yaml, read_json, read_yaml
from ovi_eval.errors import UserError


def test_plain_values_come_as_they_are():
    text = (
        "a: 1e-4\nb: [1, 0.5, true, null, no way]\nc: {d: '${oc.env:HOME}', 3: 012}\ne: 2026-01-02\nf: 1:30\n"
    )
    assert parse_yaml(text, "f.yaml") == {
        "a": 1e-4,
        "b": [1, 0.5, True, None, "no way"],
        "c": {"d": "${oc.env:HOME}", "3": "012"},
        "e": "2026-01-02",
        "f": "1:30",
    }
    assert parse_json('{"a": [1, 2.5, "${x}", null]}', "f.json") == {"a": [1, 2.5, "${x}", None]}


def test_what_a_run_stores_is_read_back():
    value = {
        "lr": 1e-05,
        "text": "no",
        "date": "2026-01-02",
        "n": -3,
        "deep": [{"a": [None, "1e3", "0x1f", ".5"]}],
    }
    assert parse_yaml(OmegaConf.to_yaml(OmegaConf.create(value)), "f.yaml") == value


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("parse", "text", "said"),
    [
        (parse_yaml, BOMB, "anchor or an alias"),
        (parse_yaml, "a: &x 1\nb: 2", "anchor or an alias"),
        (parse_yaml, "<<: *x", "anchor or an alias"),
        (parse_yaml, "a: !!python/object/apply:os.system [true]", "has the tag"),
        (parse_yaml, "a: !!binary aGk=", "has the tag"),
        (parse_yaml, "a: 1\na: 2", "appears twice"),
        (parse_yaml, "? [1, 2]\n: 3", "cannot be a key"),
        (parse_yaml, "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper"),
        (parse_yaml, "[" * 10_000, "nested deeper"),
        (parse_yaml, "a: [1", "no plain YAML"),
        (parse_yaml, "a: \x1b[31m", "no plain YAML"),
        (parse_yaml, "9" * 5000, "no plain YAML"),
        (parse_yaml, "a: 1\n---\nb: 2", "no plain YAML"),
        (parse_json, "[" * 100_000 + "]" * 100_000, "nested deeper"),
        (parse_json, "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "nested deeper"),
        (parse_json, '{"a": NaN}', "NaN"),
        (parse_json, '{"a": -Infinity}', "Infinity"),
        (parse_json, "1e999", "too large"),
        (parse_json, "9" * 5000, "no JSON"),
        (parse_json, '{"a": 1, "a": 2}', "names the key a twice"),
        (parse_json, "{", "no JSON"),
        (parse_json, b"\xff\xfe", "no JSON"),
        (parse_json, "", "no JSON"),
    ],
)
def test_anything_but_plain_values_is_refused_in_one_line(parse, text, said):
    with pytest.raises(UserError, match=said) as caught:
        parse(text, "f.file")
    assert str(caught.value).startswith("f.file: ")
    assert str(caught.value).isprintable()


def test_files_are_bounded_text(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert read_json(file) == read_yaml(file) == {"a": 1}
    with pytest.raises(UserError, match="larger than the 4 bytes"):
        read_json(file, max_bytes=4)
    file.write_bytes(b'"\xff"')
    with pytest.raises(UserError, match="no UTF-8 text"):
        read_json(file)
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_yaml("a\0b")
