"""The demo: every stage as the command that a user would type, each in a process of its own, timed.

So what the demo shows is what the commands do, and the time and peak memory it prints are those of the commands.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from pbt.config import REGIMES
from pbt.data import MANIFEST, unpack
from pbt.errors import BadInput
from pbt.provenance import write_atomic

CONFIG = Path("configs/pocket.yaml")
QUICK = ("questions.limit=360", "eval.limit=100", "sft.pairs=120", "dpo.pairs=240")


@dataclass(frozen=True)
class Stage:
    """One command of the demo, done."""

    name: str
    command: str
    seconds: float
    peak_mib: float
    """Peak resident memory of the command's process."""


def run_demo(folder: Path, *, quick: bool, console: Console) -> None:
    """Run the pipeline into ``folder`` and print the table, the times, where the files are, and what to do next.

    Stages that are finished are not run again: trees go on where they stopped, trained models are kept. Raises
    BadInput when the folder was made by another size of demo.
    """
    if not CONFIG.is_file():
        raise BadInput(f"{CONFIG}: no such file; run the demo at the top of the project's checkout")
    size = "quick" if quick else "full"
    marker = folder / "demo.txt"
    if marker.is_file() and marker.read_text().strip() != size:
        raise BadInput(f"{folder}: holds a {marker.read_text().strip()} demo; remove it, or use another --out")
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(f"{size}\n")
    if not Path("data", MANIFEST).is_file():
        unpack(None, Path("data"))

    started = time.monotonic()
    done: list[Stage] = []
    sets = [part for value in (QUICK if quick else ()) for part in ("--set", value)]

    def stage(name: str, *arguments: str) -> None:
        done.append(_run(name, arguments, console))

    run = str(folder)
    trees, prefs = f"{run}/trees", f"{run}/prefs"
    stage("grow trees", "generate", str(CONFIG), "--out", trees, *sets)
    stage("build pairs", "build-prefs", trees, "--out", prefs)
    for method in ("sft", "dpo"):
        wanted = [regime for regime in REGIMES if not (folder / f"{method}-{regime}").exists()]
        if wanted:
            some = wanted if len(wanted) < len(REGIMES) else []
            regimes = [part for regime in some for part in ("--regime", regime)]
            stage(f"train {method}", "train", method, str(CONFIG), *regimes, "--out", run, *sets)
    models = ["--model", "base=data/pocket/llama"]
    for regime in REGIMES:
        models += ["--model", f"{regime}={run}/dpo-{regime}"]
    stage("evaluate", "eval", "balanced", str(CONFIG), *models, "--out", run, *sets)

    times = Table("stage", "seconds", "peak memory, MiB", title="time and memory", title_justify="left")
    for each in done:
        times.add_row(each.name, f"{each.seconds:.0f}", f"{each.peak_mib:.0f}")
    times.add_row("all", f"{time.monotonic() - started:.0f}", f"{max(each.peak_mib for each in done):.0f}")
    write_atomic(folder / "stages.json", orjson.dumps([asdict(each) for each in done], option=orjson.OPT_INDENT_2))
    console.print(times)
    console.print(
        f"""
What you see: the base beside three models trained on pairs from the same trees, on held-out questions whose answers
are in no training pair. 'held' is keeping a right answer against a wrong partner, 'moved' giving up a wrong one for a
right partner. Accept-only and resist-only training each buy one side with the other; the balanced mix is to win on
the mean of both.

  trees      {trees}/shard-0000-of-0001.jsonl
  pairs      {prefs}/pairs.jsonl, funnel.json; the datasets in {prefs}/data
  models     {run}/dpo-accept, dpo-resist, dpo-balanced (and the SFT models they started from)
  results    {run}/eval/balanced

Next, your own models: copy configs/llama-8b-mistral-7b.yaml, put your models and questions in, and run the same
commands on it.""",
        highlight=False,
        soft_wrap=True,
    )


def _run(name: str, arguments: tuple[str, ...], console: Console) -> Stage:
    shown = shlex.join(["pbt", *arguments])
    console.print(f"\n[bold]$ {shown}", highlight=False, soft_wrap=True)
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "pbt.cli", *arguments])
    # wait4 gives the peak memory of this one process, which resource's counters for all children would hide.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):  # 3: done, with failed items that its own summary shows
        raise BadInput(f"the demo stopped: '{shown}' ended with exit code {process.returncode}; see its message above")
    return Stage(name, shown, time.monotonic() - began, usage.ru_maxrss / 1024)
