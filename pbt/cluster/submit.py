"""Submit what a run still owes: which tasks, in which arrays, after which jobs.

Everything is asked of SLURM first (``sbatch --test-only``) and submitted after, and each job is recorded before the
next is submitted. So a refusal leaves nothing, or something that is on record and that ``resubmit`` goes on from.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pbt.cluster import slurm
from pbt.cluster.run import (
    STAGES,
    ClusterRun,
    Record,
    Stage,
    Task,
    refuse_other_shards,
    save_config,
    submission,
    survey,
)
from pbt.cluster.script import job_script
from pbt.errors import BadInput


@dataclass(frozen=True, eq=False)
class Array:
    """One job array to submit."""

    stage: Stage
    first: int
    """The task that gets index 0."""
    tasks: tuple[int, ...]
    throttle: int | None
    script: Path
    """Where its script will stand, as seen from the run's cwd."""
    text: str
    run: ClusterRun

    def options(self, after: Sequence[str]) -> list[str]:
        """What sbatch is told on its command line: what differs from one submission to the next."""
        indexes = ranges([task - self.first for task in self.tasks])
        # SLURM replaces %A and %a; a % of the path itself is doubled.
        logs = str(self.run.home / "logs").replace("%", "%%")
        told = [
            f"--chdir={self.run.cwd}",
            f"--output={logs}/{self.stage}-%A_%a.log",
            f"--array={indexes}" + (f"%{self.throttle}" if self.throttle else ""),
        ]
        if after:
            # Else a job that waits for one that failed would wait for ever.
            told += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
        return told

    def command(self, after: Sequence[str]) -> str:
        """The submission as one would type it."""
        return shlex.join(["sbatch", *self.options(after), str(self.script)])

    def __str__(self) -> str:
        if self.stage == "generate":
            return f"generate: shards {ranges(self.tasks)} of {self.run.shards}"
        labels = " ".join(self.run.label(self.stage, task) for task in self.tasks)
        return f"{self.stage}: {labels}" if labels else self.stage


@dataclass(frozen=True)
class Step:
    """What is to be done for one stage."""

    stage: Stage
    arrays: tuple[Array, ...]
    live: tuple[str, ...]
    """Jobs of the stage that are in the queue already, and stay."""
    stale: tuple[str, ...]
    """Waiting tasks that are to be replaced, because what they wait for is submitted again."""
    finished: int
    """Tasks whose result is there."""


class Preview(NamedTuple):
    """A submission before it is made."""

    command: str
    array: Array


def plan(run: ClusterRun, stages: Sequence[Stage]) -> list[Step]:
    """What the stages, in order, still need. Raises BadInput, also when the stage before the first is not done."""
    refuse_other_shards(run)
    found = survey(run)
    limit = slurm.max_array_size() if slurm.installed() else slurm.DEFAULT_MAX_ARRAY
    if limit < 1:
        raise BadInput(
            "this cluster forbids job arrays (MaxArraySize is 0); run the stages by hand, see docs/cluster.md"
        )
    number = len(Record(run.folder).read())
    before = STAGES[: STAGES.index(stages[0])]
    steps = []
    if before:
        earlier = found[before[-1]]
        lacking = [task for task in earlier if not task.finished and not task.live]
        if lacking:
            raise BadInput(
                f"{stages[0]}: {before[-1]} comes before it and is neither done nor in the queue ({_names(lacking)}); "
                f"submit that first, or everything with 'pbt slurm submit all'"
            )
        steps.append(Step(before[-1], (), _live_jobs(earlier), (), sum(task.finished for task in earlier)))
    renewed = False
    for stage in stages:
        stale = [
            task for task in found[stage] if renewed and task.live and task.state and task.state.state == "PENDING"
        ]
        # What the trees are made into is made again when there are more of them; a model is never written over.
        again = renewed and stage == "build-prefs"
        wanted = [
            task.index for task in found[stage] if task in stale or (not task.live and (again or not task.finished))
        ]
        pieces = _pieces(wanted, limit)
        # Arrays that SLURM's limit makes of one share its throttle.
        throttle = (
            max(1, run.slurm.throttle // len(pieces)) if stage == "generate" and run.slurm.throttle and pieces else None
        )
        arrays = []
        for piece in pieces:
            first = piece[0] // limit * limit
            script = run.home / "scripts" / f"{number:03d}-{stage}.sbatch"
            number += 1
            arrays.append(Array(stage, first, tuple(piece), throttle, script, job_script(run, stage, first), run))
        renewed = renewed or bool(arrays)
        steps.append(
            Step(
                stage=stage,
                arrays=tuple(arrays),
                live=_live_jobs([task for task in found[stage] if task not in stale]),
                stale=tuple(task.submissions[-1].slurm_id(task.index) for task in stale),
                finished=sum(task.finished and task.index not in wanted for task in found[stage]),
            )
        )
    return steps


def preview(steps: Sequence[Step]) -> list[Preview]:
    """The submissions that would be made, as commands, with names for the jobs that have no number yet."""
    shown: list[Preview] = []
    after: tuple[str, ...] = ()
    for step in steps:
        shown += [Preview(array.command(after), array) for array in step.arrays]
        after = (*step.live, *(f"<{array.script.stem}>" for array in step.arrays)) or after
    return shown


def carry_out(run: ClusterRun, steps: Sequence[Step], told: Callable[[Array, str], None]) -> list[str]:
    """Submit what was planned; ``told`` hears of each job when it is recorded. Returns the jobs. Raises BadInput."""
    for step in steps:
        for array in step.arrays:
            array.script.parent.mkdir(parents=True, exist_ok=True)
            array.script.write_text(array.text)
    save_config(run)
    (run.home / "logs").mkdir(exist_ok=True)
    record = Record(run.folder)
    jobs: list[str] = []
    after: tuple[str, ...] = ()

    def refused(array: Array, error: BadInput) -> BadInput:
        kept = (
            f"; submitted before and on record: {', '.join(jobs)}, see 'pbt slurm status {run.folder}'" if jobs else ""
        )
        known = f" (the cluster has {', '.join(slurm.partitions())})" if "artition" in str(error) else ""
        return BadInput(f"{array}: refused by {error}{known}; mend the 'slurm' section of the configuration{kept}")

    for array in [array for step in steps for array in step.arrays]:
        try:
            slurm.try_submit(array.script, array.options(()))
        except slurm.Refused as error:
            raise refused(array, error) from None
    for step in steps:
        slurm.cancel(step.stale)
        new = []
        for array in step.arrays:

            def write_down(job: str, array: Array = array, after: tuple[str, ...] = after) -> None:
                record.add(submission(run, job, array.stage, array.first, array.tasks, after, array.script))

            try:
                job = slurm.submit(array.script, array.options(after), write_down)
            except slurm.Refused as error:
                raise refused(array, error) from None
            told(array, job)
            new.append(job)
            jobs.append(job)
        # A stage that is wholly done waits for nothing, and neither does the next on its account.
        after = (*step.live, *new) or after
    return jobs


def cancel_run(run: ClusterRun) -> list[str]:
    """Cancel every task of a run that is in the queue or running; returns them. Raises BadInput."""
    submitted = {each.job for each in Record(run.folder).read()}
    live = [task for task, state in slurm.states(submitted).items() if state.state in slurm.LIVE]
    slurm.cancel(sorted({task.partition("_")[0] for task in live}, key=int))
    return live


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as SLURM writes them: ``0-3,7``."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def _pieces(tasks: Sequence[int], limit: int) -> list[list[int]]:
    """Tasks cut so that none has an index of ``limit`` or more in its array."""
    pieces: dict[int, list[int]] = {}
    for task in tasks:
        pieces.setdefault(task // limit, []).append(task)
    return list(pieces.values())


def _live_jobs(tasks: Sequence[Task]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(task.submissions[-1].job for task in tasks if task.live))


def _names(tasks: Sequence[Task]) -> str:
    if tasks[0].stage == "generate":
        owed = sum(task.count.owed for task in tasks if task.count)
        return f"shards {ranges([task.index for task in tasks])} of {len(tasks)} owe {owed} questions"
    return ", ".join(task.label or task.stage for task in tasks)
