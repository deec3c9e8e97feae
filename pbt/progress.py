"""Progress of growing trees on stderr: a live bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pbt.generate import GenerationSummary

PLAIN_EVERY = 10.0
"""Seconds between two plain lines."""
_LIVE_EVERY = 0.5
"""Seconds between two looks at the counts for the bar."""


class GenerationProgress:
    """Shows trees done, turns/s, tokens/s, requests under way by seat, and the time left.

    It looks at the summary on its own clock, so a line comes while no tree is finished too: an engine that hangs shows.
    """

    def __init__(self, console: Console, every: float = PLAIN_EVERY) -> None:
        """``every``: seconds between two plain lines."""
        self._console = console
        self._bar = Progress(
            TextColumn("growing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("trees, {task.fields[pace]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, pace="starting")
        self._every = _LIVE_EVERY if console.is_terminal else every
        self._summary: GenerationSummary | None = None
        self._start = 0.0
        self._said = ""
        self._over = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> GenerationProgress:
        self._bar.start()
        self._clock.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._clock.join()
        self._show()
        self._bar.stop()

    def update(self, summary: GenerationSummary) -> None:
        """Take note of how far it is. The summary is looked at again until the end, so the first call is enough."""
        if self._summary is None:
            self._start = time.monotonic() - summary.seconds
        self._summary = summary

    def _tick(self) -> None:
        while not self._over.wait(self._every):
            self._show()

    def _show(self) -> None:
        summary = self._summary
        if summary is None:
            return
        done = summary.trees + summary.failed
        seconds = time.monotonic() - self._start if done < summary.owed else summary.seconds
        pace = _pace(summary, max(seconds, 1e-9))
        self._bar.update(self._task, total=summary.owed, completed=done, pace=pace)
        line = f"{done}/{summary.owed} trees, {pace}"
        if not self._console.is_terminal and line != self._said:
            self._said = line
            self._console.print(line, soft_wrap=True, highlight=False)


def _pace(summary: GenerationSummary, seconds: float) -> str:
    """How fast it goes, what the engines have in hand, and how long it will take at the average speed so far."""
    done = summary.trees + summary.failed
    told = [f"{summary.turns / seconds:.0f} turns/s", f"{summary.tokens / seconds:.0f} tokens/s"]
    if summary.failed:
        told.append(f"{summary.failed} failed")
    if done < summary.owed:
        if summary.waiting:
            told.append(f"{' + '.join(map(str, summary.waiting))} requests under way")
        left = seconds / done * (summary.owed - done) if done else None
        told.append("time left unknown" if left is None else f"{timedelta(seconds=round(left))} left")
    return ", ".join(told)
