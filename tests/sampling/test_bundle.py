"""Two ways to open a bundle: a run on the published latents makes the clips of the released layout, from its folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ovi_eval.clips.clip import read_clip
from ovi_lab.checkpoints import weights_layout
from ovi_lab.checkpoints.folder import FORMAT
from ovi_lab.errors import UserError
from ovi_lab.sampling.bundle import scaled_shapes
from ovi_lab.sampling.clip_files import read_record
from ovi_lab.sampling.opening import open_bundle
from ovi_lab.sampling.pipeline import plan_request
from ovi_lab.sampling.requests import Request
from ovi_lab.sampling.small_weights import MODEL

SHAPES = {"video": [48, 31, 4, 4], "audio": [157, 20]}
QUICK = ("prompt=rain <S>Hello.<E> Audio: soft rain", "sampler.steps=2", "seed=3", "length=0.2")


def write_run(
    folder: Path, small_ovi: Path, present: tuple[str, ...] = ("video", "audio"), **config: object
) -> Path:
    """A checkpoint as a run on stored latents and text embeddings writes it: towers, no codec, no text encoder."""
    checkpoint = folder / "checkpoints" / "step_000003"
    checkpoint.mkdir(parents=True)
    weights = load_file(small_ovi / weights_layout.MODEL)
    own = {n: w.float() for n, w in weights.items() if n.startswith(tuple(f"{m}_model." for m in present))}
    if len(present) == 1:
        own = {n: w for n, w in own.items() if "fusion" not in n}
    save_file(own, checkpoint / "model.safetensors")
    plain = {"name": "mine", "model": MODEL, "text": None, "latent_shapes": SHAPES, **config}
    (checkpoint / "config.yaml").write_text(yaml.safe_dump(plain))
    files = {
        f.name: {"size": f.stat().st_size, "sha256": hashlib.sha256(f.read_bytes()).hexdigest()}
        for f in sorted(checkpoint.iterdir())
    }
    (checkpoint / "checkpoint.json").write_text(json.dumps({"format": FORMAT, "step": 3, "files": files}))
    return folder


@pytest.fixture
def run(small_ovi: Path, tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "mine", small_ovi)


@pytest.mark.slow
def test_a_full_size_run_is_sampled_from_its_own_folder(typed, run: Path, small_ovi: Path) -> None:
    """With the released weights in its checkpoint, its clip is the released model's, and the batch resumes."""
    own = (f"checkpoint={run}", f"weights={small_ovi}", *QUICK, "out=own")
    code, out, err = typed(*own)
    assert code == 0, err
    path = Path(out.strip())
    code, out, err = typed(f"checkpoint={small_ovi}", *QUICK, "out=released")
    assert code == 0, err
    one, two = read_clip(path), read_clip(Path(out.strip()))
    assert torch.equal(one.frames_THWC, two.frames_THWC)
    assert torch.equal(one.wave_S, two.wave_S)
    record, whole = read_record(path)
    assert whole
    assert record["model"] == "mine"
    assert record["sampler"]["skip_layers"] == [11]  # the released settings
    assert sorted(name.rpartition("/")[2] for name in record["weights"]) == [
        "Wan2.2_VAE.pth", "best_netG.pt", "model.safetensors", "v1-16.pth",
    ]  # fmt: skip
    code, out, _ = typed(*own)
    assert (code, out.count("finished before")) == (0, 1)
    code, out, err = typed(*own, "rope_factor=0.3")
    assert "was made with another rope_factor" in err


@pytest.mark.slow
def test_memory_of_a_run_is_planned(typed, run: Path, small_ovi: Path) -> None:
    code, out, err = typed("--plan", f"checkpoint={run}", f"weights={small_ovi}", "gpu=24GB")
    assert code == 0, err
    assert "mine: 64x64, 121 frames" in out
    assert "twin towers" in out


@pytest.mark.slow
def test_what_a_run_lacks_is_named(typed, run: Path, tmp_path: Path) -> None:
    for weights, words in (
        (
            "null",
            "no codec.safetensors: it cannot be sampled by itself; weights=FOLDER names the published codecs",
        ),
        (f"{tmp_path}/none", "none is no folder"),
        (f"{tmp_path}", "no umT5 encoder at"),
    ):
        code, _, err = typed(f"checkpoint={run}", f"weights={weights}", *QUICK)
        assert code == 2
        assert words in err
        assert err.count("error: ") == 1
    assert not (tmp_path / "clips").exists()


def test_a_run_of_sound_alone_needs_no_picture(small_ovi: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", small_ovi, ("audio",), latent_shapes={"audio": [157, 20]})
    bundle = open_bundle(run, small_ovi, length=2)
    assert bundle.preset is None
    plan = plan_request(Request("a", "rain"), bundle.formats)
    assert plan.shapes == {"audio": (314, 20)}
    assert plan.frames == round(314 * 512 * 24 / 16000)
    with pytest.raises(UserError, match="leave out size or aspect"):
        plan_request(Request("a", "rain", shape=(9, 16)), bundle.formats)


def test_released_clips_may_be_longer_and_have_another_rope_factor(small_ovi: Path) -> None:
    bundle = open_bundle(small_ovi, length=61 / 31, rope_factor=0.4)
    assert bundle.formats.shapes["video"][1] == 61
    assert bundle.formats.shapes["audio"] == (309, 20)
    assert bundle.formats.frames == 241
    assert bundle.formats.facts == {"rope_factor": 0.4}
    assert scaled_shapes({"audio": (10, 3)}, 0.5) == {"audio": (5, 3)}
    with pytest.raises(UserError, match="length is 0: no video frame is left"):
        open_bundle(small_ovi, length=0)
    with pytest.raises(UserError, match="rope_factor"):
        open_bundle(small_ovi, rope_factor=-1)
    with pytest.raises(UserError, match="leave them out"):
        open_bundle(small_ovi, text_files={"weights": "x"})
