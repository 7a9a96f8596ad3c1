"""Trains a tiny TwinDiT with DeepSpeed on the CPU and saves what DeepSpeed saves, with the engine's own weights.

    python -c "from helpers.zero_training import *; start(Path(OUT), 3, processes=2, dtype='bf16', frozen=True)"

OUT/{latest,global_step3/…} is DeepSpeed's checkpoint, OUT/weights.safetensors every weight as the running engine
knows it (fp32 master weights, gathered), OUT/config.yaml the model's configuration. tests/goldens/zero holds three
of these. It needs deepspeed.
"""

from __future__ import annotations

from pathlib import Path

from helpers.forks import ranks, wait_for_all

TOWER = {
    "dim": 12, "ffn_dim": 16, "num_heads": 1, "num_layers": 1, "freq_dim": 8, "text_len": 4, "text_dim": 5,
}  # fmt: skip
MODEL = {
    "video": TOWER | {"in_dim": 3, "patch_size": [1, 1, 1]},
    "audio": TOWER | {"in_dim": 2, "patch_kernel_size": 3, "patch_hidden_dim": 8},
}
STEPS = 3


def start(out: Path, stage: int, processes: int, dtype: str = "fp32", frozen: bool = False) -> None:
    """Train in as many processes; `frozen` are the FFNs, as in the paper's last stage."""
    out.mkdir(parents=True, exist_ok=True)
    wait_for_all(ranks(_train, out, stage, processes, dtype, frozen, world=processes))
    for name in ("zero_to_fp32.py", "zero_to_torch.py"):
        (out / name).unlink(missing_ok=True)


def _train(out: Path, stage: int, processes: int, dtype: str, frozen: bool) -> None:
    import deepspeed
    import torch
    import yaml
    from safetensors.torch import save_file

    from ovi_lab.models import TwinDiT

    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
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
