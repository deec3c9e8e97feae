"""The rule set ``released``: scoring and pairing as the authors' code does them.

docs/preferences.md lists the differences to ``intended``; the sections are those of docs/method.md.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pbt.config import Rules
from pbt.debate.answers import Correctness, State
from pbt.debate.released import resolve_released
from pbt.debate.tree import Turn
from pbt.preferences.pairs import Code, Context, Siblings

_WORDS: dict[Code, str] = {
    "accept": "released accept: speaker was wrong; chosen is right, rejected is not; more are right than before it",
    "resist": "released resist: speaker was right; chosen is right, rejected is not; as many are right as before it",
}


@dataclass(frozen=True)
class Released:
    """The rule set of the authors' code."""

    gap: float
    """The relative difference of scores that must be exceeded."""
    name: Rules = "released"

    def slots(self, turn: Turn, parent: State) -> State:
        """Section 2, state: claims stay in the slots as the extractor spelt them; Disagree alone is replaced."""
        return resolve_released(turn.raw_claim or turn.claim, turn.seat, parent)

    def held(self, slots: State) -> State:
        """Section 2, state: when correctness is asked Agree takes the other slot's string; two of them stay."""
        agrees = [slot is not None and slot.strip().lower() == "agree" for slot in slots]
        if agrees == [True, False]:
            return (slots[1], slots[1])
        if agrees == [False, True]:
            return (slots[0], slots[0])
        return slots

    def correct(self, held: State, aliases: Collection[str]) -> Correctness | None:
        """Section 2, correctness: candidates are only stripped and lower-cased, NONE is a string like others, and
        where containment holds seat 0 takes the string of seat 1. Two seats that say Agree are wrong."""
        if not held[0] or not held[1]:
            return None
        one, other = (answer.strip().lower() for answer in (held[0], held[1]))
        if one == other == "agree":
            return Correctness(False, False)
        if _contained(one, other):
            one = other
        return Correctness(one in aliases, other in aliases)

    def wide(self, high: int, low: int) -> bool:
        """Section 4, rule 3: strictly more than the threshold."""
        return high > low and (high - low) / high > self.gap

    def code(self, pair: Siblings, context: Context) -> Code | None:
        """Section 4, rule 4: the partner's own correctness is not tested. Resist needs as many right answers after
        the chosen turn as before it, accept more."""
        scores, seat = pair.scores, pair.chosen.seat
        if not scores.right(pair.chosen.id, seat) or scores.right(pair.rejected.id, seat):
            return None
        before, after = scores.correct[context.partner.id], scores.correct[pair.chosen.id]
        assert before is not None and after is not None  # the rule on slots was met
        if scores.right(context.own.id, seat):
            return "resist" if before.right == after.right else None
        return "accept" if before.right < after.right else None

    def words(self, code: Code) -> str:
        """The rule behind a code, in words."""
        return _WORDS[code]


def _contained(one: str, other: str) -> bool:
    """Section 2, containment: of strings that are only stripped and lower-cased; two empty ones count."""
    short, long = sorted((one, other), key=len)
    return short in long and (3 * len(short) > len(long) or not long)
