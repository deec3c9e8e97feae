"""The dataset on disk: each table as JSON lines and Parquet, the regimes also as ``datasets`` saves its own.

``data/<name>/<split>.parquet`` and ``jsonl/<name>/<split>.jsonl`` hold three *views* of each regime: ``<regime>`` in
TRL's conversational preference format, ``sft-<regime>`` with the chosen reply as the completion, ``kto-<regime>`` with
both replies, each on its own with a label. ``load_from_disk`` opens ``<regime>/``, and the whole folder too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import json as arrow_json
from pyarrow import parquet

from pbt.config import REGIMES, Regime
from pbt.preferences.balance import Positions, Regimes
from pbt.preferences.pairs import Pair
from pbt.preferences.progress import Announce, Phase, unwatched
from pbt.provenance import write_atomic
from pbt.questions import Split

VIEWS = ("", "sft-", "kto-")
"""What stands before a regime's name in the names of its views."""
FOLDERS = ("data", "jsonl", *REGIMES)
"""The folders that hold the dataset."""
INDEX_FILE = "dataset_dict.json"
"""What ``datasets.load_from_disk`` looks for, in the regimes' folders and above them."""

_STREAM = "regime.arrow"
_ROWS = 2048
"""Rows in memory at a time; also the rows of a group in Parquet."""

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_TYPES = {
    "aliases": pa.list_(pa.string()),
    "copied_turns": pa.list_(pa.int64()),
    "label": pa.bool_(),
    **dict.fromkeys(("prompt", "chosen", "rejected", "completion"), _MESSAGES),
    **dict.fromkeys(("own_turn", "context_turn", "chosen_turn", "rejected_turn"), pa.int64()),
    **dict.fromkeys(("score_chosen", "score_rejected"), pa.int64()),
    **dict.fromkeys(("chosen_log_odds", "rejected_log_odds"), pa.float64()),
}
_COLUMNS = {
    "": tuple(Pair.__slots__),
    "sft-": ("pair_id", "code", "prompt", "completion"),
    "kto-": ("pair_id", "code", "prompt", "completion", "label"),
}


def write_tables(
    out: Path, scratch: Path, regimes: Regimes, read: Callable[[int], bytes], progress: Announce = unwatched
) -> None:
    """Write all tables. ``read`` gives the line of a pair by its position; ``scratch`` is a folder for passing files.

    A split without pairs is an empty file with the right columns; ``datasets`` refuses to load one, so the saved
    regimes are without it.
    """
    phase = Phase("rows", sum(len(positions) for splits in regimes.values() for positions in splits.values()))
    progress(phase)
    saved = []
    for regime, splits in regimes.items():
        kept = [split for split, positions in splits.items() if len(positions)]
        for split, positions in splits.items():
            fingerprint = _write_views(out, scratch, regime, split, positions, read, phase)
            if split in kept:
                _save(scratch / _STREAM, out / regime / split, split, fingerprint)
        write_atomic(out / regime / INDEX_FILE, orjson.dumps({"splits": kept}))
        saved += [f"{regime}/{split}" for split in kept]
    write_atomic(out / INDEX_FILE, orjson.dumps({"splits": saved}))


def _write_views(
    out: Path,
    scratch: Path,
    regime: Regime,
    split: Split,
    positions: Positions,
    read: Callable[[int], bytes],
    phase: Phase,
) -> str:
    """Write one split of a regime in all views. Returns a hash of its content."""
    content = hashlib.sha256()
    places = iter(positions.tolist())
    with (
        _Table(out, regime, "", split) as pairs,
        _Table(out, regime, "sft-", split) as sft,
        _Table(out, regime, "kto-", split) as kto,
        pa.ipc.new_stream(scratch / _STREAM, pairs.schema) as stream,
    ):
        while lines := [read(place) for place in islice(places, _ROWS)]:
            rows = [orjson.loads(line) for line in lines]
            joined = b"".join(lines)
            content.update(joined)
            stream.write_table(pairs.write(joined))
            sft.write(_lines(_completion(row, "chosen") for row in rows))
            kto.write(
                _lines(
                    {**_completion(row, side), "label": side == "chosen"}
                    for row in rows
                    for side in ("chosen", "rejected")
                )
            )
            phase.done += len(rows)
    return content.hexdigest()[:16]


def _completion(row: dict[str, Any], side: str) -> dict[str, Any]:
    return {"pair_id": row["pair_id"], "code": row["code"], "prompt": row["prompt"], "completion": row[side]}


def _lines(records: Iterator[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)


class _Table:
    """One split of one view, open for writing, as JSON lines and as Parquet."""

    def __init__(self, out: Path, regime: Regime, view: str, split: Split) -> None:
        self.schema = pa.schema([(name, _TYPES.get(name, pa.string())) for name in _COLUMNS[view]])
        folders = [out / kind / f"{view}{regime}" for kind in ("jsonl", "data")]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folders[0] / f"{split}.jsonl").open("wb")
        self._parquet = parquet.ParquetWriter(folders[1] / f"{split}.parquet", self.schema, compression="zstd")

    def write(self, lines: bytes) -> pa.Table:
        """Add rows, given as JSON lines; returns them as a table."""
        self._lines.write(lines)
        rows = arrow_json.read_json(
            pa.BufferReader(lines),
            # In one block and one thread, so that the file does not depend on the machine.
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
            parse_options=arrow_json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior="error"),
        )
        self._parquet.write_table(rows)
        return rows

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lines.close()
        self._parquet.close()


def _save(stream: Path, folder: Path, split: Split, fingerprint: str) -> None:
    """Save a stream of rows the way ``datasets`` does, under a fingerprint that depends on the rows alone."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with pa.memory_map(str(stream)) as source:
            rows = pa.ipc.open_stream(source).read_all()
            datasets.Dataset(rows, split=datasets.NamedSplit(split), fingerprint=fingerprint).save_to_disk(folder)
    finally:
        if shown:
            datasets.enable_progress_bars()
