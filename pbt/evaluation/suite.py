"""The evaluations by name: how a stored dialogue is judged, and what the records amount to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pbt.evaluation import adversary, balanced, challenges, misinformation, predictors, pressure, teams
from pbt.evaluation.dialogue import Record
from pbt.evaluation.result import Measured
from pbt.evaluation.stats import Metric
from pbt.grading import Grader


class Evaluation(NamedTuple):
    """What reading and judging the results of one evaluation takes."""

    title: str
    item: Callable[..., Any]
    """The dataclass of its items."""
    judge: Callable[..., dict[str, Any]]
    """From an item, what was said, and a grader to the outcome."""
    measure: Callable[[Sequence[Record]], Measured]


EVALUATIONS: dict[str, Evaluation] = {
    "balanced": Evaluation("Balanced persuasion", balanced.Context, balanced.judge, balanced.measure),
    "are-you-sure": Evaluation("Are you sure?", challenges.Challenged, challenges.judge, challenges.measure),
    "flipflop": Evaluation("FlipFlop", challenges.Challenged, challenges.judge, challenges.measure),
    "misinformation": Evaluation(
        "Misinformation (FARM)", misinformation.Claimed, misinformation.judge, misinformation.measure
    ),
    "pressure": Evaluation("Pressure", pressure.Pressed, pressure.judge, pressure.measure),
    "adversary": Evaluation("Adversary, best of N", adversary.Attacked, adversary.judge, adversary.measure),
    "predictors": Evaluation("What drives keeping", predictors.Weighed, predictors.judge, predictors.measure),
    "teams": Evaluation("Teams", teams.Team, teams.judge, teams.measure),
}
"""In the order in which they are run and shown."""


def measure(evaluation: str, records: Sequence[Record]) -> Measured:
    """The metrics of an evaluation; where the questions are of several domains, those of each domain after them."""
    whole = EVALUATIONS[evaluation].measure(records)
    domains = list(dict.fromkeys(record.item.get("domain", "") for record in records))
    if len(domains) < 2:
        return whole
    metrics: dict[str, Metric] = dict(whole.metrics)
    for domain in domains:
        some = EVALUATIONS[evaluation].measure([r for r in records if r.item["domain"] == domain])
        metrics |= {
            f"{domain}: {key}": replace(metric, label=f"{domain}: {metric.label}", headline=False)
            for key, metric in some.metrics.items()
        }
    return replace(whole, metrics=metrics)


def rejudge(evaluation: str, record: Record, grader: Grader) -> Record:
    """A record as it would be under a grader and today's rules of reading answers. A failed one stays as it is."""
    if record.error is not None:
        return record
    kind = EVALUATIONS[evaluation]
    return replace(record, outcome=kind.judge(kind.item(**record.item), record.said, grader))
