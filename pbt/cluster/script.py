"""Batch scripts: one template for the jobs of a run and for the files in ``slurm/``, which are for use by hand.

Every value that comes from a configuration or a path is quoted for the shell, or was checked by SlurmConfig to be a
plain word; only ``slurm.setup`` is shell by nature.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pbt.cluster.run import REGIME_STAGES, ClusterRun, Stage
from pbt.config import REGIMES, SlurmConfig, SlurmResources
from pbt.errors import BadInput

_SECTION: dict[Stage, Any] = {
    "generate": "generate",
    "build-prefs": "preferences",
    "sft": "sft",
    "dpo": "dpo",
    "eval": "eval",
}
"""Under which key of ``slurm`` a stage's own resources stand: the name of its section of the configuration."""
_REGIMES = f"regimes=({' '.join(REGIMES)})"
_OPTION = {"cpus": "cpus-per-task", "gpus": "gpus-per-node"}
_RESUMABLE: tuple[Stage, ...] = ("generate", *REGIME_STAGES)
"""Stages that stop when they are told to, with exit code 4, and go on when they are started again."""


def job_script(run: ClusterRun, stage: Stage, first: int = 0) -> str:
    """The script of a stage's job array. ``first`` is the shard of index 0. Raises BadInput."""
    slurm = run.slurm
    if stage == "generate" and run.config.generate.grace >= slurm.grace:
        raise BadInput(
            f"slurm.grace: {slurm.grace} seconds before the end are too few for generate.grace, "
            f"{run.config.generate.grace:g}; raise the one or lower the other"
        )
    resources = slurm.resources(_SECTION[stage])
    over_ray = _starts_ray(run, stage, resources)
    return _render(
        stage,
        over_ray,
        slurm,
        name=f"{stage}-{run.config.name}",
        options=_resource_options(resources),
        about=[f"{stage} of the run {run.config.name}; written by 'pbt slurm submit'"],
        pbt=shlex.join([*slurm.container, "pbt"] if slurm.container else [sys.executable, "-m", "pbt.cli"]),
        ray=shlex.join([*slurm.container, "ray"] if slurm.container else [sys.executable, "-m", "ray.scripts.scripts"]),
        before=[_REGIMES] if stage in REGIME_STAGES else [],
        arguments=_arguments(run, stage, first),
    )


def hand_scripts() -> dict[str, str]:
    """The scripts for plain ``sbatch``, by file name; what follows the script's name goes to pbt."""

    def script(stage: Stage, name: str, about: Sequence[str], before: Sequence[str], arguments: str) -> str:
        return _render(
            stage,
            name == "generate-ray",
            SlurmConfig(),
            name=name,
            options=["--output=%x-%A_%a.log"]
            if "SLURM_ARRAY" in arguments + "".join(before)
            else ["--output=%x-%j.log"],
            about=about,
            pbt="pbt",
            ray="ray",
            before=before,
            arguments=arguments,
        )

    # PBT_SHARDS, because an array that names only some shards cannot tell how many there are in all.
    shards = ["shards=${PBT_SHARDS:-$SLURM_ARRAY_TASK_COUNT}"]
    generate = 'generate "$@" --shard "$SLURM_ARRAY_TASK_ID/$shards"'
    again = "Two shards of 16 again: PBT_SHARDS=16 sbatch --array=3,7 ..."
    return {
        "generate.sbatch": script(
            "generate",
            "generate",
            ["Grows a shard of trees: sbatch --array=0-15 slurm/generate.sbatch configs/x.yaml", again],
            shards,
            generate,
        ),
        "generate-ray.sbatch": script(
            "generate",
            "generate-ray",
            [
                "Grows a shard of trees with models on Ray (models.NAME.ray.address: auto), over the nodes of the job:",
                "sbatch --array=0-3 --nodes=2 --gpus-per-node=4 slurm/generate-ray.sbatch configs/x.yaml",
                again,
            ],
            shards,
            generate,
        ),
        "build-prefs.sbatch": script(
            "build-prefs",
            "build-prefs",
            ["Makes preferences of trees: sbatch slurm/build-prefs.sbatch trees/x --out runs/x/prefs"],
            [],
            'build-prefs "$@"',
        ),
        "train.sbatch": script(
            "sft",
            "train",
            [
                "Trains the three regimes, each in a task: sbatch --array=0-2 slurm/train.sbatch sft configs/x.yaml",
                "and then: sbatch --array=0-2 --dependency=afterok:JOB slurm/train.sbatch dpo configs/x.yaml",
            ],
            [_REGIMES],
            'train "$@" --regime "${regimes[SLURM_ARRAY_TASK_ID]}"',
        ),
        "eval.sbatch": script(
            "eval",
            "eval",
            ["Evaluates: sbatch slurm/eval.sbatch balanced configs/x.yaml --model balanced=runs/x/dpo-balanced"],
            [],
            'eval "$@"',
        ),
    }


def _render(stage: Stage, over_ray: bool, slurm: SlurmConfig, *, options: Sequence[str], **rest: Any) -> str:
    environment = Environment(
        loader=PackageLoader("pbt.cluster", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    resumes = stage in _RESUMABLE
    asked = [*options, "--requeue", "--open-mode=append"]
    if resumes:
        asked.append(f"--signal=B:USR1@{slurm.grace}")  # B: to this script, which passes it on
    if over_ray:
        asked += ["--ntasks-per-node=1", "--no-kill"]  # what runs on the other nodes outlives a lost one
    return environment.get_template("job.sbatch.j2").render(
        options=asked,
        setup=slurm.setup,
        max_restarts=slurm.max_restarts,
        resumes=resumes,
        over_ray=over_ray,
        **rest,
    )


def _resource_options(resources: SlurmResources) -> list[str]:
    asked = resources.model_dump(exclude_none=True)
    if asked.get("gpus") == "0":
        del asked["gpus"]
    return [f"--{_OPTION.get(key, key)}={value}" for key, value in asked.items()]


def _starts_ray(run: ClusterRun, stage: Stage, resources: SlurmResources) -> bool:
    """Whether a stage's job starts a Ray of its own: when a model that it loads is on the Ray of wherever it runs."""
    config = run.config
    asks = (config.preferences.filter.model,) if config.preferences.filter else ()
    loaded = {"generate": config.speaking(), "build-prefs": asks, "eval": tuple(config.models)}.get(stage, ())
    served = [config.models[name].ray for name in loaded]
    wanted = any(ray and ray.address == "auto" for ray in served)
    if not wanted and (resources.nodes or 1) > 1:
        raise BadInput(
            f"slurm: {stage} asks for {resources.nodes} nodes and would use one; set 'ray: {{address: auto}}' under "
            f"its models, or slurm.{_SECTION[stage]}.nodes to 1"
        )
    return wanted


def _arguments(run: ClusterRun, stage: Stage, first: int) -> str:
    """What stands after ``pbt``, quoted for bash, which puts the task's own part in."""
    config, out = str(run.saved), str(run.folder)
    if stage == "generate":
        shard = f"$((SLURM_ARRAY_TASK_ID + {first}))" if first else "$SLURM_ARRAY_TASK_ID"
        return (
            shlex.join(["generate", config, "--out", str(run.trees), "--json", "--shard"]) + f' "{shard}/{run.shards}"'
        )
    if stage == "build-prefs":
        return shlex.join(["build-prefs", str(run.trees), "--out", str(run.prefs), "--config", config])
    if stage == "eval":
        models = {"base": run.config.trained("dpo").path}
        models |= {regime: str(run.model("dpo", regime)) for regime in REGIMES}
        named = [word for name, path in models.items() for word in ("--model", f"{name}={path}")]
        return shlex.join(["eval", run.slurm.evaluation, config, *named, "--prefs", str(run.prefs), "--out", out])
    words = ["train", stage, config, "--prefs", str(run.prefs), "--out", out]
    gpus = (run.slurm.resources(stage).gpus or "0").rpartition(":")[2]  # a type may stand before it
    if int(gpus) > 1:
        words += ["--gpus", gpus]
    return shlex.join([*words, "--regime"]) + ' "${regimes[SLURM_ARRAY_TASK_ID]}"'
