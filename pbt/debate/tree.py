"""The debate tree: a flat list of turns in preorder, each with its parent's id. Everything else is derived."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import networkx as nx

from pbt.debate.answers import State, resolve
from pbt.errors import BadInput

FORMAT = 1
"""Version of the tree format; a reader refuses a newer one."""


class TreeError(BadInput):
    """A tree that cannot be: the message says which turn and why."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn. Ids number the turns of a tree in preorder from 0, so they do not depend on scheduling."""

    id: int
    parent: int | None
    level: int
    seat: int
    persona: str
    text: str
    """What the partner sees: the reply with an unfinished last sentence cut off; may be empty."""
    claim: str
    """The extracted answer: a short answer, or Agree, Disagree, NONE."""
    clipped: bool = False
    """Whether an unfinished last sentence was cut off."""
    tokens: int = 0
    """Tokens generated for this turn, cut ones included."""
    raw_claim: str | None = None
    """What the extractor itself said, where ``claim`` is a cleaned form of it."""
    confidence: float | None = None
    """The speaker's probability that its answer is right, where it was asked for."""


@dataclass(frozen=True)
class DebateTree:
    """One finished debate on one question."""

    tree_id: str
    question_id: str
    question: str
    gold: str
    aliases: tuple[str, ...]
    """Normalised aliases: what counts as right."""
    protocol: str
    models: tuple[str, ...]
    """Model name by seat."""
    seed: int
    turns: tuple[Turn, ...]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.turns:
            raise TreeError(f"tree {self.tree_id}: it has no turns")
        branch: list[int] = []
        for index, turn in enumerate(self.turns):
            where = f"tree {self.tree_id}, turn {turn.id}"
            if turn.id != index:
                raise TreeError(f"{where}: expected id {index}; ids number the turns in order")
            if (turn.parent is None) != (index == 0):
                raise TreeError(f"{where}: only the first turn is a root")
            if turn.parent is not None and not 0 <= turn.parent < index:
                raise TreeError(f"{where}: parent {turn.parent} does not come before it")
            if turn.parent is None and turn.level != 0:
                raise TreeError(f"{where}: level {turn.level}, but the root's is 0")
            if turn.parent is not None and turn.level != self.turns[turn.parent].level + 1:
                raise TreeError(f"{where}: level {turn.level} is not one below its parent's")
            if not 0 <= turn.seat < len(self.models):
                raise TreeError(f"{where}: seat {turn.seat}, but there are {len(self.models)} seats")
            del branch[turn.level :]
            if turn.parent is not None and branch[-1] != turn.parent:
                raise TreeError(f"{where}: not in preorder: the branch of turn {turn.parent} ended before it")
            branch.append(turn.id)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Child ids by turn id, in order."""
        found: list[list[int]] = [[] for _ in self.turns]
        for turn in self.turns:
            if turn.parent is not None:
                found[turn.parent].append(turn.id)
        return tuple(tuple(ids) for ids in found)

    def path(self, turn_id: int) -> tuple[Turn, ...]:
        """The turns from the root down to ``turn_id``, both included."""
        back: list[Turn] = []
        at: int | None = turn_id
        while at is not None:
            back.append(self.turns[at])
            at = self.turns[at].parent
        return tuple(reversed(back))

    @cached_property
    def states(self) -> tuple[State, ...]:
        """All seats' resolved answers after each turn, by turn id, computed top down."""
        seats = len(self.models)
        found: list[State] = []
        for turn in self.turns:
            if turn.parent is None:
                found.append(resolve(turn.claim, turn.seat, (None,) * seats, (turn.seat + 1) % seats))
            else:
                found.append(resolve(turn.claim, turn.seat, found[turn.parent], self.turns[turn.parent].seat))
        return tuple(found)

    def graph(self) -> nx.DiGraph[int]:
        """A networkx view, edges from parent to child, each node carrying its ``turn``."""
        view: nx.DiGraph[int] = nx.DiGraph()
        for turn in self.turns:
            view.add_node(turn.id, turn=turn)
            if turn.parent is not None:
                view.add_edge(turn.parent, turn.id)
        return view

    def to_dict(self) -> dict[str, Any]:
        """The line that the store writes: see docs/formats.md."""
        return {
            "format": FORMAT,
            "tree_id": self.tree_id,
            "question_id": self.question_id,
            "question": self.question,
            "gold": self.gold,
            "aliases": list(self.aliases),
            "protocol": self.protocol,
            "models": list(self.models),
            "seed": self.seed,
            "turns": [{name: getattr(turn, name) for name in Turn.__slots__} for turn in self.turns],
            "metadata": self.metadata,
        }
