"""docs/own_configuration.md and the pages on worlds and metrics, done as they say in a folder of a user's own."""

import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from helpers.forks import Fork, command
from helpers.made_clips import write_clip
from ovi_eval.common.files import file_sha256
from ovi_lab import plan
from ovi_lab.common.command_line import check, check_flags, composed
from ovi_lab.common.paths import config_dir
from ovi_lab.data.cli import main as ovi_data
from ovi_lab.data.worlds import get_world, world_names
from ovi_lab.errors import UserError
from ovi_lab.stages.chain import parse, waves

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, WORLD_PAGE, METRIC_PAGE = (
    (DOCS / f"{name}.md").read_text() for name in ("own_configuration", "adding_a_world", "adding_a_metric")
)


def write_files(page, folder):
    """The files that a page shows under their names."""
    files = re.findall(r"`(mine/[\w/.]+)`:\n\n```yaml\n(.*?)```", page, re.DOTALL)
    for name, text in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return [name for name, _ in files]


def lines(page):
    (block,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    assert write_files(PAGE, tmp_path) == ["mine/experiment/longer.yaml", "mine/model/medium.yaml"]
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine"


def of_train(*arguments):
    return composed(arguments, config_dir(), "train", may_lack=True)


@pytest.mark.slow
def test_every_line_of_the_page(mine, capsys):
    train, searched, planned, printed = lines(PAGE)
    assert [line[0] for line in (train, searched, planned, printed)] == ["ovi-train"] * 2 + [
        "ovi-plan",
        "ovi-train",
    ]
    first, second = of_train(*train[1:]), of_train(*searched[1:])
    assert first == second == of_train("seed=0", *train[1:], "name=longer")
    assert (first.name, first.trainer.max_steps, first.evaluation.enabled) == ("longer", 1000, True)
    assert (first.model.video.dim, first.model.audio.dim, first.model.video.num_layers) == (96, 96, 3)
    assert plan.main(planned[1:]) == 0
    assert "GiB" in capsys.readouterr().out


@pytest.mark.slow
def test_the_experiment_is_trained(mine, data_root):
    fork = command(  # with its flag among the overrides
        "ovi_lab.train", "seed=0", *lines(PAGE)[0][1:], "debug=fast", "evaluation.num_clips=6", "evaluation.num_mp4=1",
        "sampler.steps=1", "logger.tensorboard=false", "trainer.max_steps=2", f"data.root={data_root}",
    )  # fmt: skip
    printed = command("ovi_lab.train", *lines(PAGE)[3][1:])
    helped = command("ovi_lab.train", "--help", *lines(PAGE)[0][1:])
    assert [printed.wait(), helped.wait()] == [0, 0]
    assert "  max_steps: 1000\n" in printed.output
    assert "usage: ovi-train" in helped.output
    assert fork.wait() == 0, fork.output
    assert json.loads(Path("runs/longer/done.json").read_text())["steps"] == 2


@pytest.mark.slow
def test_all_three_stages_are_of_ones_own_model(mine):
    settings, overrides = parse(["steps=5", "--config-dir", "mine", "model=medium", "scratch_steps=5"])
    for jobs in waves(settings, overrides):
        for job in jobs:
            towers = [tower for tower in (job.config["model"][m] for m in ("video", "audio")) if tower]
            assert [tower["dim"] for tower in towers] == [96] * len(towers) != []
    with pytest.raises(UserError, match=r"--cfg is no flag of ovi-stages"):
        check_flags(["seed=0", "--config-dir", "mine", "--cfg", "job"], "ovi-stages")


def test_a_sampler_of_ones_own(mine):
    (mine / "sampler").mkdir()
    (mine / "sampler" / "quick.yaml").write_text("defaults:\n  - unipc\nsteps: 4\n")
    given = ["--config-dir", "mine", "checkpoint=x", "prompt=y"]
    sampler = composed([*given, "sampler=quick"], config_dir(), "sample").sampler
    assert (sampler.steps, sampler.solver) == (4, "unipc")
    with pytest.raises(UserError, match=r"unknown sampler 'quik', did you mean quick\?"):
        composed([*given, "sampler=quik"], config_dir(), "sample")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["experiment=longr"],
            r"unknown experiment 'longr', did you mean longer\? Valid: .*longer",
        ),
        (["model=mediun"], r"unknown model 'mediun', did you mean medium\?"),
        (["--multirun", "model=medium,mediun"], r"unknown model 'mediun', did you mean medium\?"),
        (["experiment=a"], r"experiment=a asks for model/mediun, which is not there; did you mean medium\?"),
        (["experiment=b"], r"unknown key 'modle' in your configuration, did you mean model\?"),
        (["experiment=c"], r"experiment=c: its file is no YAML: mapping values are not allowed here"),
        (["experiment=d"], r"trainer.max_steps is 'many': expected a whole number of at least 0"),
        (["experiment=e"], r"evaluation has unknown key 'num_clip', did you mean num_clips\?"),
        (
            ["experiment=longer", "trainer.max_step=3"],
            r"no 'max_step' under trainer, did you mean max_steps\?",
        ),
        (
            ["hydra.searchpath=[file://nowhere]"],
            r"hydra.searchpath has file://nowhere: there is no such folder",
        ),
        (
            ["hydra.searchpath=[pkg://no_package.conf]"],
            r"hydra.searchpath has pkg://no_package.conf: there is no",
        ),
        (["hydra.searchpath=mine"], r"expected a list, as 'hydra.searchpath=\[file:///home/me/mine\]'"),
    ],
)
def test_mistakes_are_one_line_as_those_of_the_command_line(mine, arguments, line):
    for name, text in {
        "a": "defaults:\n  - override /model: mediun\n",
        "b": "modle: 3\n",
        "c": "a: b: c\n",
        "d": "trainer:\n  max_steps: many\n",
        "e": "evaluation:\n  num_clip: 3\n",
    }.items():
        (mine / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")
    with pytest.raises(UserError, match=line) as raised:
        check(["--config-dir", "mine", *arguments], config_dir(), "train")
    assert "\n" not in str(raised.value)


def test_where_both_have_a_file_of_one_name_ours_is_taken(mine):
    (mine / "model" / "tiny.yaml").write_text("nothing: 1\n")
    assert of_train("--config-dir", "mine", "model=tiny") == of_train("model=tiny")


def test_a_key_of_ones_own_is_added_with_a_plus(mine):
    assert of_train("--config-dir", "mine", "experiment=longer", "+note=x").note == "x"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the pages' world and metric, as pip would leave it: modules, and their entry points."""
    world, metric = (
        re.search(r"```python\n(.*?)```", page, re.DOTALL)[1] for page in (WORLD_PAGE, METRIC_PAGE)
    )
    tables = [
        tomllib.loads(block)
        for page in (PAGE, WORLD_PAGE)
        for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    ]
    worlds, metrics = (
        tables[0]["project"]["entry-points"][group] for group in ("ovi_lab.worlds", "ovi_eval.metrics")
    )
    assert tables[1]["project"]["entry-points"]["ovi_lab.worlds"] == worlds
    site = tmp_path / "site"
    (site / "my_package").mkdir(parents=True)
    (site / "my_package" / "__init__.py").touch()
    (site / "my_package" / "world.py").write_text(world)
    (site / "my_package" / "metric.py").write_text(
        metric.replace("Loudness(", "MyMetric(").replace('"loudness"', '"my_metric"')
    )
    (site / "my_package" / "broken.py").write_text("raise RuntimeError('no such device')")
    about = site / "my_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    points = {**worlds, "broken_world": "my_package.broken:World", "no_world": "builtins:dict"}
    groups = {"ovi_lab.worlds": points, "ovi_eval.metrics": metrics}
    (about / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in named.items())
            for group, named in groups.items()
        )
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    yield site
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def test_a_world_of_a_package_is_made_and_listed(package, tmp_path, capsys):
    assert "my_world" in world_names()
    with pytest.raises(SystemExit):
        ovi_data(["make", "--help"])
    assert "my_world" in capsys.readouterr().out
    assert not [name for name in sys.modules if name.startswith("my_package")]
    assert ovi_data(["make", "my_world", "--train", "8", "--eval", "4"]) == 0
    assert "8 clips" in capsys.readouterr().out
    world = get_world("my_world")
    together, alone = world.render([3, 4], 7), world.render([4], 7)
    assert torch.equal(together.frames_NTHWC[1], alone.frames_NTHWC[0])
    assert torch.equal(together.waves_NS[1], alone.waves_NS[0])
    assert list(tmp_path.glob("data/**/codec.safetensors"))


def in_environment(site, *command_lines):
    """ovi-eval's command lines in a process that finds the packages of a folder."""
    sys.path.insert(0, site)
    from ovi_eval.cli import main

    for command_line in command_lines:
        code = main(command_line)
        assert code == 0, code


@pytest.mark.slow
def test_a_metric_of_a_package_is_listed_and_scores(package, tmp_path):
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.mp4", seconds=1.0, moments=(0.5,))
    (line,) = re.findall(r"`ovi-eval (score --metrics \S+)`", PAGE)
    score = [*line.split(), str(tmp_path / "clips"), "--out", str(tmp_path / "scores.json")]
    fork = Fork(in_environment, str(package), ["metrics"], score)
    assert fork.wait() == 0, fork.output
    assert "my_metric" in fork.output
    value = json.loads((tmp_path / "scores.json").read_text())["metrics"]["loudness_db"]["value"]
    assert -60 < value < 0


def test_a_world_with_settings_of_ones_own_is_trained_on(package, tmp_path):
    assert write_files(WORLD_PAGE, tmp_path) == ["mine/data/my_world.yaml"]
    config = of_train(*lines(WORLD_PAGE)[0][1:])
    assert (config.data.world, config.data.num_train, config.data.batch_size) == ("my_world", 512, 16)
    from hydra.utils import instantiate

    data = instantiate(config.data, num_train=8, num_eval=4, batch_size=4, root=str(tmp_path / "made"))
    data.prepare_data()
    assert next(iter(data.train_dataloader()))["video"].shape[:2] == (4, 24)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "my_wrld",
            r"no world is called 'my_wrld'; did you mean my_world.* there is bouncing_ball, broken_world",
        ),
        (
            "broken_world",
            r"the package my_package: its entry point .* gives no world: RuntimeError: no such device",
        ),
        ("no_world", r"gives no world: TypeError: it has no name"),
    ],
)
def test_a_world_that_is_none_is_one_line(package, name, line):
    with pytest.raises(UserError, match=line):
        get_world(name)


@pytest.mark.slow
def test_a_stored_run_never_leads_to_a_world_of_a_package(package, copied_run, capsys):
    from ovi_lab.sampling.opening import open_bundle

    run = copied_run()
    for listing in run.rglob("checkpoint.json"):
        file, content = listing.with_name("config.yaml"), json.loads(listing.read_text())
        file.write_text(file.read_text().replace("bouncing_ball", "my_world"))
        assert "my_world" in file.read_text()
        content["files"]["config.yaml"] = {"size": file.stat().st_size, "sha256": file_sha256(file)}
        listing.write_text(json.dumps(content))
    open_bundle(run).load()
    assert not [name for name in sys.modules if name.startswith("my_package")]
