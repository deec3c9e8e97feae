"""What growing trees must survive on the side of the disk: kills, a full disk, a second writer, other shards, other
configurations. Real processes, real files; only the models are scripted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from pbt.config import load_config
from pbt.debate.tree import DebateTree
from pbt.provenance import provenance
from pbt.store import Shard, TreeStore, read_trees
from pbt.trees import validate
from scripted_run import count_lines, launch, write_run

SCRIPT = Path(__file__).parent / "scripted_run.py"
QUESTIONS = 600
Pbt = Callable[..., subprocess.CompletedProcess[str]]


def run_script(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's configuration and questions."""
    folder = tmp_path_factory.mktemp("faults")
    write_run(folder, QUESTIONS)
    return folder


@pytest.fixture(scope="module")
def whole(home: Path) -> dict[str, DebateTree]:
    """The trees of a run that nothing disturbed, by question."""
    launch(home, home / "whole", "0/1")
    return trees(home / "whole")


def trees(folder: Path) -> dict[str, DebateTree]:
    """All trees of a folder by question, which has no other lines and no question twice."""
    assert validate([folder]).bad == []
    return {tree.question_id: tree for tree in read_trees([folder])}


def test_killed_twenty_times_at_random_moments_a_run_ends_with_the_trees_of_an_undisturbed_one(
    home: Path, whole: dict[str, DebateTree], tmp_path: Path
) -> None:
    told = [json.loads(line) for line in run_script("kill", home, tmp_path, 20, 7).stdout.splitlines()]
    assert len(told) == 20
    assert all(launch["killed"] for launch in told)
    # Nothing that was written is lost, and the kills did fall into the middle.
    assert [launch["before"] for launch in told[1:]] == [launch["trees"] for launch in told[:-1]]
    assert sum(launch["trees"] > launch["before"] for launch in told) >= 15
    assert told[-1]["trees"] < QUESTIONS
    launch(home, tmp_path, "0/1")
    assert trees(tmp_path) == whole
    assert count_lines(tmp_path / "shard-0000-of-0001.jsonl") == QUESTIONS


def test_a_full_disk_is_one_message_and_nothing_is_lost(
    home: Path, whole: dict[str, DebateTree], tmp_path: Path
) -> None:
    """A limit on the size of files stands for the disk: the system refuses the write that would go beyond it."""
    limit = 200_000
    done = run_script("launch", home, tmp_path, "0/1", limit, code=1)
    path = tmp_path / "shard-0000-of-0001.jsonl"
    assert done.stderr == (
        f"pbt: {path}: cannot be written any further: File too large; what it holds is whole, so make room and start "
        "the same command again\n"
    )
    kept = path.read_bytes()
    longest = max(len(orjson.dumps(tree.to_dict())) for tree in whole.values())
    assert limit - 2 * longest < len(kept) <= limit
    assert len(trees(tmp_path)) == kept.count(b"\n")

    launch(home, tmp_path, "0/1")
    assert trees(tmp_path) == whole
    assert path.read_bytes().startswith(kept)


def test_a_disk_that_is_full_from_the_start_is_told_too(home: Path, tmp_path: Path) -> None:
    assert "File too large" in run_script("launch", home, tmp_path, "0/1", 100, code=1).stderr
    assert len(run_script("launch", home, tmp_path, "0/1", 100, code=1).stderr.splitlines()) == 1


def test_the_number_of_shards_may_change_between_launches(
    home: Path, whole: dict[str, DebateTree], tmp_path: Path
) -> None:
    launch(home, tmp_path, "1/3")
    first = trees(tmp_path)
    assert 0 < len(first) < QUESTIONS
    for shard in ("0/2", "1/2"):
        launch(home, tmp_path, shard)
    assert trees(tmp_path) == whole
    grown_again = set(first) & {tree.question_id for tree in read_trees(sorted(tmp_path.glob("*-of-0002.jsonl")))}
    assert not grown_again


@pytest.mark.parametrize(
    ("shard", "message"), [("0/1", "is writing this shard"), ("1/2", "which shares questions with")]
)
def test_a_second_process_on_the_questions_of_a_shard_is_refused(
    home: Path, tmp_path: Path, shard: str, message: str
) -> None:
    first = subprocess.Popen([sys.executable, SCRIPT, "launch", str(home), str(tmp_path), "0/1"])
    path = tmp_path / "shard-0000-of-0001.jsonl"
    try:
        while count_lines(path) == 0:
            assert first.poll() is None
        first.send_signal(signal.SIGSTOP)
        before = path.read_bytes()
        done = run_script("launch", home, tmp_path, shard, code=1)
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.glob("*.jsonl") if "failures" not in file.name] == [path.name]
    finally:
        first.kill()
        first.wait()
    launch(home, tmp_path, shard)  # with the process its hold is gone


def test_the_command_refuses_a_held_shard_before_it_loads_a_model(pbt: Pbt, data: Path, tmp_path: Path) -> None:
    source = f"questions.source={data}/questions.json"
    config = load_config(data.parent / "configs" / "pocket.yaml", [source])
    covers = config.generation()
    held = TreeStore(tmp_path, Shard(0, 1), provenance(config, "generate", covers), covers)
    done = pbt("generate", "configs/pocket.yaml", "--out", tmp_path, "--set", source, check=2)
    assert "another process is writing this shard; wait for it or choose another --shard" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    held.close()


def test_the_command_refuses_another_configuration_and_shows_the_keys(pbt: Pbt, data: Path, tmp_path: Path) -> None:
    source = f"questions.source={data}/questions.json"
    config = load_config(data.parent / "configs" / "pocket.yaml", [source])
    covers = config.generation()
    begun = TreeStore(tmp_path, Shard(0, 1), provenance(config, "generate", covers), covers)
    begun.fail("some question", ValueError("too long"))
    begun.close()
    changes = ("--set", "seed=7", "--set", "protocol.sampling.temperature=1")
    done = pbt("generate", "configs/pocket.yaml", "--out", tmp_path, "--set", source, *changes, check=2)
    assert "protocol.sampling.temperature: 0.7 -> 1" in done.stderr
    assert "seed: 0 -> 7" in done.stderr
    assert "models" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
