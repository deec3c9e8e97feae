"""The scorecard: models side by side on the same items, each metric with its interval, neither half alone.

A star means that the paired 95% interval of the difference to the baseline excludes zero; it is computed over the items
that both models replied to, and stands only where ``FEWEST`` questions or more count for both. Results on different
items are refused: their difference would say nothing.

A model that is named alike in several runs is one model under several seeds: shown are the mean over the seeds, its
interval, and the spread from the least to the greatest. Each seed is paired with the baseline of its own run, else with
one on the same items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pbt.errors import BadInput
from pbt.evaluation import teams
from pbt.evaluation.result import ITEMS, Measured, Result, read_result
from pbt.evaluation.stats import (
    Interval,
    Intervals,
    Metric,
    differences,
    fewest_questions,
    intervals,
    over_seeds,
    point,
    shared,
)
from pbt.evaluation.suite import EVALUATIONS, measure

FEWEST = 10
"""The fewest questions that a star may stand on, in each mean of a metric and for both models."""

_MISSING = "-"


class Cell(NamedTuple):
    """One metric of one model."""

    value: Interval | None
    """Over all seeds."""
    spread: tuple[float, float] | None
    """The least and the greatest of the seeds; ``None`` for a single one."""
    difference: Interval | None
    """To the baseline, paired; ``None`` for the baseline itself, and where the two share no items."""
    items: int
    """How many values the metric is computed from, over all seeds."""
    questions: int | None
    """On how many questions, at least, each mean of the difference stands; ``None`` without one."""

    @property
    def starred(self) -> bool:
        enough = self.questions is not None and self.questions >= FEWEST
        return enough and self.difference is not None and self.difference.excludes_zero

    def __str__(self) -> str:
        """Such as ``0.84* [0.79, 0.89]``, with several seeds followed by ``(0.82 to 0.86)``."""
        if self.value is None:
            return _MISSING
        shown = str(self.value).replace(" [", "* [" if self.starred else " [", 1)
        return shown + (f" ({self.spread[0]:.2f} to {self.spread[1]:.2f})" if self.spread else "")


class Row(NamedTuple):
    """One metric of an evaluation, by model."""

    key: str
    label: str
    better: str
    headline: bool
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Part:
    """One evaluation of the scorecard."""

    evaluation: str
    rows: tuple[Row, ...]
    counts: dict[str, dict[str, int]]
    """By model; summed over seeds."""
    notes: dict[str, list[str]]
    """By model, or "" for what holds for all."""
    details: dict[str, dict[str, Any]]
    """By model: of its first seed."""

    @property
    def title(self) -> str:
        return EVALUATIONS[self.evaluation].title


@dataclass(frozen=True)
class Column:
    """One model."""

    name: str
    paths: tuple[str, ...]
    seeds: int


@dataclass(frozen=True)
class Scorecard:
    """Models compared with a baseline."""

    baseline: str
    columns: tuple[Column, ...]
    parts: tuple[Part, ...]
    results: tuple[Result, ...]
    teams: tuple[Measured, ...]
    """What each teams result says of its pairs."""

    @property
    def legend(self) -> str:
        """What the brackets and the star mean."""
        seeds = " (least to greatest seed)" if any(column.seeds > 1 for column in self.columns) else ""
        return (
            f"[95% interval, bootstrap over questions]{seeds}"
            f"   * the paired 95% interval of the difference to {self.baseline} excludes zero, on at least {FEWEST} "
            "questions"
        )

    def rows(self, part: Part, *, every: bool = False) -> list[tuple[str, list[str]]]:
        """Labels and printed cells of an evaluation, counts after the metrics."""
        names = [column.name for column in self.columns]
        shown = [
            (row.label, [_shown(row.cells[name], every) if name in row.cells else _MISSING for name in names])
            for row in part.rows
            if every or row.headline
        ]
        shown += self._coefficients(part)
        counted = list(dict.fromkeys(key for counts in part.counts.values() for key in counts))
        for key in counted:
            values = [part.counts.get(name, {}).get(key) for name in names]
            # Items and failures always; what else was counted, where there was any; dialogues are most often the items.
            if every or key in ("items", "failed") or (any(values) and key != "dialogues"):
                shown.append((key, [_MISSING if value is None else str(value) for value in values]))
        return shown

    def table(self, *, every: bool = False) -> Table:
        """For a terminal."""
        # Four models with their intervals, and labels that need not be cut, in 80 columns.
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.caption, table.caption_justify = Text(self._caption(every)), "left"
        table.add_column("")
        for column in self.columns:
            table.add_column(Text(_heading(column)), justify="right", no_wrap=True)
        for part in self.parts:
            table.add_row(Text(part.title, style="bold"))
            for label, cells in self.rows(part, every=every):
                # The interval below the value: so four models fit a terminal of 80 columns.
                table.add_row(
                    Text(label),
                    *(Text(cell.replace(" [", "\n[").replace(" (", "\n(").replace(" n=", "\nn=")) for cell in cells),
                )
            table.add_section()
        return table

    def to_markdown(self, *, every: bool = False) -> str:
        """For a page."""
        lines = [("", *map(_heading, self.columns)), ("---", *("---:" for _ in self.columns))]
        for part in self.parts:
            lines.append((f"**{part.title}**", *("" for _ in self.columns)))
            lines += [(label, *cells) for label, cells in self.rows(part, every=every)]
        table = "\n".join("| " + " | ".join(_marked(cell) for cell in line) + " |" for line in lines)
        return f"{table}\n\n{self._caption(every)}\n{self._teams_markdown(every)}"

    def _teams_markdown(self, every: bool) -> str:
        """The matrix of the teams and, of ``every`` metric, the pairs; of several seeds, the first's."""
        if not self.teams:
            return ""
        names, matrix = self.teams[0].details["models"], self.teams[0].details["matrix"]
        seed = f", first of {len(self.teams)} seeds" if len(self.teams) > 1 else ""
        lines: list[Sequence[str]] = [(f"opens / answers{seed}", *names), ("---", *("---:" for _ in names))]
        for one in names:
            values = (matrix[one].get(other) for other in names)
            lines.append((one, *(_MISSING if value is None else f"{value:.2f}" for value in values)))
        pairs: list[Sequence[str]] = [(f"pairs{seed}", ""), ("---", "---:")]
        pairs += [(pair.label, str(pair.value or _MISSING)) for pair in pairs_of(self.teams[0])]
        return "".join(
            "\n" + "".join("| " + " | ".join(map(_marked, line)) + " |\n" for line in table)
            for table in (lines, pairs)[: 1 + every]
        )

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``: plain values; an interval is ``{value, low, high}``, and what is undefined is null."""
        return {
            "baseline": self.baseline,
            "models": [{"name": c.name, "paths": list(c.paths), "seeds": c.seeds} for c in self.columns],
            "evaluations": {
                part.evaluation: {
                    "title": part.title,
                    "metrics": {
                        row.key: {
                            "label": row.label,
                            "better": row.better,
                            "models": {name: _cell_dict(cell) for name, cell in row.cells.items()},
                        }
                        for row in part.rows
                    },
                    "counts": part.counts,
                    "notes": part.notes,
                    "details": part.details,
                }
                for part in self.parts
            },
            "teams": [
                {
                    **told.details,
                    "pairs": {pair.key: {"label": pair.label, **_interval_dict(pair.value)} for pair in pairs_of(told)},
                }
                for told in self.teams
            ],
        }

    def _coefficients(self, part: Part) -> list[tuple[str, list[str]]]:
        """The regression of the predictors, one row a coefficient."""
        found: dict[str, dict[str, str]] = {}
        for name, details in part.details.items():
            for c in details.get("regression", {}).get("coefficients", ()):
                label = f"log-odds of keeping: {c['label']}"
                found.setdefault(label, {})[name] = str(Interval(c["value"], c["low"], c["high"]))
        return [(label, [cells.get(c.name, _MISSING) for c in self.columns]) for label, cells in found.items()]

    def _caption(self, every: bool) -> str:
        notes = [
            f"{part.title}{f', {name}' if name else ''}: {note}"
            for part in self.parts
            for name, lines in part.notes.items()
            for note in lines
        ]
        hidden = sum(not row.headline for part in self.parts for row in part.rows)
        more = [f"{hidden} further metrics: --all"] if hidden and not every else []
        return "\n".join([self.legend, *notes, *more])


class Pair(NamedTuple):
    """Something of a pair of models, such as who pulls whom, or of all teams."""

    key: str
    label: str
    value: Interval | None


def pairs_of(told: Measured) -> list[Pair]:
    """What a teams result says of each pair, after what it says of all."""
    chosen = {k: m for k, m in told.metrics.items() if "+" in k.split("/")[0] or k in ("before", "after", "agreed")}
    return [Pair(key, chosen[key].label, value) for key, value in intervals(chosen).items()]


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The results of files and folders, in the order given; of a folder, ``base`` first.

    A folder is a run (with ``eval`` in it), its ``eval`` folder, or that of one evaluation. Raises BadInput for one
    without results.
    """
    found: dict[Path, Result] = {}
    for path in paths:
        files = _files(path) if path.is_dir() else [path]
        if not files:
            raise BadInput(f"{path}: no results (*.json with *{ITEMS} beside) in it; evaluate a model first")
        for file in files:
            if file.resolve() not in found:
                found[file.resolve()] = read_result(file)
    return list(found.values())


def scorecard(results: Sequence[Result], baseline: str | None = None) -> Scorecard:
    """Compare results with the model named ``baseline``; by default ``base``, else the first.

    Raises BadInput when there are none, when the baseline is not among them, or when a result and the baseline's stand
    on different items.
    """
    if not results:
        raise BadInput("scorecard: no results; name at least one result file or folder")
    sheets = [sheet for result in results for sheet in _sheets(result)]
    names = list(dict.fromkeys(sheet.name for sheet in sheets))
    base = baseline or ("base" if "base" in names else names[0])
    if base not in names:
        raise BadInput(f"--baseline {base}: no such result (known: {', '.join(names)})")
    chosen = [name for name in EVALUATIONS if any(sheet.evaluation == name for sheet in sheets)]
    parts = tuple(_part(name, [s for s in sheets if s.evaluation == name], names, base) for name in chosen)
    columns = tuple(_column(name, [sheet for sheet in sheets if sheet.name == name]) for name in names)
    told = tuple(measure("teams", result.records) for result in results if result.evaluation == "teams")
    return Scorecard(base, columns, parts, tuple(results), told)


class _Sheet:
    """What one result says of one model."""

    def __init__(self, result: Result, name: str, model: str | None) -> None:
        self.result, self.name, self.model = result, name, model
        self.evaluation = result.evaluation

    @property
    def run(self) -> Path:
        """The run's folder: one seed of the model."""
        return self.result.path.resolve().parent.parent.parent

    @cached_property
    def measured(self) -> Measured:
        whole = measure(self.evaluation, self.result.records)
        if self.evaluation != "teams":
            return replace(whole, counts=self.result.written["counts"])
        mine = [record for record in self.result.records if self.name in record.item["models"]]
        counted = {"items": sum(r.error is None for r in mine), "failed": sum(r.error is not None for r in mine)}
        return Measured(teams.view(self.result.records, self.name), counted)


def _sheets(result: Result) -> list[_Sheet]:
    """One for each model of the result: teams are of several."""
    if result.evaluation not in EVALUATIONS:
        raise BadInput(f"{result.path}: no evaluation '{result.evaluation}' (known: {', '.join(EVALUATIONS)})")
    if result.evaluation != "teams":
        return [_Sheet(result, result.name, result.model)]
    models = dict.fromkeys(name for record in result.records for name in record.item["models"])
    # Results of earlier versions do not tell whose path is which.
    paths = result.written["record"].get("members", {})
    return [_Sheet(result, name, paths.get(name)) for name in models]


def _part(evaluation: str, sheets: Sequence[_Sheet], names: Sequence[str], base: str) -> Part:
    cells: dict[str, dict[str, Cell]] = {}
    first: dict[str, Metric] = {}
    seeds = {name: [sheet for sheet in sheets if sheet.name == name] for name in names}
    for name in names:
        if not seeds[name]:
            continue
        for seed in seeds[name]:
            for key, metric in seed.measured.metrics.items():
                first.setdefault(key, metric)
        metrics = over_seeds([seed.measured.metrics for seed in seeds[name]])
        values = intervals(metrics)
        against = _against(seeds[name], seeds[base]) if name != base and seeds[base] else _Against({}, {})
        for key in metrics:
            alone = [point(seed.measured.metrics[key]) for seed in seeds[name]]
            points = [value for value in alone if value is not None]
            spread = (min(points), max(points)) if len(seeds[name]) > 1 and points else None
            cells.setdefault(key, {})[name] = Cell(
                values[key], spread, against.differences.get(key), metrics[key].items, against.questions.get(key)
            )
    rows = tuple(Row(key, m.label, m.better, m.headline, cells.get(key, {})) for key, m in first.items())
    notes = {name: _notes(seeds[name]) for name in names if seeds[name]}
    of_all = [note for note in next(iter(notes.values())) if all(note in lines for lines in notes.values())]
    return Part(
        evaluation,
        rows,
        {name: _total(seeds[name]) for name in names if seeds[name]},
        {"": of_all, **{name: [n for n in lines if n not in of_all] for name, lines in notes.items()}},
        {name: seeds[name][0].measured.details for name in names if seeds[name]},
    )


class _Against(NamedTuple):
    """The paired differences to the baseline, and on how many questions each stands at least."""

    differences: Intervals
    questions: dict[str, int]


def _against(seeds: Sequence[_Sheet], bases: Sequence[_Sheet]) -> _Against:
    """The paired difference to the baseline, over all seeds."""
    pairs = [(seed, _partner(seed, bases)) for seed in seeds]
    ours = over_seeds([seed.measured.metrics for seed, _ in pairs])
    theirs = over_seeds([base.measured.metrics for _, base in pairs])
    common = [key for key in ours if key in theirs and len(ours[key].means) == len(theirs[key].means)]
    questions = {}
    for key in common:
        halves = [shared(seed.measured.metrics[key], base.measured.metrics[key]) for seed, base in pairs]
        questions[key] = min(map(fewest_questions, zip(*halves, strict=True)))
    return _Against(differences({key: ours[key] for key in common}, {key: theirs[key] for key in common}), questions)


def _notes(seeds: Sequence[_Sheet]) -> list[str]:
    """The notes of all seeds; one that not all of them have names those that do."""
    runs: dict[str, list[str]] = {}
    for seed in seeds:
        for note in seed.measured.notes:
            runs.setdefault(note, []).append(seed.run.name)
    return [note if len(of) == len(seeds) else f"{note} ({', '.join(of)})" for note, of in runs.items()]


def _partner(seed: _Sheet, bases: Sequence[_Sheet]) -> _Sheet:
    """The baseline's result of the same run, else one on the same items. Raises BadInput."""
    same = [base for base in bases if base.result.items_sha256 == seed.result.items_sha256]
    at_home = [base for base in same if base.run == seed.run]
    if not same:
        raise BadInput(
            f"{bases[0].result.path} and {seed.result.path}: they were made on different items, so they cannot be "
            "compared; evaluate both on the same inputs with the same seed and limits"
        )
    return (at_home or same)[0]


def _column(name: str, sheets: Sequence[_Sheet]) -> Column:
    most = max(sum(sheet.evaluation == other.evaluation for other in sheets) for sheet in sheets)
    return Column(name, tuple(dict.fromkeys(sheet.model for sheet in sheets if sheet.model)), most)


def _total(seeds: Sequence[_Sheet]) -> dict[str, int]:
    total: dict[str, int] = {}
    for seed in seeds:
        for key, count in seed.measured.counts.items():
            total[key] = total.get(key, 0) + count
    return total


def _files(folder: Path) -> list[Path]:
    """The results in a folder, what the others are compared with first."""
    found = [path for pattern in ("*.json", "*/*.json", "eval/*/*.json") for path in folder.glob(pattern)]
    results = [path for path in dict.fromkeys(found) if path.with_name(f"{path.stem}{ITEMS}").is_file()]
    order = list(EVALUATIONS)

    def place(path: Path) -> tuple[int, bool, str]:
        evaluation = path.parent.name
        return (order.index(evaluation) if evaluation in order else len(order), path.stem != "base", path.stem)

    return sorted(results, key=place)


def _heading(column: Column) -> str:
    return column.name if column.seeds == 1 else f"{column.name}, {column.seeds} seeds"


def _shown(cell: Cell, every: bool) -> str:
    return f"{cell} n={cell.items}" if every and cell.value else str(cell)


def _interval_dict(interval: Interval | None) -> dict[str, Any]:
    return asdict(interval) if interval else {"value": None, "low": None, "high": None}


def _cell_dict(cell: Cell) -> dict[str, Any]:
    return {
        **_interval_dict(cell.value),
        "items": cell.items,
        "questions": cell.questions,
        "spread": list(cell.spread) if cell.spread else None,
        "difference": asdict(cell.difference) if cell.difference else None,
        "star": cell.starred,
    }


def _marked(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
