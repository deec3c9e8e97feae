"""Trees on disk: a folder of shards, one finished tree a line, written whole.

``TREES/shard-0003-of-0016.jsonl`` holds the trees of one shard, ``shard-0003-of-0016.failures.jsonl`` those that could
not be grown, with the reason, and ``run.json`` what made them. A torn last line, left by a kill, is cut off
and its question is owed again. A question is done when any shard holds its tree, so the number of shards may change
between launches.

Files are read a line at a time and split on newlines only, so memory does not grow with them.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import msgspec
import networkx as nx
import orjson

from pbt.config import differences
from pbt.debate.tree import FORMAT, DebateTree, TreeError
from pbt.errors import BadInput
from pbt.provenance import RUN_FILE, read_run, write_run

log = logging.getLogger(__name__)

FAILURES = ".failures.jsonl"
"""How the name of a shard's list of failures ends."""

Parsed = TypeVar("Parsed")


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

    @property
    def stem(self) -> str:
        """How the names of the shard's files begin."""
        return f"shard-{self.index:04d}{self.siblings}"

    @property
    def siblings(self) -> str:
        """What the stems of all shards of this count share."""
        return f"-of-{self.count:04d}"

    def owns(self, question_id: str) -> bool:
        """Whether a question is this shard's: by a hash of its id, never by its place in the file."""
        return shard_of(question_id, self.count) == self.index


def shard_of(question_id: str, count: int) -> int:
    """Which of ``count`` shards owns a question."""
    return int.from_bytes(hashlib.blake2b(question_id.encode(), digest_size=8).digest(), "big") % count


class Failure(msgspec.Struct, frozen=True):
    """A line of the failures: a tree that could not be grown."""

    question_id: str
    type: str
    """The kind of error."""
    message: str


class BadLine(NamedTuple):
    """A line that is no tree."""

    file: Path
    line: int
    reason: str
    torn: bool
    """Whether it is a last line without its newline: a writer is at it or was killed, and its tree is owed."""

    def __str__(self) -> str:
        return f"{self.file} line {self.line}: {self.reason}"


class StoredTree(NamedTuple):
    """A tree and where it stands."""

    tree: DebateTree
    file: Path
    line: int
    data: bytes
    """The line itself."""


class TreeStore:
    """One shard, open for writing. Only one process may hold a shard at a time, and while one is held, none of
    another count: its questions would be grown twice."""

    def __init__(self, folder: Path, shard: Shard, record: dict[str, Any], covers: dict[str, Any]) -> None:
        """Open or resume. ``covers`` is the part of the configuration that trees depend on; under another one
        the folder is refused with the differing keys, unless nothing stands in it and nobody writes.

        Raises BadInput."""
        self.folder = folder
        self.shard = shard
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                old = read_run(folder) if (folder / RUN_FILE).exists() else None
                if old and not _untouched(folder):
                    _refuse_other(folder, old, record, covers)
                else:
                    write_run(folder, {**record, "covers": covers})
                _refuse_other_count(folder, shard)
                self._trees = _Lines(folder / f"{shard.stem}.jsonl")
                self._failures = _Lines(folder / f"{shard.stem}{FAILURES}")
        except OSError as error:
            raise BadInput(f"{folder}: {error.strerror}; trees need a folder that can be written") from None

    def done(self) -> set[str]:
        """Ids of the questions whose tree stands in any shard of the folder. Raises BadInput as ``read_done`` does."""
        return read_done(self.folder)

    def failed(self) -> set[str]:
        """Ids of the questions that failed in any shard of the folder. A torn last line counts as none."""
        return {failure.question_id for failure in read_failures(self.folder)}

    def write(self, tree: DebateTree) -> None:
        """Append one finished tree. Raises BadInput when the disk does not take it; the trees before it are whole."""
        self._trees.append(tree.to_dict())

    def fail(self, question_id: str, error: BaseException) -> None:
        """Record a tree that could not be grown. Raises BadInput as ``write`` does."""
        # A message may quote what a server said, and that may be half a character.
        message = str(error).encode("utf-8", "replace").decode("utf-8")
        self._failures.append({"question_id": question_id, "type": type(error).__name__, "message": message})

    def close(self) -> None:
        """Flush to disk and let go of the shard."""
        try:
            self._trees.close()
        finally:
            self._failures.close()


class _Lines:
    """A file of lines, open for appending: locked, and with a torn last line cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BadInput(
                f"{path}: another process is writing this shard; wait for it or choose another --shard"
            ) from None
        self._end = _whole_lines(self._file)
        self._file.truncate(self._end)

    def append(self, record: dict[str, Any]) -> None:
        """Write one line whole. When the disk refuses it, what it took of the line is cut off again."""
        line = memoryview(orjson.dumps(record) + b"\n")
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:]) or 0
        except OSError as error:
            self._file.truncate(self._end)
            raise self._refused(error) from None
        self._end += len(line)

    def close(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._refused(error) from None
        finally:
            self._file.close()

    def _refused(self, error: OSError) -> BadInput:
        return BadInput(
            f"{self._path}: cannot be written any further: {error.strerror}; what it holds is whole, so make room and "
            "start the same command again"
        )


class _Head(msgspec.Struct):
    format: int
    question_id: str


class _Version(msgspec.Struct):
    format: int


# One decoder reads JSON and checks every type on the way, at twice the speed of parsing first and building after.
_TREE = msgspec.json.Decoder(DebateTree)
_HEAD = msgspec.json.Decoder(_Head)
_VERSION = msgspec.json.Decoder(_Version)
_FAILURE = msgspec.json.Decoder(Failure)
_THIS_FORMAT = b'{"format":%d,' % FORMAT


def parse_tree(line: bytes) -> DebateTree:
    """The tree of one line, checked against the format: every field, its type, and that the turns are a tree.

    Raises TreeError.
    """
    try:
        if not line.startswith(_THIS_FORMAT):
            _refuse_format(_VERSION.decode(line).format)
        return _TREE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TreeError(f"not a tree: {_reason(line, error)}") from None


def tree_files(folder: Path) -> list[Path]:
    """The files of a folder that hold trees."""
    return [path for path in sorted(folder.glob("*.jsonl")) if not path.name.endswith(FAILURES)]


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that appears under its name whole, when the block ends, or not at all. Raises BadInput when the
    disk does not take it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def named_files(paths: Sequence[Path]) -> list[Path]:
    """The tree files that paths of files and folders name, in order, each once. Raises BadInput."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise BadInput(f"{path}: no such file or folder of trees")
        files = tree_files(path) if path.is_dir() else [path]
        if not files:
            raise BadInput(f"{path}: no *.jsonl in it; grow trees with 'pbt generate CONFIG --out {path}'")
        found += files
    return list(dict.fromkeys(found))


def read_trees(paths: Sequence[Path]) -> Iterator[DebateTree]:
    """All trees of files and folders, in order.

    Raises BadInput naming file and line for a line that is no tree. Only a last line without its newline is passed
    over when it is none, with a warning: a writer is at it or was killed, and its tree is owed.
    """
    return _strict(named_files(paths), parse_tree)


def scan_trees(
    paths: Sequence[Path],
    on_bad: Callable[[BadLine], None],
    parse: Callable[[bytes], DebateTree] = parse_tree,
) -> Iterator[StoredTree]:
    """All trees of files and folders, in order; a line that is no tree is handed to ``on_bad`` and passed over.

    ``parse`` reads a line. Raises BadInput only for a path without trees.
    """
    for file in named_files(paths):
        for line in _read(file, parse):
            if isinstance(line.found, TreeError):
                on_bad(_bad(file, line))
            else:
                yield StoredTree(line.found, file, line.number, line.data)


def read_done(folder: Path) -> set[str]:
    """Ids of the questions whose tree stands in any file of a folder. Raises BadInput for a line that is no tree by its
    first look; only ``pbt trees validate`` reads every turn. A torn last line counts as none."""
    return {head.question_id for head in _strict(tree_files(folder), _parse_head)}


def read_failures(folder: Path) -> Iterator[Failure]:
    """The failures of all shards of a folder. Raises BadInput for a line that is none; a torn last one is skipped."""
    return _strict(_failure_files(folder), _parse_failure)


def scan_failures(folder: Path, on_bad: Callable[[BadLine], None]) -> Iterator[Failure]:
    """The failures of all shards of a folder; a line that is none is handed to ``on_bad`` and passed over."""
    for file in _failure_files(folder):
        for line in _read(file, _parse_failure):
            if isinstance(line.found, TreeError):
                on_bad(_bad(file, line))
            else:
                yield line.found


def _failure_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{FAILURES}"))


def _parse_head(line: bytes) -> _Head:
    try:
        head = _HEAD.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TreeError(f"not a tree: {_reason(line, error)}") from None
    _refuse_format(head.format)
    return head


def _parse_failure(line: bytes) -> Failure:
    try:
        return _FAILURE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TreeError(f"not a failure record: {error}; remove the line") from None


def _refuse_format(found: int) -> None:
    if found > FORMAT:
        raise TreeError(f"not a tree: format {found} is newer than {FORMAT}, the one this version reads; update pbt")
    if found != FORMAT:
        raise TreeError(f"not a tree: format {found} is not {FORMAT}, the one this version reads")


def _reason(line: bytes, error: Exception) -> str:
    """Why a line is no tree, more plainly than the decoder says it."""
    try:
        line.decode()
    except UnicodeDecodeError as broken:
        return f"not valid UTF-8 at byte {broken.start}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if not isinstance(error, msgspec.ValidationError):
        return _syntax_reason(line)
    told = str(error).replace("`", "'")
    with suppress(orjson.JSONDecodeError):  # the decoder stops at the first thing wrong; there may be more
        return _shape_reason(orjson.loads(line)) or told
    return told


def _syntax_reason(line: bytes) -> str:
    try:
        msgspec.json.decode(line.rstrip())  # or a line that was cut short would be told of the line end in it
    except msgspec.DecodeError as error:
        told = str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it is cut short")
        return f"not valid JSON: {told}"
    return "not valid JSON"


def _shape_reason(record: Any) -> str | None:
    """What is wrong with a line that is JSON, where that can be said more plainly."""
    if isinstance(record, str) or (isinstance(record, dict) and "data" in record and "turns" not in record):
        return "it looks like a released trajectory; read those with 'pbt trees import-released'"
    turns = record.get("turns") if isinstance(record, dict) else None
    return _why_no_tree(turns) if isinstance(turns, list) else None


def _why_no_tree(turns: list[Any]) -> str | None:
    """What is wrong with the shape that ids and parents make, if that is it."""
    if not all(isinstance(turn, dict) and {"id", "parent"} <= turn.keys() for turn in turns):
        return None
    if not all(isinstance(turn["id"], int) and isinstance(turn["parent"], int | None) for turn in turns):
        return None
    parents = {turn["id"]: turn["parent"] for turn in turns}
    if len(parents) < len(turns):
        return "two of its turns have the same id"
    for turn, parent in parents.items():
        if parent is not None and parent not in parents:
            return f"turn {turn}: its parent {parent} is not among the turns"
    try:
        cycle = nx.find_cycle(nx.DiGraph((turn, parent) for turn, parent in parents.items() if parent is not None))
    except nx.NetworkXNoCycle:
        roots = [turn for turn, parent in parents.items() if parent is None]
        return f"two roots, turns {roots[0]} and {roots[1]}" if len(roots) > 1 else None
    return f"a cycle of turns: {', '.join(str(turn) for turn in sorted(turn for turn, _ in cycle))}"


class _Line(NamedTuple):
    number: int
    data: bytes
    found: Any
    """What the line holds, or the TreeError that says why it cannot be read."""


def _read(file: Path, parse: Callable[[bytes], Parsed]) -> Iterator[_Line]:
    """The lines of a file that are not blank."""
    try:
        lines = file.open("rb")
    except OSError as error:
        raise BadInput(f"{file}: cannot be read: {error.strerror}") from None
    with lines:
        for number, data in enumerate(lines, start=1):
            if data.isspace():
                continue
            found: Parsed | TreeError
            try:
                found = parse(data)
            except TreeError as error:
                found = error
            yield _Line(number, data, found)


def _strict(files: Sequence[Path], parse: Callable[[bytes], Parsed]) -> Iterator[Parsed]:
    """What the lines of files hold. Raises BadInput for one that cannot be read, but passes over a torn last one."""
    for file in files:
        for line in _read(file, parse):
            if not isinstance(line.found, TreeError):
                yield line.found
                continue
            bad = _bad(file, line)
            if not bad.torn:
                raise BadInput(str(bad))
            log.warning("%s line %d: torn, so its tree is owed", file, line.number)


def _bad(file: Path, line: _Line) -> BadLine:
    torn = not line.data.endswith(b"\n")
    return BadLine(file, line.number, f"{'torn, so its tree is owed: ' if torn else ''}{line.found}", torn)


def _refuse_other(folder: Path, old: dict[str, Any], new: dict[str, Any], covers: dict[str, Any]) -> None:
    if old.get("digest") == new["digest"]:
        return
    changed = "; ".join(differences(old.get("covers"), covers)) or "the record was written by another version"
    raise BadInput(
        f"{folder}: its trees were grown under another configuration ({changed}). "
        "Use the old configuration to go on, or another --out for new trees"
    )


def _untouched(folder: Path) -> bool:
    """Whether a launch that ended before its first line left the folder, and nobody writes to it now. The caller holds
    the folder's lock."""
    trees = tree_files(folder)
    for path in (*trees, *_failure_files(folder)):
        with path.open("rb") as file:
            if path.stat().st_size or not _free(file):
                return False
    return bool(trees)


def _refuse_other_count(folder: Path, shard: Shard) -> None:
    """Refuse to open beside a writer that divides the questions otherwise. The caller holds the folder's lock."""
    for path in tree_files(folder):
        if path.stem.endswith(shard.siblings):
            continue
        with path.open("rb") as file:
            if not _free(file):
                raise BadInput(
                    f"{path}: another process is writing this shard, which shares questions with --shard "
                    f"{shard.index}/{shard.count}; let it end before the number of shards changes"
                )


def _free(file: IO[bytes]) -> bool:
    """Whether no writer holds a file."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: of several shards that start at once, one writes the record and the others check it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _whole_lines(file: io.FileIO) -> int:
    """How many bytes of a file are whole lines, looked for from its end."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = (file.read(end - start) or b"").rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
