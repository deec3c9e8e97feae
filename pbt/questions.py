"""Questions, and readers for every form they come in."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from pbt.config import QuestionsConfig
from pbt.debate.answers import normalise
from pbt.errors import BadInput


@dataclass(frozen=True)
class Question:
    """One question and what counts as right."""

    id: str
    text: str
    gold: str
    """The gold value as written."""
    aliases: tuple[str, ...]
    """Normalised aliases, the gold value's among them, without empty ones."""


Split = Literal["train", "valid", "test"]


def split_of(gold: str, shares: tuple[float, float, float], seed: int) -> Split:
    """The split of every question with this gold value. ``shares`` are those of train, valid and test."""
    text = "\x1f".join(("split", str(seed), normalise(gold)))
    place = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64
    if place < shares[0]:
        return "train"
    return "valid" if place < shares[0] + shares[1] else "test"


def load_questions(config: QuestionsConfig, seed: int) -> list[Question]:
    """All questions of a source, or a seeded sample of ``limit`` of them in the source's order.

    Raises BadInput naming file and line for a record that is no question, and for ids that stand twice.
    """
    questions = list(read_questions(config.source))
    if not questions:
        raise BadInput(f"{config.source}: holds no questions")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise BadInput(f"{config.source}: question id '{question.id}' stands twice")
        seen.add(question.id)
    if config.limit is None or config.limit >= len(questions):
        return questions
    chosen = sorted(random.Random(f"questions:{seed}").sample(range(len(questions)), config.limit))
    return [questions[i] for i in chosen]


def read_questions(source: str) -> Iterator[Question]:
    """Questions from a file (the form is recognised from its content) or, with ``hf:``, through ``datasets``.

    Forms: TriviaQA's official JSON (``{"Data": [...]}``); the Hugging Face rows of ``mandarjoshi/trivia_qa`` as JSON
    lines or Parquet; flat JSON lines ``{context, answer, aliases}``.
    """
    for number, (where, row) in enumerate(read_records(source)):
        yield question_of(where, row, number)


def read_records(source: str, skipped: list[str] | None = None) -> Iterator[tuple[str, Any]]:
    """The records of a source, each with its place.

    A line that is no JSON raises BadInput; with a list ``skipped`` it is told there instead, and passed over.
    """
    if source.startswith("hf:"):
        yield from _numbered(_hub_rows(source), source)
        return
    path = Path(source)
    if not path.is_file():
        hint = "a data set of the hub is written hf:NAME:CONFIG:SPLIT"
        if path.is_relative_to("data"):
            hint = "the shipped ones are there after 'pbt data unpack'"
        raise BadInput(f"{source}: no such file of questions ({hint})")
    if path.suffix == ".parquet":
        yield from _numbered(_parquet_rows(path), source)
        return
    data = path.read_bytes()
    try:
        whole = orjson.loads(data)
    except orjson.JSONDecodeError:
        whole = None  # several lines, or broken; the line reader says which
    if isinstance(whole, dict) and "Data" in whole:
        if not isinstance(whole["Data"], list):
            raise BadInput(f"{source}: Data: expected a list of questions, found {type(whole['Data']).__name__}")
        yield from ((f"{source}, Data[{number}]", record) for number, record in enumerate(whole["Data"]))
    elif isinstance(whole, list):
        yield from ((f"{source}, record {number}", record) for number, record in enumerate(whole))
    else:
        yield from _json_lines(data, source, skipped)


def _hub_rows(source: str) -> Iterable[Any]:
    from datasets import load_dataset

    name, *rest = source.removeprefix("hf:").split(":")
    config = rest[0] if rest else None
    split = rest[1] if len(rest) > 1 else "train"
    try:
        rows: Iterable[Any] = load_dataset(name, config, split=split)
    except Exception as error:  # datasets raises many kinds; all of them mean that the source cannot be read
        raise BadInput(f"{source}: cannot be loaded through datasets: {type(error).__name__}: {error}") from None
    return rows


def _parquet_rows(path: Path) -> Iterable[Any]:
    from pyarrow import ArrowException, parquet

    try:
        rows: list[Any] = parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise BadInput(f"{path}: not a Parquet file that can be read: {error}") from None
    return rows


def _numbered(rows: Iterable[Any], source: str) -> Iterator[tuple[str, Any]]:
    return ((f"{source} row {number}", row) for number, row in enumerate(rows))


def _json_lines(data: bytes, source: str, skipped: list[str] | None) -> Iterator[tuple[str, Any]]:
    """Lines split on newline only: TriviaQA texts hold U+2028 and the like, which ``splitlines`` would break at."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{source} line {number}"
        try:
            yield where, orjson.loads(line)
        except orjson.JSONDecodeError as error:
            problem = (
                f"{where}: not valid JSON: {error}; expected one record a line, or one object with a list under Data"
            )
            if skipped is None:
                raise BadInput(problem) from None
            skipped.append(problem)


def question_of(where: str, row: Any, number: int) -> Question:
    """The question of a record of any form. ``number`` is its id where the form has none. Raises BadInput."""
    if not isinstance(row, dict):
        raise BadInput(f"{where}: expected a record, found {type(row).__name__}")
    if "question_id" in row:
        answer = _answer(where, row.get("answer"))
        aliases = _aliases(where, answer, "aliases", "normalized_aliases")
        return _question(where, row["question_id"], row.get("question"), answer.get("value"), aliases)
    if "QuestionId" in row:
        answer = _answer(where, row.get("Answer"))
        aliases = _aliases(where, answer, "Aliases", "NormalizedAliases", "HumanAnswers")
        return _question(where, row["QuestionId"], row.get("Question"), answer.get("Value"), aliases)
    if "context" in row:
        return _question(where, f"{number:06d}", row["context"], row.get("answer"), _aliases(where, row, "aliases"))
    raise BadInput(
        f"{where}: neither a TriviaQA record (QuestionId or question_id) nor a flat one (context); "
        f"its keys are {', '.join(row)}"
    )


def _answer(where: str, answer: Any) -> dict[str, Any]:
    if answer is not None and not isinstance(answer, dict):
        raise BadInput(f"{where}: the answer: expected a record of value and aliases, found {type(answer).__name__}")
    return answer or {}


def _aliases(where: str, answer: dict[str, Any], *names: str) -> list[str]:
    found: list[str] = []
    for name in names:
        given = answer.get(name) or []
        if not isinstance(given, list) or not all(isinstance(alias, str) for alias in given):
            raise BadInput(f"{where}: {name}: expected a list of texts, found {given!r:.60}")
        found += given
    return found


def _question(where: str, identifier: Any, text: Any, gold: Any, aliases: list[str]) -> Question:
    if identifier in (None, "") or not isinstance(text, str) or not text.strip():
        raise BadInput(f"{where}: a question needs an id and a text")
    if not isinstance(gold, str) or not normalise(gold):
        raise BadInput(f"{where} (question '{identifier}'): it has no answer; give it one or remove it")
    if gold == "<unk>":
        raise BadInput(f"{where} (question '{identifier}'): its answer is withheld, as in TriviaQA's test split")
    normal = dict.fromkeys(normalise(alias) for alias in (gold, *aliases))
    normal.pop("", None)
    return Question(str(identifier), " ".join(text.split()), gold, tuple(normal))
