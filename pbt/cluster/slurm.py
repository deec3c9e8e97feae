"""SLURM's own commands, as far as they are needed: sbatch, squeue, sacct, scontrol, sinfo, scancel.

A task is one element of a job array and is named as SLURM names it, ``JOB_INDEX``. Every function raises BadInput with
SLURM's reason when a command is missing or refuses.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from pbt.errors import BadInput

DEFAULT_MAX_ARRAY = 1001
"""SLURM's own default of MaxArraySize, for a dry run where there is no SLURM."""

LIVE = frozenset(
    (
        *("PENDING", "CONFIGURING", "RUNNING", "SIGNALING", "RESIZING", "SUSPENDED", "STOPPED", "STAGE_OUT"),
        *("COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"),
    )
)
"""States of a task that runs, or that SLURM will still run."""


_PREFIX = re.compile(r"^(\w+: )?((error|fatal): )?")
"""What SLURM's commands put before what they have to say."""


class TaskState(NamedTuple):
    """What SLURM says of a task."""

    state: str
    """Such as ``RUNNING`` or ``TIMEOUT``."""
    reason: str = ""
    """Why it waits, where SLURM says so."""

    @property
    def live(self) -> bool:
        """Whether it runs or will still run. A task whose dependency can never be met will not."""
        return self.state in LIVE and self.reason != "DependencyNeverSatisfied"


class Refused(BadInput):
    """A command of SLURM ended with an error; the message is its reason."""


def installed() -> bool:
    """Whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def try_submit(script: Path, options: Sequence[str]) -> None:
    """Ask SLURM whether it would take a job, without submitting it. Raises BadInput."""
    _run(["sbatch", "--test-only", *options, str(script)])


def submit(script: Path, options: Sequence[str], record: Callable[[str], None]) -> str:
    """Submit a job and hand its id to ``record`` before anything else can happen. Raises BadInput.

    An interrupt waits until the id is recorded, so that no job is ever in the queue and in no record.
    """
    with _uninterrupted():
        job = _run(["sbatch", "--parsable", *options, str(script)]).strip().partition(";")[0]
        record(job)
    return job


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs or tasks, whatever state they are in."""
    if jobs:
        _run(["scancel", *jobs])


def max_array_size() -> int:
    """One more than the largest index of a job array; 0 or 1 where the cluster forbids arrays."""
    for line in _run(["scontrol", "show", "config"]).splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip() == "MaxArraySize" and value.strip().isdigit():
            return int(value)
    return DEFAULT_MAX_ARRAY


def partitions() -> list[str]:
    """The cluster's partitions."""
    return sorted(set(_run(["sinfo", "--noheader", "--format=%R"]).split()))


def states(jobs: Iterable[str]) -> dict[str, TaskState]:
    """What is known of the tasks of some jobs: from the queue, and for what has left it from the accounting.

    A task that neither knows is not in the answer: SLURM forgets minutes after the end where accounting is off.
    """
    wanted = sorted(set(jobs))
    if not wanted:
        return {}
    return {**_accounted(wanted), **_queued(wanted)}


def _queued(jobs: Sequence[str]) -> dict[str, TaskState]:
    try:
        shown = _run(
            ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(jobs)}", "--format=%i|%T|%r"]
        )
    except Refused as error:
        if "Invalid job id" in str(error):  # said of a single job that SLURM has forgotten; of several it skips those
            return {}
        raise
    found = {}
    for line in shown.splitlines():
        task, state, reason = line.split("|")
        found[task] = TaskState(state, "" if reason == "None" else reason)
    return found


def _accounted(jobs: Sequence[str]) -> dict[str, TaskState]:
    try:
        shown = _run(
            ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(jobs)}", "--format=JobID,State"]
        )
    except Refused:  # accounting is off, or its database is away: what is on disk has to do
        return {}
    # "CANCELLED by 1000" names the user who did it.
    found = {task: TaskState(state.split()[0]) for task, state in (line.split("|") for line in shown.splitlines())}
    # What is live is in the queue, and the queue is asked too: the accounts may never have heard of an end.
    return {task: known for task, known in found.items() if known.state not in LIVE}


def _run(command: Sequence[str]) -> str:
    try:
        # A session of its own: an interrupt typed at us is not typed at a submission under way.
        done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
    except FileNotFoundError:
        raise BadInput(
            f"{command[0]} is not on the PATH; log in where SLURM's commands are, or see what would be submitted with "
            "--dry-run"
        ) from None
    if done.returncode:
        said = [_PREFIX.sub("", line).strip() for line in done.stderr.splitlines() if line.strip()]
        raise Refused(f"{command[0]}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the block is done."""
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
