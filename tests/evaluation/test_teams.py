"""Teams of scripted models with known strengths."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from capitals import CAPITALS
from pbt.config import shipped_protocol
from pbt.debate.chat import Message
from pbt.engines.base import EngineError
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput
from pbt.evaluation.dialogue import Record, Said
from pbt.evaluation.quiz import Quizzed
from pbt.evaluation.stats import intervals
from pbt.evaluation.suite import measure
from pbt.evaluation.teams import evaluate, items, load_protocol, view

CHAIN = shipped_protocol("pocket-chain")
Script = Callable[[Sequence[Message], int], str]


def model(knows: Sequence[str], wrong: str, *, stubborn: bool) -> Script:
    """Right on some countries; ever after it keeps its answer, or takes its partner's."""

    def script(messages: Sequence[Message], seed: int) -> str:
        country = next(country for country in CAPITALS if country in messages[0]["content"])
        if stubborn or len(messages) == 1:
            return f"It is {CAPITALS[country] if country in knows else wrong}."
        return "I agree with you."

    return script


def debate(questions: list[Quizzed], **scripts: Script) -> list[Record]:
    engines = {name: ScriptedEngine(script) for name, script in scripts.items()}
    return asyncio.run(evaluate(engines, items(questions, list(scripts)), CHAIN, 0))


def points(metrics: dict) -> dict[str, float | None]:  # type: ignore[type-arg]
    return {key: i.value if i else None for key, i in intervals(metrics).items()}


STRONG = model(("France", "Italy", "Spain", "Austria"), "Oslo", stubborn=True)
WEAK = model(("France",), "Bonn", stubborn=False)


def test_a_strong_one_that_holds_pulls_a_weak_one_up_in_either_order(questions: list[Quizzed]) -> None:
    records = debate(questions, strong=STRONG, weak=WEAK)
    measured = measure("teams", records)
    found = points(measured.metrics)
    assert (found["before"], found["after"]) == (pytest.approx(0.5), pytest.approx(0.8))
    assert (found["strong+weak/upset"], found["strong+weak/lift"]) == (0, 1)
    assert (found["strong+weak/order"], found["strong+weak/differs"]) == (0, 0)
    assert found["strong>weak/after"] == found["weak>strong/after"] == pytest.approx(0.8)
    matrix = measured.details["matrix"]
    assert matrix["strong"] == pytest.approx({"strong": 0.8, "weak": 0.8})
    assert matrix["weak"] == pytest.approx({"weak": 0.2, "strong": 0.8})


def test_one_model_seen_alone_has_both_halves(questions: list[Quizzed]) -> None:
    records = debate(questions, strong=STRONG, weak=WEAK)
    strong, weak = points(view(records, "strong")), points(view(records, "weak"))
    assert (strong["before"], strong["after"], strong["held"], strong["moved"]) == (0.8, 0.8, 1, None)
    assert (weak["before"], weak["after"], weak["held"], weak["moved"]) == (0.2, pytest.approx(0.8), None, 1)
    assert (strong["upset"], strong["lift"], weak["upset"], weak["lift"]) == (0, None, None, 1)


def test_two_that_yield_depend_on_who_speaks_first(questions: list[Quizzed]) -> None:
    """Who opens also speaks third, and yields: both end with the answer of the one that answered second."""
    right = model(tuple(CAPITALS), "", stubborn=False)
    wrong = model((), "Bonn", stubborn=False)
    found = points(measure("teams", debate(questions, right=right, wrong=wrong)).metrics)
    assert (found["right>wrong/after"], found["wrong>right/after"]) == (0, 1)
    assert (found["right+wrong/order"], found["right+wrong/differs"]) == (-1, 1)
    assert (found["right+wrong/upset"], found["right+wrong/lift"]) == (0.5, 0.5)
    assert points(view(debate(questions, right=right, wrong=wrong), "right"))["order"] == -1


def test_three_models_make_six_teams_and_a_matrix_of_nine(questions: list[Quizzed]) -> None:
    records = debate(questions, a=STRONG, b=WEAK, c=STRONG)
    assert len(records) == 6 * 5
    matrix = measure("teams", records).details["matrix"]
    assert [sorted(row) for row in matrix.values()] == [["a", "b", "c"]] * 3
    assert points(view(records, "b"))["after"] == pytest.approx(0.8)


def test_a_first_answer_is_asked_once_a_model(questions: list[Quizzed]) -> None:
    asked: list[str] = []

    def counted(messages: Sequence[Message], seed: int) -> str:
        asked.extend(["first"] * (len(messages) == 1))
        return STRONG(messages, seed)

    debate(questions, a=counted, b=WEAK, c=WEAK)
    assert len(asked) == 5


def test_choices_and_yes_or_no_are_debated_by_option() -> None:
    yes_no = Quizzed("s", "strategy", "Is the Moon old?", "Yes", ("01",), ("Yes", "No"), "No")
    choice = Quizzed("c", "choice", "Where is money?", "river bank", ("02",), ("bank", "river bank"), "bank")

    def right(messages: Sequence[Message], seed: int) -> str:
        return "Yes, it is." if "Moon" in messages[0]["content"] else "The answer is 2."

    def wrong(messages: Sequence[Message], seed: int) -> str:
        if len(messages) > 1:
            return "You are right, I agree."
        return "No." if "Moon" in messages[0]["content"] else "bank"

    records = debate([yes_no, choice], right=right, wrong=wrong)
    found = points(measure("teams", records).metrics)
    assert (found["before"], found["right+wrong/lift"]) == (0.5, 1)
    assert (found["strategy: after"], found["choice: after"]) == (1, 1)


def test_a_first_answer_agrees_with_nobody(questions: list[Quizzed]) -> None:
    """Else the debate would end before the second model has spoken."""

    def agrees(messages: Sequence[Message], seed: int) -> str:
        return "I agree with you."

    (record, *_) = debate(questions[:1], agrees=agrees, strong=STRONG)
    assert record.item["models"] == ("agrees", "strong")
    assert record.outcome["first"] == ["NONE", "Paris"] and record.outcome["after"] == [True, True]


def test_a_failed_debate_is_counted(questions: list[Quizzed]) -> None:
    def fails(messages: Sequence[Message], seed: int) -> str:
        raise EngineError("too long")

    measured = measure("teams", debate(questions, fails=fails, strong=STRONG))
    assert measured.counts["failed"] == 10
    assert set(points(measured.metrics).values()) == {None}


def test_with_one_of_two_orders_failed_there_is_no_difference_between_them(questions: list[Quizzed]) -> None:
    records = debate(questions, right=model(tuple(CAPITALS), "", stubborn=True), weak=WEAK)
    records = [replace(r, error="too long") if r.id == "test/France/weak>right" else r for r in records]
    order = view(records, "right")["order"]
    assert order.items == 4 and points({"order": order}) == {"order": 0}


def test_a_transcript_keeps_what_was_cut_off(questions: list[Quizzed]) -> None:
    whole = "It is Oslo." + " and" * CHAIN.sampling.max_tokens
    (record, *_) = debate(questions[:1], rambles=lambda messages, seed: whole, weak=WEAK)
    assert record.said[0] == Said("rambles", "It is Oslo.", uncut=whole)
    assert record.said[1].uncut is None


def test_what_is_no_protocol_for_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"eval\.teams\.protocol: 'chian' is neither"):
        load_protocol("chian")
    with pytest.raises(BadInput, match="3 seats; a team is of two"):
        load_protocol("trivia-round")
    with pytest.raises(BadInput, match=r"eval\.teams\.protocol: 'pocket-debate' branches at level 1 into 2 personas"):
        load_protocol("pocket-debate")
    with pytest.raises(BadInput, match="a team is of two models"):
        items([], ["alone"])
