"""Trees on disk: whole lines, resuming, refusing, sharding, failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.config import digest
from pbt.debate.tree import DebateTree, Turn
from pbt.errors import BadInput
from pbt.provenance import RUN_FILE, read_run
from pbt.store import BadLine, Shard, TreeStore, read_failures, read_trees, scan_trees, tree_files

COVERS = {"seed": 1, "models": {"x": {"path": "a"}}}
WHOLE = Shard(0, 1)


def tree(question_id: str, text: str = "It is Paris.") -> DebateTree:
    turns = (Turn(0, None, 0, 0, "standard", text, "Paris"),)
    return DebateTree(question_id, question_id, "Which?", "Paris", ("paris",), "p", ("a", "b"), 1, turns)


def store(folder: Path, shard: Shard = WHOLE, covers: dict[str, Any] = COVERS) -> TreeStore:
    return TreeStore(folder, shard, {"config": {}, "digest": digest(covers)}, covers)


def fill(folder: Path, *question_ids: str, shard: Shard = WHOLE) -> Path:
    """Write trees, close, and return the shard's file."""
    open_ = store(folder, shard)
    for question_id in question_ids:
        open_.write(tree(question_id))
    open_.close()
    return folder / f"shard-{shard.index:04d}-of-{shard.count:04d}.jsonl"


def test_a_tree_is_one_whole_line_and_reads_back(tmp_path: Path) -> None:
    separators = tree("q2", "Lines: \u2028 \u0085 \n end.")
    path = fill(tmp_path, "q1")
    open_ = store(tmp_path)
    open_.write(separators)
    # What is written is on disk before the store is closed: a kill loses no finished tree
    assert path.read_bytes().count(b"\n") == 2
    assert path.read_bytes().endswith(b"\n")
    open_.close()
    assert list(read_trees([tmp_path])) == [tree("q1"), separators]
    assert list(read_trees([path])) == [tree("q1"), separators]


def test_the_record_beside_the_trees_says_what_they_cover(tmp_path: Path) -> None:
    fill(tmp_path, "q1")
    assert read_run(tmp_path)["covers"] == COVERS
    assert read_run(tmp_path)["digest"] == digest(COVERS)
    assert not list(tmp_path.glob(".*"))


def test_a_torn_last_line_is_cut_off_and_its_question_owed_again(tmp_path: Path) -> None:
    path = fill(tmp_path, "q1", "q2")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    open_ = store(tmp_path)
    assert open_.done() == {"q1"}
    open_.write(tree("q2"))
    open_.close()
    assert path.read_bytes() == whole


def test_a_torn_line_of_any_length_is_cut_off(tmp_path: Path) -> None:
    path = fill(tmp_path, "q1", "q2")
    whole = path.read_bytes()
    for torn in (b"x", b"x" * 65_536, b"x" * 200_000):
        path.write_bytes(whole + torn)
        store(tmp_path).close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_a_file_torn_in_its_first_line_starts_anew(tmp_path: Path, kept: int) -> None:
    path = fill(tmp_path, "q1")
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    assert fill(tmp_path, "q1").read_bytes() == whole


def test_readers_pass_over_a_torn_last_line_and_nothing_else(tmp_path: Path) -> None:
    path = fill(tmp_path, "q1", "q2")
    path.write_bytes(path.read_bytes()[:-20])
    assert [t.question_id for t in read_trees([tmp_path])] == ["q1"]
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(BadInput, match=r"shard-0000-of-0001\.jsonl line 2: not a tree"):
        list(read_trees([tmp_path]))


@pytest.mark.parametrize("damage", [b"{broken", b"[1, 2]", b'{"format": 1}', b'"text"', b'{"format": 99}'])
def test_a_damaged_line_is_named_by_file_and_line(tmp_path: Path, damage: bytes) -> None:
    path = fill(tmp_path, "q1", "q2", "q3")
    lines = path.read_bytes().split(b"\n")
    lines[1] = damage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(BadInput, match=r"shard-0000-of-0001\.jsonl line 2: not a tree: "):
        list(read_trees([tmp_path]))
    open_ = store(tmp_path)
    with pytest.raises(BadInput, match=r"shard-0000-of-0001\.jsonl line 2: not a tree: "):
        open_.done()
    open_.close()


def test_the_tolerant_reader_hands_over_bad_lines_and_goes_on(tmp_path: Path) -> None:
    path = fill(tmp_path, "q1", "q2", "q3", "q4")
    lines = path.read_bytes().split(b"\n")
    lines[1] = b"{broken"
    path.write_bytes(b"\n".join([*lines[:3], b"", lines[3][:-9]]))
    bad: list[BadLine] = []
    found = list(scan_trees([tmp_path], bad.append))
    assert [(one.tree.question_id, one.file, one.line) for one in found] == [("q1", path, 1), ("q3", path, 3)]
    assert found[0].data == lines[0] + b"\n"
    assert [(one.file, one.line, one.torn) for one in bad] == [(path, 2, False), (path, 5, True)]
    assert str(bad[0]).startswith(f"{path} line 2: not a tree: not valid JSON")


def test_reading_takes_no_more_memory_for_more_trees(tmp_path: Path) -> None:
    path = fill(tmp_path, "q1")
    path.write_bytes(path.read_bytes() * 20_000)
    tracemalloc.start()
    assert sum(1 for _ in read_trees([path])) == 20_000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000 < path.stat().st_size


def test_what_is_no_folder_of_trees_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file or folder of trees"):
        list(read_trees([tmp_path / "none"]))
    with pytest.raises(BadInput, match=r"no \*\.jsonl in it; grow trees with"):
        list(read_trees([tmp_path]))


def test_two_writers_on_one_shard_are_refused(tmp_path: Path) -> None:
    first = store(tmp_path, Shard(0, 2))
    with pytest.raises(BadInput, match="another process is writing this shard"):
        store(tmp_path, Shard(0, 2))
    other = store(tmp_path, Shard(1, 2))
    other.close()
    first.close()
    store(tmp_path, Shard(0, 2)).close()


def test_no_shard_of_another_count_is_written_at_the_same_time(tmp_path: Path) -> None:
    """Two divisions of the questions overlap, so both would grow the same tree."""
    fill(tmp_path, "q1", shard=Shard(2, 3))
    held = store(tmp_path, Shard(0, 3))
    with pytest.raises(BadInput, match=r"shard-0000-of-0003\.jsonl: .* which shares questions with --shard 1/2"):
        store(tmp_path, Shard(1, 2))
    assert len(tree_files(tmp_path)) == 2
    held.close()
    store(tmp_path, Shard(1, 2)).close()


def test_another_process_is_refused_too_and_a_kill_lets_go(tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from pbt.config import digest
from pbt.store import Shard, TreeStore
covers = {COVERS!r}
held = TreeStore(Path(sys.argv[1]), Shard(0, 1), {{"config": {{}}, "digest": digest(covers)}}, covers)
print("held", flush=True)
time.sleep(60)
"""
    root = str(Path(__file__).resolve().parent.parent)
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match="another process is writing this shard"):
            store(tmp_path)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    store(tmp_path).close()


def test_resuming_under_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    path = fill(tmp_path, "q1")
    before = path.read_bytes(), (tmp_path / RUN_FILE).read_bytes()
    with pytest.raises(BadInput, match="seed: 1 -> 2") as caught:
        store(tmp_path, covers={"seed": 2, "models": {"x": {"path": "a"}}})
    assert "models" not in str(caught.value)
    with pytest.raises(BadInput, match=r'models\.x\.path: "a" -> "b"'):
        store(tmp_path, Shard(1, 2), covers={"seed": 1, "models": {"x": {"path": "b"}}})
    assert before == (path.read_bytes(), (tmp_path / RUN_FILE).read_bytes())
    assert tree_files(tmp_path) == [path]
    store(tmp_path).close()


def test_a_launch_that_wrote_no_line_does_not_hold_the_next_to_its_configuration(tmp_path: Path) -> None:
    store(tmp_path).close()
    other = {"seed": 2}
    with_other = store(tmp_path, covers=other)
    assert read_run(tmp_path)["covers"] == other
    with pytest.raises(BadInput, match="seed: 2 -> 1"):  # somebody writes
        store(tmp_path, Shard(0, 2))
    with_other.fail("q1", ValueError("half a character: \ud83d"))
    with_other.close()
    assert [failure.message for failure in read_failures(tmp_path)] == ["half a character: ?"]
    with pytest.raises(BadInput, match="seed: 2 -> 1"):
        store(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"file: File exists; trees need a folder that can be written"):
        store(tmp_path / "file")


def test_resuming_keeps_the_first_record(tmp_path: Path) -> None:
    fill(tmp_path, "q1")
    before = (tmp_path / RUN_FILE).read_bytes()
    TreeStore(tmp_path, WHOLE, {"config": {"new": 1}, "digest": digest(COVERS)}, COVERS).close()
    assert (tmp_path / RUN_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not valid JSON"), ("[]", "no 'config' in it"), ("{}", "no 'config' in it")],
)
def test_a_damaged_record_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / RUN_FILE).write_text(content)
    with pytest.raises(BadInput, match=message):
        store(tmp_path)
    with pytest.raises(BadInput, match=r"no run\.json"):
        read_run(tmp_path / "elsewhere")


def test_done_holds_when_the_number_of_shards_changes(tmp_path: Path) -> None:
    ids = [f"q{i}" for i in range(40)]
    for index in range(2):
        shard = Shard(index, 2)
        fill(tmp_path, *(i for i in ids[:30] if shard.owns(i)), shard=shard)
    owed: set[str] = set()
    for index in range(3):
        shard = Shard(index, 3)
        open_ = store(tmp_path, shard)
        assert open_.done() == set(ids[:30])
        owed |= {i for i in ids if shard.owns(i)} - open_.done()
        open_.close()
    assert owed == set(ids[30:])


@given(st.lists(st.text(max_size=12), unique=True, max_size=30), st.integers(1, 9))
def test_shards_partition_the_questions(ids: list[str], count: int) -> None:
    for question_id in ids:
        assert sum(Shard(index, count).owns(question_id) for index in range(count)) == 1


def test_shards_are_of_like_size() -> None:
    sizes = [sum(Shard(index, 4).owns(f"q{i}") for i in range(4000)) for index in range(4)]
    assert min(sizes) > 900


@pytest.mark.parametrize("text", ["0/1", "3/4", "0/16"])
def test_a_shard_is_written_i_of_n(text: str) -> None:
    shard = Shard.parse(text)
    assert f"{shard.index}/{shard.count}" == text


@pytest.mark.parametrize("text", ["4/4", "1", "1/", "/4", "a/b", "-1/4", "0/0", "1/2/3", ""])
def test_a_shard_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="expected I/N with 0 <= I < N"):
        Shard.parse(text)


def test_failures_are_recorded_with_their_reason_and_are_no_trees(tmp_path: Path) -> None:
    open_ = store(tmp_path)
    open_.write(tree("q1"))
    open_.fail("q2", ValueError("prompt too long"))
    assert open_.failed() == {"q2"}
    assert open_.done() == {"q1"}
    open_.close()
    (line,) = (tmp_path / "shard-0000-of-0001.failures.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line) == {"question_id": "q2", "type": "ValueError", "message": "prompt too long"}
    assert [t.question_id for t in read_trees([tmp_path])] == ["q1"]


def test_failures_are_known_across_shards_and_a_retried_question_is_done(tmp_path: Path) -> None:
    first = store(tmp_path, Shard(0, 2))
    first.fail("q1", ValueError("x"))
    first.close()
    second = store(tmp_path)
    assert second.failed() == {"q1"}
    assert second.done() == set()
    second.write(tree("q1"))
    assert second.done() == {"q1"}
    second.close()


def test_a_torn_failure_is_passed_over_and_a_damaged_one_named(tmp_path: Path) -> None:
    open_ = store(tmp_path)
    open_.fail("q1", ValueError("x"))
    open_.fail("q2", ValueError("y"))
    open_.close()
    path = tmp_path / "shard-0000-of-0001.failures.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    other = store(tmp_path, Shard(1, 2))
    assert other.failed() == {"q1"}
    for damage in (b"{broken\n", b"[]\n", b"{}\n"):
        path.write_bytes(damage)
        with pytest.raises(BadInput, match=r"failures\.jsonl line 1: not a failure record"):
            other.failed()
    other.close()


def test_an_error_without_a_message_is_still_recorded(tmp_path: Path) -> None:
    open_ = store(tmp_path)
    open_.fail("q1", TimeoutError())
    open_.close()
    assert '"TimeoutError"' in (tmp_path / "shard-0000-of-0001.failures.jsonl").read_text("utf-8")
