"""Result files: read back as written, refused when they do not belong together; rescored without a model."""

import asyncio
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from capitals import pair
from pbt.config import EvalConfig, RunConfig
from pbt.debate.chat import Message
from pbt.engines.base import EngineError
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput
from pbt.evaluation import predictors
from pbt.evaluation.balanced import evaluate, measure, read_contexts
from pbt.evaluation.dialogue import Record, Voice
from pbt.evaluation.rescore import rescore
from pbt.evaluation.result import items_sha256, read_result, write_result
from pbt.grading import Grader


def says(answer: str) -> Callable[[Sequence[Message], int], str]:
    def script(messages: Sequence[Message], seed: int) -> str:
        if "Spain" in messages[0]["content"]:
            raise EngineError("too long")
        return f"It is {answer}."

    return script


@pytest.fixture
def records(prefs: Path, voice: Callable[..., Voice]) -> Callable[[str], list[Record]]:
    def make(answer: str) -> list[Record]:
        return asyncio.run(evaluate(voice(says(answer)), read_contexts(prefs, None, 0), EvalConfig()))

    return make


def write(folder: Path, name: str, records: list[Record]) -> Path:
    return write_result(folder, "balanced", name, records, measure(records), {"model": f"models/{name}", "seed": 4})


def test_a_result_reads_back_as_it_was_written(records: Callable[[str], list[Record]], tmp_path: Path) -> None:
    made = records("Paris")
    path = write(tmp_path / "eval" / "balanced", "dpo", made)
    result = read_result(path)
    assert (result.evaluation, result.name, result.model) == ("balanced", "dpo", "models/dpo")
    assert result.items_sha256 == items_sha256(made)
    again = result.records
    assert [orjson.dumps(r.to_dict()) for r in again] == [orjson.dumps(r.to_dict()) for r in made]
    assert orjson.loads(path.read_bytes())["record"] == {"model": "models/dpo", "seed": 4}
    held = result.written["metrics"]["held"]
    assert (held["value"], held["items"], held["label"]) == (0.25, 4, "held when right")
    assert result.written["counts"] == {"items": 8, "dialogues": 10, "failed": 2, "empty": 0}


def test_every_line_holds_its_whole_transcript(records: Callable[[str], list[Record]], tmp_path: Path) -> None:
    write(tmp_path, "m", records("Paris"))
    lines = [orjson.loads(line) for line in (tmp_path / "m.items.jsonl").read_bytes().splitlines()]
    assert len(lines) == 10
    prompt = pair("France", "accept")["prompt"]
    assert lines[5] == {
        "id": "t-France-accept/3-4",
        "question_id": "q-France",
        "sample": 0,
        "item": {
            "id": "t-France-accept/3-4",
            "question_id": "q-France",
            "question": "What is the capital of France?",
            "gold": "Paris",
            "aliases": ["paris", "city of paris"],
            "direction": "incorrect->correct",
            "own_answer": "Lyon",
            "partner_answer": "Paris",
            "prompt": prompt,
        },
        "said": [{"role": "assistant", "text": "It is Paris.", "aside": False, "uncut": None}],
        "outcome": {"claim": "Paris", "answer": "Paris", "right": True, "third": False},
        "error": None,
    }
    assert (lines[7]["error"], lines[7]["outcome"]) == ("too long", {})


def test_files_that_do_not_belong_together_are_refused(records: Callable[[str], list[Record]], tmp_path: Path) -> None:
    for name, answer in (("one", "Paris"), ("two", "Lyon")):
        write(tmp_path, name, records(answer))
    (tmp_path / "two.items.jsonl").replace(tmp_path / "one.items.jsonl")
    for name in ("one", "two"):
        with pytest.raises(BadInput, match=rf"{name}\.items\.jsonl: missing, or not the transcripts"):
            read_result(tmp_path / f"{name}.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "not a result of an evaluation"),
        (b'{"evaluation":"balanced","format":1}', "result format 1 is not 2"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_result(path)


def test_a_missing_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"m\.json: no such result"):
        read_result(tmp_path / "m.json")


@pytest.mark.parametrize("name", ["", "org/model"])
def test_a_name_must_name_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="may not be empty or a path"):
        write(tmp_path, name, [])


# Rescoring


def test_rescoring_by_the_same_grader_changes_nothing(records: Callable[[str], list[Record]], tmp_path: Path) -> None:
    path = write(tmp_path, "m", records("Paris"))
    rescored = rescore(path.with_name("m.items.jsonl"), Grader())
    facts = rescored.to_dict()
    assert rescored.changed == [] and facts["changed"] == []
    assert facts["before"] == facts["after"]


def test_rescoring_tells_what_another_grader_changes(records: Callable[[str], list[Record]], tmp_path: Path) -> None:
    """ "Old Paris" is Paris by containment in the right side's answer, and is not an alias."""
    path = write(tmp_path, "m", records("Old Paris"))
    facts = rescore(path.with_name("m.items.jsonl"), Grader("exact")).to_dict()
    assert facts["before"]["held"]["value"] == facts["before"]["moved"]["value"] == 0.25
    assert facts["after"]["held"]["value"] == facts["after"]["moved"]["value"] == 0
    assert [change["id"] for change in facts["changed"]] == ["t-France-resist/3-4", "t-France-accept/3-4"]
    assert facts["changed"][0]["before"]["right"] and not facts["changed"][0]["after"]["right"]
    assert facts["records"] == 10


def test_rescoring_tells_what_changes_in_the_details_and_notes(
    prefs: Path, voice: Callable[..., Voice], config: RunConfig, tmp_path: Path
) -> None:
    """What was the answer kept in all items is no longer by another grader, so that there is a regression, or none."""
    contexts = read_contexts(prefs, None, 0)
    weighed = asyncio.run(
        predictors.weigh(ScriptedEngine(lambda m, s: "It is Paris."), contexts, config.protocol, config, "m")
    ).items
    talk = voice(lambda messages, seed: messages[1]["content"].replace("It is ", "It is old "))
    records = asyncio.run(predictors.evaluate(talk, weighed, config))
    path = write_result(tmp_path, "predictors", "m", records, predictors.measure(records), {"model": "m"})
    rescored = rescore(path.with_name("m.items.jsonl"), Grader("exact"))
    facts = rescored.to_dict()
    kept = [facts["details"][side]["regression"]["kept"] for side in ("before", "after")]
    assert kept == [1, 0]
    assert facts["notes"]["after"] == ["no regression: the answer was never kept"]
    console = Console(width=160, file=StringIO())
    console.print(rescored.table())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "regression/kept" in shown and "the answer was never kept" in shown


def test_words_that_overlap_count_for_f1_and_accents_can_be_folded() -> None:
    aliases = ("sao tome city",)
    assert not Grader().right("São Tomé City", aliases)
    assert Grader(fold=True).right("São Tomé City", aliases)
    assert not Grader("exact").right("Tome City", aliases) and Grader("f1").right("Tome City", aliases)
    assert Grader("containment").right("Old Sao Tome City", aliases)
    assert not Grader("f1").right("Lisbon", aliases) and not Grader("f1").right("NONE", ("none",))
    assert Grader("f1").same("Tome City", "the city of Tome") and not Grader("exact").same("Tome", "Tome City")
    assert not Grader().same(None, None)


def test_only_items_files_can_be_rescored(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected a file of items, <name>\.items\.jsonl"):
        rescore(tmp_path / "m.json", Grader())
