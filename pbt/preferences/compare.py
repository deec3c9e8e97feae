"""What two rule sets make of the same trees: the pairs that only one of them has, and why the other has not."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from pbt.config import PreferencesConfig, Rules
from pbt.debate.tree import DebateTree
from pbt.errors import BadInput
from pbt.preferences.pairs import CODES, REASONS, Code, RuleSet, Verdict, judge, siblings
from pbt.preferences.progress import Announce, Phase, unwatched
from pbt.preferences.rules import rule_set
from pbt.preferences.score import score_tree
from pbt.preferences.trees import SHOWN, Batch, batches, bytes_of, skip, trees_of
from pbt.preferences.walk import in_order, processes
from pbt.store import BadLine

log = logging.getLogger(__name__)

OTHER_CODE = "the other code"
OTHER_WAY = "the other turn chosen"


class Only(NamedTuple):
    """A kind of pair that one rule set has and the other has not."""

    rules: Rules
    code: Code
    why: str
    """What the other one says of it: a reason, or that it has a pair of another kind."""


@dataclass
class Comparison:
    """Candidates are compared before duplicates and filter."""

    rules: tuple[Rules, Rules]
    trees: int = 0
    skipped: int = 0
    """Lines that were no trees."""
    both: Counter[Code] = field(default_factory=Counter)
    """Pairs that the two agree on."""
    only: Counter[Only] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "rules": list(self.rules),
            "trees": self.trees,
            "skipped": self.skipped,
            "both": {code: self.both[code] for code in CODES},
            "only": [{**only._asdict(), "pairs": count} for only, count in sorted(self.only.items())],
        }


def compare_rules(
    paths: Sequence[Path],
    config: PreferencesConfig,
    other: Rules,
    *,
    workers: int = 1,
    pool: Callable[[int], Executor] = processes,
    strict: bool = False,
    progress: Announce = unwatched,
) -> Comparison:
    """Judge all trees under the configuration's rule set and under ``other``. Raises BadInput.

    A line that is no tree is skipped, told and counted, or refused if ``strict``.
    """
    one_set, other_set = rule_set(config), rule_set(config, other)
    if one_set.name == other_set.name:
        raise BadInput(f"--compare {other}: these are the rules in use; name the other ones, or change --rules")
    found = Comparison((one_set.name, other_set.name))
    phase = Phase("bytes", bytes_of(paths))
    progress(phase)
    for part in in_order(partial(_compare_batch, one_set, other_set), batches(paths), workers, pool):
        for bad in part.skipped:
            found.skipped += 1
            skip(bad, found.skipped, strict)
        found.trees += part.trees
        found.both += part.both
        found.only += part.only
        phase.done += part.size
        phase.trees = found.trees
        phase.pairs = found.both.total() + found.only.total()
    if found.skipped > SHOWN:
        log.warning("skipped %d lines more; 'pbt trees validate' names them", found.skipped - SHOWN)
    return found


def comparison_table(found: Comparison) -> Table:
    """The comparison for a terminal."""
    one, other = found.rules
    skipped = f" ({found.skipped:,} lines skipped)" if found.skipped else ""
    table = Table(title=f"Pairs of {found.trees:,} trees{skipped} under two rule sets, before duplicates and filter")
    table.add_column("pairs")
    for name in (*CODES, "all"):
        table.add_column(name, justify="right")

    def row(label: str, counts: Counter[Code]) -> None:
        table.add_row(label, *(f"{counts[code]:,}" for code in CODES), f"{counts.total():,}")

    row("in both", found.both)
    for rules, against in ((one, other), (other, one)):
        mine = {only: count for only, count in found.only.items() if only.rules == rules}
        table.add_section()
        row(f"only {rules}", sum((Counter({only.code: count}) for only, count in mine.items()), Counter()))
        kinds: list[tuple[str, str]] = [*REASONS.items(), (OTHER_CODE, OTHER_CODE), (OTHER_WAY, OTHER_WAY)]
        for why, words in kinds:
            counts = Counter({only.code: count for only, count in mine.items() if only.why == why})
            if counts:
                row(f"  {against}: {words}", counts)
    return table


class _Compared(NamedTuple):
    """What one batch of trees gave."""

    size: int
    """Bytes read."""
    trees: int
    skipped: list[BadLine]
    both: Counter[Code]
    only: Counter[Only]


def _compare_batch(one: RuleSet, other: RuleSet, batch: Batch) -> _Compared:
    trees, skipped = 0, []
    both: Counter[Code] = Counter()
    only: Counter[Only] = Counter()
    for tree in trees_of(batch):
        if isinstance(tree, BadLine):
            skipped.append(tree)
            continue
        trees += 1
        ours, theirs = _verdicts(tree, one), _verdicts(tree, other)
        for turns, (chosen, verdict) in ours.items():
            chosen_there, there = theirs[turns]
            if verdict.code is not None and verdict == there and chosen == chosen_there:
                both[verdict.code] += 1
                continue
            for rules, mine, against in ((one.name, verdict, there), (other.name, there, verdict)):
                if mine.code is not None:
                    why = against.reason or (OTHER_WAY if chosen != chosen_there else OTHER_CODE)
                    only[Only(rules, mine.code, why)] += 1
    return _Compared(sum(map(len, batch.lines)), trees, skipped, both, only)


class _Judged(NamedTuple):
    chosen: int
    verdict: Verdict


def _verdicts(tree: DebateTree, rules: RuleSet) -> dict[tuple[int, int], _Judged]:
    """What a rule set says of each candidate, by its two turns."""
    found = siblings(tree, score_tree(tree, rules))
    return {pair.turns: _Judged(pair.chosen.id, judge(pair, rules)) for pair in found}
