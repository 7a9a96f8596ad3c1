"""ovi-eval check: what agrees passes, a wrong number fails, what cannot run says why."""

import fnmatch
import json
import math
import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from helpers.generated_weights import GeneratedWeights
from ovi_eval.backbones import i3d
from ovi_eval.check.case import CannotRunError, Case, Cases, Setting
from ovi_eval.check.cases import CASES
from ovi_eval.check.generated import hashed
from ovi_eval.check.goldens import Goldens, goldens_folder
from ovi_eval.check.lines import Line, at_most, close, same
from ovi_eval.check.runner import FAILED, NOT_RUN, OK, chosen, run_cases
from ovi_eval.cli import main
from ovi_eval.common.weights import WEIGHTS_FOLDER
from ovi_eval.errors import UserError

MADE_BY = ("_comment", "video", "language", "*_prompt", "dialogue", "generator", "num_frames")
NO_NUMBERS = (
    # Where numbers come from and what they took.
    *("*: _about", "*: _env", "*: *commits", "*: *versions", "*: shapes", "*: *_s"),
    *("*: first_keys", "*: last_keys", "*: keys_first"),
    *("audio_golden.json: speed_*", "syncnet_golden.json: channel_order", "*: made_with"),
    "clap_golden.json: audio",
    # How a clip was made; the 121 frames that its maker counts are 120 in the file.
    *(f"fastvideo_reference_scores/ltx2.metadata.json: {key}" for key in MADE_BY),
    # What the references do to one another, which says nothing of this package.
    *("i3d_golden.json: keys_equal", "i3d_golden.json: preprocess_float_input_*"),
    "extra_golden.json: np_random_integers",
)
NOT_HERE = {
    *("frechet.reference_features", "clap.ltx2_fused", "sync.lrs3_crop", "videoscore2.ltx2"),
    *("desync.ltx2", "imagebind.ltx2", "audiobox.ltx2"),
    *(name for name in CASES if name.startswith("anchors.")),
}
"""Cases that need what ../shared does not have."""
CLOSER = {
    "av_align.*: mean flow": 1.3e-7,
    "av_align.*: the first 5 flows": 1e-6,
    "clap.sound: 16-bit*": 0.0,
    "clap.htsat*: features*": 4.4e-7,  # so that the whole difference of a sound or caption is at most 1e-5 long
    "clap.htsat*: cosines*": 1e-6,
    "dnsmos.scores: *": 2e-6,
    "frechet.diagonal: *": 1.7e-12,
    "frechet.fad_infinity: *at infinity": 4.6e-12,
    "frechet.fad_infinity: *slope*": 1e-8,
    "frechet.fad_infinity: *r²": 2.4e-11,
    "ge2e.voices: *": 4e-7,
    "kid.features: *": 1e-12,
    "sync.distances: Sync-C": 0.02,
    "sync.real_crop: *": 0.64,  # of distances about 13 000
    "sync.real_crop: Sync-C": 0.064,
    "transnet.shots: probabilities": 1e-6,
    "vggish.front_end: log-mel, whole": 1e-5,
    "wer.pairs: WER, mean*": 1e-15,
}
"""Largest differences that are allowed with the packages of this project's tests; the check allows others more."""


SECONDS = {"av_align.man_red_1504x608", "av_align.two_men_1344x704", "dnsmos.scores", "flickering.ltx2", "ge2e.voices",
           "i3d.layers", "sync.embeddings"}  # fmt: skip
"""Cases of `ovi-eval check --quick` that take longer than the quick tests may."""


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)


def spoilt(folder: Path, goldens: Path, name: str, *keys: str, by: float) -> Path:
    """A copy of the goldens with one number of a JSON file made larger."""
    shutil.copytree(goldens, folder)
    content = json.loads((folder / name).read_text())
    inside = content
    for key in keys[:-1]:
        inside = inside[key]
    inside[keys[-1]] *= 1 + by
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.slow] if case.slow or name in SECONDS else [])
        for name, case in CASES.items()
    ],
)
def test_every_golden_is_met(
    case: Case, generated: GeneratedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    if generated.clips is not None:
        monkeypatch.setenv(WEIGHTS_FOLDER, str(generated.clips.parent / "weights"))
    lines, reason = [], ""
    try:
        lines = list(case.run(generated))
    except CannotRunError as error:
        reason = str(error)
    if not lines and (case.name in NOT_HERE or generated.clips is None or "pip install" in reason):
        pytest.skip(reason)
    assert not reason
    assert lines
    for line in lines:
        assert line.passed, line
        assert line.share is None or line.share <= 1
        for pattern, bound in CLOSER.items():
            if fnmatch.fnmatchcase(f"{case.name}: {line.quantity}", pattern):
                assert line.away <= bound, line


def test_the_command_prints_and_writes_what_it_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "check.json"
    assert main(["check", "--quick", "--only", "vggish,wer,dnsmos.sound,published", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 120
    for text in ("expected", "got", "tolerance", "verdict", "FAD (VGGish)", "av-benchmark@050a5cdb", " ok"):
        assert text in printed
    assert "FAILED" not in printed
    assert "not run: needs --clips with latentsync/demo1_video.mp4" in printed
    assert "not run: takes longer; leave --quick out" in printed
    written = json.loads(out.read_text())
    assert written["schema"] == "ovi_eval.check/1"
    verdicts = {case["name"]: case["verdict"] for case in written["cases"]}
    wanted = [n for n in CASES if n.split(".")[0] in ("vggish", "wer", "published") or n == "dnsmos.sound"]
    assert verdicts == {n: NOT_RUN if n in ("vggish.embedding", "dnsmos.sound") else OK for n in wanted}
    for case in written["cases"]:
        assert bool(case["lines"]) == (case["verdict"] == OK), case
        for line in case["lines"]:
            assert line["passed"], line
            assert line["share_of_tolerance"] is None or line["share_of_tolerance"] <= 1


@pytest.mark.parametrize(
    ("name", "keys", "by", "case", "quantity"),
    [
        ("stats_golden.json", ("diag_analytic", "analytic"), 1e-9, "frechet.diagonal", "closed form"),
        ("stats_golden.json", ("kl_av_benchmark", "kl_softmax"), 1e-4, "kl.divergence", "softmax"),
        ("i3d_golden.json", ("preprocess", "videogpt_sum"), 1e-3, "i3d.preprocessing", "videogpt, sum"),
        ("syncnet_golden.json", ("planted", "offset"), 0.25, "sync.judged", "offset, planted"),
        ("face_vbench_wer.json", ("jiwer", "corpus_wer_pooled"), 1e-3, "wer.pairs", "WER, pooled"),
    ],
)
def test_one_wrong_number_fails(
    goldens: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    keys: tuple[str, ...],
    by: float,
    case: str,
    quantity: str,
) -> None:
    folder = spoilt(tmp_path / "goldens", goldens, name, *keys, by=by)
    assert main(["check", "--only", case, "--goldens", str(folder)]) == 1
    printed = capsys.readouterr().out
    (summary,) = [line for line in printed.splitlines() if line.startswith(f"FAILED {case}: ")]
    assert quantity in summary
    assert "1 failed" in printed


def test_one_wrong_value_of_a_tensor_fails(goldens: Path, tmp_path: Path) -> None:
    folder = tmp_path / "goldens"
    shutil.copytree(goldens, folder)
    path = folder / "audio_golden.safetensors"
    tensors = load_file(path)
    tensors["vggish.log_mel_examples"][2, 50, 7] += 1e-6
    save_file(tensors, path)
    (outcome,) = run_cases(chosen(["vggish.front_end"]), Goldens(folder))
    assert outcome.verdict == FAILED
    (bad,) = [line for line in outcome.lines if not line.passed]
    assert (bad.quantity, bad.count) == ("log-mel patches", 3 * 96 * 64)
    assert bad.expected == float(tensors["vggish.log_mel_examples"][2, 50, 7])
    assert bad.share == pytest.approx(1000, rel=0.05)


def test_what_a_folder_of_goldens_lacks_fails(goldens: Path, tmp_path: Path) -> None:
    folder = tmp_path / "goldens"
    shutil.copytree(goldens, folder)
    (folder / "i3d_golden.json").unlink()
    (folder / "syncnet_golden.safetensors").write_bytes(b"nothing")
    (folder / "published_numbers.json").write_text("{}")
    names = ["i3d.preprocessing", "sync.judged", "published.rows"]
    reasons = {o.case.name: (o.verdict, o.reason) for o in run_cases(chosen(names), Goldens(folder))}
    for name, text in zip(
        names, ("no such file", "cannot be read as safetensors", "has no rows"), strict=True
    ):
        assert reasons[name][0] == FAILED
        assert text in reasons[name][1]


def test_bad_options_are_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, text in (
        (("--only", "vgish"), "no check is called 'vgish'; did you mean vggish"),
        (("--only", "frechet.diagonals"), "did you mean frechet.diagonal"),
        (("--only", "qqq"), "there are anchors, audiobox, av_align"),
        (("--only", ","), "--only expects names with commas between, found ','"),
        (("--clips", tmp_path / "none"), "none: no such folder"),
        (("--weights", tmp_path / "none"), "none: no such folder"),
        (("--goldens", tmp_path), "is no folder of goldens"),
        (("--only", "wer", "--json", tmp_path), "is a folder; name a file"),
    ):
        assert main(["check", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.startswith("ovi-eval: ")
        assert error.count("\n") == 1


def test_names_and_groups() -> None:
    assert [case.name for case in chosen(["vggish"])] == [n for n in CASES if n.startswith("vggish.")]
    assert [case.name for case in chosen(["wer.pairs", "frechet.diagonal"])] == [
        "frechet.diagonal",
        "wer.pairs",
    ]
    assert chosen(None) == list(CASES.values())


def test_a_folder_without_the_clip_is_reported(tmp_path: Path) -> None:
    (outcome,) = run_cases(chosen(["dnsmos.sound"]), Goldens(goldens_folder()), clips=tmp_path)
    assert outcome.verdict == NOT_RUN
    assert outcome.reason == f"{tmp_path} has no latentsync/demo1_video.mp4"


def test_weights_that_are_missing_are_named(shared_dir: Path, tmp_path: Path) -> None:
    goldens = Goldens(goldens_folder())
    anchors = {o.case.name: o for o in run_cases(chosen(["anchors"]), goldens, weights=tmp_path)}
    assert {outcome.verdict for outcome in anchors.values()} == {NOT_RUN}
    fvd = anchors["anchors.fvd_zeros_ones"].reason
    assert fvd.startswith("needs I3D Kinetics-400 weights: i3d_pretrained_400.pt from https:")
    (outcome,) = run_cases(
        chosen(["faces.ultraface_torch"]), goldens, clips=shared_dir / "clips", weights=shared_dir / "clips"
    )
    assert "needs" in outcome.reason


def test_weights_are_looked_for_in_the_folder_that_is_given(tmp_path: Path) -> None:
    (tmp_path / i3d.FILE.name).write_bytes(b"nothing")
    (outcome,) = run_cases(chosen(["anchors.fvd_zeros_ones"]), Goldens(goldens_folder()), weights=tmp_path)
    assert outcome.verdict == FAILED
    assert outcome.reason.startswith(str(tmp_path / i3d.FILE.name))
    assert WEIGHTS_FOLDER not in os.environ


def test_every_golden_has_a_case() -> None:
    folder = goldens_folder()
    named = [golden for case in CASES.values() for golden in case.goldens]
    files = {golden.split(": ")[0] for golden in named}
    held = []
    for file in sorted(files):
        if file.endswith(".json"):
            held += [f"{file}: {key}" for key in json.loads((folder / file).read_text())]
        elif file.endswith(".safetensors"):
            with safe_open(folder / file, "pt") as tensors:
                held += [f"{file}: {key}" for key in tensors.keys()]  # noqa: SIM118
        else:
            assert (folder / file).is_file()
    for golden in held:
        assert any(fnmatch.fnmatchcase(golden, pattern) for pattern in (*named, *NO_NUMBERS)), golden
    for pattern in named:
        file = pattern.split(": ")[0]
        if not file.endswith(".gz"):
            assert any(fnmatch.fnmatchcase(golden, pattern) for golden in held), pattern


def test_every_file_of_goldens_is_used(shared_dir: Path) -> None:
    folder = shared_dir / "golden" / "metrics"
    files = {golden.split(": ")[0] for case in CASES.values() for golden in case.goldens}
    others = {"README.md", "hashfill.py", "speed_anchors.json"}
    handed = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    own_ones = {"s3fd_golden.json", "package_networks.json", "raft_golden.json", "raft_keys.txt.gz"}
    assert handed - others == files - own_ones
    own = goldens_folder()
    for name in files - own_ones:
        assert (own / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_wheel_has_every_golden() -> None:
    root = Path(__file__).parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    taken = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    needed = {golden.split(": ")[0].split("/")[0] for case in CASES.values() for golden in case.goldens}
    assert {place: into for place, into in taken.items() if place.startswith("tests/")} == {
        f"tests/goldens/{name}": f"ovi_eval/goldens/{name}" for name in needed
    }


def test_the_page_names_every_case() -> None:
    page = (Path(__file__).parents[3] / "docs" / "check.md").read_text(encoding="utf-8")
    for name in CASES:
        assert f"`{name}`" in page, name


def test_numbers_made_in_pieces_are_those_of_the_whole() -> None:
    assert hashed("x", 5).tolist() == hashed("x", 9)[:5].tolist()
    assert hashed("x", 9)[4:].tolist() == hashed("x", 5, first=4).tolist()


def test_comparing() -> None:
    line = close("x", torch.tensor([1.0, 2.0, 4.1]), [1.0, 2.0, 4.0], rtol=0.1)
    assert (line.expected, line.got, line.count, line.passed) == (4.0, pytest.approx(4.1), 3, True)
    assert line.share == pytest.approx(0.25, rel=1e-5)
    assert not close("x", 1.0 + 2e-4, 1.0).passed
    assert close("x", 1.0 + 0.9e-4, 1.0).passed
    assert close("x", 0.0, 0.0, rtol=0).passed
    assert not close("x", 1e-30, 0.0).passed
    for bad in (math.nan, math.inf):
        for pair in ((bad, 1.0), (1.0, bad), (bad, bad)):
            assert not close("x", *pair).passed
            assert not close("x", np.array([2.0, pair[0]]), np.array([2.0, pair[1]])).passed
    assert not close("x", [1.0, 2.0], [[1.0, 2.0]]).passed
    assert close("x", [1.0], [1.0]).tolerance == "0.0001 rel"
    assert same("x", [1, 2], [1, 2]).passed
    assert not same("x", None, 0.0).passed
    assert not at_most("x", math.nan, 1.0, 0.5, "why").passed
    assert at_most("x", 0.5, 1.0, 0.4, "why").share == 0.5


def test_a_case_that_breaks_fails_and_the_next_one_runs() -> None:
    cases = Cases()

    def add(name: str, *, fault: Exception | None, lines: int) -> None:
        @cases.case(name, "m", "r", "g: *")
        def run(setting: Setting) -> Iterator[Line]:
            setting.scratch.joinpath(name).write_text("x")
            for number in range(lines):
                yield same("n", number, number)
            if fault is not None:
                raise fault

    add("a.breaks", fault=ZeroDivisionError("by\nnought"), lines=1)
    add("a.user_error", fault=UserError("x.mp4: is no clip"), lines=0)
    add("a.lacks", fault=CannotRunError("needs a file"), lines=2)
    add("b.compares_nothing", fault=None, lines=0)
    add("b.passes", fault=None, lines=1)
    with pytest.raises(ValueError, match=r"two cases are called b\.passes"):
        add("b.passes", fault=None, lines=1)
    found = run_cases(list(cases.values()), Goldens(goldens_folder()))
    assert [(o.verdict, o.reason, len(o.lines)) for o in found] == [
        (FAILED, "ZeroDivisionError: by nought", 1),
        (FAILED, "x.mp4: is no clip", 0),
        (NOT_RUN, "needs a file", 2),
        (FAILED, "it compared nothing", 0),
        (OK, "", 1),
    ]


def test_files_of_a_group_go_with_it() -> None:
    cases, seen = Cases(), []

    for name in ("a.one", "a.two", "b.one"):

        @cases.case(name, "m", "r", "g: *")
        def run(setting: Setting, name: str = name) -> Iterator[Line]:
            kept = setting.keep("network", lambda: name)
            seen.append((sorted(path.name for path in setting.scratch.iterdir()), kept, setting.scratch))
            (setting.scratch / name).write_text("x")
            yield same("n", 1, 1)

    run_cases(list(cases.values()), Goldens(goldens_folder()))
    assert [(files, kept) for files, kept, _ in seen] == [([], "a.one"), (["a.one"], "a.one"), ([], "b.one")]
    assert not seen[0][2].exists()
