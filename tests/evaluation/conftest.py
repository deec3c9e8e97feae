"""Test pairs as the preferences stage writes them, a run about capitals, and voices of scripted models."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capitals import CAPITALS, WritePrefs, pair
from pbt.config import RunConfig, shipped_protocol
from pbt.debate.chat import Message
from pbt.engines.scripted import ScriptedEngine
from pbt.evaluation.dialogue import Record, Voice
from pbt.evaluation.quiz import Quizzed
from pbt.evaluation.stats import intervals
from pbt.evaluation.suite import measure

Script = Callable[[Sequence[Message], int], str]


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


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run on five capitals, all of them held out."""
    lines = [f'{{"context": "What is the capital of {c}?", "answer": "{a}"}}\n' for c, a in CAPITALS.items()]
    (tmp_path / "capitals.jsonl").write_text("".join(lines))
    return RunConfig.model_validate(
        {
            "name": "capitals",
            "questions": {"source": str(tmp_path / "capitals.jsonl")},
            "protocol": shipped_protocol("pocket-debate"),
            "models": {"llama": {"path": "models/llama"}, "mistral": {"path": "models/mistral"}},
            "seats": ["mistral", "llama"],
            "preferences": {"split": [1e-9, 1e-9, 1 - 2e-9]},
            "eval": {"teams": {"protocol": "pocket-chain"}},
        }
    )


@pytest.fixture
def questions() -> list[Quizzed]:
    """Five open questions with a wrong answer each."""
    wrong = dict(zip(CAPITALS, [*list(CAPITALS.values())[1:], "Paris"], strict=True))
    return [
        Quizzed(c, "test", f"What is the capital of {c}?", gold, (gold.lower(),), (), wrong[c])
        for c, gold in CAPITALS.items()
    ]


@pytest.fixture
def voice() -> Callable[..., Voice]:
    """The voice of a model that follows a script."""

    def make(script: Script, seed: int = 0) -> Voice:
        protocol = shipped_protocol("pocket-debate")
        return Voice(ScriptedEngine(script), protocol.sampling, protocol.clip, seed)

    return make


@pytest.fixture
def values() -> Callable[..., dict[str, float | None]]:
    """Runs an evaluation and gives the points of its metrics."""

    def run(evaluation: str, work: Coroutine[Any, Any, list[Record]]) -> dict[str, float | None]:
        found = intervals(measure(evaluation, asyncio.run(work)).metrics)
        return {key: interval.value if interval else None for key, interval in found.items()}

    return run
