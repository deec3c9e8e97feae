"""The funnel: how many trees went in, where candidates fell, and what came out, by code, split and regime."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from pbt.config import Regime
from pbt.preferences.balance import Index, Regimes
from pbt.preferences.gather import Counts
from pbt.preferences.pairs import CODES, REASONS, SPLITS, Code, Reason
from pbt.questions import Split

ByCode = dict[Code, int]


class Lengths(NamedTuple):
    """How long the replies of all pairs of a code are, in words; a bias here would be learnt too."""

    chosen: float | None
    """Mean; ``None`` without pairs."""
    rejected: float | None
    chosen_longer: float | None
    """Share of pairs whose chosen reply is the longer one, equal ones counted half."""


@dataclass(frozen=True)
class Funnel:
    """Counts of one build. ``candidates`` is the sum of ``rejected`` and ``emitted``."""

    trees: int
    skipped: int
    """Lines that were no trees."""
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
    lengths: dict[Code, Lengths]
    regimes: dict[Regime, dict[Split, ByCode]]
    """What each regime holds after balancing."""
    unanswered: int
    """Requests that the filter's model did not answer: such answers count as no synonyms, such pairs fall."""

    @classmethod
    def count(cls, counts: Counts, index: Index, regimes: Regimes) -> Funnel:
        """Count a build's outcome; every reason, code and split appears, with 0 where nothing was."""
        return cls(
            trees=counts.trees,
            skipped=counts.skipped,
            turns=counts.turns,
            empty_turns=counts.empty_turns,
            candidates=len(index) + counts.fell.total(),
            rejected={reason: counts.fell[reason] for reason in REASONS},
            emitted=_by_code(index),
            splits={split: _by_code(index[index["split"] == place]) for place, split in enumerate(SPLITS)},
            lengths={code: _lengths(index[index["code"] == place]) for place, code in enumerate(CODES)},
            regimes={
                regime: {split: _by_code(index[positions]) for split, positions in splits.items()}
                for regime, splits in regimes.items()
            },
            unanswered=counts.unanswered,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for ``funnel.json``."""
        return {**asdict(self), "lengths": {code: lengths._asdict() for code, lengths in self.lengths.items()}}

    def line(self) -> str:
        """The way down in one line, for an error message."""
        skipped = f" ({self.skipped} lines skipped)" if self.skipped else ""
        fell = ", ".join(f"{count} {reason}" for reason, count in self.rejected.items() if count) or "none"
        kept = "; ".join(
            f"{split} {counts['accept']} accept + {counts['resist']} resist" for split, counts in self.splits.items()
        )
        return (
            f"{self.trees} trees{skipped}, {self.turns} turns, {self.candidates} sibling pairs; fell: {fell}; "
            f"emitted: {kept}"
        )


def funnel_table(funnel: Funnel) -> Table:
    """The funnel for a terminal."""
    table = Table(title="From trees to preferences")
    table.add_column("stage")
    for name in (*CODES, "all"):
        table.add_column(name, justify="right")

    def row(stage: str, counts: ByCode) -> None:
        table.add_row(stage, *(f"{counts[code]:,}" for code in CODES), f"{sum(counts.values()):,}")

    for stage, number in (
        ("lines skipped", funnel.skipped),
        ("trees", funnel.trees),
        ("turns", funnel.turns),
        ("  without text", funnel.empty_turns),
        ("sibling pairs", funnel.candidates),
        *((f"  - {words}", funnel.rejected[reason]) for reason, words in REASONS.items()),
    ):
        table.add_row(stage, "", "", f"{number:,}")
    table.add_section()
    if funnel.unanswered:
        table.add_row("requests that the filter's model did not answer", "", "", f"{funnel.unanswered:,}")
        table.add_section()
    row("preference pairs", funnel.emitted)
    for split, counts in funnel.splits.items():
        row(f"  {split}", counts)
    for label, field in (("words, chosen", "chosen"), ("words, rejected", "rejected")):
        table.add_row(f"  {label}", *(_shown(getattr(funnel.lengths[code], field)) for code in CODES), "")
    for regime, splits in funnel.regimes.items():
        table.add_section()
        for split, counts in splits.items():
            row(f"{regime}: {split}", counts)
    return table


def _shown(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:.1f}"


def _by_code(index: Index) -> ByCode:
    return {code: int(np.count_nonzero(index["code"] == place)) for place, code in enumerate(CODES)}


def _lengths(index: Index) -> Lengths:
    if not len(index):
        return Lengths(None, None, None)
    chosen, rejected = (index[name].astype(np.int64) for name in ("chosen_words", "rejected_words"))
    longer = (np.sign(chosen - rejected).mean() + 1) / 2
    return Lengths(round(float(chosen.mean()), 2), round(float(rejected.mean()), 2), round(float(longer), 4))
