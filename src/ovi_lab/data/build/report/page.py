"""report.html: one file that needs no network and no server.

Its look, its players and its policy, which forbids it to fetch anything, are those of the leaderboard's page. Whatever
comes from files (names, reasons, texts) is escaped by the templates' environment.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from ovi_eval.common.files import write_whole
from ovi_eval.common.shown import shown
from ovi_eval.report.html.clip_store import PageClip
from ovi_eval.report.html.escaping import escaping_environment
from ovi_eval.report.html.timeline_picture import TIMELINE
from ovi_lab.common.progress import progress
from ovi_lab.data.build.folder import BuiltFolder
from ovi_lab.data.build.recipe import Bound
from ovi_lab.data.build.report import facts, histogram
from ovi_lab.data.build.report.facts import ClipFacts
from ovi_lab.data.build.report.histogram import Edge, Histogram
from ovi_lab.data.build.report.previews import Previews
from ovi_lab.data.build.step import ScoreSpec
from ovi_lab.data.stores import RemoteShard, below, put

REPORT = "report.html"
MAX_BYTES = 25_000_000
"""Of the page."""
BUDGET = 21_000_000
"""Characters of its clips; tables and drawings have the rest."""
OWN, SHARED = "ovi_lab.data.build.report", "ovi_eval.report.html"


@dataclass(frozen=True)
class ScorePart:
    """A score on the page. `soft`: kept clips outside of a bound that marks or mends."""

    spec: ScoreSpec
    rule: str
    drawing: Histogram
    edges: Sequence[Edge]
    soft: int


@dataclass(frozen=True)
class Written:
    """What was written."""

    where: str
    size: int
    clips: int
    shown: int
    cannot: int
    """Clips that were to be shown and could not: their source is gone or cannot be decoded."""
    left_out: int
    """Clips for which the page had no room."""


def write_report(
    folder: BuiltFolder,
    videos: Path | RemoteShard | None = None,
    out: Path | None = None,
    quiet: bool = False,
) -> Written:
    """Write the page.

    Args:
        videos: where the sources are; None: where they were when they were built from.
        out: its file; None: report.html beside the shards, here or on their store.

    Raises:
        UserError: it cannot be written there.
    """
    clips = facts.facts_of(folder)
    scores, unscored = _scores(folder, clips)
    with tempfile.TemporaryDirectory() as work:
        previews = Previews(folder, videos or folder.sources(), Path(work), BUDGET)
        # the nearest clip on both sides of every bound before anyone's second
        edges = [edge for part in scores for edge in part.edges]
        rounds = [
            [side[place] for edge in edges for side in (edge.inside, edge.outside) if place < len(side)]
            for place in range(histogram.NEAREST)
        ]
        wanted = list({clip.key: clip for own in rounds for clip in own}.values())
        for clip in progress(wanted, "examples", len(wanted), not quiet):
            previews.show([clip])
    text = _environment().get_template("report.html").render(
        folder=folder,
        title=folder.title,
        style=Markup(_asset(SHARED, "page.css") + _asset(OWN, "report.css")),
        script=Markup(_asset(SHARED, "players.js")),
        facts=_facts(folder, clips),
        files=_files(folder, clips),
        stages=facts.funnel(folder, clips),
        total=max(1, len(clips)),
        scores=scores,
        unscored=unscored,
        lists=_lists(clips),
        words=histogram.histogram(_with_words(clips), "words", None),
        captions=folder.manifest["captions"],
        uncaptioned=sum(not clip.words for clip in clips),
        errors=facts.errors(folder),
        of=previews.of,
        clips=previews.store.added.values(),
        PageClip=PageClip,
        hist=histogram,
    )  # fmt: skip
    path = out or folder.path / REPORT
    write_whole(path, text)
    where = str(path)
    if out is None and folder.address is not None:
        there = below(folder.address, REPORT)
        put(path, there)
        where = shown(there)
    added = len(previews.store.added)
    return Written(
        where,
        len(text.encode()),
        len(clips),
        added,
        len(wanted) - added - previews.left_out,
        previews.left_out,
    )


def _scores(folder: BuiltFolder, clips: Sequence[ClipFacts]) -> tuple[list[ScorePart], list[str]]:
    """The scores that some clip has, bounded ones first; and those that a bound names and no clip has."""
    specs, keep = folder.recipe.specs, folder.recipe.keep
    soft = facts.marked(folder, clips)
    found, lacking = [], []
    for name in [*keep, *(name for name in specs if name not in keep)]:
        bound: Bound | None = keep.get(name)
        drawing = histogram.histogram(clips, name, bound)
        if drawing is None:
            lacking += [name] * (bound is not None)
            continue
        text = "" if bound is None else facts.rule(name, bound, folder)
        edges = [] if bound is None else histogram.nearest(clips, name, bound)
        found.append(ScorePart(specs[name], text, drawing, edges, soft[name]))
    return found, lacking


def _facts(folder: BuiltFolder, clips: Sequence[ClipFacts]) -> list[str]:
    kept = [clip for clip in clips if clip.kept]
    return [
        f"recipe {folder.recipe.name}",
        f"{len(kept)} of {len(clips)} clips kept",
        hours(sum(clip.seconds for clip in kept)),
        f"{len(folder.shards)} {'shard' if len(folder.shards) == 1 else 'shards'}",
    ]


def _files(folder: BuiltFolder, clips: Sequence[ClipFacts]) -> dict[str, int]:
    failed = {name for reason in facts.errors(folder) for name in reason.names}
    cut = {clip.source for clip in clips}
    return {"found": len(cut | failed), "usable": len(cut), "not_to_their_end": len(cut & failed)}


def _with_words(clips: Sequence[ClipFacts]) -> list[ClipFacts]:
    """Clips with a caption, its number of words as their only score."""
    return [
        ClipFacts(
            c.key, c.source, c.start_s, c.shard, c.dropped_by, {"words": float(c.words)}, {}, c.words, c.size
        )
        for c in clips
        if c.words
    ]


def _lists(clips: Sequence[ClipFacts]) -> dict[str, list[facts.KindShare]]:
    """Kinds of clips under their headings."""
    found = {
        "Media": facts.shares(clips, facts.kind_media),
        "Faces": facts.shares(clips, facts.kind_faces),
        "Speech": facts.shares(clips, facts.kind_speech),
        "Width × height": facts.shares(clips, facts.kind_shape),
        **{name.replace("_", " "): own for name, own in facts.kinds_by_text(clips).items()},
    }
    return {name: own for name, own in found.items() if own}


def hours(seconds: float) -> str:
    """A duration for people: 12.3 h, 4.1 min or 52 s."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h".replace(",", " ")
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


@cache
def _environment() -> Environment:
    environment = escaping_environment(_template)
    environment.filters |= {"as_is": Markup, "breakable": _breakable, "hours": hours}
    environment.globals |= {"TIMELINE": TIMELINE}
    return environment


def _template(name: str) -> str:
    return _asset(OWN if name == REPORT else SHARED, name)


def _asset(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _breakable(text: Any) -> Markup:
    """Escaped text that may break after its underscores, slashes and dots, as names have no spaces."""
    return Markup(re.sub(r"([_/.])(?=\S)", r"\1<wbr>", shown(text, 200, to="html")))
