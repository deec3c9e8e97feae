"""Progress on stderr: a plain line by the clock, and a live bar on a terminal."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

from rich.console import Console

from pbt.generate import GenerationSummary
from pbt.progress import GenerationProgress


def shown(act: Callable[[GenerationProgress], None], terminal: bool = False) -> str:
    """What ``act`` makes appear."""
    file = io.StringIO()
    with GenerationProgress(Console(file=file, force_terminal=terminal, width=150), every=0.05) as progress:
        act(progress)
    return file.getvalue()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_plain_line_tells_trees_speed_failures_and_time_left() -> None:
    summary = GenerationSummary(owed=10, done_before=0, trees=3, failed=2, turns=60, tokens=1200, seconds=10.0)
    line = shown(lambda progress: progress.update(summary)).splitlines()[-1]
    assert line.startswith("5/10 trees, 6 turns/s, 120 tokens/s, 2 failed, ")
    assert line.endswith("0:00:10 left")


def test_requests_under_way_are_told_by_seat() -> None:
    summary = GenerationSummary(owed=10, done_before=0, waiting=[96, 32])
    assert "96 + 32 requests under way, time left unknown" in shown(lambda progress: progress.update(summary))


def test_lines_come_by_the_clock_and_not_only_when_a_tree_is_finished() -> None:
    summary = GenerationSummary(owed=10, done_before=0, trees=1, turns=21, tokens=400, seconds=1.0)
    file = io.StringIO()
    with GenerationProgress(Console(file=file), every=0.05) as progress:
        progress.update(summary)
        wait_for(lambda: "1/10 trees" in file.getvalue())
        summary.trees = 2
        wait_for(lambda: "2/10 trees" in file.getvalue())


def test_the_last_line_holds_the_final_counts() -> None:
    summary = GenerationSummary(owed=2, done_before=0)

    def act(progress: GenerationProgress) -> None:
        progress.update(summary)
        summary.trees, summary.turns, summary.tokens, summary.seconds = 2, 42, 840, 2.0

    assert shown(act).splitlines()[-1] == "2/2 trees, 21 turns/s, 420 tokens/s"


def test_nothing_owed_says_nothing() -> None:
    assert shown(lambda progress: None) == ""


def test_on_a_terminal_there_is_a_bar_instead_of_lines() -> None:
    summary = GenerationSummary(owed=10, done_before=0, trees=4, turns=84, tokens=1600, seconds=4.0)
    told = shown(lambda progress: progress.update(summary), terminal=True)
    assert "growing" in told
    assert "4/10" in told
    assert "trees, 21 turns/s, 400 tokens/s, 0:00:06 left" in told
    assert "4/10 trees" not in told
