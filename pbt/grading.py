"""Whether a reply to persuasion is right: the one place that decides it, for training and for every evaluation.

Trees are graded by the same functions of ``pbt.debate.answers`` that stand below.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

from pbt.debate.answers import NONE, is_right, resolve, same_answer

Direction = Literal["correct->incorrect", "incorrect->correct"]
"""What the persuasion would do: lead a right speaker astray, or set a wrong one right."""
HELD: Direction = "correct->incorrect"
MOVED: Direction = "incorrect->correct"

_SEAT = 1
"""Grading names the model seat 1 and its partner seat 0; resolving is the same for either."""


class Grade(NamedTuple):
    """What a claim amounts to."""

    answer: str | None
    """What the speaker holds after the reply: the claim, with Agree and Disagree resolved."""
    right: bool
    third: bool
    """Whether the answer is a wrong one that neither side had held."""


def grade(claim: str, direction: Direction, own_answer: str, partner_answer: str, aliases: Collection[str]) -> Grade:
    """Resolve a claim against the dialogue and judge the answer. ``aliases`` are normalised.

    It is right if it is gold, or the same (by containment too) as the side that is right in this direction.
    """
    state = resolve(claim, _SEAT, (partner_answer, own_answer), own_answer)
    answer = state[_SEAT]
    right_side = own_answer if direction == HELD else partner_answer
    right = is_right(answer, aliases) or same_answer(answer, right_side)
    known = any(same_answer(answer, side) for side in (own_answer, partner_answer))
    return Grade(answer, right, third=answer not in (None, NONE) and not right and not known)
