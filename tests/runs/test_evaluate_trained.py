"""Evaluation of a run that is trained already: the numbers of the run itself, done once, refused where it is
another.
"""

import json
import shutil

import pytest
import torch
from hydra.utils import instantiate

from ovi_lab.common.progress import SilentReporter
from ovi_lab.errors import UserError
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.flops import count_flops
from ovi_lab.runs.run import execute

SCORED = ("experiment=fusion", "evaluation=ball")


@pytest.fixture(scope="module")
def trained(made_run):
    return made_run("experiment=fusion", "evaluation=none")


@pytest.fixture
def evaluated(composed, trained, tmp_path):
    """Evaluates it into a folder with some more settings; what `execute` returns."""
    return lambda *more, of=trained: execute(
        composed([*SCORED, f"trained={of}", *more], tmp_path / "run"), SilentReporter()
    )


def results(run):
    return json.loads((run / "results.json").read_text())


@pytest.mark.slow
def test_its_numbers_are_those_of_a_run_that_trains_and_evaluates(
    evaluated, made_run, trained, composed, tmp_path
):
    run, whole = tmp_path / "run", made_run(*SCORED)
    assert evaluated() == "done"
    assert results(run)["metrics"] == results(whole)["metrics"]
    assert results(run)["losses"] == results(whole)["losses"]
    assert (run / "clips.safetensors").read_bytes() == (whole / "clips.safetensors").read_bytes()
    assert results(run)["config_hash"] == results(whole)["config_hash"]
    assert set(results(run)["provenance"]["checkpoint"]) >= {"model.safetensors", "ema/model.safetensors"}
    assert not (run / "checkpoints").exists()
    compute = [results(folder)["provenance"]["training_tflops"] for folder in (run, whole)]
    with torch.device("meta"):
        towers = instantiate(composed(SCORED).model)()
    work = count_flops(towers, ClipShape((16, 2, 2), 81), text_is_trained=True)
    # two steps of four clips
    assert compute == [pytest.approx(8 * work.model / 1e12)] * 2

    assert evaluated() == "skipped"
    with pytest.raises(UserError, match=r"sampler\.solver was 'unipc', is 'euler'\. name=… evaluates"):
        evaluated("sampler.solver=euler")
    before = results(run)["metrics"]
    assert evaluated("sampler.solver=euler", "overwrite=true") == "done"
    assert results(run)["metrics"] != before
    done = json.loads((run / "done.json").read_text())
    done["evaluated"]["model.safetensors"] = "0" * 64
    (run / "done.json").write_text(json.dumps(done))
    with pytest.raises(UserError, match=r"is of other weights than .* has now"):
        evaluated("sampler.solver=euler")


@pytest.mark.slow
def test_what_cannot_be_evaluated_is_one_line(evaluated, trained, tmp_path):
    for settings, words in (
        (("evaluation.enabled=false",), "evaluation=none leaves nothing to do"),
        (("seed=1",), "is of another configuration: seed was 0, is 1; .* Give this command the settings"),
        (("trainer.max_steps=3",), "trainer.max_steps was 2, is 3"),
    ):
        with pytest.raises(UserError, match=words):
            evaluated(*settings)
    with pytest.raises(UserError, match=r"nowhere: no run is there; name the folder of a finished run"):
        evaluated(of=tmp_path / "nowhere")
    unfinished = shutil.copytree(trained, tmp_path / "unfinished" / "seed_0", symlinks=True)
    (unfinished / "done.json").unlink()
    with pytest.raises(UserError, match=r"seed_0 is not finished; resume=last finishes it"):
        evaluated(of=unfinished.parent)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="is the folder to write to as well"):
        evaluated(of=shutil.copytree(trained, tmp_path / "run", symlinks=True))
