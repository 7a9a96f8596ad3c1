"""A rehearsed step of the full width on 64 GPUs: what it waits for, what it takes, what it moves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ovi_lab.errors import UserError
from ovi_lab.flow.solvers import SOLVERS
from ovi_lab.rehearsal import library
from ovi_lab.rehearsal.allowed import (
    COPIED_IN_SAMPLING,
    OF_A_STEP,
    of_inference,
    of_samples,
    of_training,
    unexpected,
)
from ovi_lab.rehearsal.run import rehearse
from ovi_lab.rehearse import main

GIB = 2**30
WATCHED = Path(__file__).with_name("watched.py")


@pytest.fixture(scope="module")
def built() -> Path:
    """The library; where it cannot be built, tests are skipped for that reason."""
    try:
        return library.built()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def found(built: Path) -> dict[str, Any]:
    """Three blocks of stage 3 at their full width, two micro-batches a step, rank 0 of 64 under FSDP2."""
    blocks = [f"model.{tower}.num_layers=3" for tower in ("video", "audio")]
    return rehearse("training", "64x80GB", ["experiment=ovi_11b_stage3", "strategy=fsdp2", *blocks])


@pytest.mark.slow
def test_a_step_waits_for_the_gpu_once(found: dict[str, Any]) -> None:
    assert of_training(found) == []
    (wait,) = found["steps"][1]["record"]["waits"].items()
    assert wait[0].startswith("tolist at callbacks/guard.py:")
    assert wait[1] == 1
    assert found["steps"][1]["record"]["blocking_copies"] == {}
    assert found["gradient_types"] == ["float32"]


@pytest.mark.slow
def test_a_step_that_logs_copies_its_numbers_together(found: dict[str, Any]) -> None:
    """The host waits for them once; the throughput's time and sums are two waits more."""
    record = found["steps"][2]["record"]
    files = [place.partition(" at ")[2].partition(":")[0] for place in record["waits"]]
    twice = "callbacks/throughput.py"
    assert sorted(files) == sorted(["callbacks/guard.py", "tasks/step_log.py", twice, twice])
    assert set(record["waits"].values()) == {1}
    assert list(record["blocking_copies"].values()) == [1]


@pytest.mark.slow
def test_gradients_are_float32_and_none_is_missing(found: dict[str, Any]) -> None:
    assert found["gradient_types"] == ["float32"]
    assert found["without_gradient"] == []


@pytest.mark.slow
def test_what_a_step_launches_and_moves(found: dict[str, Any]) -> None:
    record = found["steps"][1]["record"]
    assert record["kernels"]["product"] <= 744
    assert record["kernels"]["pointwise"] <= 2188
    assert record["moved"]["pointwise"] <= 227e9


@pytest.mark.slow
def test_the_plan_is_within_ten_percent(found: dict[str, Any]) -> None:
    plan = found["plan"]
    assert max(plan["backward"], plan["step"]) == pytest.approx(found["most"], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "layers", "gpus"),
    [
        (["experiment=ovi_11b_stage1"], 3, "64x80GB"),
        (["experiment=ovi_11b_stage3", "strategy=ddp"], 1, "64x80GB"),
        # every gathered parameter is put together from the parts of all ranks: few take seconds
        (["experiment=ovi_11b_stage3", "strategy=zero3"], 1, "2x80GB"),
    ],
    ids=["ZeRO 2", "DDP with accumulation", "ZeRO 3"],
)
def test_the_plan_of_other_strategies(
    built: Path, run: list[str], layers: int, gpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # as a run with ZeRO on CPUs leaves it
    blocks = [f"model.{tower}.num_layers={layers}" for tower in ("video", "audio")]
    other = rehearse("training", gpus, [*run, *blocks])
    assert of_training(other) == []
    plan = other["plan"]
    assert max(plan["backward"], plan["step"]) == pytest.approx(other["most"], rel=0.1)
    # what is listed is all that was alive, but for storages below 1 MiB
    assert sum(other["alive"].values()) == pytest.approx(other["most"], rel=0.02)


@pytest.mark.slow
def test_sampling_codecs_and_text_encoder(built: Path) -> None:
    blocks = [f"model.{tower}.num_layers=2" for tower in ("video", "audio")]
    inference = rehearse("inference", "1x80GB", ["experiment=ovi_11b_stage3", *blocks])
    assert of_inference(inference) == []
    copied = [place for s in inference["sections"].values() for place in s["record"]["blocking_copies"]]
    assert {place.partition(" at ")[2].partition(":")[0] for place in copied} == set(COPIED_IN_SAMPLING)
    assert {f"solver {name}, guided" for name in SOLVERS} <= inference["sections"].keys()
    assert inference["sections"]["MMAudio and BigVGAN, decode"]["out"] == "1x80384 on cuda:0"


@pytest.mark.slow
def test_operations_of_the_gpu_that_is_not_there(built: Path) -> None:
    done = subprocess.run([sys.executable, str(WATCHED)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all as on a GPU"


def test_waits_beyond_those_allowed_are_found() -> None:
    waits = {"tolist at callbacks/guard.py:140": 2, "item at flow/loss.py:9 (torch/x.py:1)": 3}
    assert unexpected(waits, OF_A_STEP) == {
        "tolist at callbacks/guard.py:140": 1,
        "item at flow/loss.py:9 (torch/x.py:1)": 3,
    }
    of_libraries = {
        "item at deepspeed/runtime/utils.py:233": 3,
        "Stream.synchronize at strategies/zero.py:45 (deepspeed/runtime/zero/stage3.py:1414)": 2,
        "88,080,384 bytes to the GPU at models/twin.py:279 (deepspeed/runtime/zero/partition_parameters.py:1396)": 4,
        "616 bytes to the GPU at torch/nn/parallel/distributed.py:1775": 1,
    }
    assert unexpected(of_libraries, {}) == {}
    asked = {
        "Stream.synchronize at strategies/zero_shares.py:183 (deepspeed/runtime/zero/stage3.py:3104)": 426
    }
    assert unexpected(asked, OF_A_STEP) == asked
    record = {
        "waits": {"tolist at callbacks/guard.py:141": 1, "tolist at callbacks/joint_sampling.py:120": 2},
        "blocking_copies": {"9,216 bytes from the GPU at callbacks/joint_sampling.py:120": 5},
    }
    assert of_samples({"steps": [{"record": record}]}) == [
        "a step that samples waits for the GPU: 2 x tolist at callbacks/joint_sampling.py:120",
        "a step that samples has a blocking copy: 1 x 9,216 bytes from the GPU at callbacks/joint_sampling.py:120",
    ]
    assert of_training({"failed": "cuda:0 and cpu"}) == ["it stopped: cuda:0 and cpu"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("experiment=ovi_11b_stage3",), "gpus is not given"),
        (
            ("gpus=8xH100", "parts=nothing"),
            "'nothing' is unknown; there are training and inference and samples",
        ),
        (("gpus=8xH100", "device=tpu"), "device=tpu is unknown"),
        (("experiment=ovi_11b_stage3", "device=cuda"), "torch finds none here"),
        (("gpus=8xH100", "device=cuda"), "gpus=8xH100 does not go with device=cuda"),
        (("experiment=ovi_11b_stage3", "gpus=8xH100", "video=61x60"), "video=61x60 is not understood"),
        (("--gpus=8xH100",), "--gpus=8xH100 is no flag of ovi-rehearse"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
