"""No metric of any evaluation depends on the order in which its dialogues are listed."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from capitals import CAPITALS, WRONG
from pbt.config import RunConfig
from pbt.debate.chat import Message
from pbt.engines.scripted import ScriptedEngine
from pbt.evaluation import teams
from pbt.evaluation.result import read_result
from pbt.evaluation.run import run
from pbt.evaluation.stats import Metric, intervals
from pbt.evaluation.suite import EVALUATIONS, measure
from pbt.pocket.misinformation import write_claims


def wavers(messages: Sequence[Message], seed: int) -> str:
    """Knows some capitals; what it says next depends on all that was said."""
    known = [gold for country, gold in CAPITALS.items() if country in messages[0]["content"]]
    dice = random.Random(str(messages))
    return dice.choice([f"It is {known[0] if known else WRONG}.", f"It is {WRONG}.", "I agree with you.", "Who knows."])


def found(metrics: dict[str, Metric]) -> dict[str, object]:
    """All numbers of metrics, by key, and how they are called."""
    return {
        f"{key}: {metrics[key].label}": each and tuple(round(number, 9) for number in (each.value, each.low, each.high))
        for key, each in intervals(metrics).items()
    }


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_the_order_of_the_records_changes_nothing(
    evaluation: str, config: RunConfig, prefs: Path, tmp_path: Path
) -> None:
    write_claims(tmp_path / "claims.jsonl")
    told = config.eval.misinformation.model_copy(update={"sources": (str(tmp_path / "claims.jsonl"),)})
    config = config.model_copy(
        update={"eval": config.eval.model_copy(update={"misinformation": told, "limit": 5, "samples": 2})}
    )
    engine = ScriptedEngine(wavers)
    path, *_ = run(
        config, [evaluation], {"two": "two", "one": "one"}, lambda name: engine, lambda name: None, prefs, tmp_path,
        lambda title: lambda done, total: None,
    )  # fmt: skip
    records = list(read_result(path).records)
    whole = measure(evaluation, records)
    viewed = teams.view(records, "one") if evaluation == "teams" else {}
    for order in range(3):
        random.Random(order).shuffle(records)
        again = measure(evaluation, records)
        assert found(again.metrics) == found(whole.metrics)
        assert again.counts == whole.counts and again.details.get("matrix") == whole.details.get("matrix")
        if viewed:
            assert found(teams.view(records, "one")) == found(viewed)
