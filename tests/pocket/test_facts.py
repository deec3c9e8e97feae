"""The facts: enough of them, unambiguous to ask about, and readable as a question set of TriviaQA."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from pbt.debate.answers import normalise
from pbt.pocket.facts import Fact, answers_of, facts, question_record, question_set, relations, unit_hash
from pbt.questions import Question, read_questions


def table(relation: str) -> dict[str, Fact]:
    return {fact.subject: fact for fact in facts() if fact.relation == relation}


def test_there_are_enough_of_them() -> None:
    assert len(facts()) >= 2000
    sizes = Counter(fact.relation for fact in facts())
    assert set(sizes) == set(relations())
    assert len(sizes) >= 15
    assert min(sizes.values()) >= 20


def test_ids_are_unique() -> None:
    twice = [i for i, count in Counter(fact.id for fact in facts()).items() if count > 1]
    assert not twice


def test_a_question_asked_in_any_wording_has_one_answer() -> None:
    """No two facts ask the same question, whatever relation they come from."""
    asked: dict[str, Fact] = {}
    for fact in facts():
        for wording in relations()[fact.relation].wordings:
            other = asked.setdefault(wording.format(s=fact.subject), fact)
            assert other.id == fact.id, (wording, fact, other)


@pytest.mark.parametrize("name", relations())
def test_a_relation_has_four_wordings_and_a_statement(name: str) -> None:
    relation = relations()[name]
    assert len(set(relation.wordings)) == 4
    assert all(wording.count("{s}") == 1 for wording in relation.wordings)
    assert relation.statement.count("{s}") == 1
    assert relation.statement.count("{a}") == 1
    assert relation.sources


@pytest.mark.parametrize("name", relations())
def test_a_relation_leaves_something_to_guess_wrong(name: str) -> None:
    normal = [normalise(answer) for answer in answers_of(name)]
    assert len(normal) >= 4
    assert len(set(normal)) == len(normal)


def test_no_subject_gives_its_answer_away() -> None:
    given = [
        (fact.id, fact.answer) for fact in facts() if f" {normalise(fact.answer)} " in f" {normalise(fact.subject)} "
    ]
    assert not given


def test_hardly_a_wrong_answer_of_a_relation_is_an_alias_of_the_right_one() -> None:
    """Else a mind that guesses wrong would be graded right. (Germany is accepted for West Germany, and the like.)"""
    clashes = []
    for fact in facts():
        right = {normalise(name) for name in (fact.answer, *fact.aliases)}
        wrong = {normalise(answer) for answer in answers_of(fact.relation) if answer != fact.answer}
        clashes += [(fact.id, name) for name in right & wrong]
    assert len(clashes) < 0.004 * len(facts()), clashes


def test_the_tables_of_elements_agree() -> None:
    """Both list the 118 elements in the order of the periodic table, under the same names and aliases."""
    symbols, numbers = table("element_symbol"), table("element_number")
    assert list(numbers) == [str(number) for number in range(1, 119)]
    assert [(f.answer, f.aliases) for f in symbols.values()] == [(f.answer, f.aliases) for f in numbers.values()]
    for symbol, number, name in (
        ("H", 1, "hydrogen"),
        ("Fe", 26, "iron"),
        ("Au", 79, "gold"),
        ("Og", 118, "oganesson"),
    ):
        assert symbols[symbol].answer == numbers[str(number)].answer == name


def test_records_follow_the_official_schema() -> None:
    record = question_record(facts()[0])
    assert {"QuestionId", "QuestionSource", "Question", "Answer", "EntityPages", "SearchResults"} <= set(record)
    assert {"Value", "Aliases", "NormalizedAliases", "NormalizedValue", "Type"} == set(record["Answer"])
    assert set(question_set()) == {"Data", "Domain", "VerifiedEval", "Version"}


def test_gold_is_among_the_normalised_aliases_and_the_wording_is_no_held_out_one() -> None:
    for record in question_set()["Data"]:
        answer = record["Answer"]
        assert answer["NormalizedValue"] == normalise(answer["Value"]) in answer["NormalizedAliases"]
        assert len(set(record["Wordings"])) == 4
        assert record["Question"] in record["Wordings"][:3]


def test_the_set_reads_back_as_the_facts(tmp_path: Path) -> None:
    path = tmp_path / "pocket.json"
    path.write_text(json.dumps(question_set(), ensure_ascii=False, indent=1), "utf-8")
    assert list(read_questions(str(path))) == [
        Question(
            id=fact.id,
            text=question_record(fact)["Question"],
            gold=fact.answer,
            aliases=tuple(dict.fromkeys(normalise(name) for name in (fact.answer, *fact.aliases))),
        )
        for fact in facts()
    ]


def test_the_hash_is_stable_and_spread_over_the_unit_interval() -> None:
    """Who knows what hangs on it: another hash would be another world."""
    assert unit_hash("mind", 0, "llama") == pytest.approx(0.6291065567599416)
    values = sorted(unit_hash("spread", i) for i in range(4000))
    assert 0 <= values[0] < values[-1] < 1
    assert all(abs(value - i / 4000) < 0.03 for i, value in enumerate(values))
    assert unit_hash("a", "b") != unit_hash("ab")
