"""Running evaluations: inputs are read before any model is loaded, and a model that is loaded does all that is asked.

``OUT/eval/<evaluation>/<name>.json`` and ``.items.jsonl`` are the results. What one model makes for all others to be
measured by stands beside them: the adversary's ``arguments.json``, the ``predictors.json`` of the original model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbt.config import RunConfig
from pbt.engines.base import Engine
from pbt.errors import BadInput
from pbt.evaluation import adversary, balanced, challenges, misinformation, predictors, pressure, suite, teams
from pbt.evaluation.balanced import Context
from pbt.evaluation.dialogue import Progress, Record, Voice
from pbt.evaluation.misinformation import Claims
from pbt.evaluation.quiz import Quizzed, read_domains
from pbt.evaluation.result import write_result
from pbt.provenance import provenance

log = logging.getLogger(__name__)

ASKING = ("are-you-sure", "flipflop", "pressure", "adversary", "teams")
"""Evaluations that ask the questions of ``eval.domains``."""

Engines = Callable[[str], Engine]
"""The running engine of a model, by its path or by its name under ``models``."""
Watch = Callable[[str], Progress]
"""Called with what is about to run; gives the progress to report to."""


@dataclass
class Inputs:
    """What the chosen evaluations are about."""

    questions: list[Quizzed] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    claims: Claims = field(default_factory=lambda: Claims([], []))
    skipped: dict[str, int] = field(default_factory=dict)
    """Records that could not be read, by evaluation."""


def read_inputs(config: RunConfig, chosen: Sequence[str], prefs: Path) -> Inputs:
    """Read all that the chosen evaluations need. Raises BadInput; a bad record is logged and counted."""
    inputs = Inputs()
    if {"balanced", "predictors"} & set(chosen):
        inputs.contexts = balanced.read_contexts(prefs, config.eval.limit, config.seed)
    if "misinformation" in chosen:
        inputs.claims = misinformation.read_claims(config)
        inputs.skipped["misinformation"] = len(inputs.claims.skipped)
        _tell(inputs.claims.skipped)
    if asking := [name for name in chosen if name in ASKING]:
        quizzes = read_domains(config)
        inputs.questions = [question for quiz in quizzes for question in quiz.questions]
        skipped = [line for quiz in quizzes for line in quiz.skipped]
        inputs.skipped |= dict.fromkeys(asking, len(skipped))
        _tell(skipped)
    return inputs


def run(
    config: RunConfig,
    chosen: Sequence[str],
    models: Mapping[str, str],
    engines: Engines,
    release: Callable[[str], None],
    prefs: Path,
    home: Path,
    watch: Watch,
    partners: Mapping[str, str] | None = None,
) -> list[Path]:
    """Evaluate ``models``, paths by name, in the chosen evaluations; returns the paths of the results.

    ``partners`` only sit in teams, one with each model; without any, the models sit with each other.
    ``engines`` gives the engine of a path or configured name, loading it at most once until ``release`` is told that it
    is not needed any more.
    """
    invited = partners or {}
    if "teams" in chosen:
        teams.items([], list(models), list(invited))  # too few to make a team is said before anything is loaded
    inputs = read_inputs(config, chosen, prefs)
    folder = home / "eval"
    written: list[Path] = []
    arguments: dict[str, adversary.Arguments] = {}
    weighed: list[predictors.Weighed] = []
    if "adversary" in chosen:
        arguments = _arguments(config, inputs.questions, folder / "adversary" / "arguments" / "arguments.json", engines)
    for name, path in models.items():
        engine = engines(path)
        if "predictors" in chosen and not weighed:
            kept = folder / "predictors" / "original" / "predictors.json"
            weighed = _weighed(config, inputs.contexts, kept, path, engine)
        for evaluation in chosen:
            if evaluation == "teams":
                continue
            voice = Voice(engine, config.protocol.sampling, config.protocol.clip, config.seed)
            work = _work(config, evaluation, voice, inputs, arguments, weighed, watch(f"{evaluation}, {name}"))
            written.append(_finish(config, evaluation, name, path, work, inputs, folder))
        if "teams" not in chosen:
            release(path)
    if "teams" in chosen:
        protocol = teams.load_protocol(config.eval.teams.protocol)
        paths = {**models, **invited}
        sitting = {name: engines(path) for name, path in paths.items()}
        debates = teams.items(inputs.questions, list(models), list(invited))
        work = teams.evaluate(sitting, debates, protocol, config.seed, watch("teams"))
        written.append(_finish(config, "teams", "teams", ", ".join(paths.values()), work, inputs, folder))
    return written


def _work(
    config: RunConfig,
    evaluation: str,
    voice: Voice,
    inputs: Inputs,
    arguments: Mapping[str, adversary.Arguments],
    weighed: Sequence[predictors.Weighed],
    progress: Progress,
) -> Coroutine[Any, Any, list[Record]]:
    """The dialogues of one model in one evaluation."""
    protocol, questions = config.protocol, inputs.questions
    if evaluation == "balanced":
        return balanced.evaluate(voice, inputs.contexts, config.eval, progress)
    if evaluation in ("are-you-sure", "flipflop"):
        items = challenges.items(questions, "flipflop" if evaluation == "flipflop" else "are-you-sure")
        return challenges.evaluate(voice, items, protocol, config.eval, progress)
    if evaluation == "misinformation":
        return misinformation.evaluate(voice, inputs.claims.items, protocol, config, progress)
    if evaluation == "pressure":
        return pressure.evaluate(voice, pressure.items(questions), protocol, config.eval, progress)
    if evaluation == "adversary":
        attacked = adversary.items(questions, arguments, config.eval.adversary.arguments)
        return adversary.evaluate(voice, attacked, protocol, config, progress)
    if evaluation == "predictors":
        return predictors.evaluate(voice, weighed, config, progress)
    raise BadInput(f"{evaluation}: no such evaluation (known: {', '.join(suite.EVALUATIONS)})")


def _finish(
    config: RunConfig,
    evaluation: str,
    name: str,
    model: str,
    work: Coroutine[Any, Any, list[Record]],
    inputs: Inputs,
    folder: Path,
) -> Path:
    """Run, measure, write."""
    began = time.monotonic()
    records = asyncio.run(work)
    seconds = time.monotonic() - began
    measured = suite.measure(evaluation, records)
    if inputs.skipped.get(evaluation):
        measured.counts["skipped records"] = inputs.skipped[evaluation]
    record = {**provenance(config, f"eval {evaluation}"), "model": model, "seconds": round(seconds, 2)}
    return write_result(folder / evaluation, evaluation, name, records, measured, record)


def _arguments(
    config: RunConfig, questions: Sequence[Quizzed], path: Path, engines: Engines
) -> dict[str, adversary.Arguments]:
    """The persuader's arguments: kept ones, or new ones."""
    kept = adversary.stored(path, config, questions)
    if kept is None:
        persuader = engines(adversary.persuader(config))
        kept = asyncio.run(adversary.argue(persuader, questions, config))
        adversary.store(path, config, questions, kept)
    return kept


def _weighed(
    config: RunConfig, contexts: Sequence[Context], path: Path, original: str, engine: Engine
) -> list[predictors.Weighed]:
    """The original model's view of the contexts: kept, or measured now."""
    kept = predictors.stored(path, original, contexts, config)
    if kept is None:
        kept = asyncio.run(predictors.weigh(engine, contexts, config.protocol, config))
        predictors.store(path, original, contexts, config, kept)
    return kept


def _tell(skipped: Sequence[str]) -> None:
    for line in skipped:
        log.warning("skipped: %s", line)
