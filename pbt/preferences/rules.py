"""The rule set ``intended``: what the method means, to the letter of its sections 2 to 4."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pbt.config import PreferencesConfig, Rules
from pbt.debate.answers import Correctness, State, correctness, resolve
from pbt.debate.tree import Turn
from pbt.preferences.pairs import Code, Context, RuleSet, Siblings
from pbt.preferences.released import Released

_WORDS: dict[Code, str] = {
    "accept": "intended accept: speaker was wrong, partner right; chosen moved to the right answer, rejected did not",
    "resist": "intended resist: speaker was right, partner wrong; chosen held the right answer, rejected gave it up",
}


@dataclass(frozen=True)
class Intended:
    """The rule set of the method's evident intention."""

    min_gap: float
    """The least relative difference of scores."""
    name: Rules = "intended"

    def slots(self, turn: Turn, parent: State) -> State:
        """Section 2, state: Agree and Disagree are resolved when they are said."""
        return resolve(turn.claim, turn.seat, parent, partner=1 - turn.seat)

    def held(self, slots: State) -> State:
        """Section 2, state: it never holds Agree or Disagree, so there is nothing left to resolve."""
        return slots

    def correct(self, held: State, aliases: Collection[str]) -> Correctness | None:
        """Section 2, correctness: normalised, and containment counts for both seats alike."""
        return correctness(held, aliases)

    def wide(self, high: int, low: int) -> bool:
        """Section 4, rule 3: (hi - lo) / hi >= ``min_gap``; equal scores, two zeros among them, never do."""
        return high > low and (high - low) / high >= self.min_gap

    def code(self, pair: Siblings, context: Context) -> Code | None:
        """Section 4, rule 4: chosen is right and rejected is not; resist if the speaker was right against a wrong
        partner, accept if the speaker was wrong and the partner right."""
        scores, seat = pair.scores, pair.chosen.seat
        if not scores.right(pair.chosen.id, seat) or scores.right(pair.rejected.id, seat):
            return None
        own = scores.right(context.own.id, seat)
        partner = scores.right(context.partner.id, 1 - seat)
        if own == partner:
            return None
        return "resist" if own else "accept"

    def words(self, code: Code) -> str:
        """The rule behind a code, in words."""
        return _WORDS[code]


def rule_set(config: PreferencesConfig, name: Rules | None = None) -> RuleSet:
    """The rule set of a configuration, or the one called ``name`` with the configuration's threshold for it."""
    if (name or config.rules) == "released":
        return Released(config.released_gap)
    return Intended(config.min_gap)
