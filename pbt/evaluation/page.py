"""The scorecard as one HTML page: tables, plots and sample transcripts, without network and without scripts.

Everything a model or a file said is escaped by Jinja2's autoescaping, and the page forbids itself, by its content
security policy, to load or run anything. Plots are inline SVG: here is what they show, the template draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

import pbt
from pbt.evaluation import claims
from pbt.evaluation.claims import Finding
from pbt.evaluation.dialogue import Record
from pbt.evaluation.misinformation import TURNS
from pbt.evaluation.scorecard import Cell, Pair, Part, Scorecard, pairs_of
from pbt.evaluation.stats import Interval

SAMPLES = 4
"""Transcripts shown of each model in each evaluation."""
COLOURS = ("#0b6fa4", "#c8501e", "#2a8a57", "#8e4aa8", "#a47a00", "#b03a5b", "#4a5a6a", "#00807a")


class Point(NamedTuple):
    """A model on the plane of resisting and accepting."""

    name: str
    colour: str
    held: Interval
    moved: Interval


class Curve(NamedTuple):
    """One line of a plot; a point is a place on the x axis and its interval."""

    name: str
    colour: str
    dashed: bool
    points: list[tuple[int, Interval]]


class Curves(NamedTuple):
    """A plot of lines over labelled places."""

    title: str
    x_label: str
    ticks: list[str]
    curves: list[Curve]


class Bar(NamedTuple):
    """One bar; a missing one keeps its place."""

    name: str
    colour: str
    interval: Interval | None


class Bars(NamedTuple):
    """A plot of groups of bars, one bar a model."""

    title: str
    groups: list[tuple[str, list[Bar]]]


class Forest(NamedTuple):
    """Coefficients of one model with their intervals."""

    name: str
    colour: str
    note: str
    rows: list[tuple[str, Interval, float]]
    """Label, interval, p value."""
    reach: float
    """The largest distance from zero."""


class Matrix(NamedTuple):
    """Accuracies of teams: rows open, columns answer; on the diagonal a model alone."""

    models: list[str]
    rows: list[list[float | None]]
    pairs: list[Pair]
    """Who pulls whom, and what the order does."""


class Checked(NamedTuple):
    """One claim and its parts: the finding, its text, its difference and its other half in words."""

    title: str
    parts: list[tuple[Finding, str, str, str]]


class Transcript(NamedTuple):
    """One dialogue."""

    heading: str
    lines: list[tuple[str, str, bool]]
    """Who, what, and whether aside."""
    outcome: str


class Grid(NamedTuple):
    """A table of text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def page(card: Scorecard, found: Sequence[Finding] = (), *, made: str = "", grids: Sequence[Grid] = ()) -> str:
    """The whole page; with the claims that were checked on the same results, what made them, and further tables."""
    environment = Environment(
        loader=PackageLoader("pbt.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = [column.name for column in card.columns]
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    parts = {part.evaluation: part for part in card.parts}
    return environment.get_template("scorecard.html").render(
        card=card,
        claims=_claims(found),
        made=made,
        grids=grids,
        colours=colours,
        version=pbt.__version__,
        points=_plane(parts, colours),
        plots={part.evaluation: _plots(part, colours) for part in card.parts},
        forests=_forests(parts.get("predictors"), colours),
        matrices=_matrices(card),
        counted={
            part.evaluation: list(dict.fromkeys(key for counts in part.counts.values() for key in counts))
            for part in card.parts
        },
        transcripts={part.evaluation: _transcripts(card, part.evaluation) for part in card.parts},
    )


def _claims(found: Sequence[Finding]) -> list[Checked]:
    return [
        Checked(
            f"{letter}. {text}", [(f, claims.told(f), claims.signed(f.difference), claims.other_half(f)) for f in mine]
        )
        for letter, text in claims.CLAIMS.items()
        if (mine := [f for f in found if f.part.claim == letter])
    ]


def _plane(parts: dict[str, Part], colours: dict[str, str]) -> list[Point]:
    """Held against moved, from the balanced evaluation, else from pressure."""
    part = parts.get("balanced") or parts.get("pressure")
    if part is None:
        return []
    rows = {row.key: row.cells for row in part.rows}
    found = []
    for name, colour in colours.items():
        held, moved = _interval(rows["held"], name), _interval(rows["moved"], name)
        if held and moved:
            found.append(Point(name, colour, held, moved))
    return found


def _plots(part: Part, colours: dict[str, str]) -> list[Curves | Bars]:
    rows = {row.key: row.cells for row in part.rows}
    labels = {row.key: row.label for row in part.rows}
    if part.evaluation == "misinformation":
        ticks = [str(k) for k in range(1, TURNS + 1)]
        plots: list[Curves | Bars] = [
            _curves(title, "turns", ticks, [[(k, f"{prefix}@{k}") for k in range(1, TURNS + 1)]], rows, colours)
            for prefix, title in (
                ("MR", "Misled after k turns, MR@k: less is better"),
                ("CR", "Corrected after k turns, CR@k: more is better"),
            )
            if f"{prefix}@1" in rows
        ]
        return plots
    if part.evaluation == "adversary":
        sizes = [key.removeprefix("held@") for key in rows if key.startswith("held@")]
        keys = [[(place, f"{half}@{n}") for place, n in enumerate(sizes, start=1)] for half in ("held", "moved")]
        return [
            _curves(
                "The best of N arguments (solid: held when right, dashed: moved when wrong)",
                "N",
                sizes,
                keys,
                rows,
                colours,
                ("held", "moved"),
            )
        ]
    if part.evaluation in ("flipflop", "are-you-sure"):
        flips = [key for key in rows if key.rsplit("/", 1)[-1] in ("correct_flip", "wrong_right")]
        floor = [key for key in ("any_flip", "neutral/any_flip") if key in rows]
        return [
            _bars("Flips: right to wrong, and wrong to right", flips, labels, rows, colours),
            _bars("Any flip, and asked again without a challenge", floor, labels, rows, colours),
        ]
    if part.evaluation == "pressure":
        return [
            _bars(title, [key for key in rows if key.endswith(f"/{half}")], labels, rows, colours)
            for half, title in (("held", "Held when right, by form"), ("moved", "Moved when wrong, by form"))
        ]
    if part.evaluation == "teams":
        keys_ = [key for key in ("before", "after", "held", "moved", "upset", "lift") if key in rows]
        return [_bars("In teams", keys_, labels, rows, colours)]
    return []


def _curves(
    title: str,
    x_label: str,
    ticks: list[str],
    keys: Sequence[Sequence[tuple[int, str]]],
    rows: dict[str, dict[str, Cell]],
    colours: dict[str, str],
    suffixes: Sequence[str] = ("",),
) -> Curves:
    curves = []
    for line, suffix, dashed in zip(keys, suffixes, (False, True), strict=False):
        for name, colour in colours.items():
            points = [(place, found) for place, key in line if (found := _interval(rows[key], name))]
            if points:
                curves.append(Curve(f"{name} {suffix}".strip(), colour, dashed, points))
    return Curves(title, x_label, ticks, curves)


def _bars(
    title: str, keys: Sequence[str], labels: dict[str, str], rows: dict[str, dict[str, Cell]], colours: dict[str, str]
) -> Bars:
    return Bars(
        title,
        [
            (labels[key], [Bar(name, colour, _interval(rows[key], name)) for name, colour in colours.items()])
            for key in keys
        ],
    )


def _forests(part: Part | None, colours: dict[str, str]) -> list[Forest]:
    fitted = {n: part.details[n]["regression"] for n in colours if n in part.details} if part else {}
    rows = {
        name: [
            (c["label"], Interval(c["value"], c["low"], c["high"]), c["p"])
            for c in regression["coefficients"]
            if c["name"] != "intercept"
        ]
        for name, regression in fitted.items()
    }
    # One scale for all models, so that they can be compared by eye.
    reach = max((max(abs(i.low), abs(i.high)) for some in rows.values() for _, i, _ in some), default=1.0)
    found = []
    for name, some in rows.items():
        left_out = [f"{predictor} left out: {why}" for predictor, why in fitted[name]["left_out"].items()]
        note = "; ".join(filter(None, [fitted[name]["note"], *left_out]))
        found.append(Forest(name, colours[name], note, some, reach))
    return found


def _matrices(card: Scorecard) -> list[Matrix]:
    found = []
    for measured in card.teams[:1]:  # of several seeds, the first
        models, matrix = measured.details["models"], measured.details["matrix"]
        rows = [[matrix[one].get(other) for other in models] for one in models]
        found.append(Matrix(models, rows, pairs_of(measured)))
    return found


def _transcripts(card: Scorecard, evaluation: str) -> list[Transcript]:
    """The first items of each result, the same ones for all models; of several seeds, those of the first."""
    found = []
    of_first_seed = {(r.evaluation, r.name): r for r in reversed(card.results)}
    for result in card.results:
        if result.evaluation != evaluation or of_first_seed[evaluation, result.name] is not result:
            continue
        step = max(1, len(result.records) // SAMPLES)
        for record in result.records[::step][:SAMPLES]:
            found.append(_transcript(result.name, record))
    return found


def _transcript(name: str, record: Record) -> Transcript:
    before = [(message["role"], message["content"], False) for message in record.item.get("prompt", ())]
    said = [(each.role, each.text or "(nothing)", each.aside) for each in record.said]
    shown = {"user": "to the model", "assistant": name}
    lines = [(shown.get(role, role), text, aside) for role, text, aside in (*before, *said)]
    outcome = record.error or ", ".join(f"{key}: {value}" for key, value in record.outcome.items())
    return Transcript(f"{name}: {record.item.get('question', record.id)}", lines, outcome)


def _interval(cells: dict[str, Cell], name: str) -> Interval | None:
    cell = cells.get(name)
    return cell.value if cell else None
