"""A run on the cluster: its stages, the tasks of each, which are done, and the record of what was submitted.

``RUN/slurm/jobs.jsonl`` holds a line for each submission, written before the next one is made; ``scripts/`` the batch
scripts, ``logs/`` what the tasks printed, and ``config-DIGEST.yaml`` the resolved configuration that the jobs read, so
that editing the original changes nothing under way. Paths are as they were given, relative to the folder of submission.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import orjson
import yaml

from pbt.cluster import slurm
from pbt.cluster.slurm import TaskState
from pbt.config import REGIMES, RunConfig, SlurmConfig, differences, digest, load_config
from pbt.errors import BadInput
from pbt.provenance import RUN_FILE, read_run, write_atomic
from pbt.questions import load_questions
from pbt.store import read_done, read_failures, shard_of

Stage = Literal["generate", "build-prefs", "sft", "dpo", "eval"]
STAGES: tuple[Stage, ...] = ("generate", "build-prefs", "sft", "dpo", "eval")
"""In the order in which each needs the one before it."""
REGIME_STAGES: tuple[Stage, ...] = ("sft", "dpo")
"""Stages whose tasks are the regimes."""


@dataclass(frozen=True)
class ClusterRun:
    """Where a run's parts are, and under which configuration."""

    folder: Path
    trees: Path
    saved: Path
    """The resolved configuration, in the run's folder."""
    shards: int
    cwd: Path
    """The folder of submission, in which the jobs run, and in which we are; a path that is relative is so to it."""
    config: RunConfig

    @property
    def slurm(self) -> SlurmConfig:
        """The section, with its defaults where it is absent."""
        return self.config.slurm or SlurmConfig()

    @property
    def home(self) -> Path:
        """Where scripts, logs and the record are."""
        return self.folder / "slurm"

    @property
    def prefs(self) -> Path:
        """The preferences."""
        return self.folder / "prefs"

    def model(self, stage: Stage, regime: str) -> Path:
        """The model that a training task makes."""
        return self.folder / f"{stage}-{regime}"

    def size(self, stage: Stage) -> int:
        """How many tasks a stage has."""
        return self.shards if stage == "generate" else len(REGIMES) if stage in REGIME_STAGES else 1

    def label(self, stage: Stage, index: int) -> str:
        """How a task is shown: its shard, its regime, or nothing where there is only one."""
        if stage == "generate":
            return f"{index}/{self.shards}"
        return REGIMES[index] if stage in REGIME_STAGES else ""


@dataclass(frozen=True)
class Submission:
    """A line of the record: one job array."""

    job: str
    stage: Stage
    first: int
    """The task that has index 0 in the array."""
    tasks: tuple[int, ...]
    shards: int
    after: tuple[str, ...]
    """The jobs that must end well before it starts."""
    script: str
    saved: str
    trees: str
    folder: str
    cwd: str
    generation: str
    """Digest of what the trees depend on."""
    submitted: str

    def slurm_id(self, task: int) -> str:
        """A task as SLURM names it."""
        return f"{self.job}_{task - self.first}"

    def log(self, task: int) -> Path:
        """What a task prints goes there."""
        return Path(self.folder, "slurm", "logs", f"{self.stage}-{self.slurm_id(task)}.log")


class Count(NamedTuple):
    """Questions of a shard."""

    done: int
    failed: int
    """Tried, not grown, and on record with the reason; not owed."""
    owed: int


@dataclass(frozen=True)
class Task:
    """A task of a stage, as it stands."""

    stage: Stage
    index: int
    label: str
    finished: bool
    """Whether its result is there."""
    count: Count | None
    """Of a shard."""
    submissions: tuple[Submission, ...]
    """Those that held it, oldest first."""
    state: TaskState | None
    """What SLURM knows of the last of them."""

    @property
    def live(self) -> bool:
        """Whether it is in the queue or running."""
        return self.state is not None and self.state.live


class Record:
    """The submissions of a run's folder; open for adding only under ``alone``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "slurm" / "jobs.jsonl"

    def read(self) -> list[Submission]:
        """All submissions, oldest first. Raises BadInput."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        try:
            rows = [orjson.loads(line) for line in lines]
            return [Submission(**{**row, "tasks": tuple(row["tasks"]), "after": tuple(row["after"])}) for row in rows]
        except (orjson.JSONDecodeError, TypeError, KeyError) as error:
            raise BadInput(f"{self._path}: not a record of submissions: {error}") from None

    def add(self, submission: Submission) -> None:
        """Append a submission; it is on disk when this returns."""
        with self._path.open("ab") as file:
            file.write(orjson.dumps(asdict(submission)) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the record: who submits at the same time is refused with BadInput."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path.parent, os.O_RDONLY)
        except OSError as error:
            raise BadInput(f"{self._path.parent}: {error.strerror}; a run needs a folder that can be written") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{self._path.parent}: another 'pbt slurm' is at it; wait for it to end") from None
        else:
            yield
        finally:
            os.close(handle)


def new_run(config: RunConfig, folder: Path, trees: Path, shards: int) -> ClusterRun:
    """A run about to be submitted from here. Raises BadInput when its folder or its trees are of another one."""
    generation = config.generation()
    if (trees / RUN_FILE).is_file():
        other = read_run(trees)
        if other.get("digest") != digest(generation):
            changed = "; ".join(differences(other.get("covers"), generation)) or "made by another version"
            raise BadInput(
                f"{trees}: its trees were grown under another configuration ({changed}). Use the old configuration to "
                "go on, or another --trees for new trees"
            )
    submitted = Record(folder).read()
    if submitted and submitted[-1].generation != digest(generation):
        before = load_config(Path(submitted[-1].cwd, submitted[-1].saved)).generation()
        raise BadInput(
            f"{folder}: belongs to a run of another configuration ({'; '.join(differences(before, generation))}). Use "
            "the old configuration to go on, or another --out for a new run"
        )
    saved = folder / "slurm" / f"config-{digest(config.resolved())}.yaml"
    return ClusterRun(folder, trees, saved, shards, Path.cwd(), config)


@contextlib.contextmanager
def open_run(folder: Path) -> Iterator[ClusterRun]:
    """The run that was submitted last into a folder; until it is closed we are where it was submitted, because its
    paths are relative to that. Raises BadInput."""
    submitted = Record(folder).read()
    if not submitted:
        raise BadInput(f"{folder}: nothing was submitted for this run; see 'pbt slurm submit --help'")
    last = submitted[-1]
    if Path(last.cwd, last.folder).resolve() != folder.resolve():
        raise BadInput(f"{folder}: was moved since it was submitted as {Path(last.cwd, last.folder)}; move it back")
    shards = next((each.shards for each in reversed(submitted) if each.stage == "generate"), last.shards)
    config = load_config(Path(last.cwd, last.saved))
    with contextlib.chdir(last.cwd):
        yield ClusterRun(Path(last.folder), Path(last.trees), Path(last.saved), shards, Path(last.cwd), config)


def save_config(run: ClusterRun) -> None:
    """Write what the jobs will read."""
    run.saved.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(run.saved, yaml.safe_dump(run.config.resolved(), sort_keys=False, allow_unicode=True).encode())


def submission(
    run: ClusterRun, job: str, stage: Stage, first: int, tasks: tuple[int, ...], after: tuple[str, ...], script: Path
) -> Submission:
    """The line of the record for a job array that SLURM has just taken."""
    return Submission(
        job=job,
        stage=stage,
        first=first,
        tasks=tasks,
        shards=run.shards,
        after=after,
        script=str(script),
        saved=str(run.saved),
        trees=str(run.trees),
        folder=str(run.folder),
        cwd=str(run.cwd),
        generation=digest(run.config.generation()),
        submitted=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def survey(run: ClusterRun) -> dict[Stage, list[Task]]:
    """How every task of every stage stands: from the files, the record, and SLURM where it is. Raises BadInput."""
    submitted = Record(run.folder).read()
    states = slurm.states(each.job for each in submitted) if slurm.installed() else {}
    counts = count_questions(run)
    found: dict[Stage, list[Task]] = {}
    for stage in STAGES:
        tasks = []
        for index in range(run.size(stage)):
            # Shards of another count are other tasks; those still in the queue are caught by refuse_other_shards.
            held = tuple(
                each
                for each in submitted
                if each.stage == stage and index in each.tasks and (stage != "generate" or each.shards == run.shards)
            )
            count = counts[index] if stage == "generate" else None
            tasks.append(
                Task(
                    stage=stage,
                    index=index,
                    label=run.label(stage, index),
                    finished=not count.owed if count else _finished(run, stage, index),
                    count=count,
                    submissions=held,
                    state=states.get(held[-1].slurm_id(index)) if held else None,
                )
            )
        found[stage] = tasks
    return found


def refuse_other_shards(run: ClusterRun) -> None:
    """Raise BadInput while shards of another count are in the queue: the same questions would be grown twice."""
    submitted = [each for each in Record(run.folder).read() if each.stage == "generate" and each.shards != run.shards]
    states = slurm.states(each.job for each in submitted) if submitted and slurm.installed() else {}
    for each in submitted:
        if any(state.live for task, state in states.items() if task.partition("_")[0] == each.job):
            raise BadInput(
                f"{run.folder}: job {each.job} is still in the queue and cuts the questions into {each.shards} shards, "
                f"not {run.shards}; wait for it, or 'pbt slurm cancel {run.folder}'"
            )


def count_questions(run: ClusterRun) -> list[Count]:
    """Questions done, failed and owed, by shard. Raises BadInput."""
    done = read_done(run.trees)
    failed = {failure.question_id for failure in read_failures(run.trees)}
    counts = [Count(0, 0, 0)] * run.shards
    for question in load_questions(run.config.questions, run.config.seed):
        shard = shard_of(question.id, run.shards)
        grown, lost, owed = counts[shard]
        if question.id in done:
            counts[shard] = Count(grown + 1, lost, owed)
        elif question.id in failed:
            counts[shard] = Count(grown, lost + 1, owed)
        else:
            counts[shard] = Count(grown, lost, owed + 1)
    return counts


def _finished(run: ClusterRun, stage: Stage, index: int) -> bool:
    """Whether the result of a task is there. An unfinished folder of preferences has no record."""
    folder = run.folder
    if stage == "build-prefs":
        return (run.prefs / RUN_FILE).is_file()
    if stage == "eval":
        # Of all evaluations that of teams is the last, and its result is of all models together.
        teams = run.slurm.evaluation in ("all", "teams")
        place = folder / "eval" / ("teams" if teams else run.slurm.evaluation)
        return all((place / f"{name}.json").is_file() for name in (("teams",) if teams else ("base", *REGIMES)))
    return (run.model(stage, REGIMES[index])).exists()
