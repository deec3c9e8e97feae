"""Progress on stderr, of generation and of building preferences: plain lines by the clock, a live bar on a terminal."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

from rich.console import Console

from pbt.generate import GenerationSummary
from pbt.preferences.progress import Phase
from pbt.progress import ProgressDisplay, building, growing


def shown(act: Callable[[ProgressDisplay[GenerationSummary]], None], terminal: bool = False) -> str:
    """What ``act`` makes appear."""
    file = io.StringIO()
    with ProgressDisplay(Console(file=file, force_terminal=terminal, width=150), growing, every=0.05) as progress:
        act(progress)
    return file.getvalue()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_plain_line_tells_trees_speed_failures_and_time_left() -> None:
    summary = GenerationSummary(owed=10, done_before=0, trees=3, failed=2, turns=60, tokens=1200, seconds=10.0)
    line = shown(lambda progress: progress.watch(summary)).splitlines()[-1]
    assert line.startswith("5/10 trees, 6 turns/s, 120 tokens/s, 2 failed, ")
    assert line.endswith("0:00:10 left")


def test_requests_under_way_are_told_by_model() -> None:
    summary = GenerationSummary(owed=10, done_before=0, waiting={"llama": 96, "mistral": 32})
    assert "requests under way: 96 at llama, 32 at mistral, time left unknown" in shown(
        lambda progress: progress.watch(summary)
    )


def test_lines_come_by_the_clock_and_not_only_when_a_tree_is_finished() -> None:
    summary = GenerationSummary(owed=10, done_before=0, trees=1, turns=21, tokens=400, seconds=1.0)
    file = io.StringIO()
    with ProgressDisplay(Console(file=file), growing, every=0.05) as progress:
        progress.watch(summary)
        wait_for(lambda: "1/10 trees" in file.getvalue())
        summary.trees = 2
        wait_for(lambda: "2/10 trees" in file.getvalue())


def test_the_last_line_holds_the_final_counts() -> None:
    summary = GenerationSummary(owed=2, done_before=0)

    def act(progress: ProgressDisplay[GenerationSummary]) -> None:
        progress.watch(summary)
        summary.trees, summary.turns, summary.tokens, summary.seconds = 2, 42, 840, 2.0

    assert shown(act).splitlines()[-1] == "2/2 trees, 21 turns/s, 420 tokens/s"


def test_nothing_owed_says_nothing() -> None:
    assert shown(lambda progress: None) == ""


def test_on_a_terminal_there_is_a_bar_instead_of_lines() -> None:
    summary = GenerationSummary(owed=10, done_before=0, trees=4, turns=84, tokens=1600, seconds=4.0)
    told = shown(lambda progress: progress.watch(summary), terminal=True)
    assert "━" in told
    assert "4/10 trees, 21 turns/s, 400 tokens/s, 0:00:06 left" in told
    assert "\n4/10 trees" not in told


def test_reading_trees_tells_trees_pairs_speed_and_time_left_by_bytes() -> None:
    phase = Phase("bytes", total=8000, done=2000, trees=1200, pairs=345)
    assert building(phase, watched=2.0) == (
        0.25,
        "walking trees: 1,200 trees (25% of the bytes), 345 pairs, 600 trees/s, 0:00:06 left",
    )


def test_where_the_size_is_unknown_no_time_left_is_made_up() -> None:
    phase = Phase("bytes", total=None, done=2000, trees=1200, pairs=345, answers=1700)
    line = "walking trees: 1,200 trees, 345 pairs, 600 trees/s, 1,700 requests answered"
    assert building(phase, watched=2.0) == (None, line)


def test_the_filters_requests_are_told_done_out_of_all() -> None:
    assert building(Phase("requests", total=400, done=100), watched=10.0) == (
        0.25,
        "confirming pairs: 100/400 requests, 10 requests/s, 0:00:30 left",
    )


def test_each_phase_leaves_its_final_counts() -> None:
    file = io.StringIO()
    with ProgressDisplay(Console(file=file), building, every=60) as progress:
        walk, write = Phase("bytes", total=10), Phase("rows", total=4)
        progress.watch(walk)
        walk.done, walk.trees, walk.pairs = 10, 3, 2
        progress.watch(write)
        write.done = 4
    first, second = file.getvalue().splitlines()
    assert first.startswith("walking trees: 3 trees (100% of the bytes), 2 pairs, ")
    assert second.startswith("writing tables: 4/4 rows, ")
