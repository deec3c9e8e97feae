"""Intervals for balanced accuracy: a percentile bootstrap over questions.

Items of one question share its difficulty, so the question, not the item, is what is drawn. With Q questions, one
resample draws Q of them with replacement; let w_q be how often question q was drawn, s_q the sum and n_q the number of
the values of its items in one direction. Then, for each resample,

    held*     = sum_q w_q s_q / sum_q w_q n_q      over the held items; moved* likewise over the moved items
    balanced* = (held* + moved*) / 2               from the same draw, so a question in both directions counts in both

and the 95% interval runs from the 2.5th to the 97.5th percentile of the resampled values. A resample that drew no
item of a direction has no value there and is left out. The point is the same formula with every w_q = 1.

Two models on the same items: each item's value is the difference of the two models' values. The formulas stay, and
what makes an item hard for both cancels, so the interval is narrower than that of two unrelated runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95


class Score(NamedTuple):
    """The value of one item: its share of right replies, or a difference of two such shares."""

    question_id: str
    value: float


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


class Balance(NamedTuple):
    """Both halves and their mean; ``None`` where a half has no items (then the mean is ``None`` too)."""

    held: Interval | None
    moved: Interval | None
    balanced: Interval | None


def bootstrap(held: Sequence[Score], moved: Sequence[Score], *, seed: int = 0, resamples: int = RESAMPLES) -> Balance:
    """Point estimates and 95% intervals of held, moved and balanced; see the module for the formulas."""
    ids = sorted({score.question_id for score in (*held, *moved)})
    place = {question_id: index for index, question_id in enumerate(ids)}
    if not ids:
        return Balance(None, None, None)
    totals = np.hstack([_totals(held, place), _totals(moved, place)])
    drawn = np.random.default_rng(seed).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=resamples)
    # The first row is the sample itself: every question once.
    sums = np.vstack([np.ones(len(ids)), drawn]) @ totals
    with np.errstate(invalid="ignore"):  # 0 / 0: no item of that direction was drawn
        held_values = sums[:, 0] / sums[:, 1]
        moved_values = sums[:, 2] / sums[:, 3]
    return Balance(_interval(held_values), _interval(moved_values), _interval((held_values + moved_values) / 2))


def paired(
    held: tuple[Mapping[str, Score], Mapping[str, Score]],
    moved: tuple[Mapping[str, Score], Mapping[str, Score]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Balance:
    """The difference, first model minus second, over the items that both have; scores are by item id."""
    return bootstrap(_differences(*held), _differences(*moved), seed=seed, resamples=resamples)


def _differences(first: Mapping[str, Score], second: Mapping[str, Score]) -> list[Score]:
    return [
        Score(score.question_id, score.value - second[item_id].value)
        for item_id, score in first.items()
        if item_id in second
    ]


def _totals(scores: Sequence[Score], place: Mapping[str, int]) -> NDArray[np.float64]:
    """Sum and number of the values, one row a question."""
    rows = np.array([place[score.question_id] for score in scores], dtype=np.intp)
    values = np.array([score.value for score in scores], dtype=np.float64)
    return np.column_stack(
        [np.bincount(rows, values, minlength=len(place)), np.bincount(rows, minlength=len(place))]
    ).astype(np.float64)


def _interval(values: NDArray[np.float64]) -> Interval | None:
    """The first value is the point, the others are the resamples."""
    if np.isnan(values[0]):
        return None
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(values[1:], [tail, 1 - tail])
    return Interval(float(values[0]), float(low), float(high))
