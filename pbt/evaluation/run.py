"""Running evaluations: inputs are read before any model is loaded, and a model that is loaded does all that is asked.

One model is loaded at a time, and for teams the two of a pair.

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

import orjson

from pbt.config import RunConfig
from pbt.debate.chat import Message
from pbt.debate.protocol import Protocol, Sampling
from pbt.engines.base import Continuation, Engine, Reply
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
        bad: list[str] = []
        inputs.contexts = balanced.read_contexts(prefs, config.eval.limit, config.seed, bad)
        inputs.skipped |= dict.fromkeys(("balanced", "predictors"), len(bad))
        _tell(bad)
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
    is not needed any more: one model at a time, and for teams the two of a pair.
    """
    invited = partners or {}
    inputs = read_inputs(config, chosen, prefs)
    folder = home / "eval"
    originals = folder / "predictors" / "original" / "predictors.json"
    first = next(iter(models.values()))
    # What can be refused is refused before anything is loaded.
    if "teams" in chosen:
        protocol = teams.load_protocol(config.eval.teams.protocol)
        debates = teams.items(inputs.questions, list(models), list(invited))
    if "adversary" in chosen:
        adversary.check_personas(config)
    weighing = predictors.stored(originals, first, inputs.contexts, config) if "predictors" in chosen else None

    written: list[Path] = []
    stage = _Stage(engines, release)
    arguments: dict[str, adversary.Arguments] = {}
    if "adversary" in chosen:
        kept = folder / "adversary" / "arguments" / "arguments.json"
        arguments = _arguments(config, inputs.questions, kept, stage)
    if "predictors" in chosen and (weighing is None or weighing.failed):
        original = weighing.original if weighing else first
        (engine,) = stage.only(original)
        weighing = asyncio.run(predictors.weigh(engine, inputs.contexts, config.protocol, config, original, weighing))
        predictors.store(originals, inputs.contexts, config, weighing)
    weighed = weighing.items if weighing else []
    for name, path in models.items():
        for evaluation in chosen:
            if evaluation == "teams":
                continue
            (engine,) = stage.only(path)
            voice = Voice(engine, config.protocol.sampling, config.protocol.clip, config.seed)
            work = _work(config, evaluation, voice, inputs, arguments, weighed, watch(f"{evaluation}, {name}"))
            began = time.monotonic()
            records = asyncio.run(work)
            written.append(_finish(config, evaluation, name, {"model": path}, records, began, inputs, folder))
    if "teams" in chosen:
        members = {**models, **invited}
        began = time.monotonic()
        records = _debated(members, debates, protocol, config.seed, stage, watch)
        model = {"model": ", ".join(members.values()), "members": members}
        written.append(_finish(config, "teams", "teams", model, records, began, inputs, folder))
    stage.only()
    return written


class _Stage:
    """The models that are loaded: never more than are asked for together, so that one GPU can do with two."""

    def __init__(self, engines: Engines, release: Callable[[str], None]) -> None:
        self._engines, self._release = engines, release
        self.loaded: set[str] = set()

    def only(self, *models: str) -> list[Engine]:
        """The engines of these models; all others are released first."""
        for model in self.loaded.difference(models):
            self._release(model)
        self.loaded = set(models)
        return [self._engines(model) for model in models]


@dataclass
class _Member:
    """A member of teams, which is loaded anew for another partner but asked for a first answer only once."""

    engine: Engine
    _first: dict[bytes, Reply] = field(default_factory=dict)

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        if len(messages) > 1:
            return await self.engine.chat(messages, sampling, seed)
        key = orjson.dumps([messages, sampling.model_dump(), seed])
        if key not in self._first:
            self._first[key] = await self.engine.chat(messages, sampling, seed)
        return self._first[key]

    async def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[Continuation]:
        return await self.engine.score(messages, continuations)

    def close(self) -> None:
        self.engine.close()


def _debated(
    members: Mapping[str, str],
    debates: Sequence[teams.Team],
    protocol: Protocol,
    seed: int,
    stage: _Stage,
    watch: Watch,
) -> list[Record]:
    """All debates, pair after pair, with no more than two models loaded; in the order of ``debates``."""
    pairs = list(dict.fromkeys(tuple(sorted(team.models)) for team in debates))
    sitting: dict[str, _Member] = {}
    found: dict[str, Record] = {}
    while pairs:
        pair = max(pairs, key=lambda each: sum(members[name] in stage.loaded for name in each))  # the fewest loads
        pairs.remove(pair)
        for name, engine in zip(pair, stage.only(*(members[name] for name in pair)), strict=True):
            sitting.setdefault(name, _Member(engine)).engine = engine
        some = [team for team in debates if set(team.models) == set(pair)]
        two = {name: sitting[name] for name in pair}
        records = asyncio.run(teams.evaluate(two, some, protocol, seed, watch(f"teams, {' and '.join(pair)}")))
        found |= {record.id: record for record in records}
    return [found[team.id] for team in debates]


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
    model: Mapping[str, Any],
    records: Sequence[Record],
    began: float,
    inputs: Inputs,
    folder: Path,
) -> Path:
    """Measure and write; ``model`` says in the record what was evaluated."""
    seconds = time.monotonic() - began
    measured = suite.measure(evaluation, records)
    if inputs.skipped.get(evaluation):
        measured.counts["skipped records"] = inputs.skipped[evaluation]
    record = {**provenance(config, f"eval {evaluation}"), **model, "seconds": round(seconds, 2)}
    return write_result(folder / evaluation, evaluation, name, records, measured, record)


def _arguments(
    config: RunConfig, questions: Sequence[Quizzed], path: Path, stage: _Stage
) -> dict[str, adversary.Arguments]:
    """The persuader's arguments: kept ones, or new ones."""
    kept = adversary.stored(path, config, questions)
    if kept is None or adversary.failed(kept):
        (engine,) = stage.only(adversary.persuader(config))
        kept = asyncio.run(adversary.argue(engine, questions, config, kept))
        adversary.store(path, config, questions, kept)
    return kept


def _tell(skipped: Sequence[str]) -> None:
    for line in skipped:
        log.warning("skipped: %s", line)
