"""The order of the pairs: a function of seed and epoch, in batches of like length."""

import random
from itertools import pairwise

from pbt.training.trainers import SeededOrder

LENGTHS = [random.Random(place).randrange(20, 200) for place in range(403)]


def padding(order: list[int], batch: int) -> int:
    """Tokens of padding over one epoch."""
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    return sum(max(LENGTHS[i] for i in one) * len(one) - sum(LENGTHS[i] for i in one) for one in batches)


def test_every_pair_comes_once_an_epoch_and_epochs_differ() -> None:
    for lengths in (LENGTHS, None):
        order = SeededOrder(403, 8, seed=1, lengths=lengths)
        first = list(order)
        assert sorted(first) == list(range(403)) == sorted(set(first))
        assert first == list(order), "asked again, the same"
        order.set_epoch(1)
        second = list(order)
        assert sorted(second) == list(range(403)) and second != first
        resumed = SeededOrder(403, 8, seed=1, lengths=lengths)
        resumed.set_epoch(1)
        assert list(resumed) == second, "whatever came before"
        assert list(SeededOrder(403, 8, seed=2, lengths=lengths)) != first


def test_batches_are_of_like_length_and_come_in_no_order_of_length() -> None:
    order = list(SeededOrder(403, 8, seed=1, lengths=LENGTHS))
    assert padding(order, 8) < 0.2 * padding(list(SeededOrder(403, 8, seed=1)), 8)
    longest = [max(LENGTHS[i] for i in order[start : start + 8]) for start in range(0, 400, 8)]
    falls = sum(one > other for one, other in pairwise(longest))
    assert 10 < falls < 40, "neither rising nor falling throughout"


def test_fewer_pairs_than_a_batch_holds() -> None:
    assert sorted(SeededOrder(3, 8, seed=1, lengths=LENGTHS)) == [0, 1, 2]
