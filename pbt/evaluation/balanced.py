"""Balanced persuasion: does a model keep a right answer under wrong persuasion, and give up a wrong one for a right?

An item is the context of a held-out test pair; it ends with the partner's persuasive turn. The model replies under the
standard persona (the pair's prompt as it stands) and the answer it then holds is graded:

* ``correct->incorrect`` (resist pairs: own answer right, partner wrong): right means *held*;
* ``incorrect->correct`` (accept pairs: own answer wrong, partner right): right means *moved*.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from pbt.config import EvalConfig
from pbt.debate.answers import AGREE, DISAGREE, NONE
from pbt.debate.chat import Message
from pbt.errors import BadInput
from pbt.evaluation.dialogue import Dialogue, Progress, Record, Said, Voice, hold, spoken, unseen
from pbt.evaluation.result import Measured, counts, share
from pbt.evaluation.stats import Metric, average
from pbt.extraction import claim_by_rule
from pbt.grading import HELD, MOVED, STANDARD, Direction, Grader, grade

log = logging.getLogger(__name__)

_DIRECTION: dict[str, Direction] = {"resist": HELD, "accept": MOVED}


@dataclass(frozen=True, slots=True)
class Context:
    """One context to reply to."""

    id: str
    """Of the first pair with this context."""
    question_id: str
    question: str
    gold: str
    aliases: tuple[str, ...]
    """Normalised aliases: what counts as right."""
    direction: Direction
    own_answer: str
    """What the model's seat held before the partner's last turn."""
    partner_answer: str
    prompt: tuple[Message, ...]


def read_contexts(prefs: Path, limit: int | None, seed: int, skipped: list[str] | None = None) -> list[Context]:
    """The distinct (context, code) of the balanced test pairs, in file order; at most ``limit`` of each direction.

    A row that is no pair is passed over, and told in ``skipped`` or else logged. Raises BadInput for a file that is
    missing, is no Parquet file, or lacks one of the two directions.
    """
    path = prefs / "data" / "balanced" / "test.parquet"
    found: dict[tuple[bytes, Direction], Context] = {}
    bad: list[str] = []
    for number, row in enumerate(_rows(path)):
        try:
            context = _context(row, f"{path} row {number}")
        except BadInput as error:
            bad.append(str(error))
        else:
            found.setdefault((orjson.dumps(context.prompt), context.direction), context)
    if skipped is not None:
        skipped += bad
    else:
        for line in bad:
            log.warning("skipped: %s", line)
    chosen: list[Context] = []
    for code, direction in _DIRECTION.items():
        items = [context for context in found.values() if context.direction == direction]
        if not items:
            reason = f" ({len(bad)} rows were skipped, the first: {bad[0]})" if bad else ""
            raise BadInput(f"{path}: no {code} pairs, so there is only half a result; build from more trees{reason}")
        if limit is not None and limit < len(items):
            places = random.Random(f"balanced:{direction}:{seed}").sample(range(len(items)), limit)
            items = [items[place] for place in sorted(places)]
        chosen += items
    return chosen


async def evaluate(
    voice: Voice, contexts: Sequence[Context], config: EvalConfig, progress: Progress = unseen
) -> list[Record]:
    """Ask for ``config.samples`` replies to every context and grade them."""

    async def play(context: Context, dialogue: Dialogue) -> None:
        await dialogue.reply(config.temperature)

    return await hold(
        voice, contexts, play, judge, prompt=lambda c: c.prompt, samples=config.samples, progress=progress
    )


def judge(context: Context, said: Sequence[Said], grader: Grader = STANDARD) -> dict[str, Any]:
    """What the model claims and then holds, and whether it is right."""
    claim = claim_by_rule(spoken(said)[-1])
    own, partner = context.own_answer, context.partner_answer
    return {
        "claim": claim,
        **grade(claim, context.direction, own, partner, context.aliases, grader)._asdict(),
    }


def measure(records: Sequence[Record]) -> Measured:
    """Held, moved and their mean; and what the replies were."""
    metrics = balance(
        share([r for r in records if r.item["direction"] == HELD], "held when right", lambda o: o["right"]),
        share([r for r in records if r.item["direction"] == MOVED], "moved when wrong", lambda o: o["right"]),
        headline=True,
    )
    metrics["third"] = share(records, "third answer", lambda o: o["third"], better="low", headline=True)
    for token in (AGREE, DISAGREE, NONE):
        said = {AGREE: "only agrees", DISAGREE: "only disagrees", NONE: "gives no answer"}[token]
        metrics[token.lower()] = share(records, said, lambda o, token=token: o["claim"] == token, better="neither")  # type: ignore[misc]
    return Measured(metrics, counts(records))


def balance(held: Metric, moved: Metric, prefix: str = "", *, headline: bool = False) -> dict[str, Metric]:
    """Both halves and their mean: a half never stands alone. ``prefix`` goes before the keys."""
    of = f"{prefix.rstrip('/')}: " if prefix else ""
    both = {"held": held, "moved": moved, "balanced": average((held, moved), "balanced")}
    return {
        f"{prefix}{key}": Metric(f"{of}{metric.label}", metric.means, metric.better, headline)
        for key, metric in both.items()
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise BadInput(f"{path}: no such file; build the preferences first")
    try:
        rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(f"{path}: not a readable Parquet file: {error}") from None
    return rows


def _context(row: dict[str, Any], where: str) -> Context:
    for name in ("pair_id", "question_id", "question", "gold", "code", "own_answer", "partner_answer"):
        if not isinstance(row.get(name), str):
            raise BadInput(f"{where}: '{name}' must be a text, found {row.get(name)!r}; build the preferences again")
    if row["code"] not in _DIRECTION:
        raise BadInput(
            f"{where}: code '{row['code']}' is neither {' nor '.join(_DIRECTION)}; build the preferences again"
        )
    if not row.get("aliases"):
        raise BadInput(f"{where}: no 'aliases', so nothing could be right; build the preferences again")
    try:
        prompt = tuple(Message(role=message["role"], content=message["content"]) for message in row["prompt"])
    except (KeyError, TypeError):
        raise BadInput(f"{where}: 'prompt' is no list of messages; build the preferences again") from None
    return Context(
        id=row["pair_id"],
        question_id=row["question_id"],
        question=row["question"],
        gold=row["gold"],
        aliases=tuple(row["aliases"]),
        direction=_DIRECTION[row["code"]],
        own_answer=row["own_answer"],
        partner_answer=row["partner_answer"],
        prompt=prompt,
    )
