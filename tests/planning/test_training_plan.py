"""`ovi-plan`: what it prints, what it says to change, and how it leaves."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ovi_lab.common.command_line import composed
from ovi_lab.common.paths import config_dir
from ovi_lab.common.sizes import GIB
from ovi_lab.errors import UserError
from ovi_lab.plan import main
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.cluster import Cluster, gpu_of_device
from ovi_lab.planning.training_report import check_fits

SMALL = ("model=tiny", "optim=adamw", "video=16x16x16", "audio=80", "data.batch_size=8")


def planned(*arguments: str) -> tuple[int, str]:
    stream = io.StringIO()
    code = main(arguments, Console(file=stream, width=160))
    return code, stream.getvalue()


@pytest.mark.slow
def test_the_papers_stage_3_on_64_gpus() -> None:
    code, text = planned("experiment=ovi_11b_stage3", "strategy=zero3", "gpus=64xH100", "price=2")
    assert code == 0
    assert "11,660,753,108" in text
    assert "6,374,885,588" in text
    assert "768 = 12 x 64 x 1" in text
    assert "989 TFLOP/s" in text
    hours = float(re.search(r"GPU hours\D+([\d,]+)", text)[1].replace(",", ""))  # type: ignore[index]
    cost = float(re.search(r"cost at 2 a GPU hour\D+([\d,]+)", text)[1].replace(",", ""))  # type: ignore[index]
    assert cost == pytest.approx(2 * hours, rel=1e-3)


@pytest.mark.slow
def test_what_does_not_fit_is_answered_with_a_change_that_does() -> None:
    code, text = planned(*SMALL, "gpus=1x1.5GB")
    assert code == 1
    assert "Does not fit" in text
    change = re.search(r"Least drastic change that fits: (.+?) \(", text)
    assert change is not None
    code, text = planned(*SMALL, "gpus=1x1.5GB", *change[1].split())
    assert code == 0
    assert "Fits" in text


@pytest.mark.slow
def test_spare_memory_is_offered_and_taken() -> None:
    small = (*SMALL, "gpus=1x24GB")
    _, text = planned(*small, "model.activation_checkpointing=full")
    assert "What spare memory buys" in text
    assert "model.activation_checkpointing=none" in text
    _, text = planned(*small, "model.activation_checkpointing=auto")
    assert "model.activation_checkpointing=auto is none on these GPUs" in text


@pytest.mark.slow
@pytest.mark.parametrize(("reads", "encoders"), [("picture", 2), ("none", 1)])
def test_text_encoders_of_each_tower_are_counted(reads: str, encoders: int) -> None:
    _, text = planned(*SMALL, "gpus=1x24GB", "text=separate", f"text.reads.video={reads}")
    # 1024 words and 12 positions of 64 channels
    assert re.search(rf"text encoder\W+{encoders * 1036 * 64:,}", text)


@pytest.mark.slow
def test_training_refuses_what_cannot_fit() -> None:
    config = composed(["optim=adamw", "data.batch_size=8"], config_dir(), "train")
    clip = ClipShape((16, 16, 16), 80)
    check_fits(config, 1, 24 * GIB, clip)
    with pytest.raises(
        UserError, match=r"strategy=auto on 1 GPU needs about .* and they have 1\.5 GiB: .* and fits"
    ):
        check_fits(config, 1, 3 * GIB // 2, clip)
    with pytest.raises(UserError, match="nothing that planning knows fits"):
        check_fits(config, 1, GIB // 2, clip)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (SMALL, "gpus is not given"),
        ((*SMALL, "gpus=8xH1000"), "unknown GPU 'H1000', did you mean H100"),
        ((*SMALL, "gpus=0x80GB"), "gpus=0x80GB is not understood"),
        ((*SMALL, "gpus=8xH100", "efficiency=2"), "expected 1 at most"),
        ((*SMALL, "gpus=8xH100", "price=free"), "price=free is not understood"),
        (("model=small", "gpus=8xH100"), "give video=FxHxW and audio=L"),
        ((*SMALL, "gpus=8xH100", "strategy=zero9"), "unknown strategy 'zero9'"),
        ((*SMALL, "gpus=8xH100", "global_batch_size=100"), "global_batch_size is 100"),
        ((*SMALL, "gpus=3xH100", "strategy.sequence_parallel=2"), "expected a divisor"),
        (("model=small", "video=8x8", "audio=80", "gpus=1xH100"), "video=8x8 is not understood"),
        ((*SMALL, "gpus=1xH100", "--cfg"), "--cfg is no flag of ovi-plan"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(*arguments)[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_gpus_by_number_memory_and_name() -> None:
    named = Cluster.parse("8xA100-40GB")
    assert (named.count, named.memory, named.typed) == (8, 40 * GIB, "gpus=8xA100-40GB")
    assert Cluster.parse("h100").count == 1
    assert Cluster.parse("2x24GB").gpu is not None
    assert Cluster.parse("2x23GB").gpu is None
    for device, name in (
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
    ):
        gpu = gpu_of_device(device)
        assert gpu is not None
        assert gpu.name == name
    assert gpu_of_device("NVIDIA GeForce GT 710") is None
