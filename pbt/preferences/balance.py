"""Splits and regimes: which pairs leak or repeat, and which ones each regime trains on (method, section 5).

All of it is decided by hashes of content, never by position: neither the order of files nor more trees ever move a
question to another split, and a trimmed regime is a seeded sample of its pairs. Works on an *index*, one small record
a pair, so that the pairs themselves stay on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import orjson

from pbt.config import REGIMES, Regime
from pbt.debate.answers import normalise
from pbt.errors import BadInput
from pbt.preferences.pairs import CODES, SPLITS, Pair
from pbt.questions import Split

INDEX = np.dtype(
    [
        ("start", "u8"),  # where the pair's line begins
        ("size", "u4"),  # its bytes, newline included
        ("texts", "u8"),  # seeded hash of what makes two pairs duplicates; the order of samples too
        ("pair_id", "u8"),
        ("question", "u8"),  # hashes of the normalised question and gold value
        ("gold", "u8"),
        ("code", "u1"),  # places in CODES and SPLITS
        ("split", "u1"),
        ("chosen_words", "u4"),
        ("rejected_words", "u4"),
    ]
)
"""One record a pair, 54 bytes. Among a million pairs two hashes of 64 bits collide once in 40 million builds."""

Index = npt.NDArray[np.void]
Positions = npt.NDArray[np.intp]
Regimes = dict[Regime, dict[Split, Positions]]
"""Positions in the index, in a seeded order."""


def entry(pair: Pair, size: int, seed: int) -> tuple[int, ...]:
    """The index record of a pair whose line has ``size`` bytes; ``start`` is 0."""
    return (
        0,
        size,
        _hash("sample", str(seed), *pair.texts),
        _hash(pair.pair_id),
        _hash(normalise(pair.question)),
        _hash(normalise(pair.gold)),
        CODES.index(pair.code),
        SPLITS.index(pair.split),
        len(pair.chosen[0]["content"].split()),
        len(pair.rejected[0]["content"].split()),
    )


def firsts(index: Index) -> Positions:
    """For each pair the position of the first one with its texts: its own unless it is a duplicate."""
    _, first, which = np.unique(index["texts"], return_index=True, return_inverse=True)
    return first[which]


def crossing(index: Index, field: Literal["question", "gold"] = "question") -> npt.NDArray[np.bool_]:
    """Which pairs have a question (or gold value) that stands in more than one split.

    For questions that happens where one was written down twice with different gold values.
    """
    values, which = np.unique(index[field], return_inverse=True)
    homes = np.zeros(len(values), dtype=np.uint8)
    np.bitwise_or.at(homes, which, np.left_shift(1, index["split"], dtype=np.uint8))
    several = (homes & (homes - 1)) != 0  # more than one bit
    return np.asarray(several[which])


def check_leakage(index: Index, read: Callable[[int], bytes]) -> None:
    """Raise BadInput when a question or a gold value stands in more than one split. ``read`` gives a pair's line."""
    fields: tuple[Literal["question", "gold"], ...] = ("question", "gold")
    for field in fields:
        (places,) = np.nonzero(crossing(index, field))
        if len(places):
            value = orjson.loads(read(int(places[0])))[field]
            raise BadInput(
                f"pairs: {field} '{value}' stands in more than one split ({len(places)} pairs cross in all); "
                "split by gold value, and drop the pairs of questions that have several"
            )


def balance(index: Index, size: Literal["equal", "max"]) -> Regimes:
    """The pairs of each regime and split.

    With m the number of pairs of the rarer code in a split: train holds m pairs of its side in the single-sided
    regimes, and floor(m / 2) of each (``size="max"``: m of each) in ``balanced``; valid and test hold m of each, the
    same ones in all regimes.
    """
    shuffled = np.argsort(index["texts"], kind="stable")
    regimes: Regimes = {regime: {} for regime in REGIMES}
    for place, split in enumerate(SPLITS):
        here = shuffled[index["split"][shuffled] == place]
        accept, resist = (here[index["code"][here] == code] for code in range(len(CODES)))
        m = min(len(accept), len(resist))
        both = m if split != "train" or size == "max" else m // 2
        taken = np.concatenate((accept[:both], resist[:both]))
        mixed = taken[np.argsort(index["texts"][taken], kind="stable")]
        regimes["accept"][split] = accept[:m] if split == "train" else mixed
        regimes["resist"][split] = resist[:m] if split == "train" else mixed
        regimes["balanced"][split] = mixed
    return regimes


def _hash(*texts: str) -> int:
    return int.from_bytes(hashlib.blake2b("\x1f".join(texts).encode(), digest_size=8).digest())
