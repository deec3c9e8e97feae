"""How far a build is: counts that it adds to as it goes, for whoever shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Unit = Literal["bytes", "pairs", "requests", "rows"]
"""What a phase has to do: read trees, settle which pairs stay, ask the filter's model about them, write tables."""


@dataclass
class Phase:
    """One part of a build. It is announced when it begins, and may be looked at from another thread at any time."""

    unit: Unit
    total: int | None
    """None where it is not known."""
    done: int = 0
    trees: int = 0
    pairs: int = 0
    """Found in the trees so far, before duplicates and filter."""
    answers: int = 0
    """While trees are read: how many of the filter's questions are answered, by the model or the cache."""


Announce = Callable[[Phase], None]


def unwatched(phase: Phase) -> None:
    """For a build that nobody watches."""
