"""Question readers: every form of TriviaQA, what is refused and where, and the seeded sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from pbt.config import QuestionsConfig
from pbt.errors import BadInput
from pbt.questions import Question, load_questions, read_questions

DATA = Path(__file__).parent / "data"
TOLSTOY = Question("tc_2", 'Who wrote "War and Peace"?', "Leo Tolstoy", ("leo tolstoy", "tolstoy"))

ASKED = {"question_id": "q7", "question": "Who?"}


def lines(path: Path, *records: Any) -> str:
    path.write_bytes(b"".join((r if isinstance(r, bytes) else orjson.dumps(r)) + b"\n" for r in records))
    return str(path)


def flat(number: int) -> dict[str, Any]:
    return {"context": f"Question {number}?", "answer": f"Answer {number}", "aliases": []}


def refusal(source: str) -> str:
    with pytest.raises(BadInput) as caught:
        list(read_questions(source))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(source)
    return message.removeprefix(source)


def test_reads_the_official_json() -> None:
    paris = Question(
        "tc_1", "Which city is the capital of France?", "Paris", ("paris", "city of light", "paris france")
    )
    assert list(read_questions(str(DATA / "trivia-official.json"))) == [paris, TOLSTOY]


def test_reads_the_rows_of_the_hub_as_json_lines() -> None:
    paris = Question("tc_1", "Which city is the capital of France?", "Paris", ("paris", "city of light"))
    assert list(read_questions(str(DATA / "trivia-rows.jsonl"))) == [paris, TOLSTOY]


def test_reads_the_rows_of_the_hub_as_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [orjson.loads(line) for line in (DATA / "trivia-rows.jsonl").read_bytes().split(b"\n") if line]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    read = list(read_questions(str(tmp_path / "rows.parquet")))
    assert read == list(read_questions(str(DATA / "trivia-rows.jsonl")))


def test_reads_flat_lines_that_hold_line_separators() -> None:
    assert "\u2028" in (DATA / "trivia-flat.jsonl").read_text("utf-8")
    assert list(read_questions(str(DATA / "trivia-flat.jsonl"))) == [
        Question("000000", "Which city is the capital of France?", "Paris", ("paris", "city of light")),
        Question("000001", 'Who wrote "War and Peace"?', "Leo Tolstoy", ("leo tolstoy", "tolstoy")),
    ]


def test_official_records_may_stand_one_a_line(tmp_path: Path) -> None:
    whole = orjson.loads((DATA / "trivia-official.json").read_bytes())
    source = lines(tmp_path / "records.jsonl", *whole["Data"])
    assert list(read_questions(source)) == list(read_questions(str(DATA / "trivia-official.json")))


@pytest.mark.parametrize("option", [0, orjson.OPT_INDENT_2])
def test_the_official_json_is_known_wherever_its_data_stands(tmp_path: Path, option: int) -> None:
    whole = orjson.loads((DATA / "trivia-official.json").read_bytes())
    late = {"Domain": "x" * 10_000, **{k: v for k, v in whole.items() if k != "Data"}, "Data": whole["Data"]}
    path = tmp_path / "late.json"
    path.write_bytes(b"\n  \n" + orjson.dumps(late, option=option) + b"\n\n")
    assert list(read_questions(str(path))) == list(read_questions(str(DATA / "trivia-official.json")))


def test_a_single_flat_line_is_no_official_file(tmp_path: Path) -> None:
    source = lines(tmp_path / "one.jsonl", {**flat(0), "context": 'What does "Data" mean?'})
    assert [q.text for q in read_questions(source)] == ['What does "Data" mean?']


def test_aliases_are_normalised_once_and_never_empty(tmp_path: Path) -> None:
    record = {
        "context": "Who?",
        "answer": "The Beatles",
        "aliases": ["beatles!", "...", "Fab Four", "The", "FAB  FOUR"],
    }
    (question,) = read_questions(lines(tmp_path / "q.jsonl", record))
    assert question.gold == "The Beatles"
    assert question.aliases == ("beatles", "fab four")


def test_blank_lines_change_neither_ids_nor_line_numbers(tmp_path: Path) -> None:
    source = lines(tmp_path / "q.jsonl", b"", flat(0), b"   ", b"", flat(1))
    assert [q.id for q in read_questions(source)] == ["000000", "000001"]
    source = lines(tmp_path / "bad.jsonl", b"", flat(0), b"", {"answer": "x"})
    assert refusal(source).startswith(" line 4: neither a TriviaQA record")
    source = lines(tmp_path / "torn.jsonl", b"", flat(0), b"", b'{"context": ')
    assert refusal(source).startswith(" line 4: not valid JSON")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], "expected a record, found list"),
        ("text", "expected a record, found str"),
        ({"a": 1, "b": 2}, "neither a TriviaQA record (QuestionId or question_id) nor a flat one (context); its keys"),
        ({"context": "", "answer": "x"}, "a question needs an id and a text"),
        ({"context": None, "answer": "x"}, "a question needs an id and a text"),
        ({**ASKED, "question_id": "", "answer": {"value": "x"}}, "a question needs an id and a text"),
        (ASKED, "(question 'q7'): it has no answer"),
        ({**ASKED, "answer": None}, "(question 'q7'): it has no answer"),
        ({**ASKED, "answer": {"value": "..."}}, "(question 'q7'): it has no answer"),
        ({**ASKED, "answer": "x"}, "the answer: expected a record of value and aliases, found str"),
        ({"QuestionId": "q7", "Question": "Who?", "Answer": {"Value": None}}, "(question 'q7'): it has no answer"),
        ({"context": "Who?"}, "(question '000001'): it has no answer"),
        ({"context": "Who?", "answer": 3}, "(question '000001'): it has no answer"),
        ({**flat(1), "aliases": "y"}, "aliases: expected a list of texts, found 'y'"),
        ({**flat(1), "aliases": [None]}, "aliases: expected a list of texts, found [None]"),
    ],
)
def test_a_record_that_is_no_question_is_named_by_its_line(tmp_path: Path, record: Any, message: str) -> None:
    said = refusal(lines(tmp_path / "q.jsonl", flat(0), record))
    assert said.startswith(" line 2")
    assert said[len(" line 2") :].lstrip(": ").startswith(message)


def test_a_bad_record_of_the_official_json_is_named_by_its_place(tmp_path: Path) -> None:
    whole = orjson.loads((DATA / "trivia-official.json").read_bytes())
    whole["Data"][1]["Answer"] = {}
    path = tmp_path / "q.json"
    path.write_bytes(orjson.dumps(whole))
    assert refusal(str(path)).startswith(", Data[1] (question 'tc_2'): it has no answer")
    path.write_bytes(orjson.dumps({"Data": {}}))
    assert refusal(str(path)) == ": Data: expected a list of questions, found dict"


def test_a_file_that_is_missing_or_unreadable_is_named(tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "none.json")).startswith(": no such file of questions")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"not parquet")
    assert refusal(str(broken)).startswith(": not a Parquet file that can be read")


def test_a_source_without_questions_is_refused(tmp_path: Path) -> None:
    source = lines(tmp_path / "q.jsonl", b"", b"")
    with pytest.raises(BadInput, match="holds no questions"):
        load_questions(QuestionsConfig(source=source), seed=0)


def test_an_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    row = {"question_id": "q7", "question": "Who?", "answer": {"value": "x"}}
    source = lines(tmp_path / "q.jsonl", row, {**row, "question_id": "q8"}, row)
    with pytest.raises(BadInput, match="question id 'q7' stands twice"):
        load_questions(QuestionsConfig(source=source), seed=0)


def test_a_sample_is_seeded_and_keeps_the_order_of_the_source(tmp_path: Path) -> None:
    source = lines(tmp_path / "q.jsonl", *(flat(i) for i in range(200)))
    whole = load_questions(QuestionsConfig(source=source), seed=0)
    some = load_questions(QuestionsConfig(source=source, limit=20), seed=0)
    assert len(some) == 20
    assert some == load_questions(QuestionsConfig(source=source, limit=20), seed=0)
    assert some != load_questions(QuestionsConfig(source=source, limit=20), seed=1)
    assert some == sorted(some, key=whole.index)
    assert some != whole[:20]
    assert load_questions(QuestionsConfig(source=source, limit=500), seed=0) == whole
