"""A replication: the whole pipeline under several seeds, all evaluations on held-out questions, and the four claims.

Every seed has trees, pairs, a split, models and results of its own in ``OUT/seed-<n>``. What is measured is put
together in ``OUT/replication.md`` and ``.html``, with what made it. Killed, the same command goes on: trees and
training where they stopped, and a seed that has all of its results is left as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from pbt import ablations
from pbt.ablations import Row, ablate, check_pocket
from pbt.config import RunConfig, differences, load_config
from pbt.data import HOME, unpack_once
from pbt.errors import BadInput
from pbt.evaluation import adversary, claims, page, teams
from pbt.evaluation.claims import PARTNER, TRAINED_PARTNER, Finding
from pbt.evaluation.run import read_inputs
from pbt.evaluation.scorecard import Scorecard, read_results, scorecard
from pbt.evaluation.suite import EVALUATIONS
from pbt.pipeline import QUICK, Pipeline, trained
from pbt.provenance import write_atomic

SETTINGS = "settings.json"
_WIDEST = 150
"""Characters of a line that says what runs."""


@dataclass(frozen=True)
class Replication:
    """What came of it."""

    card: Scorecard
    findings: list[Finding]
    ablations: list[Row]
    """Of the first seed, if they were asked for."""
    failed: int
    """Items that no answer came of, in all evaluations; the tables count them by evaluation."""
    versions: list[str]
    """Of the code that made the results; of more than one, if it changed on the way."""
    markdown: Path
    html: Path
    """The pages that tell it."""


def replicate(
    config: Path,
    folder: Path,
    *,
    seeds: int,
    quick: bool,
    with_ablations: bool,
    jobs: int | None,
    overrides: Sequence[str],
    command: str,
    console: Console,
) -> Replication:
    """Run ``seeds`` seeds, from the configuration's on, into ``folder``, at most ``jobs`` commands side by side: when
    absent one where there is a GPU, which two commands would fight over, else one a core.

    Says on ``console`` what is done; ``command`` is what the pages say they were made by. They are written before the
    ablations as well.

    Raises BadInput for what the configuration does not allow, when the folder holds another replication, or when a
    command fails.
    """
    sets = [*(QUICK if quick else ()), *overrides]
    run = load_config(config, sets)
    gpus = _gpus()
    _check_training(run, gpus)
    if any(Path(path).is_relative_to(HOME) for path in _files(run)):
        unpack_once()
    # What the evaluations need is read now, and not after hours of training; the test pairs alone are not there yet.
    teams.load_protocol(run.eval.teams.protocol)
    adversary.check_personas(run)
    read_inputs(run, [name for name in EVALUATIONS if name not in ("balanced", "predictors")], folder)
    if with_ablations:
        check_pocket(run)
    _claim_folder(folder, run)
    jobs = jobs or (1 if gpus else os.cpu_count() or 1)

    def pipeline(seed: int, home: Path, side_by_side: int) -> Pipeline:
        began = time.monotonic()

        def announce(command: str) -> None:
            told = f"seed {seed}, {time.monotonic() - began:.0f} s: {command}"
            short = told if len(told) <= _WIDEST else f"{told[: _WIDEST - 3]}..."
            console.print(short, markup=False, highlight=False, soft_wrap=True)

        home.mkdir(parents=True, exist_ok=True)
        threads = max(1, (os.cpu_count() or 1) // side_by_side)
        return Pipeline(config, [*sets, f"seed={seed}"], announce, home / "log.txt", threads)

    def student(seed: int) -> None:
        home = folder / f"seed-{seed}"
        pipeline(seed, home, jobs).train(home)

    def partner(seed: int) -> None:
        # It is trained as its own student: it sits where the other one sat, in trees of its own.
        home = folder / f"seed-{seed}" / PARTNER
        seats = f"seats=[{', '.join(reversed(run.seats))}]"
        other = pipeline(seed, home, jobs).but(seats, "sft.model=null", "dpo.model=null")
        other.train(home, ["balanced"])

    def evaluate(seed: int) -> None:
        home = folder / f"seed-{seed}"
        if not _evaluated(home):
            models = {"base": run.trained("dpo").path, **trained(home)}
            partners = {PARTNER: run.models[run.seats[0]].path, TRAINED_PARTNER: trained(home / PARTNER)["balanced"]}
            pipeline(seed, home, min(jobs, seeds)).evaluate("all", models, home, partners=partners)

    numbers = range(run.seed, run.seed + seeds)
    with ThreadPoolExecutor(jobs) as pool:
        # Students take longest, so they go first, and no core is left without work at the end.
        for tasks in ([student, partner], [evaluate]):
            running = [pool.submit(task, seed) for task in tasks for seed in numbers]
            try:
                for future in as_completed(running):
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    results = read_results([folder / f"seed-{seed}" for seed in numbers])
    card = scorecard(results)
    # The partners are there for the teams; the columns are the models that were trained, and their base.
    columns = tuple(column for column in card.columns if column.name not in (PARTNER, TRAINED_PARTNER))
    failed = sum(record.error is not None for result in results for record in result.records)
    versions = sorted({result.written["record"]["version"] for result in results})
    done = Replication(
        card=replace(card, columns=columns),
        findings=claims.findings(results),
        ablations=[],
        failed=failed,
        versions=versions,
        markdown=folder / "replication.md",
        html=folder / "replication.html",
    )
    write_pages(done, command)
    if with_ablations:
        first = folder / f"seed-{run.seed}"
        done = replace(done, ablations=ablate(pipeline(run.seed, first, 1), run, first))
        write_pages(done, command)
    return done


def write_pages(done: Replication, command: str) -> None:
    """Write the Markdown and the HTML page."""
    made = f"Made on {datetime.now(UTC):%Y-%m-%d} by `{command}`, from results of pbt {', '.join(done.versions)}."
    told = [f"**{letter}.** {text}" for letter, text in claims.CLAIMS.items()]
    text = "\n\n".join(
        ["# Replication", made, "\n".join(f"- {line}" for line in told), claims.to_markdown(done.findings).strip()]
    )
    text += f"\n\n{done.card.to_markdown()}"
    if done.ablations:
        text += f"\n## {ablations.TITLE}\n\n{ablations.to_markdown(done.ablations)}"
    write_atomic(done.markdown, text.encode())
    grids = [page.Grid(ablations.TITLE, ablations.HEAD, list(map(ablations.cells, done.ablations)))]
    shown = page.page(done.card, done.findings, made=made, grids=grids if done.ablations else ())
    write_atomic(done.html, shown.encode())


def table(findings: Sequence[Finding]) -> Table:
    """The claims for a terminal."""
    shown = Table("claim", "difference", "by seed", "verdict", title="the four claims", title_justify="left")
    for letter, text in claims.CLAIMS.items():
        shown.add_row(f"[bold]{letter}. {text}")
        for finding in findings:
            if finding.part.claim == letter:
                seeds = " ".join(f"{value:+.2f}" for value in finding.seeds)
                shown.add_row(claims.told(finding), claims.signed(finding.difference), seeds, finding.verdict)
    return shown


def to_dict(done: Replication) -> dict[str, Any]:
    """As JSON values."""
    return {
        "claims": [finding.to_dict() for finding in done.findings],
        "scorecard": done.card.to_dict(),
        "ablations": [row.to_dict() for row in done.ablations],
        "failed": done.failed,
    }


def _claim_folder(folder: Path, run: RunConfig) -> None:
    """Make the folder this replication's. Raises BadInput when it is another's, with the keys that differ."""
    settings = {**run.resolved(), "seed": None}
    path = folder / SETTINGS
    if path.is_file():
        differing = differences(orjson.loads(path.read_bytes()), orjson.loads(orjson.dumps(settings)))
        if differing:
            raise BadInput(f"{folder}: holds a replication of another configuration: {'; '.join(differing[:5])}")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, orjson.dumps(settings, option=orjson.OPT_INDENT_2))


def _check_training(run: RunConfig, gpus: int) -> None:
    """The claims are about the model of the second seat, against the first one as its partner; each is trained by one
    process. Raises BadInput for what would end a training later."""
    if gpus > 1:
        raise BadInput(f"a replication trains on one GPU, and {gpus} are seen; choose one with CUDA_VISIBLE_DEVICES=0")
    if len(run.seats) != 2:
        raise BadInput(f"seats: a replication is of two seats, a model and its partner; found {len(run.seats)}")
    for key, model in (("sft.model", run.sft.model), ("dpo.model", run.dpo.model)):
        if model not in (None, run.seats[1]):
            raise BadInput(
                f"{key}: '{model}' is not the model of the second seat, '{run.seats[1]}', which a replication trains; "
                "remove the key, and change seats if need be"
            )
    for key, way in (("sft.accelerate", run.sft.accelerate), ("dpo.accelerate", run.dpo.accelerate)):
        if way not in (None, "ddp"):
            raise BadInput(f"{key}: '{way}' shares a training out, and a replication trains in one process; remove it")


def _files(run: RunConfig) -> list[str]:
    """What the run reads from the start."""
    asked = [run.questions.source, *(domain.source for domain in run.eval.domains.values())]
    return [*(model.path for model in run.models.values()), *asked, *run.eval.misinformation.sources]


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _evaluated(home: Path) -> bool:
    """Whether a seed has the result that is written last."""
    return (home / "eval" / "teams" / "teams.json").is_file()
