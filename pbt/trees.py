"""What is done with trees on disk besides growing them: check, count, merge, import. Files are streamed."""

from __future__ import annotations

import difflib
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson
from rich.table import Table

from pbt.config import RunConfig, differences, shipped_protocol
from pbt.counts import TreeCounts
from pbt.debate.tree import DebateTree
from pbt.errors import BadInput
from pbt.provenance import RUN_FILE, provenance, read_run, write_atomic, write_run
from pbt.questions import Question
from pbt.released import parse_released
from pbt.store import (
    FAILURES,
    BadLine,
    Failure,
    Shard,
    StoredTree,
    named_files,
    new_file,
    scan_failures,
    scan_trees,
)

_WHOLE = Shard(0, 1)


@dataclass
class Validation:
    """What was checked and what is wrong with it."""

    files: int = 0
    trees: int = 0
    """Good ones."""
    failures: int = 0
    """Good records of failures."""
    bad: list[BadLine] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Counts, and every bad line."""
        return {"files": self.files, "trees": self.trees, "failures": self.failures, "bad": _rows(self.bad)}


def validate(paths: Sequence[Path]) -> Validation:
    """Check every line of files and folders: that it is a tree, and the only one of its id and question.

    Of folders, the failures and the record are read too. Raises BadInput only for a path without trees.
    """
    files = named_files(paths)
    found = Validation(files=len(files))
    trees: dict[str, str] = {}
    questions: dict[str, str] = {}
    for stored in scan_trees(files, found.bad.append):
        tree, at = stored.tree, f"{stored.file} line {stored.line}"
        if tree.tree_id in trees:
            reason = f"tree '{tree.tree_id}' stands a second time; first in {trees[tree.tree_id]}"
        elif tree.question_id in questions:
            reason = f"question '{tree.question_id}' has a second tree; the first is in {questions[tree.question_id]}"
        else:
            found.trees += 1
            trees[tree.tree_id] = questions[tree.question_id] = at
            continue
        found.bad.append(BadLine(stored.file, stored.line, reason, torn=False))
    for folder in _folders(paths):
        found.failures += sum(1 for _ in scan_failures(folder, found.bad.append))
        if (folder / RUN_FILE).exists():
            try:
                read_run(folder)
            except BadInput as error:
                found.bad.append(BadLine(folder / RUN_FILE, 1, str(error), torn=False))
    return found


@dataclass
class Stats(TreeCounts):
    """What stands in a set of trees."""

    failed: int = 0
    """Questions that failed and have no tree."""
    bad: list[BadLine] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Counts, shares of turns, and every bad line."""
        return {**super().to_dict(), "failed": self.failed, "bad": _rows(self.bad)}

    def tables(self) -> tuple[Table, Table]:
        """For a terminal: the whole, and level by level."""
        whole = Table("trees", str(self.trees), show_edge=False)
        for name, number in (("failed", self.failed), ("turns", self.turns), ("tokens", self.tokens)):
            whole.add_row(name, str(number))
        self.add_shares(whole)
        return whole, self.levels_table()


def tree_stats(paths: Sequence[Path]) -> Stats:
    """Count the trees of files and folders. Raises BadInput only for a path without trees."""
    found = Stats()
    done: set[str] = set()
    for stored in scan_trees(paths, found.bad.append):
        found.count(stored.tree)
        done.add(stored.tree.question_id)
    found.failed = len(_failed(paths, found.bad).keys() - done)
    return found


@dataclass
class Merged:
    """What a merge wrote, and what it could not."""

    trees: int = 0
    duplicates: int = 0
    """Lines left out because the same line stands before."""
    others: list[BadLine] = field(default_factory=list)
    """Lines left out because another tree of their question stands before."""
    strange: list[BadLine] = field(default_factory=list)
    """Lines left out because the question of that id is another one; known only when the questions are."""
    bad: list[BadLine] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    """By question: what failed and has no tree."""
    missing: list[str] = field(default_factory=list)
    """Questions without a tree that did not fail; known only when the questions are."""

    @property
    def whole(self) -> bool:
        """Whether nothing was left out and nothing is missing."""
        return not (self.others or self.strange or self.bad or self.failed or self.missing)

    def to_dict(self) -> dict[str, Any]:
        """Counts, lines, and ids of questions."""
        return {
            "trees": self.trees,
            "duplicates": self.duplicates,
            "others": _rows(self.others),
            "strange": _rows(self.strange),
            "bad": _rows(self.bad),
            "failed": {name: f"{failure.type}: {failure.message}" for name, failure in self.failed.items()},
            "missing": self.missing,
        }


def merge(paths: Sequence[Path], out: Path, questions: Iterable[Question] | None = None) -> Merged:
    """Put the trees of files and folders into one new file (``out`` ends with .jsonl) or folder, one a question.

    Lines are copied whole. A folder gets the record and the failures too, so that ``pbt generate`` goes on in it.
    ``questions`` are those that should be there, and that the trees must have been grown from. Raises BadInput for
    paths without trees or of different configurations, and when ``out`` exists or cannot be written; it is written
    whole or not at all.
    """
    files = named_files(paths)
    record = _one_record(files)
    lone = out.suffix == ".jsonl"
    target = out if lone else out / f"{_WHOLE.stem}.jsonl"
    _refuse_old(out)
    found = Merged()
    once = _Once()
    wanted = {question.id: question for question in questions or ()}
    with new_file(target) as file:
        for stored in scan_trees(files, found.bad.append):
            if reason := _of_another(stored.tree, wanted.get(stored.tree.question_id)):
                found.strange.append(BadLine(stored.file, stored.line, f"left out: {reason}", torn=False))
                continue
            line = stored.data.rstrip(b"\r\n")
            first = once.first(stored, line)
            if first is None:
                file.write(line + b"\n")
                found.trees += 1
            elif first.same:
                found.duplicates += 1
            else:
                found.others.append(first.other(stored))
        found.failed = {name: failure for name, failure in _failed(paths, found.bad).items() if name not in once}
        if questions is not None:
            found.missing = [name for name in wanted if name not in once and name not in found.failed]
        if not lone:
            lines = b"".join(msgspec.json.encode(failure) + b"\n" for failure in found.failed.values())
            write_atomic(out / f"{_WHOLE.stem}{FAILURES}", lines)
            if record is not None:
                write_run(out, {**record, "merged": [str(path) for path in paths]})
    return found


@dataclass
class Imported:
    """What an import wrote, and what it could not read."""

    files: int = 0
    trees: int = 0
    turns: int = 0
    duplicates: int = 0
    """Lines left out because the same trajectory stands before."""
    odd_slots: int = 0
    """Trees in which the partner's slot of a turn is not as in the turn above."""
    bad: list[BadLine] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Counts, and every bad line."""
        return {
            "files": self.files,
            "trees": self.trees,
            "turns": self.turns,
            "duplicates": self.duplicates,
            "odd_slots": self.odd_slots,
            "bad": _rows(self.bad),
        }


def import_released(paths: Sequence[Path], out: Path, questions: Sequence[Question] = ()) -> Imported:
    """Write released trajectories as trees into a new folder: one shard, ``run.json``, and ``import.json``, the counts.

    All must be by the same two models. ``questions`` tell the gold value where a trajectory does not. A line that
    cannot be read, and a second, different trajectory of a question, is listed as bad. Raises BadInput when none can
    be read, and when ``out`` exists or cannot be written.
    """
    files = named_files(paths)
    found = Imported(files=len(files))
    _refuse_old(out)
    parse = functools.partial(parse_released, questions={question.id: question for question in questions})
    once = _Once()
    sample: DebateTree | None = None
    with new_file(out / f"{_WHOLE.stem}.jsonl") as file:
        for stored in scan_trees(files, found.bad.append, parse):
            sample = sample or stored.tree
            if stored.tree.models != sample.models:
                reason = f"its models are {stored.tree.models}, but those of the first trajectory {sample.models}"
                found.bad.append(BadLine(stored.file, stored.line, reason, torn=False))
                continue
            line = orjson.dumps(stored.tree.to_dict())
            first = once.first(stored, line)
            if first is None:
                file.write(line + b"\n")
                found.trees += 1
                found.turns += len(stored.tree.turns)
                found.odd_slots += "odd_slots" in stored.tree.metadata
            elif first.same:
                found.duplicates += 1
            else:
                found.bad.append(first.other(stored))
        if sample is None:
            why = f"; the first: {found.bad[0]}" if found.bad else ""
            raise BadInput(f"{files[0]}: no trajectory could be read, found {len(found.bad)} bad lines{why}")
        write_atomic(out / "import.json", orjson.dumps(found.to_dict(), option=orjson.OPT_INDENT_2) + b"\n")
        write_run(out, _import_record(files, sample))
    return found


def _import_record(files: Sequence[Path], sample: DebateTree) -> dict[str, Any]:
    """The record of an import: as of a run that would make such trees, so that ``pbt build-prefs`` can read it."""
    config = RunConfig.model_validate(
        {
            "name": "released",
            "questions": {"source": str(files[0])},
            "protocol": shipped_protocol(sample.protocol),
            "models": {name: {"path": name} for name in sample.models},
            "seats": sample.models,
        }
    )
    covers = {"released": list(sample.models)}
    return {**provenance(config, "import", covers), "covers": covers, "trees": [str(file) for file in files]}


class _First(NamedTuple):
    """The earlier line of a question."""

    at: str
    same: bool
    """Whether it is the same line."""

    def other(self, stored: StoredTree) -> BadLine:
        reason = f"left out: question '{stored.tree.question_id}' has another tree in {self.at}"
        return BadLine(stored.file, stored.line, reason, torn=False)


class _Once:
    """Which questions have a tree, in little memory."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[bytes, Path, int]] = {}

    def __contains__(self, question_id: str) -> bool:
        return question_id in self._seen

    def first(self, stored: StoredTree, line: bytes) -> _First | None:
        """The earlier line of the tree's question; None if this is the first, which is kept."""
        mark = hashlib.blake2b(line, digest_size=16).digest()
        earlier = self._seen.get(stored.tree.question_id)
        if earlier is None:
            self._seen[stored.tree.question_id] = (mark, stored.file, stored.line)
            return None
        return _First(f"{earlier[1]} line {earlier[2]}", earlier[0] == mark)


def _of_another(tree: DebateTree, question: Question | None) -> str | None:
    """Why a tree was not grown from the question that has its id now."""
    if question is None:
        return None
    pairs = {
        "text": (tree.question, question.text),
        "gold value": (tree.gold, question.gold),
        "aliases": (sorted(tree.aliases), sorted(question.aliases)),
    }
    differing = [f"{name} {old!r}, now {new!r}" for name, (old, new) in pairs.items() if old != new]
    return f"grown from another question '{question.id}': {'; '.join(differing)}" if differing else None


def find_tree(paths: Sequence[Path], tree_id: str) -> DebateTree:
    """The tree of an id. Raises BadInput naming ids like it when there is none."""
    bad: list[BadLine] = []
    ids = []
    for stored in scan_trees(paths, bad.append):
        if stored.tree.tree_id == tree_id:
            return stored.tree
        ids.append(stored.tree.tree_id)
    near = difflib.get_close_matches(tree_id, ids, n=3) or ids[:3]
    lines = f" and {len(bad)} bad lines" if bad else ""
    known = f"; did you mean {', '.join(repr(name) for name in near)}?" if near else ""
    raise BadInput(f"{paths[0]}: no tree '{tree_id}' among its {len(ids)} trees{lines}{known}")


def _folders(paths: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(path for path in paths if path.is_dir()))


def _failed(paths: Sequence[Path], bad: list[BadLine]) -> dict[str, Failure]:
    """The failures of the folders among paths, by question; the last of several."""
    return {failure.question_id: failure for folder in _folders(paths) for failure in scan_failures(folder, bad.append)}


def _one_record(files: Sequence[Path]) -> dict[str, Any] | None:
    """The record that stands beside all files; None where none does. Raises BadInput when they differ."""
    folders = list(dict.fromkeys(file.parent for file in files))
    records = [read_run(folder) if (folder / RUN_FILE).exists() else None for folder in folders]
    first = records[0]
    for folder, record in zip(folders, records, strict=True):
        if (record is None) != (first is None):
            without, with_ = (folder, folders[0]) if record is None else (folders[0], folder)
            raise BadInput(
                f"{without}: no {RUN_FILE}, so nothing says whether its trees are of the configuration of {with_}"
            )
        if record is not None and first is not None and record.get("digest") != first.get("digest"):
            changed = "; ".join(differences(first.get("covers"), record.get("covers"))) or "another version"
            raise BadInput(f"{folder}: its trees are of another configuration than those of {folders[0]} ({changed})")
    return first


def _refuse_old(out: Path) -> None:
    """Refuse what would be written over: a file, or a folder with something in it."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise BadInput(f"{out}: holds something already; choose another --out, or remove it")


def _rows(bad: Sequence[BadLine]) -> list[dict[str, Any]]:
    return [{"file": str(line.file), "line": line.line, "reason": line.reason} for line in bad]
