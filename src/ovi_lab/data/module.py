"""The LightningDataModule: a generated world, or shards of real clips, as batches of latents.

Shape suffixes: N clips, T frames, H rows, W columns, C channels, F h w latent frames, rows, columns, S
samples, L tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from ovi_eval.clips.clipset import ClipSet
from ovi_lab.codecs import LatentCodec
from ovi_lab.common.values import check_settings
from ovi_lab.data.batch_order import EpochSampler
from ovi_lab.data.buckets import Buckets, cuts_of
from ovi_lab.data.dataset import ClipDataset, OnError
from ovi_lab.data.decode import OnResample
from ovi_lab.data.displaced import latents_of, parsed_displaced, training_folder
from ovi_lab.data.encoders import published_codec
from ovi_lab.data.evaluation_clips import clips_to_evaluate
from ovi_lab.data.fitting import fitted_codec
from ovi_lab.data.index import digest_of
from ovi_lab.data.kinds import BOTH, Require
from ovi_lab.data.known_shapes import KnownShapes, known_shapes
from ovi_lab.data.loading import ClipLoader
from ovi_lab.data.media_format import parsed_format
from ovi_lab.data.prepare import CLIPS_TO_FIT, WorldSettings, prepare_world, shards_of
from ovi_lab.data.sources import parsed_sources, source_counts
from ovi_lab.data.weighted_draw import WeightedDraw
from ovi_lab.data.worlds import World, get_world
from ovi_lab.errors import UserError
from ovi_lab.strategies.base import strategy_of

log = logging.getLogger("ovi_lab.data")

Shards = str | Sequence[str]


class OviDataModule(LightningDataModule):
    """Batches {"id", "caption", "meta", "video" [B,C,F,h,w], "audio" [B,L,C], "text"} for training and validation.

    Either a world is named, and its clips are made once under `root`; or shards are (`shards`, and `val` where
    there is any), of latents or of media. Media are encoded as they are read, by the codec at `codec`, or by
    one fitted on the training clips and kept under `root`.

    Args:
        world: name of a world, or None for shards.
        root: folder of generated data and fitted codecs.
        shards, val: shard patterns (`clips/train-{000..003}.tar`) or lists of them. train: another name of `shards`.
        sources: instead of `shards` several such, each {shards, weight} (see `WeightedDraw`).
        require: whether a clip must have "all" modalities, or "any" of them: then batches are of clips with the same
            ones. None: all of `shards`, any of `sources`.
        codec: path of a saved codec, or of the folder of released weights; None: the world's own, or one fitted on the
            training media.
        batch_size: clips a batch and rank, where there is no `tokens_per_batch`.
        tokens_per_batch: budget of a batch on a rank with its padding (see `Buckets`).
        patch_size: the video tower's, by which tokens are counted.
        audio_edges: longest sound of each bucket, in tokens; None: eight an octave.
        audio_tokens: {min, max, crop} of stored sound (see `AudioTokens`).
        modalities: what is read of a sample and batches bring: "video", "audio" or both.
        stored_text: whether batches bring text embeddings; None: where the first shard's latents have them.
        num_workers: processes that read ahead. prefetch: batches made ready (and moved to a GPU) ahead of use.
        seed: of the order.
        on_error: "skip" bad samples, counted and named, or "raise" at the first.
        max_bad_share: more bad samples than this share stop the run, when there are 20 or more.
        on_resample: "resample" sound of another rate, or "raise".
        num_train, num_eval, train_seed, eval_seed: the world's clips. displaced: of those to train on (`Displaced`).
        num_frames, height, width, fps, sample_rate: the format that media in shards are converted to; None:
            as stored.
        quiet: show no progress (a run tells its own reporter).
    """

    def __init__(
        self,
        world: str | None = "bouncing_ball",
        root: str | Path = "data",
        train: Shards | None = None,
        val: Shards | None = None,
        codec: str | Path | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        on_error: OnError = "skip",
        on_resample: OnResample = "resample",
        num_train: int = 4096,
        num_eval: int = 512,
        train_seed: int = 1,
        eval_seed: int = 2,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fps: float | None = None,
        sample_rate: int | None = None,
        quiet: bool = False,
        shards: Shards | None = None,
        tokens_per_batch: int | None = None,
        patch_size: Sequence[int] = (1, 1, 1),
        audio_edges: Sequence[int] | None = None,
        audio_tokens: Mapping[str, Any] | None = None,
        modalities: Sequence[str] = BOTH,
        stored_text: bool | None = None,
        prefetch: int = 0,
        max_bad_share: float = 0.05,
        sources: Sequence[Mapping[str, Any]] | None = None,
        require: Require | None = None,
        displaced: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        numbers = {"num_workers": num_workers, "prefetch": prefetch, "max_bad_share": max_bad_share}
        check_settings("data", {"on_error": on_error, "on_resample": on_resample, **numbers})
        if train is not None and shards is not None:
            raise UserError("data.train and data.shards are two names for the shards to train on: set one")
        train = shards if train is None else train
        if sources is not None and train is not None:
            raise UserError(
                "data.sources and data.shards (or data.train) name the shards to train on: set one"
            )
        self._sources = [] if sources is None else parsed_sources(sources)
        if self._sources:
            train = [pattern for source in self._sources for pattern in source.patterns]
        if (world is None) == (train is None):
            raise UserError(
                "name either a world (data.world=bouncing_ball) or shards to train on (data.shards=… or data.sources=…)"
            )
        self.root, self.codec_path = Path(root).expanduser(), codec
        self.num_workers, self.prefetch, self.seed = num_workers, prefetch, seed
        self.on_error, self.on_resample, self.quiet = on_error, on_resample, quiet
        self.max_bad_share = max_bad_share
        self.modalities, self.stored_text = tuple(modalities), stored_text
        self.require: Require = require or ("any" if self._sources else "all")
        self.audio_tokens = cuts_of(audio_tokens, modalities)
        self._batches: dict[str, Any] = {
            "batch_size": batch_size,
            "tokens_per_batch": tokens_per_batch,
            "audio_edges": None if audio_edges is None else list(audio_edges),
            "patch_size": list(patch_size),
        }
        self.displaced = parsed_displaced(displaced, world)
        self.settings: WorldSettings | None = None
        self.world: World | None = None
        if world is not None:
            self.world = get_world(world)
            self.settings = WorldSettings(world, num_train, num_eval, train_seed, eval_seed)
        named = {"train": train, "eval": val}
        self._shards = {split: shards for split, shards in named.items() if shards is not None}
        parts = {
            "num_frames": num_frames,
            "height": height,
            "width": width,
            "fps": fps,
            "sample_rate": sample_rate,
        }
        self._media_format = parsed_format(parts)
        self._codec: LatentCodec | None = None
        self._datasets: dict[str, ClipDataset] = {}
        self._latents: dict[str, ClipDataset] = {}
        self._loaders: list[ClipLoader] = []
        self.limit_batches: float = 1.0
        """Training batches of an epoch on each rank, as a number or a share; `limit_val_batches`: on all together."""
        self.limit_val_batches: float = 1.0

    def prepare_data(self) -> None:
        """Make missing files: the world's clips, or the codec of real ones.

        Safe to call from any process.
        """
        if self.settings is not None:
            training_folder(self.settings, self.displaced, self.root, self.quiet)
        elif self.codec_path is None and "media" in self._raw("train").kinds:
            self._fitted_codec_path()

    def setup(self, stage: str | None = None) -> None:
        """Open the shards and the codec; `prepare_data` first where it has not been called."""
        if not self._datasets:
            self._datasets["train"] = self._dataset("train")
            if self.has_eval:
                self._datasets["eval"] = self._dataset("eval")
                self._datasets["train"].made_of.refuse_other(self._datasets["eval"].made_of)
            if self.codec_path is not None:
                self._datasets["train"].made_of.refuse_codec(Path(self.codec_path).expanduser())

    @property
    def codec(self) -> LatentCodec:
        """The codec of the latents. Raises UserError where only latents are there and no codec was named."""
        if self._codec is None:
            path = self.codec_file()
            if self._codec_folder is not None:
                device = "cpu" if self.trainer is None else self.trainer.strategy.root_device
                self._codec = published_codec(self._codec_folder, device)
                return self._codec
            if path is None:
                raise UserError(
                    "these shards hold latents, and no codec was named; set data.codec to the one they used, a "
                    "file or the folder of released weights"
                )
            self._codec = LatentCodec.load(path)
        return self._codec

    @property
    def _codec_folder(self) -> Path | None:
        """The folder of released weights that `codec` names."""
        folder = None if self.codec_path is None else Path(self.codec_path).expanduser()
        return folder if folder is not None and folder.is_dir() else None

    @property
    def has_eval(self) -> bool:
        """Whether there are clips to evaluate on."""
        return self.settings is not None or "eval" in self._shards

    @property
    def train_dataset(self) -> ClipDataset:
        """The training clips' latents."""
        self.setup()
        return self._datasets["train"]

    @property
    def eval_dataset(self) -> ClipDataset:
        """The evaluation clips' latents. Raises UserError where there are none."""
        self.setup()
        if "eval" not in self._datasets:
            raise UserError("there are no clips to evaluate on; set data.val to the shards that hold them")
        return self._datasets["eval"]

    @property
    def latent_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of one clip's latents, of the modalities there are: {"video": (C,F,h,w), "audio": (L,C)}.

        Those of the first good training clip; its sound as long as `audio_tokens.max` allows.
        """
        dataset = self.train_dataset
        wanted = [*dataset.shapes.with_all(dataset.modalities)[:1].tolist()]
        if not wanted:  # no clip has both
            wanted = [n for m in dataset.modalities for n in dataset.shapes.with_all([m])[:1].tolist()]
        samples = [dataset[number] for number in wanted]
        shapes = {m: tuple(sample[m].shape) for sample in samples for m in dataset.modalities if m in sample}
        if self.audio_tokens is not None and self.audio_tokens.max is not None and "audio" in shapes:
            length, channels = shapes["audio"]
            shapes["audio"] = (min(length, self.audio_tokens.max), channels)
        return shapes

    def known_shapes(self) -> list[KnownShapes]:
        """The shapes of training clips that are known before any is made; see `known_shapes`."""
        clips = self._raw("train") if self.world is None else self.world
        named = self.codec_path is not None and isinstance(clips, ClipDataset) and "media" in clips.kinds
        return known_shapes(clips, self.codec if named else None, self._media_format)

    def clips_per_batch(self, world_size: int = 1) -> float:
        """Mean number of clips in a training batch of one of `world_size` ranks, as batches of equal tokens vary."""
        return self.order(world_size).clips_per_batch

    def order(self, world_size: int = 1, group: int = 1) -> EpochSampler:
        """The order of the training batches on the first of `world_size` ranks; see `EpochSampler`."""
        return EpochSampler(
            self._train_buckets, self.seed, 0, world_size, group, self.limit_batches, self._draw
        )

    def fingerprint(self) -> str:
        """A short hash of what decides the batches: shards (names, sizes, samples), seed and settings.

        The number of ranks and of workers is no part of it: a run may be resumed with others.
        """
        content = {
            "shards": self.train_dataset.shard_facts,
            "seed": self.seed,
            "batches": self._batches,
            "parts": self.train_dataset.parts,
            "audio_tokens": None if self.audio_tokens is None else vars(self.audio_tokens),
            "media": None if self._media_format is None else vars(self._media_format),
        }
        if self.displaced is not None:
            content["displaced"] = vars(self.displaced)
        if self._draw is not None:
            content["sources"] = [self._draw.counts, self._draw.taken]
        return digest_of(content)[:16]

    def eval_clips(self, count: int | None = None) -> ClipSet:
        """The first `count` (None: all) real clips with picture and sound to evaluate on: their own media, or latents
        decoded.

        Raises:
            UserError: there are none, or their shapes differ.
        """
        dataset = self.eval_dataset
        if self.settings is not None:
            folder = prepare_world(self.settings, self.root, self.quiet)
            dataset = ClipDataset(shards_of(folder, "eval", "media"), on_error=self.on_error)
        return clips_to_evaluate(dataset, lambda: self.codec, count)

    def train_dataloader(self) -> ClipLoader:
        rank, world_size = strategy_of(self.trainer).data_place
        return self._loader(self.train_dataset, True, "train", rank, world_size)

    def val_dataloader(self) -> ClipLoader | list[Any]:
        self.setup()
        place = strategy_of(self.trainer).data_place
        return self._loader(self._datasets["eval"], False, "val", *place) if "eval" in self._datasets else []

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch as Lightning does; on a CPU returns it as it is, since walking through it moves nothing."""
        return (
            batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)
        )

    def teardown(self, stage: str | None = None) -> None:
        """Logs the bad samples once more, for runs that end within an epoch."""
        for loader in self._loaders:
            loader.summarise()
        self._loaders = []

    def _loader(
        self, dataset: ClipDataset, shuffle: bool, name: str, rank: int = 0, world_size: int = 1
    ) -> ClipLoader:
        trainer = self.trainer
        loader = ClipLoader(
            dataset,
            shuffle=shuffle,
            seed=self.seed,
            num_workers=self.num_workers,
            rank=rank,
            world_size=world_size,
            name=name,
            buckets=self._train_buckets if shuffle else self._buckets(dataset),
            prefetch=self.prefetch,
            device=None if trainer is None else trainer.strategy.root_device,
            max_bad_share=self.max_bad_share,
            group=1 if trainer is None else int(trainer.accumulate_grad_batches),
            limit=self.limit_batches if shuffle else self.limit_val_batches,
            draw=self._draw if shuffle else None,
        )
        self._loaders.append(loader)
        return loader

    @cached_property
    def _train_buckets(self) -> Buckets:
        return self._buckets(self.train_dataset)

    @cached_property
    def _draw(self) -> WeightedDraw | None:
        """What an epoch takes of several sources with weights."""
        counts = source_counts(self._sources, self.train_dataset)
        weights = [source.weight for source in self._sources if source.weight is not None]
        return WeightedDraw(counts, weights, self.seed) if weights else None

    def _buckets(self, dataset: ClipDataset) -> Buckets:
        tokens = self.audio_tokens
        # clips with a picture are taken whole or not at all
        alone = self.modalities == ("audio",) or self.require == "any"
        cut = tokens if tokens is not None and tokens.cuts_any and alone else None
        return Buckets(dataset.shapes, **self._batches, audio_tokens=cut, seed=self.seed)

    def _dataset(self, split: str) -> ClipDataset:
        if self.settings is not None:
            return self._clips(latents_of(self.settings, self.displaced, split, self.root, self.quiet))
        dataset = self._raw(split)
        if "media" in dataset.kinds:
            dataset.codec = self.codec
        return dataset

    def _raw(self, split: str) -> ClipDataset:
        if split not in self._latents:
            opened = self._clips(self._shards[split])
            if opened.kinds != {"latents"}:
                return opened
            self._latents[split] = opened
        return self._latents[split]

    def _clips(self, shards: Shards | list[Path], require: Require | None = None) -> ClipDataset:
        return ClipDataset(
            shards,
            None,
            self._media_format,
            self.on_error,
            self.on_resample,
            self.modalities,
            self.stored_text,
            self.audio_tokens,
            require or self.require,
        )

    def codec_file(self) -> Path | None:
        """The file of the codec of the latents; None where the shards hold latents and no codec, or a folder of
        released weights, was named."""
        if self._codec_folder is not None:
            return None
        if self.codec_path is not None:
            return Path(self.codec_path).expanduser()
        if self.settings is not None:
            return prepare_world(self.settings, self.root, self.quiet) / "codec.safetensors"
        return self._fitted_codec_path() if "media" in self._raw("train").kinds else None

    def _fitted_codec_path(self) -> Path:
        """The codec fitted on these shards in this format: kept under `root` by what it was fitted on."""
        return fitted_codec(self._clips(self._shards["train"], require="all"), CLIPS_TO_FIT, self.root)
