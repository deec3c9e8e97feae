"""Balanced persuasion: does a model keep a right answer under wrong persuasion, and give up a wrong one for a right?

An item is the context of a held-out test pair; it ends with the partner's persuasive turn. The model replies under the
standard persona (the pair's prompt as it stands) and the answer it then holds is graded:

* ``correct->incorrect`` (resist pairs: own answer right, partner wrong): right means *held*;
* ``incorrect->correct`` (accept pairs: own answer wrong, partner right): right means *moved*.

``<name>.items.jsonl`` holds one line a reply with its whole transcript, ``<name>.json`` the metrics, which items they
stand on, and what made them.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from pbt.config import EvalConfig, RunConfig
from pbt.debate.answers import AGREE, DISAGREE, NONE
from pbt.debate.chat import Message
from pbt.debate.grow import turn_seed
from pbt.debate.protocol import Protocol
from pbt.engines.base import Engine, EngineError
from pbt.errors import BadInput
from pbt.evaluation.stats import Interval, Score, bootstrap
from pbt.grading import HELD, MOVED, Direction, Grade, grade
from pbt.provenance import provenance, write_atomic
from pbt.speaker import hear

_DIRECTION: dict[str, Direction] = {"resist": HELD, "accept": MOVED}

FORMAT = 1
"""Version of the result files; a reader refuses another."""
CONCURRENCY = 256
"""Requests that wait at the engine at once."""


@dataclass(frozen=True, slots=True)
class Item:
    """One context to reply to."""

    pair_id: str
    """The first pair with this context; the item's id."""
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """One reply to one item, graded; or, with ``error`` set, a request that failed."""

    item: Item
    sample: int
    """Which of the item's replies, from 0."""
    reply: str
    """As the engine gave it."""
    text: str
    """Without an unfinished last sentence; may be empty."""
    claim: str
    answer: str | None
    """What the model holds after the reply: the claim, with Agree and Disagree resolved."""
    right: bool
    third: bool
    """Whether the answer is a wrong one that neither side had held."""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The line of the items file: the item's fields and the reply's, flat."""
        fields = asdict(self)
        return {**fields.pop("item"), **fields}

    @classmethod
    def from_dict(cls, line: dict[str, Any]) -> Outcome:
        """Read a line of the items file. Raises KeyError for a missing field."""
        fields = {name: line[name] for name in Item.__slots__}
        item = Item(**{**fields, "aliases": tuple(line["aliases"]), "prompt": tuple(line["prompt"])})
        return cls(item, **{name: line[name] for name in cls.__slots__ if name != "item"})


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a model did on a set of items. Failed requests are counted and enter nothing else."""

    held: Interval | None
    """Mean over ``correct->incorrect`` items of their share of right replies; ``None`` without items."""
    moved: Interval | None
    """The same over ``incorrect->correct`` items."""
    balanced: Interval | None
    """The mean of held and moved, each weighing one half however many items it has."""
    held_items: int
    """Items with at least one reply."""
    moved_items: int
    replies: int
    failed: int
    empty: int
    """Replies without text, or cut to nothing because they hit the token limit in their first sentence; so NONE."""
    agree: float | None
    """Share of replies whose claim is Agree; ``None`` without replies. So for the three below."""
    disagree: float | None
    none: float | None
    third: float | None


@dataclass(frozen=True)
class Result:
    """A result as read back."""

    path: Path
    name: str
    model: str
    items_sha256: str
    metrics: Metrics
    outcomes: tuple[Outcome, ...]


def read_items(prefs: Path, limit: int | None, seed: int) -> list[Item]:
    """The distinct (context, code) of the balanced test pairs, in file order; at most ``limit`` of each direction.

    Raises BadInput for a file that is missing, is not made of pairs, or lacks one of the two directions.
    """
    path = prefs / "data" / "balanced" / "test.parquet"
    found: dict[tuple[bytes, Direction], Item] = {}
    for number, row in enumerate(_rows(path)):
        item = _item(row, f"{path} row {number}")
        found.setdefault((orjson.dumps(item.prompt), item.direction), item)
    chosen: list[Item] = []
    for code, direction in _DIRECTION.items():
        items = [item for item in found.values() if item.direction == direction]
        if not items:
            raise BadInput(f"{path}: no {code} pairs, so there is only half a result; build from more trees")
        if limit is not None and limit < len(items):
            places = random.Random(f"balanced:{direction}:{seed}").sample(range(len(items)), limit)
            items = [items[place] for place in sorted(places)]
        chosen += items
    return chosen


def run_balanced(config: RunConfig, name: str, model: str, engine: Engine, prefs: Path, folder: Path) -> Path:
    """Evaluate one model on the test pairs of ``prefs`` and write its result; returns the path of the metrics."""
    items = read_items(prefs, config.eval.limit, config.seed)
    outcomes = asyncio.run(evaluate(engine, items, config.protocol, config.eval, config.seed))
    record = {**provenance(config, "eval balanced"), "model": model}
    return write_result(folder, name, outcomes, measure(outcomes), record)


async def evaluate(
    engine: Engine,
    items: Sequence[Item],
    protocol: Protocol,
    config: EvalConfig,
    seed: int,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Ask for ``config.samples`` replies to every item, all at once, and grade them; in the order of the items.

    ``progress`` is called as each outcome arrives. An EngineError is an outcome; whatever else is raised ends it all.
    """
    sampling = protocol.sampling.model_copy(update={"temperature": config.temperature})
    slots = asyncio.Semaphore(CONCURRENCY)

    async def ask(item: Item, sample: int) -> Outcome:
        try:
            async with slots:
                reply = await engine.chat(item.prompt, sampling, turn_seed(seed, item.pair_id, (sample,)))
        except EngineError as error:
            outcome = Outcome(item, sample, "", "", "", None, right=False, third=False, error=str(error))
        else:
            heard = hear(reply)
            outcome = Outcome(item, sample, reply.text, heard.text, heard.claim, *grade_item(item, heard.claim))
        progress(outcome)
        return outcome

    return list(await asyncio.gather(*(ask(item, sample) for item in items for sample in range(config.samples))))


def grade_item(item: Item, claim: str) -> Grade:
    """Judge what a model claims in reply to an item."""
    return grade(claim, item.direction, item.own_answer, item.partner_answer, item.aliases)


def scores(outcomes: Iterable[Outcome], direction: Direction) -> dict[str, Score]:
    """The share of right replies of every item of a direction, by item id; items without a reply are left out."""
    replies: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.item.direction == direction and outcome.error is None:
            replies.setdefault(outcome.item.pair_id, []).append(outcome)
    return {
        pair_id: Score(group[0].item.question_id, sum(outcome.right for outcome in group) / len(group))
        for pair_id, group in replies.items()
    }


def measure(outcomes: Sequence[Outcome]) -> Metrics:
    """The metrics of an evaluation, with their intervals."""
    held, moved = scores(outcomes, HELD), scores(outcomes, MOVED)
    replies = [outcome for outcome in outcomes if outcome.error is None]

    def share(of: Callable[[Outcome], bool]) -> float | None:
        return sum(map(of, replies)) / len(replies) if replies else None

    return Metrics(
        *bootstrap(list(held.values()), list(moved.values())),
        held_items=len(held),
        moved_items=len(moved),
        replies=len(replies),
        failed=len(outcomes) - len(replies),
        empty=sum(not outcome.text for outcome in replies),
        agree=share(lambda outcome: outcome.claim == AGREE),
        disagree=share(lambda outcome: outcome.claim == DISAGREE),
        none=share(lambda outcome: outcome.claim == NONE),
        third=share(lambda outcome: outcome.third),
    )


def items_sha256(items: Iterable[Item]) -> str:
    """What identifies a set of items: ids and contents, whatever the order.

    The ids alone would not do: trees grown anew, under another configuration, number their pairs alike.
    """
    distinct = {item.pair_id: orjson.dumps(asdict(item)) for item in items}
    return hashlib.sha256(b"\n".join(distinct[pair_id] for pair_id in sorted(distinct))).hexdigest()


def write_result(
    folder: Path, name: str, outcomes: Sequence[Outcome], metrics: Metrics, record: dict[str, Any]
) -> Path:
    """Write both files of a result; returns the path of the metrics.

    ``record`` is the provenance, with the path of the evaluated model under ``model``. The metrics are written last
    and carry the hash of the transcripts, so a result whose files do not belong together is noticed.
    """
    if not name or Path(name).name != name:
        raise BadInput(f"result name '{name}': it names a file in {folder}, so it may not be empty or a path")
    folder.mkdir(parents=True, exist_ok=True)
    lines = b"".join(orjson.dumps(outcome.to_dict()) + b"\n" for outcome in outcomes)
    write_atomic(_items_path(folder / f"{name}.json"), lines)
    result = {
        "format": FORMAT,
        "evaluation": "balanced",
        "model": record["model"],
        "items_sha256": items_sha256(outcome.item for outcome in outcomes),
        "transcripts_sha256": hashlib.sha256(lines).hexdigest(),
        "metrics": asdict(metrics),
        "record": record,
    }
    path = folder / f"{name}.json"
    write_atomic(path, orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
    return path


def read_result(path: Path) -> Result:
    """Read both files of a result; its name is the file's. Raises BadInput for files that are none, or do not belong
    together."""
    try:
        result = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such result; evaluate a model first") from None
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{path}: not valid JSON: {error}") from None
    if not isinstance(result, dict) or result.get("evaluation") != "balanced":
        raise BadInput(f"{path}: not a result of the balanced evaluation")
    if result.get("format") != FORMAT:
        raise BadInput(f"{path}: result format {result.get('format')!r} is not {FORMAT}, the one this version reads")
    items = _items_path(path)
    lines = items.read_bytes() if items.is_file() else b""
    if hashlib.sha256(lines).hexdigest() != result["transcripts_sha256"]:
        raise BadInput(f"{items}: missing, or not the transcripts that {path.name} was computed from; evaluate again")
    try:
        metrics = dict(result["metrics"])
        for key in ("held", "moved", "balanced"):
            metrics[key] = Interval(**metrics[key]) if metrics[key] else None
        return Result(
            path=path,
            name=path.stem,
            model=result["model"],
            items_sha256=result["items_sha256"],
            metrics=Metrics(**metrics),
            outcomes=tuple(Outcome.from_dict(orjson.loads(line)) for line in lines.split(b"\n")[:-1]),
        )
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}: not a result of this version ({error}); evaluate again") from None


def _items_path(result: Path) -> Path:
    return result.with_name(f"{result.stem}.items.jsonl")


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


def _item(row: dict[str, Any], where: str) -> Item:
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
    return Item(
        pair_id=row["pair_id"],
        question_id=row["question_id"],
        question=row["question"],
        gold=row["gold"],
        aliases=tuple(row["aliases"]),
        direction=_DIRECTION[row["code"]],
        own_answer=row["own_answer"],
        partner_answer=row["partner_answer"],
        prompt=prompt,
    )
