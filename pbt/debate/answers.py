"""Answers: what a turn claims, what each seat currently holds, and whether it is right.

A turn's *claim* is the text extracted from it: a short answer or one of the tokens Agree, Disagree, NONE.
A *state* is the answers that the seats currently hold, by seat, after every token has been resolved, so a state never
holds Agree or Disagree. An empty slot is ``None``; ``NONE`` ("gave no answer") fills a slot.
"""

from __future__ import annotations

import string
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

AGREE = "Agree"
DISAGREE = "Disagree"
NONE = "NONE"
_TOKENS = {"agree": AGREE, "disagree": DISAGREE, "none": NONE}

_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
_ARTICLES = {"a", "an", "the"}

State = tuple[str | None, ...]


@lru_cache(maxsize=1 << 14)  # the same few answers are compared over and over within a tree
def normalise(text: str) -> str:
    """The TriviaQA normal form: lower-case, punctuation to spaces, articles dropped, spaces collapsed."""
    words = text.lower().translate(_TO_SPACE).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def read_claim(text: str) -> str:
    """Clean an extracted answer: cut from "(" on, strip, and recognise the three tokens.

    A token is recognised only when the whole normal form is the token: "Agreement Treaty" is an answer.
    Returns "" when nothing is left.
    """
    claim = text.split("(", 1)[0].strip()
    return _TOKENS.get(normalise(claim), claim)


def resolve(claim: str, seat: int, parent: State, partner: int) -> State:
    """The state after ``seat`` made ``claim`` in a debate that stood at ``parent``.

    Agree takes the current answer of ``partner``, the seat that it replies to; Disagree keeps the speaker's own; where
    there is nothing to take, and for an empty claim, the slot is empty.
    """
    held: str | None
    if claim == AGREE:
        held = parent[partner]
    elif claim == DISAGREE:
        held = parent[seat]
    else:
        held = claim or None
    return (*parent[:seat], held, *parent[seat + 1 :])


def contains(one: str, other: str) -> bool:
    """Whether two *normalised* answers are the same by containment: one holds the other and 3 * short > long.

    "none" as a token must be excluded by the caller; an empty answer is contained in nothing.
    """
    short, long = sorted((one, other), key=len)
    return short in long and 3 * len(short) > len(long)


def same_answer(one: str | None, other: str | None) -> bool:
    """Whether two resolved answers are equal: both filled, neither NONE, equal after normalisation or contained."""
    if one is None or other is None or NONE in (one, other):
        return False
    left, right = normalise(one), normalise(other)
    if not left or not right:
        return False
    return left == right or contains(left, right)


def unanimous(state: State) -> bool:
    """Whether all seats hold the same answer."""
    return all(same_answer(state[0], other) for other in state[1:])


class Correctness(NamedTuple):
    """Which seats' answers are right in one state of a debate between two."""

    seat0: bool
    seat1: bool

    @property
    def right(self) -> int:
        """How many of the two are right: 0, 1 or 2."""
        return self.seat0 + self.seat1


def correctness(state: State, aliases: Collection[str]) -> Correctness | None:
    """Which answers of a state of two seats are right; ``None`` while a slot is empty.

    ``aliases`` are the question's *normalised* aliases. If the two answers are the same by containment and either
    is gold, both are right. NONE is never right.
    """
    one, other = state
    if one is None or other is None:
        return None
    right = Correctness(is_right(one, aliases), is_right(other, aliases))
    return Correctness(True, True) if right.right == 1 and same_answer(one, other) else right


def is_right(answer: str | None, aliases: Collection[str]) -> bool:
    """Whether one resolved answer alone is right."""
    return answer is not None and answer != NONE and normalise(answer) in aliases
