"""Scores: what the seats hold, who is right, and how much correctness a turn leads to (method, sections 2 and 3).

How answers are read and compared is the rule set's business (``pbt.preferences.rules``); summing them up is the same
under both.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import NamedTuple, Protocol

from pbt.debate.answers import Correctness, State, normalise
from pbt.debate.tree import DebateTree, Turn

Synonyms = Set[tuple[str, str, str]]
"""What a model found to be the same answer: (question, the answer that is gold, the other one)."""
NO_SYNONYMS: Synonyms = frozenset()

_START: State = (None, None)


class Reading(Protocol):
    """How a rule set reads answers (section 2)."""

    def slots(self, turn: Turn, parent: State) -> State:
        """The slots after a turn; ``parent`` are those after its parent, both empty before the first turn."""
        ...

    def held(self, slots: State) -> State:
        """The answers that the slots stand for."""
        ...

    def correct(self, held: State, aliases: Collection[str]) -> Correctness | None:
        """Which of them are right; ``None`` while a slot is empty."""
        ...


class Scores(NamedTuple):
    """What sections 2 and 3 say of the turns of one tree; the tuples are by turn id."""

    held: tuple[State, ...]
    """The answers of both seats after the turn."""
    correct: tuple[Correctness | None, ...]
    """Which seats are right after the turn; ``None`` while a slot is empty."""
    score: tuple[int, ...]
    """The turn's own ``right`` (0 where undefined) plus the scores of its children whose ``right`` is defined."""
    copied: frozenset[int] = frozenset()
    """Turns at which the right answer took the place of a synonym."""

    def right(self, turn_id: int, seat: int) -> bool:
        """Whether the answer of ``seat`` is right after the turn; False while a slot is empty."""
        found = self.correct[turn_id]
        return found is not None and found[seat]


def score_tree(tree: DebateTree, reading: Reading, synonyms: Synonyms = NO_SYNONYMS) -> Scores:
    """Score every turn of a debate between two.

    Where a state holds one right answer and a synonym of it, the right one stands in both slots from there on down.
    """
    aliases = frozenset(tree.aliases)
    slots: list[State] = []
    held: list[State] = []
    correct: list[Correctness | None] = []
    copied: list[int] = []
    judged: dict[State, Correctness | None] = {}  # few states differ in a tree
    for turn in tree.turns:
        now = reading.slots(turn, _START if turn.parent is None else slots[turn.parent])
        state = reading.held(now)
        if state not in judged:
            judged[state] = reading.correct(state, aliases)
        found = judged[state]
        if synonyms and (both := _synonyms(state, found)) and (tree.question, *both) in synonyms:
            now = state = (both[0], both[0])
            found = Correctness(True, True)
            copied.append(turn.id)
        slots.append(now)
        held.append(state)
        correct.append(found)

    score = [0 if found is None else found.seat0 + found.seat1 for found in correct]
    # Ids are in preorder, so from the last turn to the first each child comes before its parent.
    for turn in reversed(tree.turns):
        if turn.parent is not None and correct[turn.id] is not None:
            score[turn.parent] += score[turn.id]
    return Scores(tuple(held), tuple(correct), tuple(score), frozenset(copied))


def possible_synonyms(tree: DebateTree, scores: Scores) -> set[tuple[str, str, str]]:
    """The answers beside a right one, which may be other words for it."""
    found = (_synonyms(*both) for both in zip(scores.held, scores.correct, strict=True))
    return {(tree.question, *both) for both in found if both}


def _synonyms(state: State, correct: Correctness | None) -> tuple[str, str] | None:
    """The right answer and the other one, where exactly one is right and the other is an answer at all."""
    if correct is None or correct.seat0 == correct.seat1:
        return None
    gold, other = state if correct.seat0 else reversed(state)
    assert gold is not None and other is not None  # else correctness were undefined
    return None if normalise(other) in ("", "none") else (gold, other)
