"""Questions, and readers for every form they come in."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    if source.startswith("hf:"):
        yield from _numbered(_hub_rows(source), source)
        return
    path = Path(source)
    if not path.is_file():
        raise BadInput(f"{source}: no such file of questions (a data set of the hub is written hf:NAME:CONFIG:SPLIT)")
    if path.suffix == ".parquet":
        from datasets import Dataset

        yield from _numbered(Dataset.from_parquet(str(path)), source)
        return
    data = path.read_bytes()
    if data.lstrip()[:1] == b"{" and b'"Data"' in data[:4096]:
        try:
            whole = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise BadInput(f"{source}: not valid JSON: {error}") from None
        for number, record in enumerate(whole["Data"]):
            yield _official(record, f"{source}, Data[{number}]")
        return
    yield from _numbered(_json_lines(data, source), source, "line ", 1)


def _hub_rows(source: str) -> Iterable[dict[str, Any]]:
    from datasets import load_dataset

    name, *rest = source.removeprefix("hf:").split(":")
    config = rest[0] if rest else None
    split = rest[1] if len(rest) > 1 else "train"
    try:
        return load_dataset(name, config, split=split)
    except Exception as error:  # datasets raises many kinds; all of them mean that the source cannot be read
        raise BadInput(f"{source}: cannot be loaded through datasets: {type(error).__name__}: {error}") from None


def _json_lines(data: bytes, source: str) -> Iterator[dict[str, Any]]:
    """Lines split on newline only: TriviaQA texts hold U+2028 and the like, which ``splitlines`` would break at."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BadInput(f"{source} line {number}: not valid JSON: {error}") from None


def _numbered(rows: Iterable[Any], source: str, unit: str = "row ", first: int = 0) -> Iterator[Question]:
    for number, row in enumerate(rows, start=first):
        where = f"{source} {unit}{number}"
        if not isinstance(row, dict):
            raise BadInput(f"{where}: expected a record, found {type(row).__name__}")
        if "question_id" in row:
            answer = row.get("answer") or {}
            aliases = [*(answer.get("aliases") or []), *(answer.get("normalized_aliases") or [])]
            yield _question(where, row["question_id"], row.get("question"), answer.get("value"), aliases)
        elif "QuestionId" in row:
            yield _official(row, where)
        elif "context" in row:
            yield _question(where, f"{number - first:06d}", row["context"], row.get("answer"), row.get("aliases") or [])
        else:
            raise BadInput(f"{where}: neither a TriviaQA row (question_id) nor a flat record (context); keys: {list(row)}")


def _official(record: dict[str, Any], where: str) -> Question:
    answer = record.get("Answer") or {}
    aliases = [
        *(answer.get("Aliases") or []),
        *(answer.get("NormalizedAliases") or []),
        *(answer.get("HumanAnswers") or []),
    ]
    return _question(where, record.get("QuestionId"), record.get("Question"), answer.get("Value"), aliases)


def _question(where: str, identifier: Any, text: Any, gold: Any, aliases: list[str]) -> Question:
    if not identifier or not isinstance(text, str) or not text.strip():
        raise BadInput(f"{where}: a question needs an id and a text")
    if not isinstance(gold, str) or not normalise(gold):
        raise BadInput(f"{where} (question '{identifier}'): it has no answer; give it one or remove it")
    normal = dict.fromkeys(normalise(alias) for alias in (gold, *aliases))
    normal.pop("", None)
    return Question(str(identifier), " ".join(text.split()), gold, tuple(normal))
