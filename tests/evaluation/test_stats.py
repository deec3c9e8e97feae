"""The bootstrap: exact where it can be, statistical where it must be."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from pbt.evaluation.stats import (
    Interval,
    Mean,
    Metric,
    Score,
    average,
    differences,
    fewest_questions,
    intervals,
    scored,
)

SCORES = st.lists(st.builds(Score, st.sampled_from("abcdefgh"), st.sampled_from([0.0, 0.25, 1.0])), min_size=1)


def metric(scores: Sequence[Score] | Mapping[str, Score]) -> Metric:
    named = scores if isinstance(scores, Mapping) else {f"i{n}": score for n, score in enumerate(scores)}
    return Metric("m", (Mean(named),))


def balance(held: Sequence[Score], moved: Sequence[Score]) -> dict[str, Metric]:
    halves = {"held": metric(held), "moved": metric(moved)}
    return {**halves, "balanced": average(list(halves.values()), "balanced")}


def test_the_interval_of_a_constant_is_that_constant() -> None:
    found = intervals(balance([Score(f"q{i}", 1.0) for i in range(20)], [Score(f"q{i}", 0.0) for i in range(10, 40)]))
    assert found == {"held": Interval(1, 1, 1), "moved": Interval(0, 0, 0), "balanced": Interval(0.5, 0.5, 0.5)}


def test_the_point_is_the_mean_and_an_average_weighs_its_parts_alike() -> None:
    found = intervals(balance([Score(f"q{i}", float(i < 3)) for i in range(4)], [Score("q0", 0.0), Score("q9", 1.0)]))
    assert {key: i.value for key, i in found.items() if i} == {"held": 0.75, "moved": 0.5, "balanced": 0.625}


def test_a_missing_half_has_no_value_and_neither_has_the_mean() -> None:
    assert intervals(balance([Score("q", 1.0)], [])) == {"held": Interval(1, 1, 1), "moved": None, "balanced": None}
    assert intervals(balance([], [])) == {"held": None, "moved": None, "balanced": None}


def test_an_item_that_does_not_count_is_no_part_of_the_mean() -> None:
    counted = [Score("q0", 1.0), Score("q1", 0.0)]
    assert intervals({"m": metric([*counted, Score("q1", None)])})["m"] == intervals({"m": metric(counted)})["m"]
    assert metric([*counted, Score("q2", None)]).items == 2


def test_samples_of_an_item_are_averaged_as_far_as_they_count() -> None:
    rows = [("a", "q", 1.0), ("a", "q", 0.0), ("a", "q", None), ("b", "q", None)]
    assert scored(rows, lambda r: (r[0], r[1]), lambda r: r[2]) == {"a": Score("q", 0.5), "b": Score("q", None)}


def test_intervals_are_those_of_scipy() -> None:
    """The same percentile bootstrap over questions, by the library, on questions with several items each."""
    rng = np.random.default_rng(5)
    rows = [(q, float(rng.random() < difficulty)) for q, difficulty in enumerate(rng.random(60)) for _ in range(3)]
    ours = intervals({"m": metric([Score(f"q{q}", value) for q, value in rows])}, resamples=9999)["m"]
    sums = np.array([sum(v for p, v in rows if p == q) for q in range(60)])
    counts = np.full(60, 3.0)
    theirs = bootstrap(
        (sums, counts),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


@given(SCORES, SCORES, st.integers(0, 2**32))
def test_any_interval_is_ordered_and_within_the_values(held: list[Score], moved: list[Score], seed: int) -> None:
    found = intervals(balance(held, moved), seed=seed, resamples=200)
    for scores, key in ((held, "held"), (moved, "moved")):
        values = [score.value for score in scores if score.value is not None]
        interval = found[key]
        assert interval is not None
        assert min(values) - 1e-12 <= interval.low <= interval.high <= max(values) + 1e-12
        assert interval.value == pytest.approx(np.mean(values))


@given(SCORES)
def test_repeating_every_item_of_a_question_changes_nothing(scores: list[Score]) -> None:
    """Questions are drawn, not items: copies of an item are no new evidence."""
    once, thrice = (intervals({"m": metric(scores * times)}, resamples=200)["m"] for times in (1, 3))
    assert once is not None and thrice is not None
    assert (thrice.value, thrice.low, thrice.high) == pytest.approx((once.value, once.low, once.high))


def test_a_question_in_both_directions_is_drawn_into_both() -> None:
    """Each question is held xor moved, so the mean is one half in every resample, whatever its halves do."""
    held = [Score(f"q{i}", float(i % 3 == 0)) for i in range(60)]
    found = intervals(balance(held, [Score(q, 1 - v) for q, v in held if v is not None]))
    assert found["held"] is not None and found["held"].high - found["held"].low > 0.1
    assert found["balanced"] is not None
    assert (found["balanced"].low, found["balanced"].high) == pytest.approx((0.5, 0.5))


def test_the_seed_decides_the_interval() -> None:
    scores = {"m": metric([Score(f"q{i}", float(i % 3 == 0)) for i in range(50)])}
    assert intervals(scores, seed=1) == intervals(scores, seed=1) != intervals(scores, seed=2)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Items of a question share its difficulty; an interval over items would cover only about 8 times in 10 here."""
    rng = np.random.default_rng(7)
    covered = {"held": 0, "moved": 0, "balanced": 0}
    runs = 300
    for run in range(runs):
        difficulty = rng.beta(0.5, 0.5, size=80)  # mean one half, most questions nearly sure or nearly lost
        draws = rng.random((2, 80, 4)) < difficulty[None, :, None]
        held, moved = ([Score(f"q{q}", float(hit)) for q in range(80) for hit in half[q]] for half in draws)
        for name, interval in intervals(balance(held, moved), seed=run, resamples=400).items():
            covered[name] += interval is not None and interval.low <= 0.5 <= interval.high
    for name, count in covered.items():
        assert 0.90 <= count / runs <= 0.985, name


def test_pairing_is_narrower_than_two_unrelated_runs() -> None:
    rng = np.random.default_rng(3)
    hard = rng.random(200) < 0.5
    first = {"m": metric({f"i{i}": Score(f"q{i}", float(hard[i])) for i in range(200)})}
    second = {"m": metric({f"i{i}": Score(f"q{i}", float(hard[i] and rng.random() < 0.9)) for i in range(200)})}
    between = differences(first, second)["m"]
    left, right = intervals(first)["m"], intervals(second)["m"]
    assert between is not None and left is not None and right is not None
    assert between.value == pytest.approx(left.value - right.value)
    assert between.high - between.low < np.hypot(left.high - left.low, right.high - right.low) / 2
    # The intervals overlap, the difference is clear all the same.
    assert between.excludes_zero and left.low < right.high


def test_only_items_that_both_have_are_compared() -> None:
    first = {"m": metric({"a": Score("q1", 1.0), "b": Score("q2", 1.0)}), "only": metric({"a": Score("q1", 1.0)})}
    second = {"m": metric({"b": Score("q2", 0.0), "c": Score("q3", 1.0)})}
    assert differences(first, second) == {"m": Interval(1.0, 1.0, 1.0)}
    assert differences(first, {"m": metric({})}) == {"m": None}


def test_where_the_model_decides_what_counts_each_keeps_its_denominator() -> None:
    """One of two right answers lost, against one of one: 1/2 - 1, though only one item counts for both."""
    first = metric({"a": Score("q1", 1.0), "b": Score("q2", 0.0)})
    second = metric({"a": Score("q1", 1.0), "b": Score("q2", None)})
    between = differences({"m": first}, {"m": second})["m"]
    assert between is not None and between.value == -0.5


def test_the_fewest_questions_are_of_the_smallest_mean_over_all_seeds() -> None:
    one = balance([Score("a", 1.0), Score("a", 0.0), Score("b", None)], [Score("c", 1.0), Score("d", 1.0)])["balanced"]
    other = balance([Score("b", 1.0), Score("e", 0.0)], [])["balanced"]
    assert fewest_questions([one]) == 1
    assert fewest_questions([one, other]) == 2


def test_an_interval_prints_all_three_numbers() -> None:
    assert str(Interval(0.84, 0.791, 0.888)) == "0.84 [0.79, 0.89]"


def test_a_hundred_metrics_of_five_hundred_items_take_about_a_second() -> None:
    one = metric([Score(f"q{i}", float(i % 2)) for i in range(500)])
    start = time.process_time()
    intervals({str(n): one for n in range(100)})
    assert time.process_time() - start < 3
