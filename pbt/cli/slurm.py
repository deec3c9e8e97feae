"""``pbt slurm``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pbt.cli.options import ConfigArg, JsonOpt, RunOpt, SetOpt, err, out

if TYPE_CHECKING:
    from pbt.cluster.run import ClusterRun, Stage

app = typer.Typer(no_args_is_help=True, help="The stages as jobs of a SLURM cluster.")

RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, runs/<name>.", show_default=False)]
DryRunOpt = Annotated[bool, typer.Option("--dry-run", help="Only print the submissions and their scripts.")]

_STAGES: dict[str, tuple[Stage, ...]] = {
    "generate": ("generate",),
    "build-prefs": ("build-prefs",),
    "train": ("sft", "dpo"),
    "eval": ("eval",),
    "all": ("generate", "build-prefs", "sft", "dpo", "eval"),
}


@app.command("submit")
def slurm_submit(
    what: Annotated[Literal["generate", "build-prefs", "train", "eval", "all"], typer.Argument(show_default=False)],
    config: ConfigArg,
    shards: Annotated[int | None, typer.Option(min=1, help="Jobs of generation; default slurm.shards.")] = None,
    trees: Annotated[Path | None, typer.Option(help="Where the trees go; default trees/<name>.")] = None,
    folder: RunOpt = None,
    dry_run: DryRunOpt = False,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Submit what a stage, or the whole pipeline, still owes; each stage starts when the one before it is done."""
    from pbt.cluster.run import new_run
    from pbt.config import SlurmConfig, load_config

    run = load_config(config, overrides or ())
    count = shards or (run.slurm or SlurmConfig()).shards
    home, grown = folder or Path("runs") / run.name, trees or Path("trees") / run.name
    _submit(new_run(run, home, grown, count), _STAGES[what], dry_run, as_json)


@app.command("status")
def slurm_status(folder: RunArg, as_json: JsonOpt = False) -> None:
    """One line a task: its state, questions done and owed, turns/s, restarts, and the last line of its log."""
    from pbt.cluster.run import open_run
    from pbt.cluster.status import run_status

    with open_run(folder) as run:
        status = run_status(run)
    if as_json:
        print(json.dumps(status.to_dict()))
        return
    for line in status.lines():
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    if status.owed:
        err.print(
            f"{status.owed} owed: 'pbt slurm resubmit {folder}' goes on with them", highlight=False, soft_wrap=True
        )


@app.command("resubmit")
def slurm_resubmit(folder: RunArg, dry_run: DryRunOpt = False, as_json: JsonOpt = False) -> None:
    """Submit again what was submitted before and is owed; what waits for it is put behind it again."""
    from pbt.cluster.run import STAGES, Record, open_run

    with open_run(folder) as run:
        submitted = {each.stage for each in Record(run.folder).read()}
        _submit(run, tuple(stage for stage in STAGES if stage in submitted), dry_run, as_json)


@app.command("cancel")
def slurm_cancel(folder: RunArg, as_json: JsonOpt = False) -> None:
    """Cancel all tasks of a run that wait or run. Their trees stay, and can be gone on from."""
    from pbt.cluster.run import open_run
    from pbt.cluster.submit import cancel_run

    with open_run(folder) as run:
        cancelled = cancel_run(run)
    if as_json:
        print(json.dumps({"run": str(folder), "cancelled": cancelled}))
    else:
        out.print(f"cancelled: {', '.join(cancelled) or 'nothing was in the queue'}", highlight=False, soft_wrap=True)


@app.command("scripts")
def slurm_scripts(
    folder: Annotated[Path, typer.Option("--out", help="Where to write them.")] = Path("slurm"),
) -> None:
    """Write the plain batch scripts, for use by hand with sbatch."""
    from pbt.cluster.script import hand_scripts

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in hand_scripts().items():
        (folder / name).write_text(text, "utf-8")
        out.print(str(folder / name), highlight=False, soft_wrap=True)


@app.command("ray-address", hidden=True)
def slurm_ray_address() -> None:
    """Print the address by which the nodes of a Ray cluster would reach this one."""
    from pbt.cluster.ray import own_address

    print(own_address())


@app.command("await-ray", hidden=True)
def slurm_await_ray(
    nodes: Annotated[int, typer.Option(min=1, help="How many nodes.")],
    seconds: Annotated[float, typer.Option(help="How long to wait.")] = 300,
) -> None:
    """Wait until the Ray cluster of this job has all its nodes."""
    from pbt.cluster.ray import await_nodes

    await_nodes(nodes, seconds)


def _submit(run: ClusterRun, stages: tuple[Stage, ...], dry_run: bool, as_json: bool) -> None:
    from pbt.cluster.run import Record
    from pbt.cluster.submit import Array, carry_out, plan, preview

    jobs: dict[Array, str] = {}

    def say(line: str) -> None:
        if not as_json:
            out.print(line, highlight=False, markup=False, soft_wrap=True)

    def told(array: Array, job: str) -> None:
        jobs[array] = job
        say(f"{job}  {array}")

    if dry_run:
        steps = plan(run, stages)
        for command, array in preview(steps):
            say(f"{command}\n\n{array.text}")
    else:
        with Record(run.folder).alone():
            steps = plan(run, stages)
            for command, _ in preview(steps):
                say(command)
            carry_out(run, steps, told)
    arrays = [array for step in steps for array in step.arrays]
    if as_json:
        rows = [
            {"stage": array.stage, "tasks": array.tasks, "job": jobs.get(array), "script": str(array.script)}
            for array in arrays
        ]
        print(json.dumps({"run": str(run.folder), "dry_run": dry_run, "submitted": rows}))
    for step in steps:
        if step.live:
            err.print(f"{step.stage}: in the queue already, {', '.join(step.live)}", highlight=False, soft_wrap=True)
    if not arrays:
        err.print("nothing to submit: all of it is done or in the queue", highlight=False, soft_wrap=True)
    elif not dry_run:
        err.print(f"how it goes: pbt slurm status {run.folder}", highlight=False, soft_wrap=True)
