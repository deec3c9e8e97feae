"""Rescoring: the metrics of stored transcripts, computed again without a model, and what changed.

Replies are read by today's rules and compared by the grader that is asked for; what was said stays as it was. So an
evaluation that follows the answers, such as misinformation's belief checks, is judged on the dialogue that took place,
even where the other grader would have let it go on longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from pbt.evaluation.dialogue import Record
from pbt.evaluation.result import Result, measured_dict, metrics_path, read_result
from pbt.evaluation.suite import measure, rejudge
from pbt.grading import Grader

_SIDES = ("before", "after")


@dataclass(frozen=True)
class Rescored:
    """A result under another grader."""

    result: Result
    grader: Grader
    records: tuple[Record, ...]

    @property
    def changed(self) -> list[tuple[Record, Record]]:
        """The records with another outcome, before and after."""
        pairs = zip(self.result.records, self.records, strict=True)
        return [(old, new) for old, new in pairs if dict(old.outcome) != dict(new.outcome)]

    def to_dict(self) -> dict[str, Any]:
        """Metrics, counts, notes and details before and after, and every changed outcome."""
        before = self.result.written
        after = measured_dict(measure(self.result.evaluation, self.records))
        return {
            "items": str(self.result.path),
            "evaluation": self.result.evaluation,
            "grader": {"rule": self.grader.rule, "fold": self.grader.fold},
            "before": before["metrics"],
            "after": after["metrics"],
            "counts": {"before": before["counts"], "after": after["counts"]},
            "notes": {"before": before["notes"], "after": after["notes"]},
            "details": {"before": before["details"], "after": after["details"]},
            "records": len(self.records),
            "changed": [
                {"id": new.id, "sample": new.sample, "before": dict(old.outcome), "after": dict(new.outcome)}
                for old, new in self.changed
            ],
        }

    def table(self) -> Table:
        """For a terminal: the metrics, counts, numbers of the details, and notes that changed."""
        facts = self.to_dict()
        title = f"{self.result.path.name}: {len(facts['changed'])} of {facts['records']} outcomes changed"
        table = Table("", "written", "rescored", title=Text(title), title_justify="left", show_edge=False)
        for key in (*facts["before"], *(key for key in facts["after"] if key not in facts["before"])):
            old, new = (facts[side].get(key, {"value": None})["value"] for side in _SIDES)
            if old != new:
                label = (facts["after"].get(key) or facts["before"][key])["label"]
                table.add_row(Text(label), _number(old), _number(new))
        for label, count in facts["counts"]["after"].items():
            if count != (written := facts["counts"]["before"].get(label, 0)):
                table.add_row(label, str(written), str(count))
        details = [_numbers(facts["details"][side]) for side in _SIDES]
        for label in dict.fromkeys([*details[0], *details[1]]):
            old, new = (side.get(label) for side in details)
            # A regression is not the same to the last digit on every machine.
            if old is None or new is None or not math.isclose(old, new, rel_tol=1e-6, abs_tol=1e-9):
                table.add_row(Text(label), _number(old), _number(new))
        if facts["notes"]["before"] != facts["notes"]["after"]:
            table.add_row("notes", *(Text("; ".join(facts["notes"][side]) or "-") for side in _SIDES))
        if not table.row_count:
            table.add_row("all metrics", "as written", "the same")
        return table


def rescore(items: Path, grader: Grader) -> Rescored:
    """Judge the transcripts of an items file again. Raises BadInput for a file that is no part of a result."""
    result = read_result(metrics_path(items))
    return Rescored(result, grader, _judged(result.evaluation, result.records, grader))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _numbers(details: Any, at: str = "") -> dict[str, float]:
    """The numbers of nested details, by the path to them; an entry of a list goes by its name, as coefficients do."""
    if isinstance(details, list):
        details = {each["name"] if isinstance(each, dict) else str(n): each for n, each in enumerate(details)}
    if isinstance(details, dict):
        found = [_numbers(value, f"{at}/{key}" if at else key) for key, value in details.items()]
        return {path: number for each in found for path, number in each.items()}
    return {at: float(details)} if isinstance(details, int | float) else {}


def _judged(evaluation: str, records: Sequence[Record], grader: Grader) -> tuple[Record, ...]:
    # Through JSON's types, as the stored outcomes have been, so that equal ones compare equal.
    return tuple(_plain(rejudge(evaluation, record, grader)) for record in records)


def _plain(record: Record) -> Record:
    return replace(record, outcome={k: list(v) if isinstance(v, tuple) else v for k, v in record.outcome.items()})
