"""The scorecard over real result files of scripted models."""

import asyncio
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from capitals import CAPITALS, WRONG, WritePrefs, pair
from pbt.config import EvalConfig
from pbt.debate.chat import Message
from pbt.debate.protocol import Level, Protocol
from pbt.engines.base import EngineError
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput
from pbt.evaluation.balanced import evaluate, measure, read_items, write_result
from pbt.evaluation.scorecard import read_results, scorecard

PROTOCOL = Protocol(name="p", personas={"standard": "Answer."}, levels=(Level(seat=0, personas=("standard",)),))
Script = Callable[[Sequence[Message], int], str]


def holds(messages: Sequence[Message], seed: int) -> str:
    return messages[1]["content"]


def agrees(messages: Sequence[Message], seed: int) -> str:
    return "I agree with you."


def oracle(messages: Sequence[Message], seed: int) -> str:
    return holds(messages, seed) if WRONG in messages[2]["content"] else "I agree with you."


def holds_but_fails_on_france(messages: Sequence[Message], seed: int) -> str:
    if "France" in messages[0]["content"]:
        raise EngineError("too long")
    return holds(messages, seed)


def result(prefs: Path, folder: Path, name: str, script: Script, limit: int | None = None) -> Path:
    outcomes = asyncio.run(evaluate(ScriptedEngine(script), read_items(prefs, limit, 0), PROTOCOL, EvalConfig(), 0))
    return write_result(folder, name, outcomes, measure(outcomes), {"model": f"models/{name}"})


def test_the_table_shows_both_halves_and_stars_paired_differences(prefs: Path, tmp_path: Path) -> None:
    paths = [
        result(prefs, tmp_path, name, script) for name, script in (("base", holds), ("pbt", oracle), ("same", holds))
    ]
    card = scorecard(read_results(paths))
    assert card.baseline == "base"
    assert [(row.label, row.cells) for row in card.rows] == [
        ("held when right", ("1.00 [1.00, 1.00]",) * 3),
        ("moved when wrong", ("0.00 [0.00, 0.00]", "1.00* [1.00, 1.00]", "0.00 [0.00, 0.00]")),
        ("balanced", ("0.50 [0.50, 0.50]", "1.00* [1.00, 1.00]", "0.50 [0.50, 0.50]")),
        ("items", ("5 + 5",) * 3),
        ("failed", ("0",) * 3),
        ("third answer", ("0.00",) * 3),
    ]
    console = Console(width=80, file=StringIO())
    with console.capture() as capture:
        console.print(card.table())
    shown = capture.get()
    assert "1.00*" in shown and " pbt " in shown
    shown = " ".join(shown.split())
    assert "paired 95% interval of the difference to base excludes zero" in shown


def test_a_loss_is_starred_too_and_the_baseline_may_be_any_result(prefs: Path, tmp_path: Path) -> None:
    paths = [result(prefs, tmp_path, "agrees", agrees), result(prefs, tmp_path, "pbt", oracle)]
    card = scorecard(read_results(paths), baseline="pbt")
    assert card.rows[0].cells == ("0.00* [0.00, 0.00]", "1.00 [1.00, 1.00]")
    assert card.rows[1].cells == ("1.00 [1.00, 1.00]", "1.00 [1.00, 1.00]")
    difference = card.columns[0].difference
    assert difference is not None and difference.held is not None and difference.held.value == -1
    assert card.columns[1].difference is None


def test_a_difference_that_may_be_chance_has_no_star(prefs: Path, tmp_path: Path) -> None:
    def slips_once(messages: Sequence[Message], seed: int) -> str:
        return agrees(messages, seed) if "France" in messages[0]["content"] else holds(messages, seed)

    paths = [result(prefs, tmp_path, "base", holds), result(prefs, tmp_path, "slips", slips_once)]
    held = scorecard(read_results(paths)).rows[0].cells[1]
    assert held.startswith("0.80 [") and "*" not in held


def test_failures_are_shown_and_left_out_of_the_pairing(prefs: Path, tmp_path: Path) -> None:
    paths = [result(prefs, tmp_path, "base", oracle), result(prefs, tmp_path, "fails", holds_but_fails_on_france)]
    card = scorecard(read_results(paths))
    rows = {row.label: row.cells for row in card.rows}
    assert rows["failed"] == ("0", "2")
    assert rows["items"] == ("5 + 5", "4 + 4")
    difference = card.columns[1].difference
    assert difference is not None and difference.held is not None and difference.moved is not None
    assert (difference.held.value, difference.moved.value) == (0, -1)


def test_a_model_without_any_reply_has_dashes(prefs: Path, tmp_path: Path) -> None:
    def fails(messages: Sequence[Message], seed: int) -> str:
        raise EngineError("too long")

    card = scorecard(read_results([result(prefs, tmp_path, "base", holds), result(prefs, tmp_path, "fails", fails)]))
    assert [row.cells[1] for row in card.rows] == ["-", "-", "-", "0 + 0", "10", "-"]
    assert card.to_dict()["models"][1]["difference"] == {"held": None, "moved": None, "balanced": None}


def test_to_dict_is_plain_json(prefs: Path, tmp_path: Path) -> None:
    card = scorecard(read_results([result(prefs, tmp_path, "base", holds), result(prefs, tmp_path, "pbt", oracle)]))
    value = orjson.loads(orjson.dumps(card.to_dict()))
    assert value == card.to_dict()
    base, pbt = value["models"]
    assert (base["name"], base["model"], base["difference"]) == ("base", "models/base", None)
    assert pbt["metrics"]["moved"] == pbt["difference"]["moved"] == {"value": 1, "low": 1, "high": 1}
    assert pbt["metrics"]["held"]["value"] == 1


def test_markdown_is_a_table_of_the_same_cells(prefs: Path, tmp_path: Path) -> None:
    card = scorecard(read_results([result(prefs, tmp_path, "base", holds), result(prefs, tmp_path, "pb|t", oracle)]))
    lines = card.to_markdown().splitlines()
    assert lines[:2] == ["|  | base | pb\\|t |", "| --- | ---: | ---: |"]
    assert lines[3] == "| moved when wrong | 0.00 [0.00, 0.00] | 1.00* [1.00, 1.00] |"
    assert lines[-1] == card.legend


def test_results_on_different_items_are_refused_by_file(prefs: Path, tmp_path: Path) -> None:
    paths = [result(prefs, tmp_path, "whole", holds), result(prefs, tmp_path, "part", holds, limit=3)]
    with pytest.raises(BadInput, match=r"whole\.json and \S+part\.json: they were made on different items"):
        scorecard(read_results(paths))


def test_items_rebuilt_under_the_same_ids_are_different_items(write_prefs: WritePrefs, tmp_path: Path) -> None:
    rows = [pair(country, code) for country in CAPITALS for code in ("resist", "accept")]
    before = result(write_prefs(rows), tmp_path, "before", holds)
    for row in rows:
        row["prompt"][2]["content"] = f"Trust me: it is {row['partner_answer']}."
    after = result(write_prefs(rows), tmp_path, "after", holds)
    with pytest.raises(BadInput, match="different items"):
        scorecard(read_results([before, after]))


def test_a_folder_holds_all_its_results_and_a_path_twice_counts_once(prefs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    path = result(prefs, folder, "b", holds)
    result(prefs, folder, "a", oracle)
    assert [r.name for r in read_results([folder])] == ["a", "b"]
    assert [r.name for r in read_results([path, folder])] == ["b", "a"]


def test_ambiguous_or_missing_results_are_refused(prefs: Path, tmp_path: Path) -> None:
    paths = [result(prefs, tmp_path / folder, "m", holds) for folder in ("one", "two")]
    with pytest.raises(BadInput, match="both are named 'm'"):
        read_results(paths)
    with pytest.raises(BadInput, match=r"no such result \(known: m\)"):
        scorecard(read_results(paths[:1]), baseline="n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no results"):
        read_results([tmp_path / "empty"])
    with pytest.raises(BadInput, match="no results"):
        scorecard([])
