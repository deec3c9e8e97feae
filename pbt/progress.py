"""Progress of long work on stderr: a live bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pbt.generate import GenerationSummary

PLAIN_EVERY = 10.0
"""Seconds between two plain lines."""


class GenerationProgress:
    """Shows trees done, turns/s and tokens/s while trees grow."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("growing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, pace="")
        self._said = time.monotonic()

    def __enter__(self) -> GenerationProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def update(self, summary: GenerationSummary) -> None:
        """Show how far it is."""
        done = summary.trees + summary.failed
        seconds = max(summary.seconds, 1e-9)
        pace = f"{summary.turns / seconds:.0f} turns/s, {summary.tokens / seconds:.0f} tokens/s"
        if summary.failed:
            pace += f", {summary.failed} failed"
        self._bar.update(self._task, total=summary.owed, completed=done, pace=pace)
        if not self._console.is_terminal and (time.monotonic() - self._said > PLAIN_EVERY or done == summary.owed):
            self._said = time.monotonic()
            left = seconds / done * (summary.owed - done)
            self._console.print(f"{done}/{summary.owed} trees, {pace}, {left:.0f} s left", soft_wrap=True)
