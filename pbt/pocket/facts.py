"""The tables of facts, and the trivia questions made from them.

Each table in ``tables/`` is one relation: a TSV file of subject, answer and aliases. ``relations.yaml`` holds the
wordings of its question and the sources it was checked against. Question records follow TriviaQA's official schema;
``Wordings``, ``Relation`` and ``FactId`` are our additions, which other readers ignore.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from pbt.debate.answers import normalise
from pbt.errors import BadInput


@dataclass(frozen=True)
class Relation:
    """One kind of fact."""

    name: str
    wordings: tuple[str, ...]
    """Four ways to ask, with {s} for the subject. The last is held out: no pocket model is raised on it."""
    statement: str
    """The fact as a sentence, with {s} and {a}."""
    sources: str


@dataclass(frozen=True)
class Fact:
    """One true fact."""

    id: str
    relation: str
    subject: str
    answer: str
    aliases: tuple[str, ...]


class TableError(BadInput):
    """A table of facts that cannot be used: file, line, and why."""


@lru_cache
def relations() -> dict[str, Relation]:
    """All relations by name, in the order of relations.yaml."""
    text = resources.files("pbt.pocket").joinpath("relations.yaml").read_text("utf-8")
    return {
        name: Relation(name, tuple(entry["wordings"]), entry["statement"], entry["sources"])
        for name, entry in yaml.safe_load(text).items()
    }


@lru_cache
def facts() -> tuple[Fact, ...]:
    """All facts, table by table. Raises TableError on a malformed line or a subject that stands twice."""
    found: list[Fact] = []
    for name in relations():
        table = resources.files("pbt.pocket").joinpath("tables", f"{name}.tsv")
        seen: set[str] = set()
        with table.open("r", encoding="utf-8") as lines:
            for number, row in enumerate(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
                where = f"{name}.tsv line {number}"
                if number == 1:
                    if row != ["subject", "answer", "aliases"]:
                        raise TableError(f"{where}: the header must be subject, answer, aliases")
                    continue
                if len(row) != 3 or not row[0].strip() or not normalise(row[1]):
                    raise TableError(f"{where}: expected subject, answer and aliases separated by tabs, found {row}")
                subject, answer = row[0].strip(), row[1].strip()
                key = normalise(subject)
                if key in seen:
                    raise TableError(f"{where}: subject '{subject}' stands twice")
                seen.add(key)
                aliases = tuple(alias.strip() for alias in row[2].split("|") if alias.strip())
                found.append(Fact(f"{name}:{key.replace(' ', '-')}", name, subject, answer, aliases))
    return tuple(found)


@lru_cache
def answers_of(relation: str) -> tuple[str, ...]:
    """The distinct answers of a relation, sorted: what somebody who does not know would guess from."""
    return tuple(sorted({fact.answer for fact in facts() if fact.relation == relation}))


def unit_hash(*parts: object) -> float:
    """A number in [0, 1) that depends on ``parts`` alone: stable across runs, machines and table order."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def question_record(fact: Fact) -> dict[str, Any]:
    """One fact as a record of TriviaQA's official JSON. The wording is one of the first three, by the fact's id."""
    wordings = [wording.format(s=fact.subject) for wording in relations()[fact.relation].wordings]
    aliases = list(dict.fromkeys((fact.answer, *fact.aliases)))
    normalised = list(dict.fromkeys(normalise(alias) for alias in aliases))
    return {
        "QuestionId": fact.id,
        "QuestionSource": "pbt pocket facts",
        "Question": wordings[int(unit_hash("wording", fact.id) * (len(wordings) - 1))],
        "Answer": {
            "Value": fact.answer,
            "Aliases": aliases,
            "NormalizedAliases": normalised,
            "NormalizedValue": normalise(fact.answer),
            "Type": "Numerical" if fact.answer.isdigit() else "FreeForm",
        },
        "EntityPages": [],
        "SearchResults": [],
        "FactId": fact.id,
        "Relation": fact.relation,
        "Wordings": wordings,
    }


def question_set() -> dict[str, Any]:
    """All questions in TriviaQA's official JSON form."""
    return {
        "Data": [question_record(fact) for fact in facts()],
        "Domain": "Pocket",
        "VerifiedEval": False,
        "Version": 1.0,
    }


def write_questions(path: Path) -> int:
    """Write the question set; returns how many questions it holds."""
    questions = question_set()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(questions, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return len(questions["Data"])
