"""The demo: the whole pipeline on the pocket models, and a table of what came of it."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from pbt.data import unpack_once
from pbt.errors import BadInput
from pbt.pipeline import QUICK, Pipeline, trained
from pbt.provenance import write_atomic

CONFIG = Path("configs/pocket.yaml")


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
    unpack_once()

    def announce(command: str) -> None:
        console.print(f"\n[bold]$ {command}", highlight=False, soft_wrap=True)

    started = time.monotonic()
    pipeline = Pipeline(CONFIG, QUICK if quick else (), announce)
    pipeline.train(folder)
    pipeline.evaluate("balanced", {"base": "data/pocket/llama", **trained(folder)}, folder)
    done = pipeline.done

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

  trees      {folder}/trees/shard-0000-of-0001.jsonl
  pairs      {folder}/prefs/pairs.jsonl, funnel.json; the datasets in {folder}/prefs/data
  models     {folder}/dpo-accept, dpo-resist, dpo-balanced (and the SFT models they started from)
  results    {folder}/eval/balanced

Next, your own models: copy configs/llama-8b-mistral-7b.yaml, put a name, your models and questions in, and run the same
commands on it.""",
        highlight=False,
        soft_wrap=True,
    )
