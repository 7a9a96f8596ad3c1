"""ovi-eval on the command line: what it prints and writes, and one line with code 2 for whatever is wrong."""

import json
import subprocess
import sys

import pytest

from helpers.ball_clips import real_clips, score
from helpers.eval_study import ARMS, CLAIMS, write_study
from ovi_eval.cli import main
from ovi_eval.clips.captions import read_caption_file, read_captions
from ovi_eval.clips.writing import write_mp4
from ovi_eval.errors import UserError
from ovi_eval.ranking.leaderboard import build_leaderboard
from ovi_eval.registry import METRICS
from ovi_eval.report.markdown import markdown
from ovi_eval.results.reading import read


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("cli"), n_clips=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight real clips as mp4 files, captions beside them; the last is broken, the one before too short."""
    path = tmp_path_factory.mktemp("model") / "my_model"
    path.mkdir()
    clips = real_clips(8)
    for i in range(8):
        frames = clips.frames_NTHWC[i][: 20 if i == 6 else None]
        write_mp4(path / f"c{i}.mp4", frames, clips.fps, clips.waves_NS[i], clips.sample_rate, enlarge_to=64)
        (path / f"c{i}.txt").write_text(clips.captions[i] + "\n")
    (path / "c7.mp4").write_bytes(b"not a video")
    return path


def refused(capsys, *argv):
    """The one line on stderr of a command that ends with code 2."""
    assert main(list(map(str, argv))) == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert line.startswith("ovi-eval: ")
    return line


@pytest.mark.slow
def test_leaderboard_is_rebuilt_into_the_studys_folder(study, capsys):
    assert main(["leaderboard", str(study), "--title", "Fusion", "--first", "none"]) == 0
    out = capsys.readouterr().out
    assert "onset_f1 ↑" in out
    assert str(study / "leaderboard.html") in out.replace("\n", "")
    written = json.loads((study / "results.json").read_text())
    assert written["study"]["title"] == "Fusion"
    assert written["study"]["first"] == "none"
    assert {p.name for p in study.iterdir()} >= {"leaderboard.md", "leaderboard.html", "figure.png"}


@pytest.mark.slow
def test_leaderboard_of_single_runs_goes_where_it_is_told(study, tmp_path, capsys):
    runs = [str(study / name / "seed_0") for name in ARMS] + [str(study / "none" / "seed_1" / "results.json")]
    claims = tmp_path / "claims.yaml"
    claims.write_text(json.dumps({"claims": CLAIMS}))
    assert main(["leaderboard", *runs, "--out", str(tmp_path / "out"), "--claims", str(claims)]) == 0
    assert "Scaled RoPE carries when" in capsys.readouterr().out
    assert (tmp_path / "out" / "leaderboard.html").is_file()
    assert main(["leaderboard", *runs]) == 0
    assert str(study / "leaderboard" / "leaderboard.html") in capsys.readouterr().out.replace("\n", "")
    assert read(study / "none" / "seed_0").name == "none"


def test_leaderboard_with_bad_input(study, tmp_path, capsys):
    assert "gone: no such file or folder" in refused(capsys, "leaderboard", tmp_path / "gone")
    assert "did you mean none?" in refused(capsys, "leaderboard", study, "--first", "nome")
    assert "no finished run of any arm" in refused(capsys, "leaderboard", tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema": "ovi_eval.results/1", "name": "x"')
    assert "broken.json: is no JSON" in refused(capsys, "leaderboard", broken)
    claims = tmp_path / "claims.yaml"
    for text, named in (
        ("claims: [{metric: ball/onset_f1, arm: none}]", "claim 1: field versus must be text"),
        ("claims: [", "is no plain YAML"),
    ):
        claims.write_text(text)
        assert named in refused(capsys, "leaderboard", study, "--claims", claims)
    assert "claims.gone" in refused(capsys, "leaderboard", study, "--claims", tmp_path / "claims.gone")
    run = study / "none" / "seed_0"
    assert "a leaderboard must not replace" in refused(capsys, "leaderboard", study, "--out", run)
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "cannot be written" in refused(capsys, "leaderboard", study, "--out", blocked)


def test_commands_and_options_that_are_unknown(capsys):
    for argv, named in (
        (["leaderbord", "x"], "did you mean leaderboard?"),
        (["x"], "COMMAND 'x' is unknown; there are score, leaderboard, compare, metrics, check"),
        ([], "required"),
        (["score", "clips", "--sedd", "3"], "--sedd"),
        (["score", "clips", "--seed", "three"], "invalid int value: 'three'"),
    ):
        assert named in refused(capsys, *argv)


def test_metrics_are_listed_with_direction_version_and_needs(capsys):
    assert main(["metrics"]) == 0
    out = capsys.readouterr().out
    for name, metric in METRICS.items():
        assert name in out
        for spec in metric.values:
            assert spec.key in out
    assert max(map(len, out.splitlines())) <= 100
    heads = out.splitlines()[1].split()
    assert heads[:4] + heads[-1:] == ["metric", "value", "best", "unit", "here"]


def test_metrics_say_what_is_lacking_and_where_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OVI_EVAL_WEIGHTS", raising=False)
    assert main(["metrics", "--weights", str(tmp_path)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "need VGGish weights: vggish-10086976.pth from https://github.com/" in told
    assert f"put it into {tmp_path}" in told
    assert "no such folder" in refused(capsys, "metrics", "--weights", tmp_path / "gone")
    of_metric = ["score", tmp_path, "--weights", tmp_path, "--metrics"]
    for name in ("imagebind", "audiobox", "speaker_similarity", "face_similarity"):
        assert name in refused(capsys, *of_metric, name)
    assert "desync needs " in refused(capsys, *of_metric, "desync")
    for name in ("fad", "fvd_cd_fvd", "fad_vggish"):
        line = refused(capsys, *of_metric, name)
        assert "holds no clips" in line or f"put it into {tmp_path}" in line


def test_score_a_folder_of_mp4_files(folder, tmp_path, capsys):
    out = tmp_path / "results" / "mine.json"
    assert main(["score", str(folder), "--out", str(out), "--metrics", "ball/onset_f1,ball/agreement"]) == 0
    results = read(out)
    assert results.name == "my_model"
    assert results.n_clips == 8
    assert all(name.startswith(("ball/onset", "ball/agreement")) for name in results.metrics)
    assert results.metrics["ball/onset_f1"].value > 0.9
    assert results.metrics["ball/onset_f1"].n == 7
    assert results.metrics["ball/onset_f1"].coverage == pytest.approx(7 / 8)
    assert results.clips[0].caption == real_clips(8).captions[0]
    assert results.clips[7].failed.startswith("ball/event_sync, ball/agreement: cannot be decoded")
    assert set(results.clips[7].reasons) == {"ball/event_sync", "ball/agreement"}
    assert results.clips[6].failed is None  # shorter than the others, and scored all the same
    assert {"ovi_eval", "torch", "av"} <= set(results.provenance["versions"])
    assert "1 of 8 clips are missing, as c7: cannot be decoded" in " ".join(capsys.readouterr().out.split())
    assert "my_model" in markdown(build_leaderboard([out]))


def test_score_a_tensor_file_against_real_clips(tmp_path, capsys):
    clips = real_clips(36)
    mine = clips[list(range(12))].save(tmp_path / "mine" / "clips.safetensors")
    clips[list(range(12, 36))].save(tmp_path / "real.safetensors")
    out = tmp_path / "mine" / "results.json"
    reference = ["--reference", str(tmp_path / "real.safetensors")]
    assert main(["score", str(mine), *reference, "--out", str(out), "--seed", "4"]) == 0
    results = read(out)
    assert results.label() == "mine, seed 4"
    assert {m.kind for m in results.metrics.values()} == {"mean", "frechet"}
    assert results.provenance["judges"]["sha256"]
    assert "ball/frechet_video" in capsys.readouterr().out
    assert main(["score", str(mine.parent), "--out", str(tmp_path / "alone.json")]) == 0
    assert "frechet" not in {m.kind for m in read(tmp_path / "alone.json").metrics.values()}


def test_score_with_bad_input(folder, tmp_path, capsys):
    out = tmp_path / "r.json"
    assert "is a folder; name the file" in refused(capsys, "score", folder, "--out", tmp_path)
    for argv, named in (
        ([folder, "--metrics", "ball/onset_f2"], "did you mean ball/onset_f1"),
        ([tmp_path / "gone"], "gone: no such file or folder"),
        ([tmp_path], "holds no clips.safetensors and no clip"),
        ([folder, "--metrics", "ball/agreement", "--strict"], "c7.mp4"),
        ([folder, "--metrics", " , "], "--metrics expects names with commas"),
        ([folder, "--metrics", "ball/frechet_video"], "give a reference"),
    ):
        assert named in refused(capsys, "score", *argv, "--out", out)
    fake = tmp_path / "clips.safetensors"
    fake.write_bytes(b"12345678")
    assert "is no readable file of clips" in refused(capsys, "score", fake, "--out", out)
    assert not out.exists()


def test_captions_come_from_jsonl_csv_or_text_beside(tmp_path):
    (tmp_path / "a.txt").write_text("a red ball\n")
    (tmp_path / "captions.jsonl").write_text('{"id": "b.mp4", "caption": "a ball"}\n')
    (tmp_path / "captions.csv").write_text('id,caption\nc,"a blue ball, bouncing"\n')
    expected = {"a": "a red ball", "b": "a ball", "c": "a blue ball, bouncing"}
    assert read_captions(tmp_path, sorted(tmp_path.glob("*.txt"))).texts == expected
    (tmp_path / "captions.csv").write_text("name,prompt\nc.mp4,a ball\n")
    assert read_captions(tmp_path, sorted(tmp_path.glob("*.txt"))).texts["c"] == "a ball"
    (tmp_path / "captions.csv").write_text("clip,words\nc,d\n")
    with pytest.raises(
        UserError, match=r"captions.csv: has the columns clip, words: expected .* file and caption"
    ):
        read_captions(tmp_path, sorted(tmp_path.glob("*.txt")))
    (tmp_path / "captions.csv").unlink()
    (tmp_path / "captions.jsonl").write_text("{'id'}\n")
    with pytest.raises(UserError, match=r"captions.jsonl: line 1: is no JSON"):
        read_captions(tmp_path, sorted(tmp_path.glob("*.txt")))


def test_caption_files_that_cannot_be_used(tmp_path):
    file = tmp_path / "prompts.csv"
    with pytest.raises(UserError, match="no such file"):
        read_caption_file(file)
    for content, named in (
        (b"id,caption\na,one\na.mp4,two\n", "line 3: it gives a a second text that differs"),
        (b"id,caption\na,\xff\n", r"is no UTF-8 text.*\(line 2, byte 13\)"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=named):
            read_caption_file(file)
    with pytest.raises(UserError, match=r"come in a \.csv, \.tsv or \.jsonl file"):
        read_caption_file(tmp_path / "prompts.xlsx")
    tabs = tmp_path / "prompts.tsv"
    tabs.write_text("file\tprompt\nx/y.wav\tthunder\n")
    assert read_caption_file(tabs) == {"x/y": "thunder"}


def test_captions_given_by_hand_must_belong_to_clips(folder, tmp_path, capsys):
    out, file = tmp_path / "r.json", tmp_path / "prompts.csv"
    argv = ["score", str(folder), "--metrics", "ball/agreement", "--out", str(out), "--captions", str(file)]
    file.write_text("id,caption\nother,a ball\n")
    assert "no clip here has the id of a caption; the captions name other" in refused(capsys, *argv)
    file.write_text("id,caption\nother,a ball\nc0,any ball\n")
    assert main(argv) == 0
    assert "1 captions belong to no clip: other" in capsys.readouterr().out
    results = read(out)
    assert results.clips[0].caption == "any ball"
    assert results.notes == ("1 captions belong to no clip: other",)


def test_a_folder_of_mp4_scores_as_the_tensors_it_was_made_of(folder, tmp_path):
    names = ["ball/event_sync", "ball/agreement"]
    argv = ["score", str(folder), "--metrics", ",".join(names), "--limit", "6"]
    assert main([*argv, "--out", str(tmp_path / "r.json")]) == 0
    direct = score(real_clips(8)[:6], names=names).values
    for key, metric in read(tmp_path / "r.json").metrics.items():
        tolerance = 8.0 if metric.unit == "ms" else 0.1
        assert metric.value == pytest.approx(direct[key].value, abs=tolerance)


HELP_IN_A_NEW_PROCESS = """
import sys
from ovi_eval.cli import COMMANDS, main
for words in [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]:
    try:
        main(words)
    except SystemExit as ended:
        assert ended.code == 0, words
print("imported:", *({"torch", "scipy", "matplotlib", "transformers", "numpy", "jinja2"} & set(sys.modules)))
"""


def test_help_and_version_import_nothing_heavy():
    words = [sys.executable, "-c", HELP_IN_A_NEW_PROCESS]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "imported:"
    assert ended.stdout.count("usage: ovi-eval") == 1 + 5
