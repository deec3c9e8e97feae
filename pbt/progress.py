"""Progress of long work on stderr: a live bar on a terminal, a plain line every few seconds elsewhere.

The work keeps counts and announces once where they stand; they are looked at from here, by the clock. So watching costs
the work nothing, and a line comes while nothing is finished too: an engine that hangs shows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pbt.generate import GenerationSummary
from pbt.preferences.progress import Phase, Unit

PLAIN_EVERY = 10.0
"""Seconds between two plain lines."""
_LIVE_EVERY = 0.5
"""Seconds between two looks at the counts for the bar."""

_DOING: dict[Unit, str] = {
    "bytes": "walking trees",
    "pairs": "settling pairs",
    "requests": "confirming pairs",
    "rows": "writing tables",
}

Work = TypeVar("Work")


class Look(NamedTuple):
    """What is seen of work at one look."""

    share: float | None
    """How much of it is done, from 0 to 1; None while that is unknown."""
    line: str


class ProgressDisplay(Generic[Work]):
    """Shows work on a clock of its own. Use as a context manager."""

    def __init__(self, console: Console, look: Callable[[Work, float], Look], every: float = PLAIN_EVERY) -> None:
        """``look`` is given the work, and for how many seconds it has been watched; ``every``: seconds between two
        plain lines."""
        self._console = console
        self._look = look
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            auto_refresh=False,  # our clock is enough
        )
        self._task = self._bar.add_task("starting", total=None)
        self._every = _LIVE_EVERY if console.is_terminal else every
        self._work: Work | None = None
        self._since = 0.0
        self._said = ""
        self._one_at_a_time = threading.Lock()
        self._over = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> ProgressDisplay[Work]:
        self._bar.start()
        self._clock.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._clock.join()
        self._show()
        self._bar.stop()

    def watch(self, work: Work) -> None:
        """Look at ``work`` from now on, until other work is watched or the end; what was watched is shown once more."""
        if work is self._work:
            return
        self._show()
        with self._one_at_a_time:
            self._work, self._since = work, time.monotonic()

    def _tick(self) -> None:
        while not self._over.wait(self._every):
            self._show()

    def _show(self) -> None:
        with self._one_at_a_time:
            if self._work is None:
                return
            seen = self._look(self._work, time.monotonic() - self._since)
            self._bar.update(
                self._task,
                description=seen.line,
                total=None if seen.share is None else 1.0,
                completed=seen.share or 0.0,
                refresh=True,
            )
            if not self._console.is_terminal and seen.line != self._said:
                self._said = seen.line
                self._console.print(seen.line, soft_wrap=True, markup=False, highlight=False)


def growing(summary: GenerationSummary, watched: float) -> Look:
    """Trees done, turns/s, tokens/s, requests under way by model, and the time left."""
    done = summary.trees + summary.failed
    # The summary's own clock stands still while no tree is finished, ours goes on after the last one.
    seconds = max(summary.seconds, watched if done < summary.owed else 0.0, 1e-9)
    told = [f"{done}/{summary.owed} trees", f"{summary.turns / seconds:.0f} turns/s"]
    told.append(f"{summary.tokens / seconds:.0f} tokens/s")
    if summary.failed:
        told.append(f"{summary.failed} failed")
    share = done / summary.owed
    if done < summary.owed:
        if summary.waiting:
            each = (f"{waiting} at {name}" for name, waiting in summary.waiting.items())
            told.append(f"requests under way: {', '.join(each)}")
        told.append(_left(share, seconds))
    return Look(share, ", ".join(told))


def building(phase: Phase, watched: float) -> Look:
    """How far one phase of building preferences is, how fast it goes, and the time left."""
    seconds = max(watched, 1e-9)
    share = min(phase.done / phase.total, 1.0) if phase.total else None
    if phase.unit == "bytes":
        read = "" if share is None else f" ({share:.0%} of the bytes)"
        told = [f"{phase.trees:,} trees{read}", f"{phase.pairs:,} pairs", f"{phase.trees / seconds:,.0f} trees/s"]
        if phase.answers:
            told.append(f"{phase.answers:,} requests answered")
    else:
        told = [f"{phase.done:,}/{phase.total:,} {phase.unit}", f"{phase.done / seconds:,.0f} {phase.unit}/s"]
    if share is not None and share < 1:
        told.append(_left(share, seconds))
    return Look(share, f"{_DOING[phase.unit]}: {', '.join(told)}")


def _left(share: float, seconds: float) -> str:
    """How long it will take at the average speed so far."""
    return f"{timedelta(seconds=round(seconds / share * (1 - share)))} left" if share else "time left unknown"
