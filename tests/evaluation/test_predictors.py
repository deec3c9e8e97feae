"""Predictors: the features of the original model, and the regression on data whose truth is known."""

import asyncio
import warnings
from collections.abc import Callable, Sequence
from math import log
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pbt.config import RunConfig
from pbt.debate.chat import Message
from pbt.engines.base import EngineError
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput
from pbt.evaluation.balanced import read_contexts
from pbt.evaluation.dialogue import Voice
from pbt.evaluation.predictors import PREDICTORS, certainty, entropy, evaluate, regress, store, stored, weigh
from pbt.evaluation.suite import measure


@pytest.mark.parametrize(
    ("text", "sure"),
    [
        ("It is Paris, certainly.", 1),
        ("It is Paris, perhaps.", 0),
        ("I think it is Paris.", 0),
        ("It is Paris.", 0.5),
        ("It is certainly Paris, I think.", 0.5),
        ("I am not sure.", 0),
    ],
)
def test_how_sure_a_turn_sounds(text: str, sure: float) -> None:
    assert certainty(text) == sure


def test_entropy_is_in_nats_and_blind_to_spelling() -> None:
    assert entropy(["Paris", "the paris!", "Paris"]) == 0
    assert entropy(["Paris", "Lyon"] * 4) == pytest.approx(log(2))
    assert entropy(["Paris", "Paris", "Lyon", "NONE"]) == pytest.approx(1.5 * log(2))


def test_the_original_model_is_measured_on_the_question_alone(prefs: Path, config: RunConfig) -> None:
    seen: list[Sequence[Message]] = []

    def script(messages: Sequence[Message], seed: int) -> str:
        seen.append(messages)
        return "It is Paris." if seed % 2 else "It is Lyon."

    def likelihood(messages: Sequence[Message], text: str) -> float:
        seen.append(messages)
        return -0.5 * len(text.split()) - (2.0 if "Lyon" in text else 0.0)

    contexts = read_contexts(prefs, None, 0)
    engine = ScriptedEngine(script, likelihood)
    weighed = asyncio.run(weigh(engine, contexts, config.protocol, config, "models/base"))
    france = weighed.items[0]  # own answer Paris, the partner says Lyon
    assert all(len(messages) == 1 for messages in seen)
    # "The answer is" costs 1.5; the one word after it is what counts.
    assert (france.own_logprob, france.other_logprob) == (pytest.approx(-0.5), pytest.approx(-2.5))
    assert france.entropy is not None and 0 < france.entropy <= log(2) + 1e-9
    assert (france.own_certainty, france.other_certainty) == (0.5, 0.5)


def test_predictors_are_kept_for_later_models(prefs: Path, config: RunConfig, tmp_path: Path) -> None:
    contexts = read_contexts(prefs, None, 0)
    engine = ScriptedEngine(lambda messages, seed: "It is Paris.")
    weighed = asyncio.run(weigh(engine, contexts, config.protocol, config, "models/base"))
    path = tmp_path / "original" / "predictors.json"
    store(path, contexts, config, weighed)
    assert stored(path, "models/base", contexts, config) == weighed
    assert stored(path, "models/base", contexts[1:], config) is None


def test_a_later_model_is_regressed_on_the_stored_original_and_never_on_itself(
    prefs: Path, config: RunConfig, tmp_path: Path
) -> None:
    contexts = read_contexts(prefs, None, 0)
    engine = ScriptedEngine(lambda messages, seed: "It is Paris.")
    path = tmp_path / "predictors.json"
    weighed = asyncio.run(weigh(engine, contexts, config.protocol, config, "models/base"))
    store(path, contexts, config, weighed)
    assert stored(path, "models/other", contexts, config) == weighed
    with pytest.raises(BadInput, match=r"predictors\.json: measured on models/base, on other contexts"):
        stored(path, "models/other", contexts[1:], config)


def test_only_contexts_that_failed_are_measured_again(prefs: Path, config: RunConfig) -> None:
    contexts = read_contexts(prefs, None, 0)
    asked: list[str] = []

    def script(messages: Sequence[Message], seed: int) -> str:
        asked.append(messages[0]["content"])
        if down and "France" in messages[0]["content"]:
            raise EngineError("connection lost")
        return "It is Paris."

    engine, down = ScriptedEngine(script), True
    first = asyncio.run(weigh(engine, contexts, config.protocol, config, "models/base"))
    assert set(first.failed.values()) == {"connection lost"} and len(first.failed) == 2
    asked.clear()
    down = False
    again = asyncio.run(weigh(engine, contexts, config.protocol, config, "models/base", first))
    assert all("France" in question for question in asked) and not again.failed
    assert all(item.entropy is not None for item in again.items)


def test_a_failed_measurement_leaves_the_item_out_of_the_regression_and_is_counted(
    prefs: Path, config: RunConfig, voice: Callable[..., Voice]
) -> None:
    def fails_on_france(messages: Sequence[Message], seed: int) -> str:
        if "France" in messages[0]["content"]:
            raise EngineError("too long")
        return "It is Paris."

    contexts = read_contexts(prefs, None, 0)
    engine = ScriptedEngine(fails_on_france)
    weighed = asyncio.run(weigh(engine, contexts, config.protocol, config, "models/base")).items
    records = asyncio.run(evaluate(voice(lambda messages, seed: messages[1]["content"]), weighed, config))
    measured = measure("predictors", records)
    assert measured.counts["without predictors"] == 2
    assert measured.details["regression"]["items"] == 8
    assert measured.notes == ["no regression: the answer was always kept"]


# The regression


def world(items: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[str]]:
    """Items whose keeping follows the first predictor up and the third down; the second plays no part."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(items, 3)) * [1.0, 5.0, 0.2]
    odds = 1.2 * values[:, 0] - 0.8 * values[:, 2] / 0.2 + 0.3
    return values, rng.random(items) < 1 / (1 + np.exp(-odds)), [f"q{n // 2}" for n in range(items)]


def test_the_regression_finds_what_made_the_data() -> None:
    values, kept, questions = world(4000)
    fitted = regress(values, kept, questions, ["first", "second", "third"])
    found = {c["name"]: c for c in fitted["coefficients"]}
    for name, truth in (("intercept", 0.3), ("first", 1.2), ("second", 0.0), ("third", -0.8)):
        assert found[name]["value"] == pytest.approx(truth, abs=0.15)
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert found["first"]["low"] > 0 > found["third"]["high"]
    assert found["second"]["low"] < 0 < found["second"]["high"] and found["second"]["p"] > 0.01
    assert (fitted["items"], fitted["note"], fitted["left_out"]) == (4000, "", {})


def test_standard_errors_know_that_items_of_a_question_are_alike() -> None:
    """Every item four times over is no new evidence: estimates and standard errors stay."""
    values, kept, _ = world(300)
    names = ["first", "second", "third"]
    once = regress(values, kept, [f"q{n}" for n in range(300)], names)
    often = regress(np.repeat(values, 4, axis=0), np.repeat(kept, 4), [f"q{n // 4}" for n in range(1200)], names)
    for one, other in zip(once["coefficients"], often["coefficients"], strict=True):
        assert (other["value"], other["se"]) == pytest.approx((one["value"], one["se"]), rel=0.01)


def test_what_does_not_vary_or_follows_from_the_others_is_left_out_and_named() -> None:
    values, kept, questions = world(400)
    more = np.column_stack([values[:, 0], np.full(400, 7.0), values[:, 1], values[:, 0] - 2 * values[:, 1]])
    fitted = regress(more, kept, questions, ["a", "constant", "b", "sum"])
    assert fitted["left_out"] == {"constant": "it does not vary", "sum": "the others determine it"}
    assert [c["name"] for c in fitted["coefficients"]] == ["intercept", "a", "b"]


@pytest.mark.parametrize("quasi", [False, True])
def test_separation_gives_no_estimate_and_says_by_what(quasi: bool) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 2))
    kept = values[:, 0] > 0
    if quasi:  # a tie at the boundary: one of each
        values[:2, 0] = 0
        kept[:2] = [True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = regress(values, kept, [f"q{n}" for n in range(60)], ["parting", "noise"])
    assert fitted["coefficients"] == []
    assert "no finite estimate" in fitted["note"] and "parting" in fitted["note"]


@pytest.mark.parametrize(
    ("items", "kept", "note"),
    [
        (0, [], "no item has all predictors"),
        (4, [True] * 4, "the answer was always kept"),
        (4, [False] * 4, "the answer was never kept"),
    ],
)
def test_nothing_to_explain_is_said(items: int, kept: list[bool], note: str) -> None:
    values = np.arange(items * 2, dtype=float).reshape(items, 2)
    fitted = regress(values, np.array(kept, dtype=bool), ["q"] * items, ["a", "b"])
    assert fitted["coefficients"] == [] and note in fitted["note"]


def test_too_few_questions_for_standard_errors_is_said() -> None:
    values, kept, _ = world(40)
    fitted = regress(values, kept, ["q1", "q2"] * 20, ["a", "b", "c"])
    assert fitted["coefficients"] == [] and "40 items of 2 questions are too few" in fitted["note"]


def test_all_predictors_have_a_label() -> None:
    assert len(set(PREDICTORS.values())) == 5
