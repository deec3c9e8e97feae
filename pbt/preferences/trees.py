"""Trees for the walk: raw lines in batches, and what each line holds, a debate between two or a reason to skip it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pbt.debate.tree import DebateTree, TreeError
from pbt.errors import BadInput
from pbt.released import parse_any
from pbt.store import BadLine, named_files

log = logging.getLogger(__name__)

BATCH = 256
"""Lines in a batch."""
SHOWN = 10
"""Lines without a tree that are told one by one."""


class Batch(NamedTuple):
    """Consecutive lines of one file; small enough to hand to another process."""

    file: Path
    first: int
    """Number of the first line, counted from 1."""
    lines: list[bytes]


def batches(paths: Sequence[Path]) -> Iterator[Batch]:
    """The lines of files and folders, in order. Raises BadInput for a path without trees."""
    for file in named_files(paths):
        try:
            with file.open("rb") as lines:
                first = 1
                while held := list(islice(lines, BATCH)):
                    yield Batch(file, first, held)
                    first += len(held)
        except OSError as error:
            raise BadInput(f"{file}: cannot be read: {error.strerror}") from None


def bytes_of(paths: Sequence[Path]) -> int | None:
    """The size of all files; None when one of them is a pipe or the like. Raises BadInput for a path without trees."""
    files = named_files(paths)
    return sum(file.stat().st_size for file in files) if all(file.is_file() for file in files) else None


def trees_of(batch: Batch) -> Iterator[DebateTree | BadLine]:
    """What the lines hold, our trees or released trajectories, in order; blank lines hold nothing."""
    for number, line in enumerate(batch.lines, start=batch.first):
        if line.isspace():
            continue
        try:
            tree = parse_any(line)
            if len(tree.models) != 2:
                raise TreeError(f"tree {tree.tree_id}: {len(tree.models)} seats; pairs are made of debates between two")
            yield tree
        except TreeError as error:
            torn = not line.endswith(b"\n")
            yield BadLine(batch.file, number, f"{'torn, so its tree is owed: ' if torn else ''}{error}", torn)


def skip(bad: BadLine, number: int, strict: bool) -> None:
    """Tell of the ``number``-th line that is no tree, if it is among the first. Raises BadInput if ``strict``."""
    if strict:
        raise BadInput(f"{bad}; mend or remove the line, or go on without --strict")
    if number <= SHOWN:
        log.warning("skipped %s", bad)
