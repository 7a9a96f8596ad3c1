"""Ovi's twin diffusion transformer: two towers, one block at a time, exchanging timing and meaning.

The block is that of arXiv 2510.01284: each tower attends to itself, then to the text and to the other
tower's stream, then passes its feed-forward. Simultaneous tokens of both towers have one rotary position.

Shapes: B batch, C latent channels, F frames, H rows, W columns, L audio tokens, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ovi_eval.common.shapes import on_meta
from ovi_lab.common.fields import Positive, checked
from ovi_lab.errors import UserError
from ovi_lab.models.attention import KeyMask, attention_function
from ovi_lab.models.compilation import compiled_blocks
from ovi_lab.models.config import (
    MODALITIES,
    FusionConfig,
    Modality,
    RopeConfig,
    TowerConfig,
    check_towers,
    plain_settings,
)
from ovi_lab.models.embeddings import Latents
from ovi_lab.models.float8 import convert_linear
from ovi_lab.models.given import Given, Mask, frames_of
from ovi_lab.models.given_context import GivenContext, given_context, wholly_given
from ovi_lab.models.initialisation import initialise_parameters
from ovi_lab.models.positions import rotations
from ovi_lab.models.recomputation import BlockCall, Recomputation
from ovi_lab.models.rope import RopeTables
from ovi_lab.models.some_clips import SomeClips
from ovi_lab.models.token_sharding import TokenSharding
from ovi_lab.models.token_times import TokenTimes
from ovi_lab.models.tower import LONG_TEXT, Conditions, TextContext, Tokens, Tower
from ovi_lab.models.twin_block import TwinBlock, remaining_blocks


@dataclass(frozen=True)
class TwinOutput:
    """What each tower predicts (rectified flow: the velocity), in the form its latents came in; None where
    that modality was absent, or wholly given."""

    video: Tensor | list[Tensor] | None
    audio: Tensor | list[Tensor] | None


class TwinDiT(nn.Module):
    """The twin model of any size, or one tower of it.

    Args:
        video, audio: settings of the towers (see `TowerConfig`); one may be None, and is then not built.
        fusion: see `FusionConfig`; None means both directions in all blocks where both towers exist.
        rope: see `RopeConfig`; None means the paper's constant.
        init_seed: seed of the initial values (see `initialise_parameters`).
        attention_backend: the kernel of attention (see `attention_function`).
        linear: the arithmetic of the blocks' linear layers: `plain`, or `fp8` (see `convert_linear`).
        activation_checkpointing: what blocks keep for the backward pass: `none`, `full`, `attention` or `matmul`
            (see `Recomputation`).
        checkpoint_every: n for every n-th block; the others keep all activations.
        compile: `blocks` compiles each pair of blocks (see `CompiledBlocks`); `none`.
        compile_backend: of torch.compile.
        first_block_skippable: False repeats the reference, which ignores a request to skip block 0.

    Built inside `torch.device("meta")` it holds no memory. `twin_blocks` are the joint blocks, `video_model`
    and `audio_model` the towers: ordinary modules whose hooks show every stage. Raises UserError for unknown
    keys and for values that do not fit each other.
    """

    def __init__(
        self,
        video: Mapping[str, Any] | None,
        audio: Mapping[str, Any] | None,
        fusion: Mapping[str, Any] | None = None,
        rope: Mapping[str, Any] | None = None,
        init_seed: int = 0,
        attention_backend: str = "auto",
        linear: str = "plain",
        activation_checkpointing: str = "none",
        checkpoint_every: int = 1,
        compile: str = "none",
        compile_backend: str = "inductor",
        first_block_skippable: bool = True,
    ) -> None:
        super().__init__()
        towers: dict[Modality, Mapping[str, Any] | None] = {"video": video, "audio": audio}
        configs = {
            m: checked(TowerConfig, s, f"model.{m}", modality=m) for m, s in towers.items() if s is not None
        }
        self.tower_configs = configs
        if fusion is None:
            fusion = {"direction": "bidirectional" if len(configs) == 2 else "none"}
        self.fusion_config: FusionConfig = checked(FusionConfig, fusion, "fusion")
        self.rope_config: RopeConfig = checked(RopeConfig, {} if rope is None else rope, "rope")
        check_towers(configs, self.fusion_config)
        first = next(iter(configs.values()))
        self.num_layers = first.num_layers
        self.init_seed = init_seed
        self.recomputation = Recomputation(activation_checkpointing, checkpoint_every)
        self.calls = nn.ModuleList(BlockCall() for _ in range(self.num_layers))
        self.compiled = compiled_blocks(compile, compile_backend)
        self.first_block_skippable = first_block_skippable
        self._rope_factor_override: float | None = None
        self.forget_tables()
        self.shares_opening = all(config.text_len >= LONG_TEXT for config in configs.values())
        self.sharding: TokenSharding | None = None
        self.gathers_blocks = False  # FSDP2: a block's parameters are there only while its unit works

        fused = self.fusion_config.block_indices(self.num_layers)
        attend = attention_function(attention_backend)
        learned = self.rope_config.mode == "learned"
        device = torch.get_default_device()
        # On meta first: PyTorch's own initial values would cost time and draw from the global generator.
        with on_meta():
            for modality, config in configs.items():
                other = configs.get("audio" if modality == "video" else "video")
                reads = other is not None and self.fusion_config.reads_other(modality)
                tower = Tower(
                    config,
                    attend,
                    other_dim=other.dim if other is not None and reads else None,
                    fused_blocks=fused if reads else frozenset(),
                    learned_rope=learned and modality == "audio",
                )
                self.add_module(f"{modality}_model", tower)
        convert_linear(self, linear)
        # A plain list: registered, every parameter would have a second name.
        blocks = [self.tower(m).each_block() for m in configs] if len(configs) == 2 else []
        self.twin_blocks = [TwinBlock(v, a, index) for index, (v, a) in enumerate(zip(*blocks, strict=True))]
        if device.type != "meta":
            self.to_empty(device=device)
            self.initialise(init_seed)

    # ------------------------------------------------------------------------------------------ settings
    @property
    def settings(self) -> dict[str, Any]:
        """The resolved configuration in plain types: `TwinDiT(**settings)` builds the same model."""
        built = self.tower_configs
        towers: dict[str, Any] = {m: plain_settings(built[m]) if m in built else None for m in MODALITIES}
        return {
            **towers,
            "fusion": plain_settings(self.fusion_config),
            "rope": plain_settings(self.rope_config),
            "first_block_skippable": self.first_block_skippable,
        }

    def tower(self, modality: Modality) -> Tower:
        """The tower of a modality; UserError where this model has none."""
        if modality not in self.tower_configs:
            raise UserError(f"this model has no {modality} tower; configure model.{modality}")
        return cast(Tower, self.get_submodule(f"{modality}_model"))

    def sharding_units(self) -> list[nn.Module]:
        """The modules to shard (FSDP) or to bring to the device one by one, in order of use; all else is of the whole.

        They are the pairs of blocks, or one tower's blocks. Pairs are not among `children()`, where their
        parameters would get second names: who shards the whole leaves the units' parameters out by name.
        """
        if self.twin_blocks:
            return list(self.twin_blocks)
        (modality,) = self.tower_configs
        return list(self.tower(modality).each_block())

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """All modules with their names, the pairs of blocks too: FSDP finds here what it has sharded."""
        memo = set() if memo is None else memo
        yield from super().named_modules(memo, prefix, remove_duplicate)
        within: list[Any] = [twin.pair for twin in self.twin_blocks if hasattr(twin, "pair")]
        for i, twin in enumerate([*self.twin_blocks, *within]):
            if twin not in memo:
                memo |= {twin} if remove_duplicate else set()
                yield f"{prefix}{'.' if prefix else ''}twin_blocks.{i}", twin

    def initialise(self, seed: int) -> None:
        """Sets every parameter to its initial value of `seed`."""
        initialise_parameters(
            self, seed, rope_factor=self.rope_config.factor, fusion_init=self.fusion_config.fusion_init
        )

    def set_audio_rope_factor(self, factor: float | None) -> None:
        """Fixes the position of audio token n at factor * n, whatever was trained; None restores the trained factor.

        It changes no parameter and is in no checkpoint; it serves sampling with another factor.
        """
        if factor is not None:
            checked(Positive, factor, "the audio RoPE factor")
        self._rope_factor_override = factor

    def forget_tables(self) -> None:
        """Drop the rotation tables and masks kept of earlier passes; the next pass computes its own."""
        head_dim = next(iter(self.tower_configs.values())).head_dim
        self._rope_tables = RopeTables(head_dim, self.rope_config.theta, self.rope_config.video_factor)
        self._times = TokenTimes()

    # ------------------------------------------------------------------------------------------- forward
    def prepare_text(
        self, text: Latents | TextContext, modality: Modality, *, key_values: bool = True
    ) -> TextContext:
        """Texts (list of [n, E], or [B, n, E]) embedded for one tower, and every block's keys and values.

        `forward` takes the result in place of the text, any number of times, until parameters change. The
        padding of long texts becomes two weighted keys, as `forward` has it on a CPU; on a GPU it rounds otherwise.

        Args:
            text: the texts of the tower `modality`; a prepared one passes.
            key_values: False leaves keys and values to the blocks in every pass, as where blocks are gathered.
        """
        if isinstance(text, TextContext):
            return text
        return self.tower(modality).prepare_text(text, key_values and not self.gathers_blocks)

    def prepare_given(
        self,
        latents: Mapping[Modality, Latents],
        texts: Mapping[Modality, Latents | TextContext],
        given: Given,
        skip_layers: Collection[int] = (),
        passes: int = 1,
    ) -> dict[Modality, GivenContext]:
        """What is the same at every step of a modality that is given wholly (see `GivenContext`).

        `forward` takes it in place of those latents, with the same arguments but for the other latents and the times.
        Empty where no modality is given wholly, with gradients, and where blocks are gathered or tokens sharded.
        """
        modality = wholly_given({m: frames_of(x, m) for m, x in latents.items()}, given)
        if modality is None or self.gathers_blocks or self.sharding is not None:
            return {}
        tokens = {m: self.tower(m)(x) for m, x in latents.items()}
        own, rope = tokens[modality], self._rope(tokens, given)[modality]
        zero = torch.zeros((), device=own.x.device)
        conditions = self._conditions(modality, own, zero, texts[modality], given, rope, passes)
        remaining = self._remaining(skip_layers)
        return {modality: given_context(self.twin_blocks, remaining, modality, own, conditions, passes)}

    def forward(
        self,
        video: Latents | GivenContext | None = None,
        audio: Latents | GivenContext | None = None,
        *,
        t_video: Tensor | None = None,
        t_audio: Tensor | None = None,
        text_video: Latents | TextContext | None = None,
        text_audio: Latents | TextContext | None = None,
        given: Given | None = None,
        wanted: Mapping[Modality, Mask | None] | None = None,
        skip_layers: Collection[int] = (),
        passes: int = 1,
    ) -> TwinOutput:
        """Predicts the velocity of each modality given.

        Args:
            video: Tensor [B, C, F, H, W], or a list of [C, F, H, W] whose shapes may differ.
            audio: Tensor [B, L, C], or a list of [L, C]. One modality absent, the other's tower runs alone. Either may
                be what `prepare_given` gave.
            t_video, t_audio: Tensor [B] (or a scalar for all), 0 (data) to 1000 (noise).
            text_video, text_audio: list of [n, E], Tensor [B, n, E], or what `prepare_text` gave.
            given: which latent frames and audio tokens hold the clean latent, so that their tokens get t = 0, and
                which clips lack a modality; None: all is generated. Without gradients, a modality of which all is
                given gets no prediction.
            wanted: bool [B] by modality, the clips whose prediction is wanted; None: all. That of the others is as
                ever, or 0: past the last block's self-attention they are left out where the pass can do so.
            skip_layers: blocks left out in both towers (skip-layer guidance).
            passes: predictions of each clip, each under a text of its own: texts hold passes x B, those of the
                first pass first, and so do the predictions. What no text has reached, the embeddings and the
                first block's self-attention, is computed once.

        Raises UserError for shapes that do not fit and for a modality without its time or text.
        """
        remaining = self._remaining(skip_layers)
        latents: dict[Modality, Latents | GivenContext | None] = {"video": video, "audio": audio}
        held = next((x for x in latents.values() if isinstance(x, GivenContext)), None)
        tokens: dict[Modality, Tokens] = {
            m: x.tokens if isinstance(x, GivenContext) else self.tower(m)(x)
            for m, x in latents.items()
            if x is not None
        }
        if not tokens:
            raise UserError("neither video nor audio latents were given; give at least one")
        if len({t.x.shape[0] for t in tokens.values()}) > 1:
            sizes = ", ".join(f"{t.x.shape[0]} {m} clips" for m, t in tokens.items())
            raise UserError(f"the batch has {sizes}; expected as many of both")
        given = given or Given()
        tables = self._rope(tokens, given)
        read: dict[Modality, tuple[Any, Any]]
        read = {"video": (t_video, text_video), "audio": (t_audio, text_audio)}
        conditions = {} if held is None else {held.modality: held.conditions}
        streams = {m: t.x for m, t in tokens.items() if m not in conditions}
        for m in streams:
            conditions[m] = self._conditions(m, tokens[m], *read[m], given, tables[m], passes)
        unread = self._unread(tokens, given) if held is None else held.modality
        some = self._some_clips(tokens, wanted) if wanted and remaining and passes == 1 else {}
        if self.sharding is None:
            streams = self._run_blocks(streams, conditions, remaining, passes, unread, held, some)
        else:
            shares, own_conditions = self.sharding.split(streams, conditions)
            streams = self.sharding.join(self._run_blocks(shares, own_conditions, remaining, passes, unread))
        if passes > 1:
            conditions = {m: c.repeated(passes) for m, c in conditions.items() if m != unread}
            tokens = {m: dataclasses.replace(t, grids=t.grids * passes) for m, t in tokens.items()}
        for m, clips in some.items():
            conditions[m] = conditions[m].of_clips(clips)
            tokens[m] = dataclasses.replace(tokens[m], grids=tuple(tokens[m].grids[i] for i in clips.numbers))
        out = {m: self.tower(m).read_out(streams[m], tokens[m], conditions[m]) for m in tokens if m != unread}
        out |= {m: clips.spread(out[m], cast(Any, latents[m])) for m, clips in some.items()}
        return TwinOutput(out.get("video"), out.get("audio"))

    def _run_blocks(
        self,
        streams: dict[Modality, Tensor],
        conditions: dict[Modality, Conditions],
        remaining: list[int],
        passes: int,
        unread: Modality | None,
        held: GivenContext | None = None,
        some: Mapping[Modality, SomeClips] | None = None,
    ) -> dict[Modality, Tensor]:
        if self.compiled is not None:
            # What comes in is a view and what blocks hand on is none: the first block would be compiled apart.
            streams = {m: x.clone() for m, x in streams.items()}
        opened = -1
        # A model of two towers runs its pairs of blocks for one modality too: they are the units that are sharded.
        order: tuple[Modality, ...] = MODALITIES if self.twin_blocks else tuple(self.tower_configs)
        blocks = self.sharding_units()
        if passes > 1 and remaining:
            opened = remaining[0]
            block = cast(Any, blocks[opened])
            new = block.open(*map(streams.get, order), *map(conditions.get, order))
            streams = dict(zip(order, new if self.twin_blocks else (new,), strict=True))
            streams = {m: x.repeat(passes, 1, 1) for m, x in streams.items() if x is not None}
            kept = {} if held is None else {held.modality: held.conditions}  # of all passes already
            conditions = {m: c.repeated(passes) for m, c in conditions.items()} | kept
        for i in remaining:
            open_now: tuple[Modality, ...] = tuple(streams) if i == opened else ()
            if held is not None and held.stream is not None and i == held.first:
                streams[held.modality] = held.stream
                open_now += (held.modality,)
            args: list[Any] = [*map(streams.get, order), *map(conditions.get, order)]
            if not self.twin_blocks:
                streams = {order[0]: self._run_block(i, blocks[i], *args, i, i == opened)}
                continue
            last: tuple[Any, ...] = ()
            if i == remaining[-1]:
                last = (unread, tuple((some or {}).get(m) for m in order))
            new = self._run_block(i, blocks[i], *args, open_now, *last)
            streams = {m: x for m, x in zip(order, new, strict=True) if x is not None}
        return streams

    def _unread(self, tokens: Mapping[Modality, Tokens], given: Given) -> Modality | None:
        """See `wholly_given`; None where blocks are gathered, which all processes do alike."""
        frames = {m: self.tower(m).frames(t) for m, t in tokens.items()}
        return None if self.gathers_blocks else wholly_given(frames, given)

    def _some_clips(
        self, tokens: Mapping[Modality, Tokens], wanted: Mapping[Modality, Mask | None]
    ) -> dict[Modality, SomeClips]:
        """The clips that are wanted of each modality of which some are not.

        Empty where the last block cannot do a part of its clips: a tower that runs alone; compiled blocks, which would
        be compiled again for every number of clips; sharded tokens.
        """
        if len(tokens) < 2 or self.compiled is not None or self.sharding is not None:
            return {}
        found = {m: SomeClips.of(wanted.get(m), len(t.grids), t.x.device) for m, t in tokens.items()}
        return {m: clips for m, clips in found.items() if clips is not None}

    def _remaining(self, skip_layers: Collection[int]) -> list[int]:
        return remaining_blocks(self.num_layers, skip_layers, self.first_block_skippable)

    def _run_block(self, index: int, block: nn.Module, *args: Any) -> Any:
        if self.compiled is None:
            streams, rest = (args[:2], args[2:]) if self.twin_blocks else (args[:1], args[1:])
            return self.calls[index](lambda *own: self.recomputation.run(index, block, *own, *rest), *streams)
        keeps, compiled = self.recomputation.of(index), self.compiled
        return block(*args, call=lambda own, *rest: compiled(own, keeps, *rest))

    def _conditions(
        self,
        modality: Modality,
        tokens: Tokens,
        t: Tensor | None,
        text: Latents | TextContext | None,
        given: Given,
        rope_BL1P2: Tensor,
        passes: int = 1,
    ) -> Conditions:
        if t is None or text is None:
            what = f"t_{modality}" if t is None else f"text_{modality}"
            raise UserError(
                f"{modality} latents were given without {what}; give both {modality} time and text"
            )
        tower = self.tower(modality)
        B = tokens.x.shape[0]
        if t.dim() > 1 or t.numel() not in (1, B):
            raise UserError(f"t_{modality} has shape {list(t.shape)}; expected [{B}], one time a clip")
        t_BT = t.to(tokens.x.device).reshape(-1, 1).expand(B, 1)
        e, e0, clean = self._times.embed(tower, tokens, t_BT, given, by_frame=self.sharding is None)
        # Kernels of a GPU that take the bias of merged padding are slower than what merging saves.
        context = tower.embed_text(text, tower.merges_padding and tokens.x.device.type == "cpu")
        if context.batch_size != B * passes:
            each = ("", "a clip") if passes == 1 else (f" and {passes} passes", "a clip and pass")
            raise UserError(
                f"text_{modality} holds {context.batch_size} texts for {B} clips{each[0]}; give one {each[1]}"
            )
        mask = None
        if tokens.mask is not None:
            mask = KeyMask(tokens.mask, tuple(f * h * w for f, h, w in tokens.grids))
        present = self._times.present(modality, tokens, given)
        return Conditions(e, e0, clean, rope_BL1P2, mask, context, present)

    def _rope(self, tokens: Mapping[Modality, Tokens], given: Given) -> dict[Modality, Tensor]:
        return rotations(self._rope_tables, tokens, self.rope_config, given, self._rope_factor_override)
