"""The pipeline as the commands that a user would type, each in a process of its own, timed.

So what a demo or a replication shows is what the commands do, and the time and peak memory that it prints are theirs.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Literal

from pbt.config import REGIMES, Regime
from pbt.errors import BadInput

QUICK = ("questions.limit=360", "eval.limit=100", "sft.pairs=120", "dpo.pairs=240")
"""What makes the pocket run of ``configs/pocket.yaml`` a short one."""


@dataclass(frozen=True)
class Stage:
    """One command, done."""

    name: str
    command: str
    seconds: float
    peak_mib: float
    """Peak resident memory of the command's process."""


def trained(folder: Path, regimes: Sequence[Regime] = REGIMES) -> dict[str, str]:
    """The models that ``Pipeline.train`` leaves in a folder: paths by regime."""
    return {regime: str(folder / f"dpo-{regime}") for regime in regimes}


_RUNNING: set[subprocess.Popen[bytes]] = set()


@contextmanager
def ending_together() -> Iterator[None]:
    """Within it, a SIGTERM for this process ends the commands that it runs too; Ctrl-C reaches them by itself."""

    def end(number: int, frame: FrameType | None) -> None:
        for process in tuple(_RUNNING):
            process.terminate()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class Pipeline:
    """Runs commands one after the other, and keeps what each took."""

    config: Path
    overrides: Sequence[str] = ()
    """As of ``--set``, for every command that reads the configuration."""
    announce: Callable[[str], None] = lambda command: None
    """Told each command before it runs."""
    log: Path | None = None
    """Where the commands' output goes; to the terminal when absent."""
    threads: int | None = None
    """How many a command may compute with; as many as there are cores when absent."""
    done: list[Stage] = field(default_factory=list)

    def train(
        self,
        folder: Path,
        regimes: Sequence[Regime] = REGIMES,
        *,
        prefs: Path | None = None,
        methods: Sequence[Literal["sft", "dpo"]] = ("sft", "dpo"),
    ) -> None:
        """Trees, pairs, SFT and DPO in ``folder``. Trees go on where they stopped, trained models are kept.

        With ``prefs`` there are pairs already, and no trees are grown.
        """
        if prefs is None:
            prefs = folder / "prefs"
            self.run("grow trees", "generate", str(self.config), "--out", str(folder / "trees"), *self.sets)
            self.build(folder / "trees", prefs)
        for method in methods:
            wanted = [regime for regime in regimes if not (folder / f"{method}-{regime}").exists()]
            if wanted:
                some = wanted if len(wanted) < len(REGIMES) else []
                chosen = [part for regime in some for part in ("--regime", regime)]
                given = [] if prefs == folder / "prefs" else ["--prefs", str(prefs)]
                self.run(
                    f"train {method}",
                    "train",
                    method,
                    str(self.config),
                    *chosen,
                    *given,
                    "--out",
                    str(folder),
                    *self.sets,
                )

    def build(self, trees: Path, prefs: Path, *options: str) -> None:
        """Pairs from trees that there are."""
        # The configuration is named, because the one beside the trees is that of their first launch.
        config = ["--config", str(self.config), *self.sets]
        self.run("build pairs", "build-prefs", str(trees), "--out", str(prefs), *config, *options)

    def evaluate(
        self,
        evaluation: str,
        models: Mapping[str, str],
        folder: Path,
        *,
        prefs: Path | None = None,
        partners: Mapping[str, str] | None = None,
    ) -> None:
        """Evaluate models, paths by name, into ``folder``."""
        named = [part for name, path in models.items() for part in ("--model", f"{name}={path}")]
        named += [part for name, path in (partners or {}).items() for part in ("--partner", f"{name}={path}")]
        given = ["--prefs", str(prefs)] if prefs else []
        self.run("evaluate", "eval", evaluation, str(self.config), *named, *given, "--out", str(folder), *self.sets)

    def but(self, *overrides: str) -> Pipeline:
        """The same with further overrides; what it runs is kept with the others."""
        return replace(self, overrides=[*self.overrides, *overrides])

    @property
    def sets(self) -> list[str]:
        """The overrides as arguments."""
        return [part for override in self.overrides for part in ("--set", override)]

    def run(self, name: str, *arguments: str) -> None:
        """Run one command of ``pbt``. Raises BadInput when it fails."""
        shown = shlex.join(["pbt", *arguments])
        self.announce(shown)
        environment = dict(os.environ)
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        began = time.monotonic()
        with self.log.open("ab") if self.log else nullcontext() as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pbt.cli", *arguments], stdout=output, stderr=output, env=environment
            )
            _RUNNING.add(process)
            # wait4 gives the peak memory of this one process, which resource's counters for all children would hide.
            _, status, usage = os.wait4(process.pid, 0)
            _RUNNING.discard(process)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 3):  # 3: done, with failed items that its own summary shows
            where = f"its message in {self.log}" if self.log else "its message above"
            raise BadInput(f"'{shown}' ended with exit code {process.returncode}; see {where}")
        self.done.append(Stage(name, shown, time.monotonic() - began, usage.ru_maxrss / 1024))
