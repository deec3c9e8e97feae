"""Scores: how much correctness a turn leads to, for every turn of a tree (method, section 3)."""

from __future__ import annotations

from typing import NamedTuple

from pbt.debate.answers import Correctness, correctness
from pbt.debate.tree import DebateTree


class Scores(NamedTuple):
    """What section 3 says of the turns of one tree; both tuples are by turn id."""

    correct: tuple[Correctness | None, ...]
    """Which seats are right after the turn; ``None`` while a slot is empty."""
    score: tuple[int, ...]
    """The turn's own ``right`` (0 where undefined) plus the scores of its children whose ``right`` is defined."""

    def right(self, turn_id: int, seat: int) -> bool:
        """Whether the answer of ``seat`` is right after the turn; False while a slot is empty."""
        found = self.correct[turn_id]
        return found is not None and found[seat]


def score_tree(tree: DebateTree) -> Scores:
    """Score every turn, bottom up: ids are in preorder, so each child comes after its parent."""
    aliases = frozenset(tree.aliases)
    correct = tuple(correctness(state, aliases) for state in tree.states)
    score = [0 if found is None else found.right for found in correct]
    for turn in reversed(tree.turns):
        if turn.parent is not None and correct[turn.id] is not None:
            score[turn.parent] += score[turn.id]
    return Scores(correct, tuple(score))
