"""``pbt train``."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from pbt.cli.options import ConfigArg, JsonOpt, PrefsOpt, RunOpt, SetOpt, err, out
from pbt.errors import BadInput

if TYPE_CHECKING:
    from pbt.config import Regime, RunConfig
    from pbt.training.plan import Plan
    from pbt.training.stage import TrainResult

app = typer.Typer(no_args_is_help=True, help="Train on preference pairs: SFT, then DPO.")

RegimeOpt = Annotated[
    list[str] | None, typer.Option("--regime", help="accept, resist or balanced; repeat for several; default all.")
]
GpusOpt = Annotated[
    int | None,
    typer.Option(
        "--gpus", "--processes", min=1, help="Processes on this machine, one a GPU; without GPUs, on the CPU."
    ),
]
AccelerateOpt = Annotated[
    str | None, typer.Option(help="How they share the work: ddp, fsdp2, zero3, or a file of accelerate's.")
]
PlanOpt = Annotated[bool, typer.Option("--plan", help="Print the memory and the steps it will need; load nothing.")]
MemoryOpt = Annotated[
    float | None, typer.Option("--gpu-memory", min=0, help="With --plan: GiB of one GPU; what needs more is refused.")
]


@app.command("sft")
def train_sft(
    config: ConfigArg,
    regime: RegimeOpt = None,
    prefs: PrefsOpt = None,
    folder: RunOpt = None,
    gpus: GpusOpt = None,
    accelerate: AccelerateOpt = None,
    plan: PlanOpt = False,
    gpu_memory: MemoryOpt = None,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Fine-tune on the chosen turns; writes OUT/sft-<regime>. Killed, the same command goes on."""
    if plan:
        _plan("sft", config, regime, prefs, folder, gpus, accelerate, gpu_memory, overrides, as_json)
    else:
        _train("sft", config, regime, prefs, folder, gpus, accelerate, gpu_memory, overrides, as_json)


@app.command("dpo")
def train_dpo(
    config: ConfigArg,
    regime: RegimeOpt = None,
    prefs: PrefsOpt = None,
    folder: RunOpt = None,
    gpus: GpusOpt = None,
    accelerate: AccelerateOpt = None,
    plan: PlanOpt = False,
    gpu_memory: MemoryOpt = None,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Preference training from OUT/sft-<regime>; writes OUT/dpo-<regime>. Killed, the same command goes on."""
    if plan:
        _plan("dpo", config, regime, prefs, folder, gpus, accelerate, gpu_memory, overrides, as_json)
    else:
        _train("dpo", config, regime, prefs, folder, gpus, accelerate, gpu_memory, overrides, as_json)


def _train(
    stage: Literal["sft", "dpo"],
    config: Path,
    names: list[str] | None,
    prefs: Path | None,
    folder: Path | None,
    gpus: int | None,
    accelerate: str | None,
    gpu_memory: float | None,
    overrides: list[str] | None,
    as_json: bool,
) -> None:
    from pbt.config import load_config

    if gpu_memory is not None:
        raise BadInput("--gpu-memory: is what a plan is held against; add --plan")
    run = load_config(config, overrides or ())
    way = accelerate or (run.sft if stage == "sft" else run.dpo).accelerate
    home = folder or Path("runs") / run.name
    regimes = _regimes(names)
    data = prefs or home / "prefs"
    if not (data / "run.json").is_file():
        raise BadInput(f"{data}: no preferences there; make them with 'pbt build-prefs TREES --out {data}'")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    from pbt.training.launch import is_worker, launch

    if gpus is None and not is_worker() and (accelerate or way not in (None, "ddp")):
        key = "--accelerate" if accelerate else f"{stage}.accelerate"
        raise BadInput(f"{key}: '{way}' is how several processes share the work, and there is one; add --gpus N")
    results = []
    for regime in regimes:
        if is_worker():
            _work(stage, run, regime, data, home)
            continue
        err.print(f"[bold]{stage} {regime}")
        if gpus is None:
            result = _one(stage, run, regime, data, home)
        else:
            from pbt.training.attempt import refuse_existing
            from pbt.training.stage import read_result

            refuse_existing(home / f"{stage}-{regime}")
            same = [str(config), "--regime", regime, "--prefs", str(data), "--out", str(home)]
            same += [part for override in overrides or () for part in ("--set", override)]
            if code := launch(["train", stage, *same], gpus, way):
                sys.exit(code)
            result = read_result(home / f"{stage}-{regime}")
        results.append({"model": str(result.folder), "regime": regime, "pairs": result.pairs, **result.metrics})
    if is_worker():
        return
    if as_json:
        print(json.dumps(results))
        return
    for row in results:
        accuracy, balanced = row.get("eval_rewards/accuracies"), row.get("eval_balanced")
        told = f", held-out reward accuracy {accuracy:.2f}" if accuracy is not None else ""
        told += f", balanced accuracy {balanced:.2f}" if balanced is not None else ""
        out.print(
            f"{row['model']}: {row['pairs']} pairs, {row['steps']} steps, {row['seconds']} s, "
            f"loss {row['train_loss_start']:.3f} -> {row['train_loss_end']:.3f}{told}",
            soft_wrap=True,
        )


def _one(stage: Literal["sft", "dpo"], run: RunConfig, regime: Regime, data: Path, home: Path) -> TrainResult:
    target = home / f"{stage}-{regime}"
    if stage == "sft":
        from pbt.training.sft import train_sft

        return train_sft(run, regime, data, target)
    from pbt.training.dpo import train_dpo

    return train_dpo(run, regime, data, target, home / f"sft-{regime}" if run.dpo.from_sft else None)


def _work(stage: Literal["sft", "dpo"], run: RunConfig, regime: Regime, data: Path, home: Path) -> None:
    """The share of one of several processes: the first one speaks, the others only if it has nothing to say."""
    from pbt.training.launch import is_main

    if is_main():
        _one(stage, run, regime, data, home)
        return
    logging.getLogger("pbt").setLevel(logging.ERROR)
    try:
        _one(stage, run, regime, data, home)
    except BadInput:
        time.sleep(5)  # all are ended as soon as the first one, which met the same, has said so
        raise


def _plan(
    stage: Literal["sft", "dpo"],
    config: Path,
    names: list[str] | None,
    prefs: Path | None,
    folder: Path | None,
    gpus: int | None,
    accelerate: str | None,
    gpu_memory: float | None,
    overrides: list[str] | None,
    as_json: bool,
) -> None:
    from pbt.config import load_config
    from pbt.training.plan import GIB, check_fits, plan

    run = load_config(config, overrides or ())
    data = prefs or (folder or Path("runs") / run.name) / "prefs"
    plans = {regime: plan(run, stage, regime, data, gpus or 1, accelerate) for regime in _regimes(names)}
    if as_json:
        print(json.dumps({regime: each.to_dict() for regime, each in plans.items()}))
    else:
        _print_plans(stage, plans, GIB)
    for each in plans.values():
        check_fits(each, gpu_memory)


def _print_plans(stage: str, plans: dict[Regime, Plan], gib: int) -> None:
    first = next(iter(plans.values()))
    trained = 100 * first.counts.trained / first.counts.all
    out.print(
        f"{first.model}: {first.counts.all:,} numbers, {first.counts.trained:,} of them trained ({trained:.2f} %), on "
        f"{first.processes} GPUs" + (f", shared out by {first.way}" if first.processes > 1 else ""),
        highlight=False,
        soft_wrap=True,
    )
    memory = Table("on each GPU", "GiB")
    for name, taken in first.memory.items():
        memory.add_row(name, f"{taken / gib:.2f}")
    memory.add_row("all", f"{first.total / gib:.2f}", style="bold")
    out.print(memory)
    length = Table(stage, "pairs", "pairs a step", "steps")
    for regime, each in plans.items():
        length.add_row(regime, str(each.pairs or "not built yet"), str(each.batch), str(each.steps or "?"))
    out.print(length)


def _regimes(names: list[str] | None) -> list[Regime]:
    from pbt.config import REGIMES

    for name in names or ():
        if name not in REGIMES:
            raise BadInput(f"--regime {name}: unknown regime; known: {', '.join(REGIMES)}")
    return [regime for regime in REGIMES if names is None or regime in names]
