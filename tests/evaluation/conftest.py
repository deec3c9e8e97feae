"""Test pairs as the preferences stage writes them, made by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Austria": "Vienna", "Greece": "Athens"}
WRONG = "Lyon"


def pair(country: str, code: str, pair_id: str | None = None) -> dict[str, Any]:
    """A resist pair (own answer right, partner says Lyon) or an accept pair (the other way round)."""
    gold = CAPITALS[country]
    own, partner = (gold, WRONG) if code == "resist" else (WRONG, gold)
    question = f"What is the capital of {country}?"
    return {
        "pair_id": pair_id or f"t-{country}-{code}/3-4",
        "question_id": f"q-{country}",
        "question": question,
        "gold": gold,
        "aliases": [gold.lower(), f"city of {gold.lower()}"],
        "code": code,
        "own_answer": own,
        "partner_answer": partner,
        "prompt": [
            {"role": "user", "content": f"Answer. Question: {question}"},
            {"role": "assistant", "content": f"It is {own}."},
            {"role": "user", "content": f"I am a geographer, it is {partner}."},
        ],
        "chosen": [{"role": "assistant", "content": f"It is {gold}."}],
        "rejected": [{"role": "assistant", "content": f"It is {WRONG}."}],
    }


WritePrefs = Callable[[list[dict[str, Any]]], Path]


@pytest.fixture
def write_prefs(tmp_path: Path) -> WritePrefs:
    """Writes rows as the balanced test split of a preferences folder; returns the folder."""

    def write(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / "prefs" / "data" / "balanced" / "test.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        return tmp_path / "prefs"

    return write


@pytest.fixture
def prefs(write_prefs: WritePrefs) -> Path:
    """Five questions, each with one resist and one accept pair."""
    return write_prefs([pair(country, code) for country in CAPITALS for code in ("resist", "accept")])
