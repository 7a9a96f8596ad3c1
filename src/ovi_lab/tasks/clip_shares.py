"""The share of each kind of clips that a run has trained on since the last report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class ClipShares:
    """Counts clips by kind. In a micro-step all processes have batches of one kind, so none needs to ask the others."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._of_step: Counter[str] = Counter()

    def add(self, kind: str, clips: int) -> None:
        """Count a batch of the step under way."""
        self._of_step[kind] += clips

    def end_step(self) -> None:
        """Count the step under way, which until then is no part of the state."""
        self._counts.update(self._of_step)
        self._of_step.clear()

    def state(self) -> dict[str, float]:
        """Shares of the clips of whole steps, and their number under "clips"."""
        total = sum(self._counts.values())
        return (
            {**{kind: count / total for kind, count in self._counts.items()}, "clips": total} if total else {}
        )

    def restore(self, state: Mapping[str, float]) -> None:
        """Restore a `state`."""
        self._counts = Counter(
            {kind: round(share * state["clips"]) for kind, share in state.items() if kind != "clips"}
        )

    def collect(self) -> dict[str, float]:
        """Shares by `share_<kind>`, {} where no batch had a kind; counts begin anew."""
        total = sum(self._counts.values())
        report = {f"share_{kind}": count / total for kind, count in sorted(self._counts.items())}
        self._counts.clear()
        return report
