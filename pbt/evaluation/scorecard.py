"""The scorecard: models side by side on the same items, both halves of the balance and their mean.

A star means that the paired 95% interval of the difference to the baseline excludes zero. It is computed over the
items that both models replied to. Results on different items are refused: their difference would say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from pbt.errors import BadInput
from pbt.evaluation.balanced import Metrics, Result, read_result, scores
from pbt.evaluation.stats import Balance, Interval, paired
from pbt.grading import HELD, MOVED

_MISSING = "-"


class Row(NamedTuple):
    """One printed row: a cell for each model."""

    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """One model."""

    name: str
    model: str
    metrics: Metrics
    difference: Balance | None
    """This model minus the baseline, item by item; ``None`` for the baseline itself."""


@dataclass(frozen=True)
class Scorecard:
    """Models compared with a baseline on one set of items."""

    baseline: str
    items_sha256: str
    columns: tuple[Column, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """What the table and the Markdown print."""
        return (
            self._accuracies("held when right", "held"),
            self._accuracies("moved when wrong", "moved"),
            self._accuracies("balanced", "balanced"),
            Row("items", tuple(f"{c.metrics.held_items} + {c.metrics.moved_items}" for c in self.columns)),
            Row("failed", tuple(str(c.metrics.failed) for c in self.columns)),
            Row("third answer", tuple(_share(c.metrics.third) for c in self.columns)),
        )

    @property
    def legend(self) -> str:
        """What the brackets and the star mean."""
        return (
            "[95% interval, bootstrap over questions]"
            f"   * the paired 95% interval of the difference to {self.baseline} excludes zero"
        )

    def table(self) -> Table:
        """For a terminal."""
        table = Table(caption=Text(self.legend), caption_justify="left")
        table.add_column("", no_wrap=True)
        for column in self.columns:
            table.add_column(Text(column.name), justify="right", no_wrap=True)
        for row in self.rows:
            # The interval below the value: so four models fit a terminal of 80 columns.
            table.add_row(row.label, *(Text(cell.replace(" [", "\n[")) for cell in row.cells))
        return table

    def to_markdown(self) -> str:
        """For a page."""
        lines = [("", *(column.name for column in self.columns)), ("---", *("---:" for _ in self.columns))]
        lines += [(row.label, *row.cells) for row in self.rows]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"{table}\n\n{self.legend}\n"

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``: plain values; an interval is ``{value, low, high}``, and what is undefined is null."""
        return {
            "baseline": self.baseline,
            "items_sha256": self.items_sha256,
            "models": [
                {
                    "name": column.name,
                    "model": column.model,
                    "metrics": asdict(column.metrics),
                    "difference": _difference(column.difference),
                }
                for column in self.columns
            ],
        }

    def _accuracies(self, label: str, key: str) -> Row:
        return Row(label, tuple(_cell(getattr(c.metrics, key), getattr(c.difference, key, None)) for c in self.columns))


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The results of files and folders, in the order given; of a folder, ``base`` first.

    Raises BadInput for a folder without results, or for two results of one name.
    """
    found: dict[str, Result] = {}
    for path in paths:
        # What the others are compared with stands first.
        files = sorted(path.glob("*.json"), key=lambda p: (p.stem != "base", p.stem)) if path.is_dir() else [path]
        if not files:
            raise BadInput(f"{path}: no results (*.json) in it; evaluate a model first")
        for file in files:
            result = read_result(file)
            other = found.setdefault(result.name, result)
            if other.path.resolve() != file.resolve():
                raise BadInput(
                    f"{other.path} and {file}: both are named '{result.name}'; evaluate one under another name"
                )
    return list(found.values())


def scorecard(results: Sequence[Result], baseline: str | None = None) -> Scorecard:
    """Compare results with the one named ``baseline``, by default the first.

    Raises BadInput when there are none, when the baseline is not among them, or when they stand on different items.
    """
    if not results:
        raise BadInput("scorecard: no results; name at least one result file or folder")
    named = {result.name: result for result in results}
    base = results[0] if baseline is None else named.get(baseline)
    if base is None:
        raise BadInput(f"--baseline {baseline}: no such result (known: {', '.join(named)})")
    for result in results:
        if result.items_sha256 != base.items_sha256:
            raise BadInput(
                f"{base.path} and {result.path}: they were made on different items, so they cannot be compared; "
                "evaluate both on the same preferences with the same seed and limit"
            )
    columns = tuple(Column(r.name, r.model, r.metrics, None if r is base else _against(r, base)) for r in results)
    return Scorecard(base.name, base.items_sha256, columns)


def _against(result: Result, base: Result) -> Balance:
    return paired(
        held=(scores(result.outcomes, HELD), scores(base.outcomes, HELD)),
        moved=(scores(result.outcomes, MOVED), scores(base.outcomes, MOVED)),
    )


def _cell(accuracy: Interval | None, difference: Interval | None) -> str:
    if accuracy is None:
        return _MISSING
    star = "*" if difference is not None and difference.excludes_zero else ""
    return str(accuracy).replace(" [", f"{star} [", 1)


def _share(share: float | None) -> str:
    return _MISSING if share is None else f"{share:.2f}"


def _difference(difference: Balance | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    return {key: asdict(interval) if interval else None for key, interval in difference._asdict().items()}
