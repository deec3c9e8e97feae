"""What stands in trees, counted: what turns claim, how often their speakers are right, where branches end.

Generation counts the trees that it grows, ``pbt trees stats`` those that it reads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from pbt.debate.answers import AGREE, DISAGREE, NONE, is_right, unanimous
from pbt.debate.tree import DebateTree
from pbt.portrait import visible


@dataclass
class Tally:
    """How many turns, and after how many of them the speaker's answer was right."""

    turns: int = 0
    right: int = 0

    def share(self) -> float | None:
        """The share of right ones; None of no turns."""
        return round(self.right / self.turns, 4) if self.turns else None


@dataclass
class TreeCounts:
    """The counts of a set of trees."""

    trees: int = 0
    turns: int = 0
    tokens: int = 0
    clipped: int = 0
    empty: int = 0
    agreed: int = 0
    """Turns that say Agree, or after which all seats hold the same answer."""
    claims: Counter[str] = field(default_factory=Counter)
    """How many turns claim Agree, Disagree, NONE."""
    spoken: dict[tuple[int, str], Tally] = field(default_factory=dict)
    """By level and persona."""
    ends: Counter[int] = field(default_factory=Counter)
    """By level: branches that end there."""

    def count(self, tree: DebateTree) -> None:
        """Add a tree."""
        self.trees += 1
        self.turns += len(tree.turns)
        aliases = frozenset(tree.aliases)
        for turn, state, children in zip(tree.turns, tree.states, tree.children, strict=True):
            self.tokens += turn.tokens
            self.clipped += turn.clipped
            self.empty += not turn.text
            self.agreed += turn.claim == AGREE or unanimous(state)
            if turn.claim in (AGREE, DISAGREE, NONE):
                self.claims[turn.claim] += 1
            if not children:
                self.ends[turn.level] += 1
            tally = self.spoken.setdefault((turn.level, turn.persona), Tally())
            tally.turns += 1
            tally.right += is_right(state[turn.seat], aliases)

    def level(self, level: int) -> Tally:
        """All personas of a level together."""
        at = [tally for (other, _), tally in self.spoken.items() if other == level]
        return Tally(sum(tally.turns for tally in at), sum(tally.right for tally in at))

    def shares(self) -> dict[str, Any]:
        """Of all turns."""
        turns = max(self.turns, 1)
        return {
            "clipped": round(self.clipped / turns, 4),
            "empty": round(self.empty / turns, 4),
            "agreed": round(self.agreed / turns, 4),
            "claims": {name: round(self.claims[name] / turns, 4) for name in (AGREE, DISAGREE, NONE)},
        }

    def levels(self) -> list[dict[str, Any]]:
        """Turns, the share of right ones, and ends of branches, by level and persona."""
        return [
            {
                "level": level,
                "turns": self.level(level).turns,
                "right": self.level(level).share(),
                "ends": self.ends[level],
                "personas": {
                    persona: {"turns": tally.turns, "right": tally.share()}
                    for (other, persona), tally in sorted(self.spoken.items())
                    if other == level
                },
            }
            for level in sorted({level for level, _ in self.spoken})
        ]

    def to_dict(self) -> dict[str, Any]:
        """Counts, shares of turns, and the levels."""
        counts = {"trees": self.trees, "turns": self.turns, "tokens": self.tokens}
        return {**counts, **self.shares(), "levels": self.levels()}

    def add_shares(self, table: Table) -> None:
        """The shares of turns as rows of a table of facts."""
        shares = self.shares()
        claims = {f"claims {name}": share for name, share in shares.pop("claims").items()}
        for name, share in (shares | claims).items():
            table.add_row(f"{name}, share of turns", str(share))

    def levels_table(self) -> Table:
        """The levels for a terminal."""
        table = Table("level", "persona", "turns", "right", "branches end", show_edge=False)
        for level in self.levels():
            table.add_row(str(level["level"]), "all", *_told(level), str(level["ends"]))
            if len(level["personas"]) > 1:
                for persona, tally in level["personas"].items():
                    table.add_row("", Text(visible(persona)), *_told(tally), "")
        return table


def _told(tally: dict[str, Any]) -> tuple[str, str]:
    return str(tally["turns"]), f"{tally['right']:.3f}"
