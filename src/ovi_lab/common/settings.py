"""What each setting of conf/ may be, by its place in the composed configuration.

Where nothing is stated, the part that takes the setting judges it (models, Lightning's Trainer, strategies).
"""

from __future__ import annotations

from types import GenericAlias
from typing import Annotated, Any, Literal

from annotated_types import Len

from ovi_lab.common.fields import (
    AnyText,
    AtLeastOne,
    Count,
    Layers,
    Name,
    NotNegative,
    Number,
    Positive,
    Seed,
    Share,
    Text,
    Width,
    YesNo,
    group,
    number,
    whole,
)

Texts = list[Text]
TextPart = Literal["all", "picture", "sound", "none"]
BelowOne = Annotated[float, number(ge=0, lt=1)]


def _open(**fields: Any) -> Any:
    """A group that may have other keys."""
    return group(fields)


def _closed(**fields: Any) -> Any:
    return group(fields, extra="forbid")


SAMPLER = _closed(
    solver=Text,
    steps=AtLeastOne,
    shift=Positive,
    video_guidance=Number,
    audio_guidance=Number,
    given_guidance=Number,
    negative_video=AnyText,
    negative_audio=AnyText,
    skip_layers=list[Count],
)

TOWER = _open(
    dim=Width,
    num_heads=Width,
    num_layers=Layers,
    ffn_dim=Width,
    in_dim=Width,
    freq_dim=Width,
    text_len=Width,
    text_dim=Width,
    patch_size=list[Layers],
    patch_kernel_size=Width,
    patch_hidden_dim=Count | None,
)

SOURCE = _closed(shards=Text | Texts, weight=Annotated[float, number(gt=0, le=1)] | None)

DATA = _open(
    world=Text | None,
    root=Text,
    shards=Text | Texts | None,
    train=Text | Texts | None,
    val=Text | Texts | None,
    sources=GenericAlias(list, (SOURCE,)) | None,
    require=Literal["all", "any"] | None,
    codec=Text | None,
    num_train=AtLeastOne,
    num_eval=Count,
    train_seed=Seed,
    eval_seed=Seed,
    displaced=_closed(share=Share, filter=NotNegative | None),
    modalities=Texts,
    audio_tokens=_open(min=AtLeastOne, max=AtLeastOne | None, crop=Literal["longer", "random"]),
    batch_size=AtLeastOne,
    tokens_per_batch=AtLeastOne | None,
    patch_size=list[AtLeastOne],
    audio_edges=list[AtLeastOne] | None,
    stored_text=YesNo | None,
    num_workers=Count,
    prefetch=Count,
    num_frames=AtLeastOne,
    height=AtLeastOne,
    width=AtLeastOne,
    fps=Positive,
    sample_rate=AtLeastOne,
    seed=Seed,
    on_error=Literal["skip", "raise"],
    on_resample=Literal["resample", "raise"],
    max_bad_share=Share,
    quiet=YesNo,
)

TASK = _open(
    text_dropout=Share,
    timestep_bins=AtLeastOne,
    seed=Seed,
    world=Text,
    num_train=AtLeastOne,
    num_eval=AtLeastOne,
    train_seed=Seed,
    eval_seed=Seed,
    batch_size=AtLeastOne,
    lr=_open(video=NotNegative, audio=NotNegative, sync=NotNegative),
    path=Text | None,
)

TRAIN = _open(
    name=Name,
    arm_name=Name,
    seed=Seed,
    resume=Text | None,
    init_from=_closed(all=Text | None, video=Text | None, audio=Text | None, audio_from_video=Text | None)
    | None,
    overwrite=YesNo,
    trained=Text | None,
    run_dir=Text,
    global_batch_size=AtLeastOne | None,
    ema=_closed(decay=BelowOne),
    checkpoint=_closed(
        every_n_steps=Count,
        every_minutes=Positive | None,
        keep_last=AtLeastOne | Literal[-1],
        keep_every_n_steps=AtLeastOne | None,
    ),
    guard=_closed(
        on_bad_step=Literal["stop", "skip"],
        spike_factor=Annotated[float, number(gt=1)] | None,
        window=Annotated[int, whole(2)],
        max_skips_in_a_row=Count,
        max_skips=Count,
    ),
    throughput=_closed(every_n_steps=AtLeastOne | None, peak_tflops=Positive | None),
    val_metrics=_closed(
        every_n_steps=Count,
        num_clips=Annotated[int, whole(2)],
        batch_size=AtLeastOne,
        metrics=Texts | None,
        device=Text,
        seed=Seed,
        sampler=SAMPLER,
    ),
    preemption=_closed(signals=Texts),
    restarts=_closed(without_progress=Count),
    samples=_closed(every_n_steps=Count, prompts=list[AnyText], seed=Seed, steps=AtLeastOne),
    sampler=SAMPLER,
    logger=_closed(csv=YesNo, tensorboard=YesNo, wandb=YesNo, wandb_project=Text),
    trainer=_open(
        accelerator=Text,
        devices=Literal["auto"] | AtLeastOne | list[Count] | Text,
        num_nodes=AtLeastOne,
        precision=Text,
        max_steps=Count,
        accumulate_grad_batches=AtLeastOne,
        gradient_clip_val=NotNegative | None,
        log_every_n_steps=AtLeastOne,
        val_check_interval=AtLeastOne | Positive | None,
        limit_val_batches=Count | Share | None,
    ),
    strategy=_open(
        name=Text, sequence_parallel=AtLeastOne, shard_within=AtLeastOne | None, keep_gathered=Text | None
    ),
    data=DATA,
    model=_open(
        video=TOWER | None,
        audio=TOWER | None,
        init_seed=Seed,
        activation_checkpointing=Text,
        checkpoint_every=AtLeastOne,
        attention_backend=Text,
        linear=Literal["plain", "fp8", "fp8_emulated"],
        compile=Literal["none", "blocks"],
        compile_backend=Text,
    ),
    fusion=_open(direction=Text, blocks=Text | list[Count] | dict[str, Any], fusion_init=Text),
    rope=_open(mode=Text, factor=Positive, theta=Positive, video_factor=Positive),
    text=_open(
        dim=Width,
        rows=AtLeastOne,
        max_words=AtLeastOne,
        init_seed=Seed,
        weights=Text,
        tokenizer=Text,
        max_tokens=AtLeastOne,
        configuration=Text | dict[str, Any] | None,
        dtype=Text | None,
        too_long=Text,
        reads=_closed(video=TextPart, audio=TextPart) | None,
        sound_after=Text | None,
    ),
    task=TASK,
    roles=_open(
        joint=Share,
        independent=Share,
        video_given=Share,
        audio_given=Share,
        first_frame=Share,
        beginning=Share,
        span=Share,
        video_alone=Share,
        audio_alone=Share,
        leading=Positive,
    ),
    timesteps=_open(distribution=Text, mean=Number, std=Positive, shift=Positive, shared=YesNo),
    loss=_closed(video=NotNegative | None, audio=NotNegative | None, learned=YesNo),
    optim=_closed(
        muon=YesNo,
        weight_decay=NotNegative,
        factory=_open(
            lr=NotNegative,
            betas=Annotated[list[Share], Len(2, 2)],
            eps=NotNegative,
            momentum=Share,
            adamw_lr=NotNegative,
        ),
    ),
    schedule=_closed(warmup_steps=Count, flat_until=Share, final=Share),
    freeze=_closed(frozen=Texts, trained=Texts),
    evaluation=_closed(
        enabled=YesNo,
        tasks=list[Literal["joint", "video_given", "audio_given", "beginning", "windows", "one_piece"]],
        num_clips=AtLeastOne,
        num_given=AtLeastOne,
        beginning=BelowOne,
        num_long=AtLeastOne,
        long=Annotated[float, number(ge=1)],
        overlap=BelowOne,
        num_mp4=Count,
        batch_size=AtLeastOne,
        size=AtLeastOne,
        seed=Seed,
        length=Positive,
        rope_factor=Positive | None,
        sampler=SAMPLER,
    ),
    profiler=_closed(skip=Count, steps=AtLeastOne, shapes=YesNo, memory=YesNo, stacks=YesNo, all_ranks=YesNo)
    | None,
    adapter=_open(
        rank=Width,
        alpha=Positive | None,
        targets=Texts,
        dropout=BelowOne,
        base_dtype=Literal["float32", "bfloat16", "float16"] | None,
    )
    | None,
)

SAMPLE = _open(
    checkpoint=Text,
    text=_open(weights=Text | None, tokenizer=Text | None),
    prompt=AnyText | Text,
    count=AtLeastOne,
    seed=Count,
    out=Text,
    size=AtLeastOne | Text | None,
    device=Text,
    length=Positive,
    rope_factor=Positive | None,
    ema=YesNo,
    weights=Text | None,
    aspect=Text | None,
    image=Text | None,
    video=Text | None,
    audio=Text | None,
    start=Text | None,
    clip=Text | None,
    redo=Text | None,
    keep_given=YesNo,
    seconds=Positive | None,
    overlap=Positive | None,
    prompts=Text | None,
    variants=AtLeastOne,
    overwrite=YesNo,
    strict=YesNo,
    preview=YesNo,
    dtype=Text,
    long_prompts=Text,
    offload=YesNo | Text,
    weights_8bit=YesNo,
    vae_tiling=YesNo,
    batch_passes=YesNo,
    cache_text=YesNo,
    cache_given=YesNo,
    sequence_parallel=AtLeastOne,
    gpu=Positive | Text | None,
    sampler=SAMPLER,
)

TABLES = {"train": TRAIN, "sample": SAMPLE}
"""The settings of a configuration by its name."""

ALTERNATIVES = {"data.sources": ("data.shards", "data.train")}
"""Values that stand in place of others, which then need not be given."""

EXAMPLES = {
    "data.train": "data.train='clips/train-{000..007}.tar' (ovi-data pack makes them)",
    "data.shards": "data.shards='latents/train-{000..007}.tar' (ovi-data latents makes them)",
    "text.weights": "text.weights=Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth, or text=learned",
    "text.tokenizer": "text.tokenizer=Wan2.2-TI2V-5B/google/umt5-xxl, or text=learned",
    "text.embeddings": "text.embeddings=texts.safetensors (ovi-data embed makes it)",
    "init_from.all": "init_from=ckpts/Ovi/model.safetensors, or a run such as init_from=runs/stage3/last",
    "strategy.nvme_path": "strategy.nvme_path=/nvme/offload, a folder on a fast local disk",
    "checkpoint": "checkpoint=runs/fusion/last",
    "prompt": 'prompt="a red ball bounces three times low drum"',
}
"""An example of each value that has no default (??? in conf/), as it is typed."""
