"""Intervals for every metric of every evaluation: a percentile bootstrap over questions.

A *metric* is a weighted sum of means, and each mean is over the items that count in it: ``held`` is the mean over the
items where the model was right, ``balanced`` is half of ``held`` plus half of ``moved``, an average over four files is
a quarter of each. Items of one question share its difficulty, so the question, not the item, is what is drawn.
With Q questions, one resample draws Q of them with replacement; let w_q be how often question q was drawn, and s_q the
sum and n_q the number of the values of its items in one mean. Then, for each resample,

    mean*   = sum_q w_q s_q / sum_q w_q n_q
    metric* = sum over its means of weight * mean*, all from the same draw

and the 95% interval runs from the 2.5th to the 97.5th percentile of the resampled values. A resample that drew no
item of a mean has no value there and is left out. The point is the same formula with every w_q = 1.

Two models: the same draws for both, over the items that both have, and the interval of the difference. What makes a
question hard for both cancels, so it is narrower than that of two unrelated runs. Where all items count for both
models this is the bootstrap of the items' differences; where the model itself decides what counts (it must have been
right at first), each keeps its own denominator.

``scipy.stats.bootstrap`` gives the same intervals, and the tests compare the two. Here a mean is one matrix product
over draws that all metrics share, so the hundreds of numbers of a scorecard take no longer than the reading of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95

T = TypeVar("T")

Better = Literal["high", "low", "neither"]
"""Which way a metric should go; ``neither``: it describes."""


class Score(NamedTuple):
    """What one item is worth."""

    question_id: str
    value: float | None
    """``None``: the item was answered, but does not count in this mean."""


Scores = Mapping[str, Score]
"""By item id. An item that failed is not in it."""


class Mean(NamedTuple):
    """One mean of a metric, and its weight there."""

    scores: Scores
    weight: float = 1.0


@dataclass(frozen=True)
class Metric:
    """A number about a model, and what it is computed from."""

    label: str
    means: tuple[Mean, ...]
    better: Better = "high"
    headline: bool = False
    """Whether the terminal's scorecard shows it without being asked for all."""

    @property
    def items(self) -> int:
        """How many values it is computed from."""
        return sum(score.value is not None for mean in self.means for score in mean.scores.values())


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Such as ``0.84 [0.79, 0.89]``."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


Intervals = dict[str, Interval | None]
"""By key of the metric; ``None`` where a mean has no items."""


def scored(
    items: Iterable[T], key: Callable[[T], tuple[str, str]], value: Callable[[T], float | None]
) -> dict[str, Score]:
    """Scores from items; those with one id (samples of the same) are averaged, as far as they count.

    ``key`` gives an item's id and the id of its question.
    """
    found: dict[str, tuple[str, list[float]]] = {}
    for item in items:
        item_id, question_id = key(item)
        values = found.setdefault(item_id, (question_id, []))[1]
        worth = value(item)
        if worth is not None:
            values.append(float(worth))
    return {i: Score(q, sum(values) / len(values) if values else None) for i, (q, values) in found.items()}


def fewest_questions(seeds: Sequence[Metric]) -> int:
    """Of how many questions the mean with the fewest counts some, all ``seeds`` of the metric together.

    A mean of one question has no spread over questions, so its interval says nothing.
    """
    means = zip(*(metric.means for metric in seeds), strict=True)
    return min(len({s.question_id for m in mean for s in m.scores.values() if s.value is not None}) for mean in means)


def average(metrics: Sequence[Metric], label: str, *, headline: bool = False) -> Metric:
    """The plain average of metrics of one kind, as a metric."""
    means = tuple(Mean(m.scores, m.weight / len(metrics)) for metric in metrics for m in metric.means)
    return Metric(label, means, metrics[0].better, headline)


def over_seeds(seeds: Sequence[Mapping[str, Metric]]) -> dict[str, Metric]:
    """The mean over seeds, as metrics; of those that all seeds have. Questions of one id are drawn together."""
    return {
        key: replace(
            metric,
            means=tuple(Mean(m.scores, m.weight / len(seeds)) for metrics in seeds for m in metrics[key].means),
        )
        for key, metric in seeds[0].items()
        if all(key in metrics for metrics in seeds)
    }


def point(metric: Metric) -> float | None:
    """A metric without its interval; ``None`` where a mean has no items."""
    whole = 0.0
    for mean in metric.means:
        values = [score.value for score in mean.scores.values() if score.value is not None]
        if not values:
            return None
        whole += mean.weight * sum(values) / len(values)
    return whole


def intervals(metrics: Mapping[str, Metric], *, seed: int = 0, resamples: int = RESAMPLES) -> Intervals:
    """Point estimates and 95% intervals; see the module for the formulas."""
    draws = _Draws(metrics.values(), seed, resamples)
    return {key: _interval(draws.values(metric)) for key, metric in metrics.items()}


def differences(
    first: Mapping[str, Metric], second: Mapping[str, Metric], *, seed: int = 0, resamples: int = RESAMPLES
) -> Intervals:
    """First model minus second, paired, for the metrics that both have; see the module."""
    common = {key: shared(first[key], second[key]) for key in first if key in second}
    draws = _Draws((metric for pair in common.values() for metric in pair), seed, resamples)
    return {key: _interval(draws.values(one) - draws.values(other)) for key, (one, other) in common.items()}


def shared(first: Metric, second: Metric) -> tuple[Metric, Metric]:
    """Two metrics on the items that both have, mean by mean."""
    ones, others = [], []
    for one, other in zip(first.means, second.means, strict=True):
        common = one.scores.keys() & other.scores.keys()
        ones.append(Mean({i: score for i, score in one.scores.items() if i in common}, one.weight))
        others.append(Mean({i: score for i, score in other.scores.items() if i in common}, other.weight))
    return Metric(first.label, tuple(ones)), Metric(second.label, tuple(others))


class _Draws:
    """How often each question is drawn: one row a resample, after a first row that is the sample itself."""

    def __init__(self, metrics: Iterable[Metric], seed: int, resamples: int) -> None:
        scores = [mean.scores for metric in metrics for mean in metric.means]
        ids = sorted({score.question_id for each in scores for score in each.values()})
        self.place = {question_id: index for index, question_id in enumerate(ids)}
        count = len(ids)
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples) if count else np.ones((resamples, 0))
        self.weights: NDArray[np.float64] = np.vstack([np.ones(count), drawn])

    def values(self, metric: Metric) -> NDArray[np.float64]:
        """The metric in the sample and in every resample; not a number where a mean had no item."""
        whole: NDArray[np.float64] = np.zeros(len(self.weights))
        for mean in metric.means:
            sums: NDArray[np.float64] = self.weights @ self._totals(mean.scores)
            with np.errstate(invalid="ignore"):  # 0 / 0: no item of this mean was drawn
                whole += mean.weight * (sums[:, 0] / sums[:, 1])
        return whole

    def _totals(self, scores: Scores) -> NDArray[np.float64]:
        """Sum and number of the values, one row a question."""
        counted = [(self.place[score.question_id], score.value) for score in scores.values() if score.value is not None]
        rows = np.array([row for row, _ in counted], dtype=np.intp)
        values = np.array([value for _, value in counted], dtype=np.float64)
        size = len(self.place)
        return np.column_stack([np.bincount(rows, values, size), np.bincount(rows, minlength=size)]).astype(np.float64)


def _interval(values: NDArray[np.float64]) -> Interval | None:
    """The first value is the point, the others are the resamples."""
    if np.isnan(values[0]):
        return None
    tail = (1 - LEVEL) / 2
    drawn = values[~np.isnan(values)]  # the sample itself is among them, so there is always one
    low, high = np.quantile(drawn[1:] if len(drawn) > 1 else drawn, [tail, 1 - tail])
    return Interval(float(values[0]), float(low), float(high))
