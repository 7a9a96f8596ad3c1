"""Our checkpoints as weights of the released layout: to the bit, with a card, and over nothing of anybody's."""

import hashlib
import json
import re

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers.run_folders import same as same_tensors
from helpers.twin_goldens import TINY_AUDIO, TINY_VIDEO, tiny_batch, tiny_twin
from ovi_eval.results.files import MetricValue, RunResults
from ovi_lab.checkpoints import FolderCheckpointIO
from ovi_lab.checkpoints.presets import load_released
from ovi_lab.errors import UserError
from ovi_lab.export.cli import main, parse_size
from ovi_lab.export.export import export_run
from ovi_lab.models import TwinDiT

REFERENCE_AUDIO = {k: v for k, v in TINY_AUDIO.items() if not k.startswith("patch")}


def write_run(folder, raw, averaged=None, step=3, results_at=None, audio=REFERENCE_AUDIO, **model):
    """A run as training leaves it: a checkpoint, and scores where `results_at` names their step."""
    config = {
        "name": "study",
        "arm_name": "twin_arm",
        "seed": 4,
        "run_dir": "/home/somebody/runs/study",
        "init_from": {"all": None, "video": "/home/somebody/wan/tower.safetensors", "audio": None},
        "task": {"_target_": "ovi_lab.tasks.FusionTraining"},
        "text": {"_target_": "ovi_lab.text.LearnedText", "dim": 10},
        "data": {"_target_": "x", "world": "bouncing_ball", "root": "/home/somebody/data", "num_train": 77},
        "model": {"_target_": "ovi_lab.models.TwinDiT", "video": TINY_VIDEO, "audio": audio, **model},
        "latent_shapes": {"video": [4, 4, 4, 4], "audio": [11, 3]},
    }
    content = {"global_step": step, "state_dict": {f"model.{n}": t for n, t in raw.state_dict().items()}}
    content["state_dict"]["text_encoder.table.weight"] = torch.ones(2, 10)
    if averaged is not None:
        content["ema_state_dict"] = {f"model.{n}": t for n, t in averaged.state_dict().items()}
    path = folder / "checkpoints" / f"step_{step:06d}"
    FolderCheckpointIO(yaml.safe_dump(config)).save_checkpoint(content, path)
    if results_at is not None:
        metrics = {"ball/onset_f1": MetricValue(0.8125, 12, "higher", ci95=(0.75, 0.875))}
        RunResults("twin_arm", metrics, 12, seed=4, config_hash="c0ffee").write(folder)
        (folder / "done.json").write_text(json.dumps({"steps": results_at}))
    return folder


def twin(seed=0, **options):
    model = TwinDiT(TINY_VIDEO, options.pop("audio", REFERENCE_AUDIO), **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def back(folder):
    config = json.loads((folder / "config.json").read_text())
    return load_released(folder, config["model"])


def same(model, other) -> bool:
    return same_tensors(model.state_dict(), other.state_dict())


def check_sums(folder) -> set[str]:
    named = set()
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        named.add(name)
    return named


def test_either_weights_come_back_to_the_bit(tmp_path):
    raw, averaged = twin(1), twin(2)
    run = write_run(tmp_path / "run", raw, averaged)
    for ema, expected in ((None, averaged), (True, averaged), (False, raw)):
        out = tmp_path / f"out_{ema}"
        done = export_run(run, out / "model.safetensors", ema=ema)
        assert same(back(out), expected)
        assert {p.name for p in out.iterdir()} == set(done.files)
        assert check_sums(out) == set(done.files) - {"SHA256SUMS"}
    batch = tiny_batch()
    with torch.no_grad():
        assert torch.equal(back(tmp_path / "out_False")(**batch).audio, raw(**batch).audio)


def test_names_are_the_released_ones(goldens, tmp_path):
    from safetensors import safe_open

    from helpers.twin_goldens import golden_twin, tower_settings

    model = golden_twin(goldens)
    with safe_open(goldens / "fusion_tiny.safetensors", "pt") as file:
        released = {n.removeprefix("weights/") for n in file.keys() if n.startswith("weights/")}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    settings = {tower: tower_settings(config[tower]) for tower in ("video", "audio")}
    run = write_run(tmp_path / "run", model, **settings)
    done = export_run(run, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == released
    assert not [note for note in done.notes if "reference code" in note]


def test_bf16_is_the_rounded_weight(tmp_path):
    model = twin()
    run = write_run(tmp_path / "run", model, results_at=3)
    export_run(run, tmp_path / "out", dtype=torch.bfloat16)
    assert same(back(tmp_path / "out"), model.bfloat16())
    assert "rounded to bf16" in (tmp_path / "out" / "README.md").read_text()


def test_shards_hold_what_they_may_and_load_together(tmp_path):
    model = twin()
    run = write_run(tmp_path / "run", model)
    limit = 100_000
    done = export_run(run, tmp_path / "out", max_shard_size=limit)
    shards = [name for name in done.files if re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name)]
    assert len(shards) > 2
    held = [load_file(tmp_path / "out" / name) for name in shards]
    sizes = [sum(t.numel() * t.element_size() for t in part.values()) for part in held]
    assert all(size <= limit or len(part) == 1 for size, part in zip(sizes, held, strict=True))
    assert sum(len(part) for part in held) == len(model.state_dict())
    assert same(back(tmp_path / "out"), model)
    assert "model.safetensors.index.json" in check_sums(tmp_path / "out")


def test_the_card_names_data_configuration_and_scores(tmp_path):
    run = write_run(tmp_path / "run", twin(1), twin(2), results_at=3)
    export_run(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    front, body = card.split("---\n", 2)[1:]
    assert yaml.safe_load(front)["library_name"] == "ovi-lab"
    assert "# twin_arm\n" in body
    data = body.split("## Data\n\n")[1].split("\n\n")[0]
    assert sorted(data.splitlines()) == ["- num_train: 77", "- world: bouncing_ball"]
    assert "started from: video tower.safetensors" in body
    assert "| ball/onset_f1 | 0.8125 [0.75, 0.875] | higher | 12 | version 1 |" in body
    assert "configuration hash: c0ffee" in body
    assert yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])["video"]["dim"] == TINY_VIDEO["dim"]
    for name in ("README.md", "config.json"):
        assert "somebody" not in (tmp_path / "out" / name).read_text()
    export_run(run, tmp_path / "raw", ema=False)
    assert "these are the raw ones" in (tmp_path / "raw" / "README.md").read_text()


def test_scores_of_another_step_are_left_out(tmp_path):
    run = write_run(tmp_path / "run", twin(), results_at=9)
    export_run(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "onset_f1" not in card
    assert "evaluated at step 9; these weights are of step 3" in card


def test_a_learned_scale_becomes_the_constant_it_is(tmp_path):
    model = twin(rope={"mode": "learned", "factor": 0.3})
    run = write_run(tmp_path / "run", model, rope={"mode": "learned", "factor": 0.3})
    done = export_run(run, tmp_path / "out")
    assert "audio_model.rope_scale" not in load_file(tmp_path / "out" / "model.safetensors")
    assert any("RoPE scale" in note for note in done.notes)
    batch = tiny_batch()
    with torch.no_grad():
        assert torch.equal(back(tmp_path / "out")(**batch).audio, model(**batch).audio)


def test_what_the_reference_cannot_load_is_said(tmp_path):
    fusion = {"direction": "video_to_audio"}
    settings = {"audio": TINY_AUDIO, "fusion": fusion, "rope": {"mode": "clip_ratio"}}
    run = write_run(tmp_path / "run", tiny_twin(fusion=fusion), **settings)
    done = export_run(run, tmp_path / "out")
    assert len([note for note in done.notes if "reference code" in note]) == 3
    assert all(note in (tmp_path / "out" / "README.md").read_text() for note in done.notes)
    alone = write_run(tmp_path / "alone", TwinDiT(TINY_VIDEO, None))
    assert "There is no audio tower." in export_run(alone, tmp_path / "alone_out").notes
    assert same(back(tmp_path / "alone_out"), TwinDiT(TINY_VIDEO, None))


@pytest.mark.slow
def test_nothing_is_overwritten_unasked_and_nothing_foreign_at_all(tmp_path):
    run = write_run(tmp_path / "run", twin(1))
    out = tmp_path / "out"
    export_run(run, out, max_shard_size=100_000)
    with pytest.raises(UserError, match="exists: --overwrite replaces"):
        export_run(run, out)
    other = write_run(tmp_path / "other", twin(2))
    export_run(other, out, max_shard_size=300_000, overwrite=True)
    assert same(back(out), twin(2))
    assert {p.name for p in out.iterdir()} == check_sums(out) | {"SHA256SUMS"}
    foreign = tmp_path / "project"
    foreign.mkdir()
    (foreign / "README.md").write_text("mine")
    for folder, overwrite in ((foreign, False), (foreign, True), (run / "checkpoints" / "step_000003", True)):
        before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
        with pytest.raises(UserError, match="is no earlier export"):
            export_run(run, folder, overwrite=overwrite)
        assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", twin(1))
    export_run(run, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ovi_lab.export.export.save_file", full)
    with pytest.raises(UserError, match="No space left"):
        export_run(run, tmp_path / "out", overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_damaged_and_unfitting_checkpoints_are_refused(tmp_path):
    run = write_run(tmp_path / "run", twin(1))
    with pytest.raises(UserError, match="use --raw"):
        export_run(run, tmp_path / "out", ema=True)
    other = write_run(tmp_path / "other", twin(1), fusion={"direction": "none"})
    with pytest.raises(UserError, match=r"has \w+\.blocks\.0\.cross_attn\.\w+fusion\S+ \(\d+ unknown\)"):
        export_run(other, tmp_path / "out")
    weights = run / "checkpoints" / "step_000003" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wrote_or_what_is_wrong(tmp_path, capsys):
    run = write_run(tmp_path / "run", twin(1), results_at=3)
    out = tmp_path / "out" / "weights.safetensors"
    command = [
        str(run),
        "--to",
        "ovi",
        "--out",
        str(out),
        "--raw",
        "--dtype",
        "bf16",
        "--max-shard-size",
        "1GB",
    ]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == str(out)
    assert "note: " in printed.err
    for wrong, word in (
        (command, "--overwrite"),
        ([*command[:-1], "5 parsecs"], "5 parsecs"),
        ([str(tmp_path / "nowhere"), "--out", str(out)], "no checkpoint at"),
        ([str(run), "--to", "vhs", "--out", str(out)], "vhs"),
        ([str(run)], "--out"),
    ):
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert word in error
        assert error.count("\n") == 1


def test_sizes():
    assert [parse_size(s) for s in ("5GB", "500 mb", "1.5GiB", "77")] == [5 * 10**9, 5 * 10**8, 3 * 2**29, 77]
    for wrong in ("", "GB", "-1GB", "0", "5 XB"):
        with pytest.raises(UserError, match="expected a size"):
            parse_size(wrong)
