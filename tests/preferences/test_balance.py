"""Splits and regimes, section 5."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Literal

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import BadInput
from pbt.preferences.balance import INDEX, Index, balance, check_leakage, crossing, entry, firsts
from pbt.preferences.pairs import CODES, SPLITS, Code, Pair
from pbt.questions import Split, split_of

SHARES = (0.70, 0.15, 0.15)


def a_pair(number: int, code: Code, split: Split, question: str = "", gold: str = "") -> Pair:
    return Pair(
        pair_id=f"tree{number}/3-4",
        tree_id=f"tree{number}",
        question_id=f"tree{number}",
        question=question or f"Which is number {number}?",
        gold=gold or f"Number {number}",
        aliases=[f"number {number}"],
        code=code,
        split=split,
        own_turn=1,
        context_turn=2,
        chosen_turn=3,
        rejected_turn=4,
        score_chosen=2,
        score_rejected=1,
        own_answer="x",
        partner_before="y",
        partner_answer="y",
        chosen_answer="y",
        rejected_answer="x",
        copied_turns=[],
        context_persona="logical",
        chosen_persona="acceptant",
        rejected_persona="resistant",
        rules="intended",
        rule="",
        chosen_stance=None,
        chosen_log_odds=None,
        rejected_stance=None,
        rejected_log_odds=None,
        prompt=[{"role": "user", "content": f"Which is number {number}?"}],
        chosen=[{"role": "assistant", "content": "y"}],
        rejected=[{"role": "assistant", "content": "x"}],
    )


def some_pairs(counts: dict[tuple[Split, Code], int]) -> list[Pair]:
    places = [place for place, count in counts.items() for _ in range(count)]
    return [a_pair(number, code, split) for number, (split, code) in enumerate(places)]


def index_of(pairs: Sequence[Pair], seed: int = 0) -> Index:
    return np.array([entry(pair, 1, seed) for pair in pairs], dtype=INDEX)


def balanced(pairs: Sequence[Pair], size: Literal["equal", "max"], seed: int) -> dict[str, dict[Split, list[Pair]]]:
    """The regimes as pairs instead of places."""
    regimes = balance(index_of(pairs, seed), size)
    return {
        regime: {split: [pairs[place] for place in places] for split, places in splits.items()}
        for regime, splits in regimes.items()
    }


def leaks(pairs: Sequence[Pair]) -> None:
    check_leakage(index_of(pairs), lambda place: orjson.dumps(pairs[place]))


def codes(pairs: Sequence[Pair]) -> tuple[int, int]:
    found = Counter(pair.code for pair in pairs)
    return found["accept"], found["resist"]


def test_a_gold_value_has_one_split_however_it_is_written() -> None:
    for number in range(200):
        written = (f"The Gold {number}", f"gold {number}", f"  GOLD, {number}! ", f"a gold_{number}")
        assert len({split_of(gold, SHARES, seed=1) for gold in written}) == 1


def test_splits_come_out_in_their_shares_and_depend_on_the_seed() -> None:
    golds = [f"gold {number}" for number in range(20_000)]
    ones = [split_of(gold, SHARES, seed=1) for gold in golds]
    counts = Counter(ones)
    # Five standard deviations of a binomial share of 20,000.
    assert counts["train"] / 20_000 == pytest.approx(0.70, abs=0.017)
    assert counts["valid"] / 20_000 == pytest.approx(0.15, abs=0.013)
    assert counts["test"] / 20_000 == pytest.approx(0.15, abs=0.013)
    assert ones != [split_of(gold, SHARES, seed=2) for gold in golds]


def test_all_regimes_hold_as_many_training_pairs() -> None:
    pairs = some_pairs(
        {
            ("train", "accept"): 10,
            ("train", "resist"): 6,
            ("valid", "accept"): 2,
            ("valid", "resist"): 3,
            ("test", "accept"): 4,
            ("test", "resist"): 1,
        }
    )
    regimes = balanced(pairs, "equal", seed=0)
    assert codes(regimes["accept"]["train"]) == (6, 0)
    assert codes(regimes["resist"]["train"]) == (0, 6)
    assert codes(regimes["balanced"]["train"]) == (3, 3)
    for regime in regimes.values():
        assert codes(regime["valid"]) == (2, 2)
        assert codes(regime["test"]) == (1, 1)


def test_an_odd_number_leaves_balanced_one_short() -> None:
    regimes = balanced(some_pairs({("train", "accept"): 7, ("train", "resist"): 9}), "equal", seed=0)
    assert codes(regimes["accept"]["train"]) == (7, 0)
    assert codes(regimes["resist"]["train"]) == (0, 7)
    assert codes(regimes["balanced"]["train"]) == (3, 3)


def test_size_max_gives_balanced_all_of_the_rarer_side_twice() -> None:
    regimes = balanced(some_pairs({("train", "accept"): 7, ("train", "resist"): 9}), "max", seed=0)
    assert codes(regimes["accept"]["train"]) == (7, 0)
    assert codes(regimes["resist"]["train"]) == (0, 7)
    assert codes(regimes["balanced"]["train"]) == (7, 7)


def test_trimming_is_a_seeded_sample_and_not_the_first_ones() -> None:
    pairs = some_pairs({("train", "accept"): 40, ("train", "resist"): 10})
    kept = [pair.pair_id for pair in balanced(pairs, "equal", seed=0)["accept"]["train"]]
    again = [pair.pair_id for pair in balanced(pairs, "equal", seed=0)["accept"]["train"]]
    other = [pair.pair_id for pair in balanced(pairs, "equal", seed=1)["accept"]["train"]]
    assert kept == again
    assert set(kept) != set(other)
    assert set(kept) != {pair.pair_id for pair in pairs[:10]}


places = st.lists(st.tuples(st.sampled_from(SPLITS), st.sampled_from(CODES)), max_size=40)
sizes: st.SearchStrategy[Literal["equal", "max"]] = st.sampled_from(("equal", "max"))


@given(places, sizes, st.integers(0, 5), st.randoms(use_true_random=False))
def test_regimes_are_equal_whatever_the_pairs_and_their_order(
    found: list[tuple[Split, Code]], size: Literal["equal", "max"], seed: int, shuffling: Random
) -> None:
    pairs = [a_pair(number, code, split) for number, (split, code) in enumerate(found)]
    regimes = balanced(pairs, size, seed)

    m = min(codes([pair for pair in pairs if pair.split == "train"]))
    half = m if size == "max" else m // 2
    assert codes(regimes["accept"]["train"]) == (m, 0)
    assert codes(regimes["resist"]["train"]) == (0, m)
    assert codes(regimes["balanced"]["train"]) == (half, half)
    for split in ("valid", "test"):
        most = min(codes([pair for pair in pairs if pair.split == split]))
        assert codes(regimes["balanced"][split]) == (most, most)
        assert regimes["accept"][split] == regimes["resist"][split] == regimes["balanced"][split]
    for splits in regimes.values():
        for split, held in splits.items():
            assert all(pair.split == split for pair in held)
            assert len({pair.pair_id for pair in held}) == len(held)

    shuffled = list(pairs)
    shuffling.shuffle(shuffled)
    assert balanced(shuffled, size, seed) == regimes


def test_leakage_of_a_question_is_refused() -> None:
    pairs = [
        a_pair(0, "accept", "train", question="Who wrote the Iliad?", gold="Homer"),
        a_pair(1, "accept", "test", question="who wrote Iliad", gold="Homeros"),
        a_pair(2, "accept", "test"),
    ]
    assert crossing(index_of(pairs), "question").tolist() == [True, True, False]
    with pytest.raises(BadInput, match=r"question 'Who wrote the Iliad\?' stands in more than one split"):
        leaks(pairs)


def test_leakage_of_a_gold_value_is_refused() -> None:
    pairs = [
        a_pair(0, "accept", "train", question="Who wrote the Iliad?", gold="Homer"),
        a_pair(1, "accept", "valid", question="Who wrote the Odyssey?", gold="HOMER"),
    ]
    with pytest.raises(BadInput, match="gold 'Homer' stands in more than one split"):
        leaks(pairs)


def test_one_split_for_each_question_is_no_leakage() -> None:
    leaks([a_pair(0, "accept", "train"), a_pair(0, "resist", "train"), a_pair(1, "accept", "test")])
    leaks([])


def test_a_duplicate_has_code_chosen_rejected_and_context_in_common() -> None:
    pair = a_pair(0, "accept", "train")
    said = [{"role": "assistant", "content": "z"}]
    pairs = [
        pair,
        replace(pair, code="resist"),
        replace(pair, chosen=said),
        replace(pair, rejected=said),
        replace(pair, prompt=[*pair.prompt, *said]),
        replace(pair, pair_id="tree7/5-6", tree_id="tree7", score_chosen=1),
        pair,
    ]
    assert firsts(index_of(pairs)).tolist() == [0, 1, 2, 3, 4, 0, 0]
