"""The funnel: how many trees went in, where candidates fell, and what came out, by code, split and regime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from pbt.config import Regime
from pbt.preferences.balance import Regimes
from pbt.preferences.pairs import CODES, REASONS, SPLITS, Code, Pair, Reason, Rejection, Split

ByCode = dict[Code, int]


@dataclass(frozen=True)
class Funnel:
    """Counts of one build. ``candidates`` is the sum of ``rejected`` and ``emitted``."""

    trees: int
    turns: int
    empty_turns: int
    """Turns without text: the reply had no sentence end."""
    candidates: int
    """Unordered pairs of siblings."""
    rejected: dict[Reason, int]
    """By the first rule that was not met."""
    emitted: ByCode
    splits: dict[Split, ByCode]
    """What was emitted, by split."""
    regimes: dict[Regime, dict[Split, ByCode]]
    """What each regime holds after balancing."""

    @classmethod
    def count(
        cls,
        trees: int,
        turns: int,
        empty_turns: int,
        pairs: Sequence[Pair],
        rejections: Sequence[Rejection],
        regimes: Regimes,
    ) -> Funnel:
        """Count a build's outcome; every reason, code and split appears, with 0 where nothing was."""
        fell = Counter(rejection.reason for rejection in rejections)
        return cls(
            trees=trees,
            turns=turns,
            empty_turns=empty_turns,
            candidates=len(pairs) + len(rejections),
            rejected={reason: fell[reason] for reason in REASONS},
            emitted=_by_code(pairs),
            splits={split: _by_code(pair for pair in pairs if pair.split == split) for split in SPLITS},
            regimes={
                regime: {split: _by_code(held) for split, held in splits.items()} for regime, splits in regimes.items()
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for ``funnel.json``."""
        return {
            "trees": self.trees,
            "turns": self.turns,
            "empty_turns": self.empty_turns,
            "candidates": self.candidates,
            "rejected": dict(self.rejected),
            "emitted": dict(self.emitted),
            "splits": {split: dict(counts) for split, counts in self.splits.items()},
            "regimes": {
                regime: {split: dict(counts) for split, counts in splits.items()}
                for regime, splits in self.regimes.items()
            },
        }

    def line(self) -> str:
        """The way down in one line, for an error message."""
        fell = ", ".join(f"{count} {reason}" for reason, count in self.rejected.items() if count) or "none"
        kept = "; ".join(
            f"{split} {counts['accept']} accept + {counts['resist']} resist" for split, counts in self.splits.items()
        )
        return f"{self.trees} trees, {self.turns} turns, {self.candidates} sibling pairs; fell: {fell}; emitted: {kept}"


def funnel_table(funnel: Funnel) -> Table:
    """The funnel for a terminal."""
    table = Table(title="From trees to preferences")
    table.add_column("stage")
    for name in (*CODES, "all"):
        table.add_column(name, justify="right")

    def row(stage: str, counts: ByCode) -> None:
        table.add_row(stage, *(f"{counts[code]:,}" for code in CODES), f"{sum(counts.values()):,}")

    for stage, number in (
        ("trees", funnel.trees),
        ("turns", funnel.turns),
        ("  without text", funnel.empty_turns),
        ("sibling pairs", funnel.candidates),
        *((f"  - {words}", funnel.rejected[reason]) for reason, words in REASONS.items()),
    ):
        table.add_row(stage, "", "", f"{number:,}")
    table.add_section()
    row("preference pairs", funnel.emitted)
    for split, counts in funnel.splits.items():
        row(f"  {split}", counts)
    for regime, splits in funnel.regimes.items():
        table.add_section()
        for split, counts in splits.items():
            row(f"{regime}: {split}", counts)
    return table


def _by_code(pairs: Iterable[Pair]) -> ByCode:
    found = Counter(pair.code for pair in pairs)
    return {code: found[code] for code in CODES}
