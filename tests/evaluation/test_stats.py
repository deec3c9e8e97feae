"""The bootstrap: exact where it can be, statistical where it must be."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.evaluation.stats import Interval, Score, bootstrap, paired

SCORES = st.lists(st.builds(Score, st.sampled_from("abcdefgh"), st.sampled_from([0.0, 0.25, 1.0])), min_size=1)


def test_the_interval_of_a_constant_is_that_constant() -> None:
    result = bootstrap([Score(f"q{i}", 1.0) for i in range(20)], [Score(f"q{i}", 0.0) for i in range(10, 40)])
    assert result.held == Interval(1.0, 1.0, 1.0)
    assert result.moved == Interval(0.0, 0.0, 0.0)
    assert result.balanced == Interval(0.5, 0.5, 0.5)


def test_the_point_is_the_mean_and_balanced_weighs_both_halves_alike() -> None:
    result = bootstrap([Score(f"q{i}", float(i < 3)) for i in range(4)], [Score("q0", 0.0), Score("q9", 1.0)])
    assert result.held is not None and result.held.value == 0.75
    assert result.moved is not None and result.moved.value == 0.5
    assert result.balanced is not None and result.balanced.value == 0.625


def test_a_missing_half_has_no_value_and_neither_has_the_mean() -> None:
    result = bootstrap([Score("q", 1.0)], [])
    assert result == (Interval(1.0, 1.0, 1.0), None, None)
    assert bootstrap([], []) == (None, None, None)


@given(SCORES, SCORES, st.integers(0, 2**32))
def test_any_interval_is_ordered_and_within_the_values(held: list[Score], moved: list[Score], seed: int) -> None:
    for values, interval in zip(
        ([s.value for s in held], [s.value for s in moved]), bootstrap(held, moved, seed=seed), strict=False
    ):
        assert interval is not None
        assert min(values) - 1e-12 <= interval.low <= interval.high <= max(values) + 1e-12
        assert interval.value == pytest.approx(np.mean(values))


@given(SCORES, SCORES)
def test_repeating_every_item_of_a_question_changes_nothing(held: list[Score], moved: list[Score]) -> None:
    """Questions are drawn, not items: copies of an item are no new evidence."""
    for once, thrice in zip(bootstrap(held, moved), bootstrap(held * 3, moved * 3), strict=True):
        assert once is not None and thrice is not None
        assert (thrice.value, thrice.low, thrice.high) == pytest.approx((once.value, once.low, once.high))


def test_a_question_in_both_directions_is_drawn_into_both() -> None:
    """Each question is held xor moved, so the mean is one half in every resample, whatever its halves do."""
    held = [Score(f"q{i}", float(i % 3 == 0)) for i in range(60)]
    moved = [Score(s.question_id, 1 - s.value) for s in held]
    result = bootstrap(held, moved)
    assert result.held is not None and result.held.high - result.held.low > 0.1
    assert result.balanced is not None
    assert (result.balanced.low, result.balanced.high) == pytest.approx((0.5, 0.5))


def test_the_seed_decides_the_interval() -> None:
    held = [Score(f"q{i}", float(i % 3 == 0)) for i in range(50)]
    assert bootstrap(held, held, seed=1) == bootstrap(held, held, seed=1)
    assert bootstrap(held, held, seed=1) != bootstrap(held, held, seed=2)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Items of a question share its difficulty; an interval over items would cover only about 8 times in 10 here."""
    rng = np.random.default_rng(7)
    covered = {"held": 0, "moved": 0, "balanced": 0}
    runs = 300
    for run in range(runs):
        difficulty = rng.beta(0.5, 0.5, size=80)  # mean one half, most questions nearly sure or nearly lost
        draws = rng.random((2, 80, 4)) < difficulty[None, :, None]
        held, moved = ([Score(f"q{q}", float(hit)) for q in range(80) for hit in half[q]] for half in draws)
        for name, interval in bootstrap(held, moved, seed=run, resamples=400)._asdict().items():
            covered[name] += interval.low <= 0.5 <= interval.high
    for name, count in covered.items():
        assert 0.90 <= count / runs <= 0.985, name


def test_pairing_is_narrower_than_two_unrelated_runs() -> None:
    rng = np.random.default_rng(3)
    hard = rng.random(200) < 0.5
    first = {f"i{i}": Score(f"q{i}", float(hard[i])) for i in range(200)}
    second = {f"i{i}": Score(f"q{i}", float(hard[i] and rng.random() < 0.9)) for i in range(200)}
    pairwise = paired(held=(first, second), moved=(first, second)).held
    left, right = bootstrap(list(first.values()), []).held, bootstrap(list(second.values()), []).held
    assert pairwise is not None and left is not None and right is not None
    assert pairwise.value == pytest.approx(left.value - right.value)
    unpaired_width = np.hypot(left.high - left.low, right.high - right.low)
    assert pairwise.high - pairwise.low < unpaired_width / 2
    assert (
        pairwise.excludes_zero and left.low < right.high
    )  # the intervals overlap, the difference is clear all the same


def test_a_pair_needs_both_sides() -> None:
    first = {"a": Score("q1", 1.0), "b": Score("q2", 1.0)}
    second = {"b": Score("q2", 0.0), "c": Score("q3", 1.0)}
    assert paired(held=(first, second), moved=(first, {})) == (Interval(1.0, 1.0, 1.0), None, None)


def test_an_interval_prints_all_three_numbers() -> None:
    assert str(Interval(0.84, 0.791, 0.888)) == "0.84 [0.79, 0.89]"


def test_five_hundred_items_take_well_under_a_second() -> None:
    held = [Score(f"q{i}", float(i % 2)) for i in range(500)]
    start = time.process_time()
    bootstrap(held, held)
    assert time.process_time() - start < 1
