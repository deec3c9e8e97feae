"""Results on disk: the same two files for every evaluation.

``<name>.items.jsonl`` holds one line a dialogue, whole; ``<name>.json`` the metrics with their intervals, what was
counted, which items they stand on, and what made them. The metrics are written last and carry the hash of the items
file, so a result whose files do not belong together is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from pbt.errors import BadInput
from pbt.evaluation.dialogue import Record
from pbt.evaluation.stats import Better, Mean, Metric, intervals, scored
from pbt.provenance import write_atomic

FORMAT = 2
"""Version of the result files; a reader refuses another."""

ITEMS = ".items.jsonl"


@dataclass(frozen=True)
class Measured:
    """What the records of an evaluation amount to."""

    metrics: dict[str, Metric]
    """By key, in the order in which they are shown."""
    counts: dict[str, int]
    """What a reader must know of the run itself: items, failures, replies that could not be read..."""
    notes: list[str] = field(default_factory=list)
    """What must be said beside the numbers, one sentence each."""
    details: dict[str, Any] = field(default_factory=dict)
    """What is no metric of the items, such as a regression."""


@dataclass(frozen=True)
class Result:
    """A result as read back."""

    path: Path
    evaluation: str
    name: str
    """What the evaluated model is called."""
    model: str
    """Its path."""
    items_sha256: str
    records: tuple[Record, ...]
    written: Mapping[str, Any]
    """The metrics file as it stands."""


def share(
    records: Iterable[Record],
    label: str,
    value: Callable[[Mapping[str, Any]], float | None],
    *,
    better: Better = "high",
    headline: bool = False,
    unit: Callable[[Record], str] = lambda record: record.id,
) -> Metric:
    """The mean over items of ``value(outcome)``, ``None`` where an item does not count; failed ones are left out.

    Records of one ``unit``, by default the samples of an item, are averaged first.
    """
    answered = (record for record in records if record.error is None)
    scores = scored(answered, lambda r: (unit(r), r.question_id), lambda r: value(r.outcome))
    return Metric(label, (Mean(scores),), better, headline)


def counts(records: Sequence[Record]) -> dict[str, int]:
    """What every evaluation counts: items with a reply, dialogues, and those that failed; replies without text."""
    return {
        "items": len({record.id for record in records if record.error is None}),
        "dialogues": len(records),
        "failed": sum(record.error is not None for record in records),
        "empty": sum(not said.text for record in records for said in record.said if said.role == "assistant"),
    }


def items_sha256(records: Iterable[Record]) -> str:
    """What identifies a set of items: ids and contents, whatever the order.

    The ids alone would not do: trees grown anew, under another configuration, number their pairs alike.
    """
    distinct = {record.id: orjson.dumps(record.item, option=orjson.OPT_SORT_KEYS) for record in records}
    return hashlib.sha256(b"\n".join(distinct[item_id] for item_id in sorted(distinct))).hexdigest()


def write_result(
    folder: Path, evaluation: str, name: str, records: Sequence[Record], measured: Measured, record: dict[str, Any]
) -> Path:
    """Write both files of a result; returns the path of the metrics.

    ``record`` is the provenance, with the path of the evaluated model under ``model``.
    """
    if not name or Path(name).name != name:
        raise BadInput(f"result name '{name}': it names a file in {folder}, so it may not be empty or a path")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    lines = b"".join(orjson.dumps(each.to_dict()) + b"\n" for each in records)
    write_atomic(items_path(path), lines)
    result = {
        "format": FORMAT,
        "evaluation": evaluation,
        "model": record["model"],
        "items_sha256": items_sha256(records),
        "transcripts_sha256": hashlib.sha256(lines).hexdigest(),
        **measured_dict(measured),
        "record": record,
    }
    write_atomic(path, orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
    return path


def measured_dict(measured: Measured) -> dict[str, Any]:
    """Metrics with their intervals, counts, notes and details, as JSON values."""
    found = intervals(measured.metrics)
    return {
        "metrics": {
            key: {
                "label": metric.label,
                **(asdict(interval) if (interval := found[key]) else {"value": None, "low": None, "high": None}),
                "items": metric.items,
                "better": metric.better,
            }
            for key, metric in measured.metrics.items()
        },
        "counts": measured.counts,
        "notes": measured.notes,
        "details": measured.details,
    }


def read_result(path: Path) -> Result:
    """Read both files of a result; its name is the file's. Raises BadInput for files that are none, or do not belong
    together."""
    try:
        written = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such result; evaluate a model first") from None
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{path}: not valid JSON: {error}") from None
    if not isinstance(written, dict) or "evaluation" not in written:
        raise BadInput(f"{path}: not a result of an evaluation")
    if written.get("format") != FORMAT:
        raise BadInput(
            f"{path}: result format {written.get('format')!r} is not {FORMAT}, which this version reads; evaluate again"
        )
    items = items_path(path)
    lines = items.read_bytes() if items.is_file() else b""
    if hashlib.sha256(lines).hexdigest() != written.get("transcripts_sha256"):
        raise BadInput(f"{items}: missing, or not the transcripts that {path.name} was computed from; evaluate again")
    try:
        return Result(
            path=path,
            evaluation=written["evaluation"],
            name=path.stem,
            model=written["model"],
            items_sha256=written["items_sha256"],
            records=tuple(Record.from_dict(orjson.loads(line)) for line in lines.split(b"\n")[:-1]),
            written=written,
        )
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}: not a result of this version ({error}); evaluate again") from None


def items_path(result: Path) -> Path:
    """The items file beside the metrics."""
    return result.with_name(f"{result.stem}{ITEMS}")


def metrics_path(items: Path) -> Path:
    """The metrics beside an items file. Raises BadInput for a path that is none."""
    if not items.name.endswith(ITEMS):
        raise BadInput(f"{items}: expected a file of items, <name>{ITEMS}")
    return items.with_name(f"{items.name.removesuffix(ITEMS)}.json")
