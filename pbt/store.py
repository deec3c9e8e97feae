"""Trees on disk: a folder of shards, one finished tree a line, written whole.

``TREES/shard-0003-of-0016.jsonl`` holds the trees of one shard, ``shard-0003-of-0016.failures.jsonl`` those that could
not be grown, with the reason, and ``run.json`` what made them. A torn last line, left by a kill, is cut off
and its question is owed again. A question is done when any shard holds its tree, so the number of shards may change
between launches.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from pbt.config import differences
from pbt.debate.tree import DebateTree, TreeError
from pbt.errors import BadInput
from pbt.provenance import RUN_FILE, read_run, write_run

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard ``index`` of ``count``; counted from 0."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``I/N``. Raises BadInput."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
            raise BadInput(f"--shard {text}: expected I/N with 0 <= I < N, such as 0/4")
        return cls(int(index), int(count))

    def owns(self, question_id: str) -> bool:
        """Whether a question is this shard's: by a hash of its id, never by its place in the file."""
        value = int.from_bytes(hashlib.blake2b(question_id.encode(), digest_size=8).digest(), "big")
        return value % self.count == self.index


class TreeStore:
    """One shard, open for writing. Only one process may hold a shard at a time."""

    def __init__(self, folder: Path, shard: Shard, record: dict[str, Any], covers: dict[str, Any]) -> None:
        """Open or resume. ``covers`` is the part of the configuration that trees depend on; under another one
        the folder is refused with the differing keys (BadInput)."""
        self.folder = folder
        self.shard = shard
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if (folder / RUN_FILE).exists():
                _refuse_other(folder, read_run(folder), record, covers)
            else:
                write_run(folder, {**record, "covers": covers})
        name = f"shard-{shard.index:04d}-of-{shard.count:04d}"
        self._trees = _open_lines(folder / f"{name}.jsonl")
        self._failures = _open_lines(folder / f"{name}.failures.jsonl")

    def done(self) -> set[str]:
        """Ids of the questions whose tree stands in any shard of the folder."""
        return {tree.question_id for tree in read_trees([self.folder])}

    def failed(self) -> set[str]:
        """Ids of the questions that failed in any shard of the folder. A torn last line counts as none."""
        found = set()
        for path in sorted(self.folder.glob("*.failures.jsonl")):
            for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
                try:
                    found.add(orjson.loads(line)["question_id"])
                except (orjson.JSONDecodeError, KeyError, TypeError):
                    raise BadInput(f"{path} line {number}: not a failure record; remove the line") from None
        return found

    def write(self, tree: DebateTree) -> None:
        """Append one finished tree."""
        _append(self._trees, tree.to_dict())

    def fail(self, question_id: str, error: BaseException) -> None:
        """Record a tree that could not be grown."""
        _append(self._failures, {"question_id": question_id, "type": type(error).__name__, "message": str(error)})

    def close(self) -> None:
        """Flush to disk and let go of the shard."""
        for file in (self._trees, self._failures):
            os.fsync(file.fileno())
            file.close()


def tree_files(folder: Path) -> list[Path]:
    """The files of a folder that hold trees."""
    return [path for path in sorted(folder.glob("*.jsonl")) if not path.name.endswith(".failures.jsonl")]


def read_trees(paths: Sequence[Path]) -> Iterator[DebateTree]:
    """All trees of files and folders, in order.

    Raises BadInput naming file and line for a line that is no tree. Only a last line without its newline is passed
    over when it is none, with a warning: a writer is at it or was killed, and its tree is owed.
    """
    for path in paths:
        if not path.exists():
            raise BadInput(f"{path}: no such file or folder of trees")
        files = tree_files(path) if path.is_dir() else [path]
        if not files:
            raise BadInput(f"{path}: no *.jsonl in it; grow trees with 'pbt generate CONFIG --out {path}'")
        for file in files:
            lines = file.read_bytes().split(b"\n")
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    yield DebateTree.from_dict(orjson.loads(line))
                except orjson.JSONDecodeError as error:
                    if number < len(lines):
                        raise BadInput(f"{file} line {number}: not a tree: {error}") from None
                    log.warning("%s line %d: torn, so its tree is owed", file, number)
                except (TreeError, AttributeError) as error:
                    raise BadInput(f"{file} line {number}: not a tree: {error}") from None


def _refuse_other(folder: Path, old: dict[str, Any], new: dict[str, Any], covers: dict[str, Any]) -> None:
    if old.get("digest") == new["digest"]:
        return
    changed = "; ".join(differences(old.get("covers"), covers)) or "the record was written by another version"
    raise BadInput(
        f"{folder}: its trees were grown under another configuration ({changed}). "
        "Use the old configuration to go on, or another --out for new trees"
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: of several shards that start at once, one writes the record and the others check it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open_lines(path: Path) -> IO[bytes]:
    """Open for appending, locked, with a torn last line cut off."""
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BadInput(
            f"{path}: another process is writing this shard; wait for it or choose another --shard"
        ) from None
    file.seek(0)
    content = file.read()
    if content and not content.endswith(b"\n"):
        file.truncate(content.rfind(b"\n") + 1)
    return file


def _append(file: IO[bytes], record: dict[str, Any]) -> None:
    file.write(orjson.dumps(record) + b"\n")
    file.flush()
