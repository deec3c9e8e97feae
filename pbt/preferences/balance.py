"""Splits and regimes: where a question belongs, and which pairs each regime trains on (method, section 5).

Both are decided by seeded hashes of content, never by position: neither the order of files nor more trees ever move
a question to another split, and a trimmed regime is a seeded sample of its pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

from pbt.config import REGIMES, Regime
from pbt.debate.answers import normalise
from pbt.errors import BadInput
from pbt.preferences.pairs import SPLITS, Pair, Split

Regimes = dict[Regime, dict[Split, list[Pair]]]


def split_of(gold: str, shares: tuple[float, float, float], seed: int) -> Split:
    """The split of every question with this gold value. ``shares`` are those of train, valid and test."""
    place = int.from_bytes(_hash("split", seed, normalise(gold))) / 2**64
    if place < shares[0]:
        return "train"
    return "valid" if place < shares[0] + shares[1] else "test"


def balance(pairs: Sequence[Pair], size: Literal["equal", "max"], seed: int) -> Regimes:
    """The pairs of each regime and split, in a seeded order.

    With m the number of pairs of the rarer code in a split: train holds m pairs of its side in the single-sided
    regimes, and floor(m / 2) of each (``size="max"``: m of each) in ``balanced``; valid and test hold m of each, the
    same ones in all regimes.
    """
    order = {pair.pair_id: _hash("sample", seed, *pair.texts) for pair in pairs}
    shuffled = sorted(pairs, key=lambda pair: order[pair.pair_id])
    regimes: Regimes = {regime: {} for regime in REGIMES}
    for split in SPLITS:
        accept = [pair for pair in shuffled if pair.split == split and pair.code == "accept"]
        resist = [pair for pair in shuffled if pair.split == split and pair.code == "resist"]
        m = min(len(accept), len(resist))
        both = m if split != "train" or size == "max" else m // 2
        mixed = sorted(accept[:both] + resist[:both], key=lambda pair: order[pair.pair_id])
        regimes["accept"][split] = accept[:m] if split == "train" else mixed
        regimes["resist"][split] = resist[:m] if split == "train" else mixed
        regimes["balanced"][split] = mixed
    return regimes


def crossing_questions(pairs: Iterable[Pair]) -> set[str]:
    """The questions (normalised texts) that stand in more than one split.

    It happens only where one question was written down twice with different gold values.
    """
    return _crossing((normalise(pair.question), pair.split) for pair in pairs)


def check_leakage(pairs: Sequence[Pair]) -> None:
    """Raise BadInput when a question or a gold value stands in more than one split."""
    for kind, found in (
        ("question", crossing_questions(pairs)),
        ("gold value", _crossing((normalise(pair.gold), pair.split) for pair in pairs)),
    ):
        if found:
            raise BadInput(
                f"pairs: {kind} '{min(found)}' stands in more than one split ({len(found)} in all); "
                "split by gold value, and drop the pairs of questions that have several"
            )


def _crossing(places: Iterable[tuple[str, Split]]) -> set[str]:
    homes: dict[str, Split] = {}
    return {value for value, split in places if homes.setdefault(value, split) != split}


def _hash(purpose: str, seed: int, *texts: str) -> bytes:
    whole = "\x1f".join((purpose, str(seed), *texts))
    return hashlib.blake2b(whole.encode(), digest_size=8).digest()
