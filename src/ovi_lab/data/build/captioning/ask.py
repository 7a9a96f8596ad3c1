"""Captions asked of an endpoint: several questions at once, each answer checked and kept as it comes."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ovi_lab.common.progress import progress
from ovi_lab.data.build.assemble import ClipRow
from ovi_lab.data.build.captioning.assembled import Assembly
from ovi_lab.data.build.captioning.endpoint import ChatEndpoint, NoAnswerError
from ovi_lab.data.build.captioning.join import entry_for
from ovi_lab.data.build.captioning.material import Material, materials
from ovi_lab.errors import UserError
from ovi_lab.text.caption_form import checked_answer, with_tag

ASKED_AGAIN = 1
"""How often a question whose answer is not in the form is put again, with what was wrong."""
UNREACHABLE = 4
"""Questions in a row that find no endpoint at all before the command stops."""


@dataclass
class AskedCaptions:
    """What became of the questions; by reason: `nonsense`, answers not in the form, and `failed`, none at all."""

    clips: int = 0
    answered: int = 0
    again: int = 0
    """Answers that fitted when the question was put again."""
    nonsense: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str]] = field(default_factory=list)
    """Clips without a caption, with the reason; the first of them."""


@dataclass(frozen=True)
class _Outcome:
    row: ClipRow
    caption: str = ""
    again: bool = False
    nonsense: str = ""
    failed: str = ""
    unreachable: bool = False
    error: BaseException | None = None


def ask_all(
    assembly: Assembly,
    endpoint: ChatEndpoint,
    rows: Sequence[ClipRow],
    at_once: int,
    tag: str,
    quiet: bool = False,
) -> AskedCaptions:
    """Ask for a caption of each clip. Answers are stored at once; the same call continues with the clips that remain.

    Raises UserError where the endpoint refuses, or cannot be reached for several clips in a row.
    """
    found, unreachable = AskedCaptions(clips=len(rows)), 0
    for outcome in progress(_outcomes(assembly, endpoint, rows, at_once), "asking", len(rows), not quiet):
        if outcome.error is not None:
            raise outcome.error
        unreachable = unreachable + 1 if outcome.unreachable else 0
        reason = outcome.nonsense or outcome.failed
        if reason:
            (found.nonsense if outcome.nonsense else found.failed)[reason] += 1
            found.examples.append((outcome.row.clip["key"], reason))
        else:
            caption = with_tag(outcome.caption, tag)
            assembly.book.add([entry_for(outcome.row, caption, endpoint.model)])
            found.answered += 1
            found.again += outcome.again
        if unreachable >= UNREACHABLE:
            raise UserError(
                f"{endpoint.url} cannot be reached ({outcome.failed}); {found.answered} answers are kept: the same "
                "command goes on"
            )
    return found


def _outcomes(
    assembly: Assembly, endpoint: ChatEndpoint, rows: Sequence[ClipRow], at_once: int
) -> Iterator[_Outcome]:
    """The outcome of every question, in any order. Clips are decoded here, no further ahead than they are asked for."""
    questions: queue.Queue[Material | None] = queue.Queue()
    ended = threading.Event()
    outcomes: queue.Queue[_Outcome] = queue.Queue()
    # Daemons: Ctrl-C does not wait for answers that are still to come.
    workers = [
        threading.Thread(target=_work, args=(endpoint, questions, outcomes, ended), daemon=True)
        for _ in range(at_once)
    ]
    for worker in workers:
        worker.start()
    waiting = 0
    try:
        for material in materials(assembly, rows):
            if waiting > at_once:
                yield outcomes.get()
                waiting -= 1
            questions.put(material)
            waiting += 1
        for _ in range(waiting):
            yield outcomes.get()
    finally:
        ended.set()
        for _ in workers:
            questions.put(None)


def _work(
    endpoint: ChatEndpoint,
    questions: queue.Queue[Material | None],
    outcomes: queue.Queue[_Outcome],
    ended: threading.Event,
) -> None:
    """Asks until there is no further question, or one was refused as all will be."""
    while (material := questions.get()) is not None:
        if ended.is_set():
            continue
        try:
            outcomes.put(_asked(endpoint, material))
        except BaseException as error:  # raised where the outcomes are taken
            ended.set()
            outcomes.put(_Outcome(material.row, error=error))


def _asked(endpoint: ChatEndpoint, material: Material) -> _Outcome:
    before: tuple[str, str] | None = None
    for attempt in range(ASKED_AGAIN + 1):
        try:
            said = endpoint.ask(
                material.instructions, list(material.frames), material.wav, material.key, before
            )
        except NoAnswerError as error:
            return _Outcome(material.row, failed=str(error), unreachable=error.unreachable)
        try:
            caption = checked_answer(said, seen=bool(material.frames), heard=material.wav is not None)
            return _Outcome(material.row, caption, again=attempt > 0)
        except UserError as error:
            before = said, str(error)
    return _Outcome(material.row, nonsense=before[1] if before else "")
