"""From files of trees to one file of pairs: walk, then leave out what repeats, leaks, or is refuted.

Trees are read in a stream and pairs stay on disk; in memory is one small index record a pair.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import orjson

from pbt.debate.tree import DebateTree
from pbt.errors import BadInput
from pbt.preferences.balance import INDEX, Index, Positions, crossing, firsts
from pbt.preferences.filter import Filter, confirms, stance
from pbt.preferences.pairs import Reason, Rejection
from pbt.preferences.progress import Announce, Phase, unwatched
from pbt.preferences.rules import rule_set
from pbt.preferences.trees import SHOWN, batches, bytes_of, skip, trees_of
from pbt.preferences.walk import Task, Walk, in_order, processes, walk_batch

log = logging.getLogger(__name__)

PAIRS_FILE = "pairs.jsonl"
REJECTIONS_FILE = "rejections.jsonl"
SKIPPED_FILE = "skipped.jsonl"

_CHUNK = 1024
"""Pairs in memory at a time; the filter's model is asked about their replies together."""


class PairFile:
    """Pairs on disk, a line each, found by their place in an index. Use as a context manager."""

    def __init__(self, path: Path, index: Index) -> None:
        """``index`` need not say yet where lines begin."""
        self.index = index
        index["start"] = np.cumsum(index["size"], dtype=np.uint64) - index["size"]
        self._file = path.open("rb")

    def read(self, position: int) -> bytes:
        """The line of one pair."""
        at = self.index[position]
        return os.pread(self._file.fileno(), int(at["size"]), int(at["start"]))

    def lines(self) -> Iterator[bytes]:
        """All lines, in order."""
        self._file.seek(0)
        return iter(self._file)

    def __enter__(self) -> PairFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


@dataclass
class Counts:
    """What was read, and why candidates fell."""

    trees: int = 0
    turns: int = 0
    empty_turns: int = 0
    skipped: int = 0
    """Lines that were no trees."""
    models: set[tuple[str, ...]] = field(default_factory=set)
    """The models by seat that the trees name."""
    fell: Counter[Reason] = field(default_factory=Counter)
    unanswered: int = 0
    """Requests that the filter's model did not answer."""


def gather(
    walk: Walk,
    paths: Sequence[Path],
    folder: Path,
    counts: Counts,
    *,
    model: Filter | None = None,
    workers: int = 1,
    pool: Callable[[int], Executor] = processes,
    strict: bool = False,
    progress: Announce = unwatched,
) -> PairFile:
    """Judge every pair of siblings of every tree; writes all files that this module names into ``folder``.

    Raises BadInput for paths without trees, a line that is none if ``strict``, a tree of an unknown protocol, and two
    different trees of one id.
    """
    candidates_file = folder / "candidates.jsonl"
    rejections_file = folder / REJECTIONS_FILE if walk.config.rejections else Path(os.devnull)
    with (
        candidates_file.open("wb") as candidates,
        (folder / PAIRS_FILE).open("wb") as pairs,
        rejections_file.open("wb") as rejections,
        (folder / SKIPPED_FILE).open("wb") as skipped,
    ):
        index = [np.empty(0, dtype=INDEX)]
        phase = Phase("bytes", bytes_of(paths))
        progress(phase)
        for walked in in_order(partial(walk_batch, walk), _tasks(walk, paths, model, phase), workers, pool):
            for bad in walked.skipped:
                counts.skipped += 1
                skip(bad, counts.skipped, strict)
                skipped.write(_line({"file": str(bad.file), "line": bad.line, "reason": bad.reason}))
            candidates.write(walked.pairs)
            rejections.write(walked.rejections)
            index.append(walked.records)
            counts.trees += walked.trees
            counts.turns += walked.turns
            counts.empty_turns += walked.empty_turns
            counts.models |= walked.models
            counts.fell += walked.fell
            phase.done += walked.size
            phase.trees += walked.trees
            phase.pairs += len(walked.records)
        if counts.skipped > SHOWN:
            log.warning("skipped %d lines more; see %s", counts.skipped - SHOWN, SKIPPED_FILE)
        candidates.flush()

        with PairFile(candidates_file, np.concatenate(index)) as found:
            kept = np.zeros(len(found.index), dtype=np.bool_)
            sizes = found.index["size"].copy()
            for place, (line, reason, duplicate_of) in enumerate(_settle(found, model, progress)):
                if reason is None:
                    kept[place] = True
                    sizes[place] = len(line)  # the filter's verdicts may have come in
                    pairs.write(line)
                else:
                    counts.fell[reason] += 1
                    rejections.write(_rejection(line, reason, duplicate_of))
    candidates_file.unlink()
    counts.unanswered = model.failed if model else 0
    final = found.index[kept]
    final["size"] = sizes[kept]
    return PairFile(folder / PAIRS_FILE, final)


def _tasks(walk: Walk, paths: Sequence[Path], model: Filter | None, phase: Phase) -> Iterator[Task]:
    """The steps of the walk, with the synonyms that the filter finds in each batch."""
    rules = rule_set(walk.config)

    def answered(questions: int) -> None:
        phase.answers += questions

    for batch in batches(paths):
        if model is None:
            yield Task(batch)
        else:
            trees = [tree for tree in trees_of(batch) if isinstance(tree, DebateTree)]
            yield Task(batch, model.synonyms(trees, rules, answered))


class _Settled(NamedTuple):
    line: bytes
    reason: Reason | None = None
    """Why the pair is left out, if it is."""
    duplicate_of: str | None = None


def _settle(found: PairFile, model: Filter | None, progress: Announce) -> Iterator[_Settled]:
    """What becomes of each pair, in order."""
    first = firsts(found.index)
    alone = first == np.arange(len(first))
    _refuse_two_trees(found, np.flatnonzero(alone))
    # One question text with two gold values may fall into two splits: such questions are left out, so nothing leaks.
    crosses = np.zeros_like(alone)
    crosses[alone] = crossing(found.index[alone], "question")

    phase = Phase("pairs", len(first)) if model is None else Phase("requests", 2 * int((alone & ~crosses).sum()))
    progress(phase)

    def settled_more(number: int) -> None:
        phase.done += number

    lines = enumerate(found.lines())
    while chunk := list(islice(lines, _CHUNK)):
        settled = [
            _Settled(line, "duplicate", orjson.loads(found.read(int(first[place])))["pair_id"])
            if not alone[place]
            else _Settled(line, "crossing" if crosses[place] else None)
            for place, line in chunk
        ]
        if model is None:
            yield from settled
            settled_more(len(settled))
        else:
            yield from _confirmed(settled, model, settled_more)


def _confirmed(settled: Sequence[_Settled], model: Filter, answered: Callable[[int], None]) -> Iterator[_Settled]:
    """The same, with the filter's verdicts on the pairs that are still in."""
    rows = [orjson.loads(one.line) for one in settled if one.reason is None]
    verdicts = iter(zip(rows, model.confirm(rows, answered), strict=True))
    for one in settled:
        if one.reason is not None:
            yield one
            continue
        row, (chosen, rejected) = next(verdicts)
        if chosen is None or rejected is None:
            yield _Settled(one.line, "unanswered")
            continue
        row.update(chosen_stance=stance(chosen), chosen_log_odds=chosen)
        row.update(rejected_stance=stance(rejected), rejected_log_odds=rejected)
        yield _Settled(_line(row), None if confirms(row["code"], chosen, rejected) else "unconfirmed")


def _refuse_two_trees(found: PairFile, places: Positions) -> None:
    """Raise BadInput when different pairs have one id, which two trees of one id make."""
    _, first, count = np.unique(found.index["pair_id"][places], return_index=True, return_counts=True)
    if len(count) and count.max() > 1:
        pair = orjson.loads(found.read(int(places[first[count.argmax()]])))
        raise BadInput(
            f"tree {pair['tree_id']}: two trees of this id, with different texts, are among the input; "
            "pair ids would stand twice, so build from one of the two"
        )


def _rejection(line: bytes, reason: Reason, duplicate_of: str | None) -> bytes:
    pair = orjson.loads(line)
    low, high = sorted((pair["chosen_turn"], pair["rejected_turn"]))
    return _line(Rejection(pair["tree_id"], (low, high), reason, duplicate_of)._asdict())


def _line(record: object) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
