"""Trains a tiny TwinDiT with DeepSpeed on the CPU and saves what DeepSpeed saves, with the engine's own weights.

    python tests/helpers/zero_training.py OUT --stage 3 --processes 2 --dtype bf16 --frozen

OUT/{latest,global_step3/…} is DeepSpeed's checkpoint, OUT/weights.safetensors every weight as the running engine
knows it (fp32 master weights, gathered), OUT/config.yaml the model's configuration. tests/goldens/zero holds three
of these. It needs deepspeed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

TOWER = {
    "dim": 12,
    "ffn_dim": 16,
    "num_heads": 1,
    "num_layers": 1,
    "freq_dim": 8,
    "text_len": 4,
    "text_dim": 5,
}
MODEL = {
    "video": TOWER | {"in_dim": 3, "patch_size": [1, 1, 1]},
    "audio": TOWER | {"in_dim": 2, "patch_kernel_size": 3, "patch_hidden_dim": 8},
}
STEPS = 3


def start(out: Path, stage: int, processes: int, dtype: str = "fp32", frozen: bool = False) -> None:
    """Run the training in as many processes; raises with their output if one fails."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, str(out), "--stage", str(stage), "--processes", str(processes)]
    command += ["--dtype", dtype, *(["--frozen"] if frozen else [])]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    (out / "store").unlink(missing_ok=True)
    running = [
        subprocess.Popen(
            [*command, "--rank", str(rank)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    for process, output in zip(running, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(output[-3000:])
    for name in ("store", "zero_to_fp32.py", "zero_to_torch.py"):
        (out / name).unlink(missing_ok=True)


def train(out: Path, stage: int, processes: int, dtype: str, frozen: bool, rank: int) -> None:
    """One process of the training."""
    import deepspeed
    import torch
    import yaml
    from safetensors.torch import save_file

    from ovi_lab.models import TwinDiT

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{out.resolve() / 'store'}", rank=rank, world_size=processes
    )
    # its shared-memory kernel would be compiled first; gloo does the same
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    model = TwinDiT(**MODEL)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            parameter.requires_grad_(not (frozen and ".ffn." in name))
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    bucket = 5_000_000
    zero = {
        "stage": stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": False,
    }
    if stage == 3:
        zero |= {"stage3_prefetch_bucket_size": bucket, "stage3_param_persistence_threshold": 0}
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(groups, lr=1e-3),
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": 0.5,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": dtype == "bf16"},
        },
    )
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(100 + step * processes + rank)
        video, audio, text = (
            torch.randn(*shape, generator=generator).to(kind)
            for shape in ((1, 3, 2, 2, 2), (1, 5, 2), (1, 4, 5))
        )
        time = torch.tensor([300.0])
        made = engine(video=video, audio=audio, t_video=time, t_audio=time, text_video=text, text_audio=text)
        engine.backward(made.video.float().square().mean() + made.audio.float().square().mean())
        engine.step()
    engine.save_checkpoint(str(out))
    weights = {}
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad and stage:
            weights[name] = deepspeed.utils.safe_get_full_fp32_param(parameter).clone()
        else:
            with deepspeed.zero.GatheredParameters([parameter], enabled=stage == 3):
                weights[name] = parameter.detach().float().clone()
    if rank == 0:
        save_file(weights, out / "weights.safetensors")
        (out / "config.yaml").write_text(yaml.safe_dump({"name": f"zero_{stage}", "model": MODEL}))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--stage", type=int, required=True, choices=range(4))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--frozen", action="store_true", help="the FFNs, as in the paper's last stage")
    parser.add_argument("--rank", type=int, help="internal: be this one of the processes")
    a = parser.parse_args()
    if a.rank is None:
        start(a.out, a.stage, a.processes, a.dtype, a.frozen)
    else:
        train(a.out, a.stage, a.processes, a.dtype, a.frozen, a.rank)


if __name__ == "__main__":
    main()
