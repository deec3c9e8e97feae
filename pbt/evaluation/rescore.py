"""Rescoring: the metrics of stored transcripts, computed again without a model, and what changed.

Replies are read by today's rules and compared by the grader that is asked for; what was said stays as it was. So an
evaluation that follows the answers, such as misinformation's belief checks, is judged on the dialogue that took place,
even where the other grader would have let it go on longer.
"""

from __future__ import annotations

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
        """Metrics before and after, and every changed outcome."""
        after = measured_dict(measure(self.result.evaluation, self.records))
        return {
            "items": str(self.result.path),
            "evaluation": self.result.evaluation,
            "grader": {"rule": self.grader.rule, "fold": self.grader.fold},
            "before": self.result.written["metrics"],
            "after": after["metrics"],
            "records": len(self.records),
            "changed": [
                {"id": new.id, "sample": new.sample, "before": dict(old.outcome), "after": dict(new.outcome)}
                for old, new in self.changed
            ],
        }

    def table(self) -> Table:
        """For a terminal: the metrics that changed."""
        facts = self.to_dict()
        title = f"{self.result.path.name}: {len(facts['changed'])} of {facts['records']} outcomes changed"
        table = Table("", "written", "rescored", title=Text(title), title_justify="left", show_edge=False)
        for key in (*facts["before"], *(key for key in facts["after"] if key not in facts["before"])):
            old, new = (facts[side].get(key, {"value": None}) for side in ("before", "after"))
            if old["value"] != new["value"]:
                label = (facts["after"].get(key) or facts["before"][key])["label"]
                table.add_row(Text(label), *(("-" if m["value"] is None else f"{m['value']:.3f}") for m in (old, new)))
        if not table.row_count:
            table.add_row("all metrics", "as written", "the same")
        return table


def rescore(items: Path, grader: Grader) -> Rescored:
    """Judge the transcripts of an items file again. Raises BadInput for a file that is no part of a result."""
    result = read_result(metrics_path(items))
    return Rescored(result, grader, _judged(result.evaluation, result.records, grader))


def _judged(evaluation: str, records: Sequence[Record], grader: Grader) -> tuple[Record, ...]:
    # Through JSON's types, as the stored outcomes have been, so that equal ones compare equal.
    return tuple(_plain(rejudge(evaluation, record, grader)) for record in records)


def _plain(record: Record) -> Record:
    return replace(record, outcome={k: list(v) if isinstance(v, tuple) else v for k, v in record.outcome.items()})
