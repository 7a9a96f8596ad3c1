"""`ovi-data`: generate a world's clips, pack real ones, inspect shards, fit a codec, encode.

Exit codes: 0 done; 1 `inspect` or `check` found faults, or `captions` left a clip without the caption it should have;
2 bad usage or input, said in one line on standard error; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovi_eval.common.boundary import LineParser, command, say_purposes
from ovi_eval.common.shown import shown
from ovi_lab import __version__
from ovi_lab.common.following import shard_pattern, typed
from ovi_lab.data.build.captioning.cli import add_captions
from ovi_lab.data.build.checking.cli import add_check
from ovi_lab.data.build.cli import add_build
from ovi_lab.data.build.report.cli import add_report
from ovi_lab.data.cli_output import pack_rows, print_next, print_table, skipped_rows
from ovi_lab.data.worlds import world_names
from ovi_lab.errors import UserError

if TYPE_CHECKING:
    pass


@command("ovi-data")
def main(argv: Sequence[str] | None = None) -> int | None:
    """The command `ovi-data`; returns its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    arguments = _parser().parse_args(argv)
    return arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(prog="ovi-data", description="Clips with sound: make, pack, inspect, encode.")
    parser.examples = (
        ("ovi-data make bouncing_ball --train 256 --eval 32", "the ball world's clips, codec and latents"),
        ("ovi-data pack clips shards/mine --size 64x64 --seconds 2", "a folder of videos as shards"),
        ("ovi-data inspect 'shards/mine-*.tar' --sheet sheet.png", "what is in them, with pictures"),
    )
    parser.add_argument("--version", action="version", version=f"ovi-data {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    writing = LineParser(add_help=False)
    option = writing.add_argument
    option(
        "--captions", type=Path, help=".csv, .tsv or .jsonl of file and caption; else a .txt beside each file"
    )
    option(
        "--on-error", choices=("skip", "raise"), default="skip", help="for clips that cannot be used (skip)"
    )
    option(
        "--on-resample", choices=("resample", "raise"), default="resample", help="for other rates (resample)"
    )
    option("--overwrite", action="store_true", help="replace shards of other clips or settings")

    make = commands.add_parser("make", help="make a world's clips, codec and latents")
    make.examples = (
        ("ovi-data make bouncing_ball", "what ovi-train makes by itself: 4096 and 512 clips under data"),
        ("ovi-data make bouncing_ball --train 256 --eval 32 --out small", "a small set in another folder"),
        ("ovi-data make bouncing_ball --seed 7", "other clips"),
    )
    option = make.add_argument
    option("world", metavar="WORLD", help=f"one of {', '.join(world_names())}")
    option("--out", type=Path, default=Path("data"), help="folder for it (default: data)")
    option("--train", type=int, default=4096, help="clips to train on (4096)")
    option("--eval", type=int, default=512, help="clips to evaluate on (512)")
    option(
        "--seed",
        type=int,
        default=1,
        help="seed of the training clips; the evaluation clips take the next one (1)",
    )
    make.set_defaults(run=_make)

    pack = commands.add_parser(
        "pack",
        help="pack a folder of video, sound or image files with captions into shards",
        parents=[writing],
    )
    pack.examples = (
        ("ovi-data pack clips shards/mine", "every video under clips, its caption in a .txt beside it"),
        (
            "ovi-data pack clips shards/mine --size 704x1280 --fps 24 --sample-rate 16000",
            "as the released model has them",
        ),
        ("ovi-data pack sounds shards/sounds --modalities audio --seconds 2", "sound alone"),
    )
    option = pack.add_argument
    option("folder", type=Path, metavar="FOLDER", help="where the files are, in any depth")
    option("shards", type=Path, metavar="SHARDS", help="prefix: SHARDS-000.tar, … are written")
    option(
        "--size",
        type=_size,
        default="64x64",
        metavar="HxW",
        help="height x width, scaled and cropped (64x64)",
    )
    option("--fps", type=float, default=16.0, help="frames a second (16)")
    option("--sample-rate", type=int, default=8000, help="Hz, one channel (8000)")
    option("--seconds", type=float, help="cut files into clips of this length; else one clip a file")
    option("--clips-per-shard", type=int, default=256, help="clips in each shard (256)")
    text = "arrays: lossless; mp4: H.264, AAC; original: the file as it is; auto: arrays up to 128x128, else mp4 (auto)"
    option("--store", choices=("auto", "arrays", "mp4", "original"), default="auto", help=text)
    option("--crop-bars", action="store_true", help="cut black bars off first")
    text = "of the clips: video,audio; audio of sound files and videos; video without sound, images too (video,audio)"
    option("--modalities", type=_modalities, default="video,audio", help=text)
    pack.set_defaults(run=_pack)

    add_build(commands)
    add_captions(commands)
    add_check(commands)
    add_report(commands)

    inspect = commands.add_parser("inspect", help="show what shards hold, and what is wrong with them")
    inspect.examples = (
        ("ovi-data inspect 'shards/mine-*.tar'", "numbers, shapes, lengths, captions, and bad samples"),
        (
            "ovi-data inspect 'shards/mine-{000..003}.tar' --sheet sheet.png --clips 12",
            "with a sheet of 12 clips",
        ),
        ("ovi-data inspect latents-000.tar --codec codec.safetensors --sheet sheet.png", "latents, decoded"),
    )
    option = inspect.add_argument
    option("shards", nargs="+", metavar="SHARDS", help="a pattern, braces expanded, or several")
    option("--sheet", type=Path, help="PNG with frames above spectrograms")
    option("--clips", type=int, default=6, help="clips on the sheet (6)")
    option("--codec", type=Path, help="decodes shards of latents for the sheet")
    inspect.set_defaults(run=_inspect)

    embed = commands.add_parser("embed", help="text embeddings of prompts and captions -> one file")
    where = "--weights /data/ckpts --out texts.safetensors"
    embed.examples = (
        (f"ovi-data embed prompts.csv {where}", "the prompts of a table; text=stored reads the file"),
        (f"ovi-data embed 'val-*.tar' --clips 48 {where}", "the captions that val_metrics samples"),
        (f"ovi-data embed --text 'a dog barks' {where}", "a text"),
    )
    option = embed.add_argument
    option(
        "sources", nargs="*", metavar="SOURCE", help="a .csv, .tsv or .jsonl of prompts, or a shard pattern"
    )
    option("--out", type=Path, required=True, help="file to write (.safetensors)")
    option("--weights", type=Path, required=True, help="folder of the released weights, which umT5 is in")
    option("--text", action="append", default=[], help="a text more; may be given several times")
    option("--clips", type=int, help="captions of each pattern's first clips alone")
    option("--long-captions", choices=("refuse", "cut_end", "cut_middle"), default="refuse", help="(refuse)")
    option("--device", help="cpu or cuda:N; else a GPU where there is one")
    embed.set_defaults(run=_embed)

    fit = commands.add_parser("fit-codec", help="fit the video and the audio codec on shards of media")
    fit.examples = (
        ("ovi-data fit-codec 'shards/mine-*.tar' --out codec.safetensors", "from the first 1024 clips"),
        ("ovi-data fit-codec shards/mine-000.tar --out codec.safetensors --clips 64", "from fewer"),
        (
            "ovi-data latents 'shards/mine-*.tar' --codec codec.safetensors --out latents/mine",
            "what to do next",
        ),
    )
    option = fit.add_argument
    option("shards", nargs="+", metavar="SHARDS", help="a pattern, braces expanded, or several")
    option("--out", type=Path, required=True, help="file to write (.safetensors)")
    option("--clips", type=int, default=1024, help="learn from the first clips (1024)")
    fit.set_defaults(run=_fit)

    text = "encode shards of media into shards of latents and text embeddings"
    latents = commands.add_parser("latents", aliases=["encode"], help=text, parents=[writing])
    latents.examples = (
        (
            "ovi-data latents 'shards/mine-*.tar' --codec codec.safetensors --out latents/mine",
            "by a fitted codec",
        ),
        (
            "ovi-data latents 'shards/mine-*.tar' --weights /data/ckpts --text --out latents/mine",
            "by released encoders",
        ),
        (
            "ovi-data latents sounds --audio-only --weights /data/ckpts --out latents/sounds",
            "a folder of sounds",
        ),
    )
    option = latents.add_argument
    option("shards", nargs="+", metavar="SHARDS", help="a pattern, or several; or a folder of sounds")
    option("--out", type=Path, required=True, help="prefix: one shard for each, OUT-000.tar, …")
    option("--codec", type=Path, help="a saved codec")
    option("--weights", type=Path, help="folder of the released weights, whose encoders are used")
    option("--text", action="store_true", help="also embed captions, by umT5 of --weights")
    cuts = ("refuse", "cut_end", "cut_middle")
    text = "captions of more tokens than umT5 reads: left out, or cut (refuse)"
    option("--long-captions", choices=cuts, default="refuse", help=text)
    option("--audio-only", action="store_true", help="sound alone; pictures are not needed")
    option(
        "--require", choices=("all", "any"), default="all", help="any: clips may lack picture or sound (all)"
    )
    option("--dtype", choices=("fp32", "bf16"), default="fp32", help="type of stored latents (fp32)")
    option("--batch-size", type=int, default=8, help="clips of one size encoded at once (8)")
    text = "this process's part, such as 0/8; under torchrun its rank's"
    option("--shard", type=_part, default="", metavar="I/N", help=text)
    option("--device", help="cpu or cuda:N; else a GPU where there is one")
    option("--clips-per-shard", type=int, default=512, help="clips a shard of a folder's sounds (512)")
    latents.set_defaults(run=_latents)
    say_purposes(commands)
    return parser


def _make(arguments: argparse.Namespace) -> None:
    from ovi_lab.data.prepare import WorldSettings, prepare_world, shards_of

    seed = arguments.seed
    settings = WorldSettings(arguments.world, arguments.train, arguments.eval, seed, seed + 1)
    folder = prepare_world(settings, arguments.out)
    rows = [("folder", str(folder)), ("codec", str(folder / "codec.safetensors"))]
    for split, count in (("train", settings.num_train), ("eval", settings.num_eval)):
        media, latents = (len(shards_of(folder, split, kind)) for kind in ("media", "latents"))
        rows.append((split, f"{count} clips in {media} media and {latents} latents shards"))
    print_table(settings.world, rows)
    which = "" if settings.world == "bouncing_ball" else f"data.world={settings.world} "
    print_next(
        f"ovi-train experiment=fusion {which}data.root={typed(arguments.out)} data.num_train={settings.num_train} "
        f"data.num_eval={settings.num_eval} data.train_seed={seed} data.eval_seed={seed + 1}"
    )


def _pack(arguments: argparse.Namespace) -> None:
    from ovi_lab.data.pack import pack_folder
    from ovi_lab.data.pack_options import PackOptions

    arguments.height, arguments.width = arguments.size
    known = {name: value for name, value in vars(arguments).items() if name in PackOptions.__annotations__}
    options = PackOptions(**known)
    report = pack_folder(arguments.folder, arguments.shards, options, arguments.captions, arguments.overwrite)
    print_table("packed", pack_rows(report, options))
    shards = shard_pattern(report.shards)
    if len(options.modalities) < 2:
        latents = typed(Path("latents") / arguments.shards.name)
        print_next(f"ovi-data latents {shards} --require any --codec codec.safetensors --out {latents}")
    elif options.store != "original" and (options.fps, options.sample_rate) == (24, 16000):  # Ovi's rates
        latents = typed(Path("latents") / arguments.shards.name)
        print_next(f"ovi-data latents {shards} --weights DIR --text --out {latents}")
    else:
        print_next(f"ovi-train experiment=real_clips data.train={shards}")


def _inspect(arguments: argparse.Namespace) -> int:
    from ovi_lab.codecs import LatentCodec
    from ovi_lab.data.inspection import contact_sheet, inspect_shards
    from ovi_lab.data.shards import expand_shards

    paths = expand_shards(arguments.shards)
    codec = LatentCodec.load(arguments.codec) if arguments.codec else None
    found = inspect_shards(paths, codec, arguments.clips if arguments.sheet else 0)
    kinds = ", ".join(f"{count} of {kind}" for kind, count in found.kinds.most_common())
    rows = [
        ("shards", f"{found.shards}, {found.size / 2**20:.1f} MiB of samples"),
        ("samples", f"{found.samples} ({kinds})" if kinds else "0"),
    ]
    rows += [("shape", f"{shape} ({count})") for shape, count in found.shapes.most_common(8)]
    if found.seconds:
        low, high, total = min(found.seconds), max(found.seconds), sum(found.seconds)
        rows.append(("length", f"{low:.2f} to {high:.2f} s, {total / 60:.1f} min in all"))
    words = {word for caption in found.captions for word in caption.split()}
    rows.append(("captions", f"{len(found.captions)} different, of {len(words)} words"))
    rows += [("", f"{count} x {shown(caption)}") for caption, count in found.captions.most_common(5)]
    rows.append(("bad", str(len(found.bad))))
    rows += [("", str(bad)) for bad in found.bad[:50]]
    rows += [("", f"and {len(found.bad) - 50} more")] if len(found.bad) > 50 else []
    print_table("shards", rows)
    if arguments.sheet:
        print_table("", [("sheet", str(contact_sheet(found.first, arguments.sheet)))])
    return 1 if found.bad else 0


def _fit(arguments: argparse.Namespace) -> None:
    from ovi_lab.data.dataset import ClipDataset
    from ovi_lab.data.fitting import fit_codec, quality

    dataset = ClipDataset(arguments.shards)
    codec = fit_codec(dataset, arguments.clips)
    codec.save(arguments.out)
    print_table("codec", [("file", str(arguments.out)), *quality(codec, dataset)])


def _embed(arguments: argparse.Namespace) -> None:
    from ovi_lab.data.embeddings import embed, texts_of

    if arguments.clips is not None and arguments.clips < 1:
        raise UserError(f"--clips is {arguments.clips}; at least 1")
    texts = [*texts_of(arguments.sources, arguments.clips), *arguments.text]
    if not texts:
        raise UserError("nothing to embed: name a table of prompts, a shard pattern, or --text")
    count, name = embed(
        texts, arguments.out, arguments.weights, _device(arguments.device), arguments.long_captions
    )
    print_table("text embeddings", [("texts", str(count)), ("file", str(arguments.out)), ("encoder", name)])
    print_next(f"ovi-train experiment=ovi_lora text=stored text.embeddings={typed(arguments.out)} …")


def _device(named: str | None) -> str:
    """The named device; else this process's GPU, or the CPU where there is none."""
    import torch

    return named or (f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")


def _latents(arguments: argparse.Namespace) -> None:
    import torch

    from ovi_lab.checkpoints.presets import PRESET_FILE
    from ovi_lab.checkpoints.weights_layout import MODEL
    from ovi_lab.data.encoders import published_encoders, saved_encoders, with_published_text
    from ovi_lab.data.encoding import encode_sources
    from ovi_lab.data.media_sources import sources_of

    if arguments.codec is None and arguments.weights is None:
        raise UserError("nothing to encode with: name a saved --codec, or a folder of released --weights")
    if arguments.text and arguments.weights is None:
        raise UserError("--text needs --weights, the folder that umT5 is in")
    for name in ("batch_size", "clips_per_shard"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}; at least 1")
    only = arguments.audio_only
    sources = sources_of(arguments.shards, only, arguments.captions, arguments.clips_per_shard)
    device = _device(arguments.device)
    if arguments.codec is None:
        encoders = published_encoders(arguments.weights, only, device)
    else:
        encoders = saved_encoders(arguments.codec, only)
    if arguments.text:
        encoders = with_published_text(encoders, arguments.weights, device, arguments.long_captions)
    report = encode_sources(
        sources,
        arguments.out,
        encoders,
        {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype],
        arguments.batch_size,
        arguments.shard,
        arguments.on_error,
        arguments.on_resample,
        overwrite=arguments.overwrite,
        require=arguments.require,
    )
    rows = [
        ("clips", f"{report.clips}, {len(report.bad)} skipped"),
        ("shards", f"{len(report.made)} made, {len(report.there)} were there"),
        ("", ", ".join(map(str, report.made))),
        ("replaced", ", ".join(map(str, report.replaced))),
        *sorted(encoders.names.items()),
        ("retimed", f"{len(report.retimed)} clips, by their frames' times" if report.retimed else ""),
    ]
    rows += [("", line) for line in report.retimed[:50]]
    print_table("latents", [*rows, *skipped_rows(report.bad, 50)])
    task = "audio_pretraining" if only else "fusion"
    shards = shard_pattern([*report.made, *report.there])
    if arguments.codec is not None:
        choice = f"task={task} data=latents{' fusion=none' * only} data.codec={typed(arguments.codec)}"
        choice += f" data.shards={shards}"
    else:  # a preset.yaml is a small Ovi's: the released weights have none
        experiment = "own_clips" if (arguments.weights / PRESET_FILE).is_file() else "ovi_lora"
        start = typed(arguments.weights / MODEL)
        choice = f"experiment={experiment}{' task=audio_pretraining' * only} data.shards={shards} init_from.all={start}"
    print_next(f"ovi-train {choice}")


def _part(text: str) -> tuple[int, int]:
    """I/N, or torchrun's rank and number of ranks."""
    if not text:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f"--shard is {text!r}; expected I/N with I from 0 to N - 1, such as 0/8")
    return int(index), int(count)


def _modalities(text: str) -> tuple[str, ...]:
    return tuple(sorted(filter(None, text.split(",")), reverse=True))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise UserError(f"--size is {text!r}; expected height x width in pixels, such as 64x64")
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(main())
