"""`ovi-data captions`."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovi_eval.common.boundary import LineParser
from ovi_eval.common.shown import shown
from ovi_lab.common.following import typed
from ovi_lab.data.cli_output import print_next, print_table
from ovi_lab.errors import UserError

if TYPE_CHECKING:
    from ovi_lab.data.build.captioning.assembled import Assembly

KEY_VARIABLE, MODEL_VARIABLE = "OVI_CAPTIONS_KEY", "OVI_CAPTIONS_MODEL"


def add_captions(commands: Any) -> None:
    """Add `captions` to the commands of `ovi-data`."""
    parser: LineParser = commands.add_parser(
        "captions", help="caption the clips of a build, and write its shards again"
    )
    parser.examples = (
        (
            "ovi-data captions shards --ask http://127.0.0.1:8000/v1",
            "by a model behind any OpenAI-compatible endpoint",
        ),
        (
            "ovi-data captions shards --export todo",
            "frames, sounds and a list of the clips that want a caption",
        ),
        ("ovi-data captions shards --join todo/clips.jsonl", "the captions of a table, by the clips' keys"),
    )
    option = parser.add_argument
    option("shards", metavar="SHARDS", help="a folder that ovi-data build made; or an address, with --work")
    option("--work", type=Path, metavar="DIR", help="the --work of the build whose shards are at an address")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument(
        "--export", metavar="DIR", help="write what a captioner needs, here or to an address"
    )
    actions.add_argument(
        "--join", metavar="TABLE", help=".jsonl, .csv or .tsv with id and caption, here or at an address"
    )
    actions.add_argument(
        "--ask", metavar="URL", help="ask a chat endpoint; stopped, the same command goes on"
    )
    text = "AUDCAP or Audio, the form of the sound's description; alone: of all captions (as it is; --ask: AUDCAP)"
    option("--sound-tag", metavar="TAG", help=text)
    option("--all", action="store_true", help="also clips that have a caption")
    option("--clips", type=int, metavar="N", help="at most so many")
    option("--model", help=f"of the endpoint (${MODEL_VARIABLE}, else the only one it has)")
    option(
        "--key-env",
        default=KEY_VARIABLE,
        metavar="NAME",
        help=f"variable that holds its key ({KEY_VARIABLE})",
    )
    option("--at-once", type=int, default=8, help="questions at a time (8)")
    option("--timeout", type=float, default=120.0, help="seconds for one answer (120)")
    option("--tries", type=int, default=5, help="of one question (5)")
    parser.set_defaults(run=_captions)


def _captions(arguments: argparse.Namespace) -> int:
    from ovi_lab.text.caption_form import SOUND_TAGS

    if arguments.sound_tag not in (None, *SOUND_TAGS):
        raise UserError(
            f"--sound-tag '{shown(arguments.sound_tag)}' is unknown; there are {', '.join(SOUND_TAGS)}"
        )
    for name, least in (("clips", 1), ("at_once", 1), ("tries", 1), ("timeout", 0)):
        value = getattr(arguments, name)
        if value is not None and not (value >= least and 0 < value < float("inf")):
            raise UserError(f"--{name.replace('_', '-')} is {value:g}; expected a number above 0")
    if not (arguments.export or arguments.join or arguments.ask or arguments.sound_tag):
        raise UserError("nothing to do: give --export DIR, --join TABLE, --ask URL or --sound-tag")

    from ovi_lab.data.build.captioning.assembled import taken_up
    from ovi_lab.data.build.remote import refuse_other, work_folder
    from ovi_lab.data.build.store_lock import alone_at

    arguments.folder, arguments.address = work_folder(arguments.shards, arguments.work)
    with ExitStack() as stack:
        assembly = stack.enter_context(taken_up(arguments.folder))
        if arguments.address is not None and not arguments.export:
            refuse_other(arguments.address, assembly.folder.work)
            arguments.lock = stack.enter_context(alone_at(arguments.address))
        if arguments.export:
            return _export(arguments, assembly)
        if arguments.ask:
            return _ask(arguments, assembly)
        return _join(arguments, assembly) if arguments.join else _convert(arguments, assembly)


def _export(arguments: argparse.Namespace, assembly: Assembly) -> int:
    from ovi_lab.data.build.captioning.export import LISTING, export
    from ovi_lab.data.stores import RemoteShard, below, is_remote

    out = RemoteShard(arguments.export) if is_remote(arguments.export) else Path(arguments.export)
    count = export(assembly, out, arguments.all, arguments.clips)
    listing = below(out, LISTING) if isinstance(out, RemoteShard) else out / LISTING
    print_table("to caption", [("clips", str(count)), ("list", shown(listing))])
    if count:
        work = "" if arguments.work is None else f" --work {typed(arguments.work)}"
        print_next(f"ovi-data captions {typed(arguments.shards)}{work} --join {typed(str(listing))}")
    return 0


def _join(arguments: argparse.Namespace, assembly: Assembly) -> int:
    from ovi_lab.data.build.captioning.join import join, local_table, reasons

    with local_table(arguments.join) as table:
        found = join(assembly, table, arguments.sound_tag)
    rows = [
        ("joined", str(found.used)),
        (
            "",
            f"{found.without_sound} of them without a description of the sound"
            if found.without_sound
            else "",
        ),
        ("empty", f"{found.empty} rows without a caption" if found.empty else ""),
        ("not kept", f"{found.not_kept} rows of clips that are kept out" if found.not_kept else ""),
        *((f"{count} refused", reason) for reason, count in reasons(found.refused).most_common(10)),
        *(("refused", f"{shown(name)}: {reason}") for name, reason in found.refused[:10]),
    ]
    _written(arguments, assembly, rows)
    return 1 if found.refused else 0


def _ask(arguments: argparse.Namespace, assembly: Assembly) -> int:
    from ovi_lab.data.build.captioning.ask import ask_all
    from ovi_lab.data.build.captioning.endpoint import ChatEndpoint

    model = arguments.model or os.environ.get(MODEL_VARIABLE, "")
    key = os.environ.get(arguments.key_env, "").strip()
    endpoint = ChatEndpoint(arguments.ask, model, key, arguments.timeout, arguments.tries)
    wanting = assembly.wanting(arguments.all)[: arguments.clips]
    if wanting:
        endpoint.find_model()
    found = ask_all(assembly, endpoint, wanting, arguments.at_once, arguments.sound_tag or "AUDCAP")
    lost = found.nonsense.total() + found.failed.total()
    rows = [
        ("asked", f"{found.clips} clips, {found.answered} answered"),
        ("", f"{found.again} of them when asked again" if found.again else ""),
        *((f"{count} nonsense", shown(reason)) for reason, count in found.nonsense.most_common(5)),
        *((f"{count} failed", shown(reason)) for reason, count in found.failed.most_common(5)),
        *(("no caption", f"{shown(name)}: {shown(reason)}") for name, reason in found.examples[:5]),
        ("", "the same command asks for them again" if lost else ""),
    ]
    _written(arguments, assembly, rows)
    return 1 if lost else 0


def _convert(arguments: argparse.Namespace, assembly: Assembly) -> int:
    from ovi_lab.data.build.captioning.join import convert

    count = convert(assembly, arguments.sound_tag)
    _written(arguments, assembly, [("converted", f"{count} captions to {arguments.sound_tag}")])
    return 0


def _written(arguments: argparse.Namespace, assembly: Assembly, rows: list[tuple[str, str]]) -> None:
    """Writes the shards again, copies them to their address where they have one, and says what is in them."""
    from ovi_lab.data.build.remote import upload

    built, address, copied = assembly.write(), arguments.address, None
    if address is not None:
        folder = assembly.folder
        copied = upload(folder.path, folder.work, address, check=arguments.lock.check)
    kept = sum(built.kept.values())
    without = built.captions["none"]
    rows += [
        ("kept", f"{kept} of {built.clips} clips, {built.seconds / 60:.1f} min"),
        ("", f"{without} of them without a caption" if without else ""),
        ("kept out", f"{built.dropped['caption']} for want of a caption" if built.dropped["caption"] else ""),
        ("shards", f"{len(built.shards)} in {assembly.folder.path}"),
        ("copied", "" if copied is None else f"{copied} files to {shown(address)}"),
    ]
    print_table("captions", rows)
