"""How the tasks of a run stand: from SLURM and the run's files, or from the files alone."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from pbt.cluster import slurm
from pbt.cluster.run import STAGES, ClusterRun, Stage, Task, survey

DONE, OWED, STARTED = "DONE", "OWED", "STARTED"
_STARTS = re.compile(r"^== job \d+ starts ")
_ENDS = re.compile(r"^== job \d+ ends with exit code (\d+)$")
_PACE = re.compile(r"\b(\d+) turns/s\b")


@dataclass(frozen=True)
class TaskStatus:
    """A line of the status."""

    stage: Stage
    task: str
    """The shard, the regime, or empty."""
    state: str
    """While SLURM has it in the queue, SLURM's word; else DONE, or OWED: nothing will finish it unless it is submitted
    again. STARTED only where there is no SLURM to ask: it has begun, and its log does not say that it ended."""
    detail: str
    """What it waits for, or how it ended."""
    done: int | None
    failed: int | None
    owed: int | None
    """Of a shard: questions with a tree; tried, and on record with the reason; and left to do."""
    turns_per_second: int | None
    """Of a shard: as its log said last."""
    restarts: int
    """How often it was started again: by itself, by SLURM, or by a new submission."""
    job: str | None
    """The last one, as SLURM names it."""
    log: str | None
    last_line: str | None
    """What the log says last, apart from the script's own marks and the result's JSON."""

    def cells(self) -> list[str]:
        """For a table, in the order of ``HEADER``."""
        counts = ["" if each is None else str(each) for each in (self.done, self.owed, self.failed)]
        state = f"{self.state} ({self.detail})" if self.detail else self.state
        pace = "" if self.turns_per_second is None else str(self.turns_per_second)
        said = shorten(self.last_line or "", WIDEST, placeholder=" ...")
        return [self.stage, self.task, state, *counts, pace, str(self.restarts), self.job or "", said]


WIDEST = 100
"""Characters of a log's line that are shown; JSON has all of it."""
HEADER = ["stage", "task", "state", "done", "owed", "failed", "turns/s", "restarts", "job", "last line of its log"]


@dataclass(frozen=True)
class RunStatus:
    """A run's tasks: those of every stage that was ever submitted."""

    run: str
    tasks: tuple[TaskStatus, ...]

    @property
    def owed(self) -> int:
        """Tasks to submit again."""
        return sum(task.state == OWED for task in self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """One line a task, in columns."""
        rows = [HEADER, *(task.cells() for task in self.tasks)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def run_status(run: ClusterRun) -> RunStatus:
    """How a run stands. Raises BadInput."""
    found = survey(run)
    submitted = [stage for stage in STAGES if any(task.submissions for task in found[stage])]
    return RunStatus(str(run.folder), tuple(_status(task) for stage in submitted for task in found[stage]))


def _status(task: Task) -> TaskStatus:
    logs = [each.log(task.index) for each in task.submissions]
    said = [_read_log(log) for log in logs]
    last = said[-1] if said else _Log(0, None, None, None)
    if task.live and task.state:
        state, detail = task.state
    elif task.finished:
        state, detail = DONE, ""
    elif not task.submissions:
        state, detail = OWED, "not submitted"
    elif task.state:
        state, detail = OWED, task.state.reason if task.state.state in slurm.LIVE else task.state.state
    elif last.exit_code is not None:
        state, detail = OWED, f"exit code {last.exit_code}"
    elif slurm.installed():
        state, detail = OWED, "killed" if last.starts else "never started"
    else:
        state, detail = (STARTED, "") if last.starts else (OWED, "not started")
    count = task.count
    return TaskStatus(
        stage=task.stage,
        task=task.label,
        state=state,
        detail=detail,
        done=count.done if count else None,
        failed=count.failed if count else None,
        owed=count.owed if count else None,
        turns_per_second=next((log.pace for log in reversed(said) if log.pace is not None), None),
        restarts=max(0, sum(log.starts for log in said) - 1),
        job=task.submissions[-1].slurm_id(task.index) if task.submissions else None,
        log=str(logs[-1]) if logs else None,
        last_line=next((log.last_line for log in reversed(said) if log.last_line), None),
    )


class _Log(NamedTuple):
    starts: int
    exit_code: int | None
    """Of the last start; None while it runs, or when it was killed."""
    pace: int | None
    last_line: str | None


def _read_log(path: Path) -> _Log:
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError:  # not started yet
        return _Log(0, None, None, None)
    starts = [number for number, line in enumerate(lines) if _STARTS.match(line)]
    since = lines[starts[-1] :] if starts else lines
    ended = next((match for line in reversed(since) if (match := _ENDS.match(line))), None)
    paced = next((match for line in reversed(lines) if (match := _PACE.search(line))), None)
    spoken = (line.strip() for line in reversed(lines) if line.strip() and not line.startswith(("== ", "{", "[{")))
    return _Log(len(starts), int(ended[1]) if ended else None, int(paced[1]) if paced else None, next(spoken, None))
