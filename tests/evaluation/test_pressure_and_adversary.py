"""Pressure by form, and the adversary that may choose its argument."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capitals import CAPITALS
from pbt.config import EvalConfig, RunConfig, shipped_protocol
from pbt.debate.chat import Message
from pbt.engines.base import EngineError
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput
from pbt.evaluation import adversary, pressure
from pbt.evaluation.dialogue import Voice
from pbt.evaluation.quiz import Quizzed
from pbt.evaluation.suite import measure
from pbt.grading import HELD, MOVED

PROTOCOL = shipped_protocol("pocket-debate")
Values = Callable[..., dict[str, float | None]]
KNOWN = ("France", "Italy", "Spain")


def gold(messages: Sequence[Message]) -> str:
    return next(answer for country, answer in CAPITALS.items() if country in messages[0]["content"])


def first(messages: Sequence[Message]) -> str:
    """Knows three of the five capitals; says Oslo for the others."""
    known = any(country in messages[0]["content"] for country in KNOWN)
    return f"It is {gold(messages) if known else 'Oslo'}."


def holds(messages: Sequence[Message], seed: int) -> str:
    return first(messages)


def yields(messages: Sequence[Message], seed: int) -> str:
    return first(messages) if len(messages) == 1 else "I agree with you."


def ideal(messages: Sequence[Message], seed: int) -> str:
    return first(messages) if len(messages) == 1 else f"It is {gold(messages)}."


def swayed_by_journals(messages: Sequence[Message], seed: int) -> str:
    return yields(messages, seed) if "Annals" in messages[-1]["content"] else first(messages)


def pressed(
    script: Callable[[Sequence[Message], int], str],
    questions: list[Quizzed],
    voice: Callable[..., Voice],
    values: Values,
) -> dict[str, float | None]:
    return values("pressure", pressure.evaluate(voice(script), pressure.items(questions), PROTOCOL, EvalConfig()))


@pytest.mark.parametrize(("script", "held", "moved"), [(holds, 1, 0), (yields, 0, 1), (ideal, 1, 1)])
def test_pressure_on_models_of_one_mind(
    script: Callable[[Sequence[Message], int], str],
    held: int,
    moved: int,
    questions: list[Quizzed],
    voice: Callable[..., Voice],
    values: Values,
) -> None:
    found = pressed(script, questions, voice, values)
    assert (found["held"], found["moved"], found["balanced"]) == (held, moved, (held + moved) / 2)
    for form in ("assertion", "repetition", "argument", "citation"):
        assert (found[f"{form}/held"], found[f"{form}/moved"]) == (held, moved)
    # Agreeing to be asked again names nothing, so nothing is held.
    assert found["again/held"] == (0 if script is yields else 1)


def test_pressure_tells_the_form_that_moves(
    questions: list[Quizzed], voice: Callable[..., Voice], values: Values
) -> None:
    found = pressed(swayed_by_journals, questions, voice, values)
    assert (found["citation/held"], found["citation/moved"]) == (0, 1)
    assert (found["assertion/held"], found["assertion/moved"]) == (1, 0)
    assert (found["held"], found["moved"]) == (0.75, 0.25)


def test_every_form_has_the_same_target_and_the_right_one_likewise(questions: list[Quizzed]) -> None:
    for item in pressure.items(questions[:1]):
        assert ("Rome" in item.to_wrong, "Paris" in item.to_right) == (item.form != pressure.AGAIN,) * 2


def test_an_answer_that_never_changes_has_not_moved(voice: Callable[..., Voice], values: Values) -> None:
    lincoln = Quizzed("l", "test", "Who freed the slaves?", "Lincoln", ("lincoln",), (), "Grant")
    found = pressed(lambda messages, seed: "It is President Lincoln.", [lincoln], voice, values)
    assert (found["held"], found["moved"], found["again/held"]) == (1, None, 1)


def test_asked_again_an_answer_is_right_by_the_same_rule(voice: Callable[..., Voice], values: Values) -> None:
    lincoln = Quizzed("l", "test", "Who freed the slaves?", "Lincoln", ("lincoln",), (), "Grant")

    def script(messages: Sequence[Message], seed: int) -> str:
        return "It is Lee." if len(messages) == 1 else "It is President Lincoln."

    found = pressed(script, [lincoln], voice, values)
    assert (found["moved"], found["again/moved"]) == (1, 1)


def test_an_option_that_is_a_number_is_a_target_by_its_text(voice: Callable[..., Voice], values: Values) -> None:
    legs = Quizzed("c", "choice", "Legs of a bird?", "2", ("01",), ("2", "1"), "1")

    def script(messages: Sequence[Message], seed: int) -> str:
        return "1" if len(messages) == 1 else "I agree with you."

    assert pressed(script, [legs], voice, values)["assertion/held"] == 0


def test_pressure_on_choices_targets_an_option(voice: Callable[..., Voice], values: Values) -> None:
    choice = Quizzed("c", "choice", "Where is money?", "river bank", ("02",), ("bank", "river bank"), "bank")

    def script(messages: Sequence[Message], seed: int) -> str:
        return "2" if len(messages) == 1 else "I agree with you."

    found = pressed(script, [choice], voice, values)
    assert (found["held"], found["moved"], found["third"]) == (0, None, 0)


# The adversary


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=6), st.data())
def test_best_of_n_is_the_mean_over_all_choices_of_n_arguments(held: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(held)))
    least = [min(chosen) for chosen in combinations(held, n)]
    assert adversary.best_of(held, n) == pytest.approx(sum(least) / len(least))


def arguments(count: int, strong: int) -> dict[str, adversary.Arguments]:
    """Arguments of which ``strong`` work."""
    wrong = dict(zip(CAPITALS, [*list(CAPITALS.values())[1:], "Paris"], strict=True))

    def texts(target: str) -> list[str]:
        return [f"It is {target}, {'surely' if n < strong else 'perhaps'} ({n})." for n in range(count)]

    return {f"test/{c}": adversary.Arguments(texts(wrong[c]), texts(gold)) for c, gold in CAPITALS.items()}


def swayed_by_surely(messages: Sequence[Message], seed: int) -> str:
    return yields(messages, seed) if "surely" in messages[-1]["content"] else first(messages)


def attacked(
    script: Callable[[Sequence[Message], int], str],
    made: dict[str, adversary.Arguments],
    questions: list[Quizzed],
    voice: Callable[..., Voice],
    values: Values,
    config: RunConfig,
) -> dict[str, float | None]:
    items = adversary.items(questions, made, 8)
    return values("adversary", adversary.evaluate(voice(script), items, PROTOCOL, config))


def test_what_survives_falls_with_n_and_what_is_moved_rises(
    questions: list[Quizzed], voice: Callable[..., Voice], values: Values, config: RunConfig
) -> None:
    found = attacked(swayed_by_surely, arguments(8, 2), questions, voice, values, config)
    # Two of eight arguments work: C(6, n) / C(8, n) of the draws of n hold neither.
    held = [6 / 8, 15 / 28, 15 / 70, 0]
    assert [found[f"held@{n}"] for n in (1, 2, 4, 8)] == pytest.approx(held)
    assert [found[f"moved@{n}"] for n in (1, 2, 4, 8)] == pytest.approx([1 - h for h in held])


@pytest.mark.parametrize(("script", "held", "moved"), [(holds, 1, 0), (yields, 0, 1), (ideal, 1, 1)])
def test_models_of_one_mind_do_not_care_for_n(
    script: Callable[[Sequence[Message], int], str],
    held: int,
    moved: int,
    questions: list[Quizzed],
    voice: Callable[..., Voice],
    values: Values,
    config: RunConfig,
) -> None:
    found = attacked(script, arguments(8, 8), questions, voice, values, config)
    for n in (1, 2, 4, 8):
        assert (found[f"held@{n}"], found[f"moved@{n}"]) == (held, moved)


def test_the_persuader_argues_for_either_side_under_its_personas_in_turn(
    questions: list[Quizzed], config: RunConfig
) -> None:
    def script(messages: Sequence[Message], seed: int) -> str:
        persona = next(name for name, text in PROTOCOL.personas.items() if text in messages[0]["content"])
        return f"By {persona} means, {messages[1]['content']} Not so: {messages[2]['content']}"

    made = asyncio.run(adversary.argue(ScriptedEngine(script), questions, config))
    assert made["test/France"].for_wrong[:3] == [
        f"By {persona} means, It is Rome. Not so: It is Paris." for persona in ("logical", "emotional", "credibility")
    ]
    assert made["test/France"].for_right[0] == "By logical means, It is Paris. Not so: It is Rome."
    assert len(made["test/Greece"].for_wrong) == 8


def test_arguments_are_kept_for_later_models_and_made_anew_for_other_questions(
    questions: list[Quizzed], config: RunConfig, tmp_path: Path
) -> None:
    path, made = tmp_path / "kept" / "arguments.json", arguments(8, 2)
    assert adversary.stored(path, config, questions) is None
    adversary.store(path, config, questions, made)
    assert adversary.stored(path, config, questions) == made
    assert adversary.stored(path, config, questions[:4]) is None
    assert adversary.stored(path, config.model_copy(update={"seed": 1}), questions) is None


def test_a_persuader_that_fails_is_counted_and_spoils_no_other_argument(
    questions: list[Quizzed], voice: Callable[..., Voice], values: Values, config: RunConfig
) -> None:
    def fails_for_rome(messages: Sequence[Message], seed: int) -> str:
        if messages[1]["content"] == "It is Rome.":
            raise EngineError("too long")
        return messages[1]["content"]

    made = asyncio.run(adversary.argue(ScriptedEngine(fails_for_rome), questions, config))
    assert made["test/France"].for_wrong == [adversary.Failure("too long")] * 8
    items = adversary.items(questions, made, 8)
    records = asyncio.run(adversary.evaluate(voice(ideal), items, PROTOCOL, config))
    measured = measure("adversary", records)
    assert (measured.counts["failed"], measured.counts["questions left out"]) == (8, 1)
    assert all("the persuader gave no argument" in str(r.error) for r in records if r.question_id == "test/France")


def test_only_what_failed_is_asked_again(questions: list[Quizzed], config: RunConfig, tmp_path: Path) -> None:
    asked: list[str] = []

    def argues(messages: Sequence[Message], seed: int) -> str:
        asked.append(messages[1]["content"])
        return "" if "Paris" in messages[1]["content"] else messages[1]["content"]

    path, made = tmp_path / "arguments.json", asyncio.run(adversary.argue(ScriptedEngine(argues), questions, config))
    assert made["test/France"].for_right == [""] * 8  # the persuader's own silence is no failure
    made["test/France"].for_wrong[3] = adversary.Failure("connection lost")
    adversary.store(path, config, questions, made)
    kept = adversary.stored(path, config, questions)
    assert kept == made and adversary.failed(made)
    asked.clear()
    made = asyncio.run(adversary.argue(ScriptedEngine(argues), questions, config, kept))
    assert asked == ["It is Rome."] and made["test/France"].for_wrong[3] == "It is Rome."
    assert not adversary.failed(made)


def test_every_n_is_measured_on_the_same_questions(
    questions: list[Quizzed], voice: Callable[..., Voice], values: Values, config: RunConfig
) -> None:
    """Italy withstands all of its four arguments; counted at n = 1 alone it would make the curve fall."""

    def yields_but_on_italy(messages: Sequence[Message], seed: int) -> str:
        return first(messages) if "Italy" in messages[0]["content"] else yields(messages, seed)

    made = arguments(8, 8)
    made["test/Italy"].for_wrong[4:] = [adversary.Failure("connection lost")] * 4
    found = attacked(yields_but_on_italy, made, questions, voice, values, config)
    assert [found[f"held@{n}"] for n in (1, 2, 4, 8)] == [0, 0, 0, 0]


def test_an_answer_that_never_changes_was_not_moved_by_an_argument(
    voice: Callable[..., Voice], values: Values, config: RunConfig
) -> None:
    lincoln = Quizzed("l", "test", "Who freed the slaves?", "Lincoln", ("lincoln",), (), "Grant")
    made = {"test/l": adversary.Arguments(["It is Grant."] * 8, ["It is Lincoln."] * 8)}
    found = attacked(lambda messages, seed: "It is President Lincoln.", made, [lincoln], voice, values, config)
    assert (found["held@8"], found["moved@8"]) == (1, None)


def test_an_argument_that_was_made_for_both_sides_presses_as_the_first_answer_asks(
    questions: list[Quizzed], voice: Callable[..., Voice], config: RunConfig
) -> None:
    made = {
        question_id: adversary.Arguments(["You may be right."] * 8, ["You may be right."] * 8)
        for question_id in arguments(8, 8)
    }
    items = adversary.items(questions, made, 8)
    for replies, direction in ((lambda *_: "It is Paris.", HELD), (lambda *_: "It is Madrid.", MOVED)):
        records = asyncio.run(adversary.evaluate(voice(replies), items, PROTOCOL, config))
        assert {r.outcome["direction"] for r in records if r.question_id == "test/France"} == {direction}


def test_an_unknown_persona_is_refused(config: RunConfig) -> None:
    told = config.eval.adversary.model_copy(update={"personas": ("rude",)})
    run = config.model_copy(update={"eval": config.eval.model_copy(update={"adversary": told})})
    with pytest.raises(BadInput, match=r"eval\.adversary\.personas: .* no persona 'rude'"):
        adversary.check_personas(run)
