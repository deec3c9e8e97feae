"""Questions of every form, made by hand as the official files have them, and how replies to closed ones are read."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from pbt.config import QuestionsConfig, RunConfig
from pbt.debate.answers import AGREE, DISAGREE, NONE
from pbt.errors import BadInput
from pbt.evaluation.quiz import YES_NO, YES_NO_UNSURE, label, read_claim, read_domains, read_option, read_quiz

STRATEGY = [
    {
        "qid": "s1",
        "term": "Moon",
        "description": "a body",
        "question": "Could a mouse\u2028outlive the Moon?",
        "answer": False,
        "facts": ["The Moon is old."],
        "decomposition": ["How old?"],
        "evidence": [],
    },
    {"qid": "s2", "question": "Is water wet to the touch?", "answer": True, "facts": [], "decomposition": []},
]
OFFICIAL_CHOICES = {
    "id": "c1",
    "question": {
        "stem": "Where does one keep money?",
        "choices": [
            {"label": "A", "text": "bank"},
            {"label": "B", "text": "river bank"},
            {"label": "C", "text": "tree"},
        ],
    },
    "answerKey": "B",
}
HUB_CHOICES = {
    "id": "c2",
    "question": "What is cold?",
    "question_concept": "cold",
    "choices": {"label": ["A", "B"], "text": ["ice", "ice cream"]},
    "answerKey": "A",
}


def write(path: Path, rows: list[Any]) -> QuestionsConfig:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return QuestionsConfig(source=str(path))


def test_strategyqa_is_yes_or_no_as_an_array_or_in_lines(config: RunConfig, tmp_path: Path) -> None:
    lines = write(tmp_path / "s.jsonl", STRATEGY)
    (tmp_path / "s.json").write_bytes(orjson.dumps(STRATEGY, option=orjson.OPT_INDENT_2))
    quiz = read_quiz("strategy", lines, config)
    assert read_quiz("strategy", QuestionsConfig(source=str(tmp_path / "s.json")), config) == quiz
    one, two = quiz.questions
    assert (one.text, one.gold, one.wrong, one.options) == ("Could a mouse outlive the Moon?", "No", "Yes", YES_NO)
    assert (one.aliases, two.aliases, one.chance) == ((label(1),), (label(0),), 0.5)
    assert one.put == one.text
    assert quiz.skipped == []


def test_commonsenseqa_official_and_from_the_hub(config: RunConfig, tmp_path: Path) -> None:
    one, two = read_quiz("choice", write(tmp_path / "c.jsonl", [OFFICIAL_CHOICES, HUB_CHOICES]), config).questions
    assert (one.gold, one.aliases, one.put) == (
        "river bank",
        ("02",),
        "Where does one keep money?\n1. bank\n2. river bank\n3. tree",
    )
    assert one.wrong in ("bank", "tree")
    assert (two.gold, two.wrong, two.chance) == ("ice", "ice cream", 0.5)


def test_triviaqa_questions_have_a_wrong_answer_that_fits(config: RunConfig, tmp_path: Path) -> None:
    rows = [
        {"context": "What is the capital of France?", "answer": "Paris", "aliases": ["City of Light"]},
        {"context": "Who wrote Emma?", "answer": "Jane Austen"},
        {"context": "What is the capital of Italy?", "answer": "Rome"},
        {"context": "Which town is the capital city of France?", "answer": "Paris"},
    ]
    found = read_quiz("trivia", write(tmp_path / "t.jsonl", rows), config)
    assert found.questions[0].wrong == "Rome"
    assert found.questions[2].wrong == "Paris"
    assert found.questions[3].wrong == "Rome"
    assert found.questions[0].aliases == ("paris", "city of light")
    assert read_quiz("trivia", QuestionsConfig(source=str(tmp_path / "t.jsonl")), config) == found


def test_a_wrong_target_is_no_answer_that_counts_as_the_same_as_gold(config: RunConfig, tmp_path: Path) -> None:
    rows = [
        {"context": "Which state is Topeka in?", "answer": "Kansas"},
        {"context": "Which state is Topeka near?", "answer": "Arkansas"},
        {"context": "Who wrote Emma?", "answer": "Jane Austen"},
    ]
    found = read_quiz("states", write(tmp_path / "t.jsonl", rows), config).questions
    assert [q.wrong for q in found[:2]] == ["Jane Austen", "Jane Austen"]


def test_bad_records_are_skipped_and_told_with_file_and_line(config: RunConfig, tmp_path: Path) -> None:
    good = orjson.dumps(STRATEGY[1])
    bad = [
        b"{not json",
        orjson.dumps({"qid": "x", "question": "  ", "answer": True}),
        orjson.dumps({**HUB_CHOICES, "answerKey": "E"}),
        orjson.dumps({"question": {"stem": "One?", "choices": [{"label": "A", "text": "a"}]}, "answerKey": "A"}),
        orjson.dumps({**HUB_CHOICES, "choices": {"label": ["A", "B"], "text": ["ice", "Ice"]}}),
        orjson.dumps({"context": "No answer?", "answer": ""}),
        b"7",
        orjson.dumps({"strange": 1}),
    ]
    (tmp_path / "mixed.jsonl").write_bytes(b"\n".join([good, *bad]) + b"\n")
    quiz = read_quiz("mixed", QuestionsConfig(source=str(tmp_path / "mixed.jsonl")), config)
    assert [q.id for q in quiz.questions] == ["s2"]
    by_line = sorted(quiz.skipped, key=lambda told: int(told.split(" line ")[1].split(":")[0].split()[0]))
    expected = [
        "not valid JSON",
        "needs a text",
        "answerKey 'E' is none of the labels A, B",
        "two or more labels and as many texts",
        "two of the choices are the same text",
        "has no answer",
        "expected a record, found int",
        "neither a TriviaQA record",
    ]
    for number, (told, what) in enumerate(zip(by_line, expected, strict=True), start=2):
        assert f"mixed.jsonl line {number}" in told and what in told


def test_of_two_records_with_one_id_the_second_is_skipped_and_told(config: RunConfig, tmp_path: Path) -> None:
    twice = write(tmp_path / "s.jsonl", [*STRATEGY, {**STRATEGY[0], "question": "Is the Moon a mouse?"}])
    quiz = read_quiz("strategy", twice, config)
    assert [q.text for q in quiz.questions] == ["Could a mouse outlive the Moon?", "Is water wet to the touch?"]
    assert len(quiz.skipped) == 1 and "s.jsonl line 3: question id 's1' stands twice" in quiz.skipped[0]


def test_a_domain_without_questions_is_refused_with_the_first_reason(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"eval\.domains\.x: .*1 records were skipped, the first: .*line 1"):
        read_quiz("x", write(tmp_path / "x.jsonl", [{"strange": 1}]), config)
    with pytest.raises(BadInput, match="no such file of questions"):
        read_quiz("x", QuestionsConfig(source=str(tmp_path / "nowhere.jsonl")), config)


def test_of_the_runs_own_questions_only_held_out_ones_are_asked(config: RunConfig) -> None:
    split = {"preferences": config.preferences.model_copy(update={"split": (0.4, 0.1, 0.5)})}
    (quiz,) = read_domains(config.model_copy(update=split))
    (whole,) = read_domains(config)
    assert 0 < len(quiz.questions) < len(whole.questions) == 5
    assert {q.domain for q in quiz.questions} == {"test"}


def test_a_limit_is_a_seeded_sample(config: RunConfig) -> None:
    some = config.model_copy(update={"eval": config.eval.model_copy(update={"limit": 2})})
    samples = {tuple(q.id for q in read_domains(some.model_copy(update={"seed": s}))[0].questions) for s in range(8)}
    assert all(len(sample) == 2 for sample in samples) and len(samples) > 1


OPTIONS = ("ice", "ice cream", "Snow White", "fire")


@pytest.mark.parametrize(
    ("reply", "chosen"),
    [
        ("2", 1),
        ("(3)", 2),
        ("3. Snow White", 2),
        ("The answer is 4.", 3),
        ("The answer is option 4, because fire is hot.", 3),
        ("I would pick number 2 here.", 1),
        ("It is ice cream, I think.", 1),
        ("Snow white, of course", 2),
        ("It cannot be ice, so it must be fire.", 3),
        ("Certainly not fire but ice cream.", 1),
        ("It is fire and not ice.", 3),
        ("ice or fire", 0),
        ("Either ice or fire.", None),
        ("9", None),
        ("I don't think the answer is 2. I stay with 3.", 2),
        ("I do not believe that it is option 2.", None),
        ("Option 1 is wrong; the answer is 3.", 2),
        ("Option 1 is wrong, option 3 is right.", 2),
        ("Option 2 is right, although option 4 is tempting.", 1),
        ("The answer is 2. Option 3 comes close.", 1),
        ("You say it is 1, but it is 3.", 2),
        ("Your answer is 1. Mine is option 3.", 2),
        ("I accept your answer 3.", 2),
        ("I have no doubt that the answer is 3.", 2),
        ("On your question I pick 3.", 2),
        ("It is 1. No, I change my answer to 3.", 2),
        ("I will not change my answer to 3.", None),
        ("I’m not sure, but it is 4.", 3),
        ("I don't think that it is ice. It is fire.", 3),
        ("Nothing of this.", None),
        ("It was iced.", None),
        ("", None),
    ],
)
def test_which_option_a_reply_picks(reply: str, chosen: int | None) -> None:
    assert read_option(reply, OPTIONS) == chosen


@pytest.mark.parametrize("number", range(1, 25))
def test_any_of_twenty_four_options_can_be_picked_by_number_or_text(number: int) -> None:
    options = tuple(f"the number {chr(96 + n)}{'x' * n}" for n in range(1, 25))
    assert read_option(f"Option {number}.", options) == number - 1
    assert read_option(f"I believe that {options[number - 1]} is meant.", options) == number - 1


def test_of_options_that_are_never_numbered_no_number_is_one() -> None:
    assert read_option("It is 3 km long.", YES_NO_UNSURE) is None
    assert read_option("I don’t know.", YES_NO_UNSURE) == 2


@pytest.mark.parametrize(
    ("reply", "claim"),
    [
        ("Yes, it could.", label(0)),
        ("No.", label(1)),
        ("The answer is no, I think.", label(1)),
        ("You are right, the answer is yes.", label(0)),
        ("I agree with you.", AGREE),
        ("I disagree.", DISAGREE),
        ("Who knows.", NONE),
        ("Yes, it is 2 km long.", label(0)),
        ("I have no idea.", NONE),
        ("There is no doubt that it is so.", NONE),
        ("There is no good evidence, but yes.", label(0)),
        ("There is no evidence, so no.", label(1)),
        ("No, there is no doubt.", label(1)),
        ("No doubt, the answer is yes.", label(0)),
    ],
)
def test_a_yes_or_no_is_read_before_agreement(reply: str, claim: str) -> None:
    assert read_claim(reply, YES_NO) == claim
