"""Growing many trees: how many at once, what a signal does, and what stays owed."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from pbt.config import RunConfig, load_config
from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.engines.base import EngineError, Reply
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput
from pbt.generate import GenerationSummary, generate
from pbt.store import Shard, read_trees
from pbt.trees import tree_stats


def write_run(folder: Path, questions: int, **changes: Any) -> Path:
    """A run over made-up questions, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"question_id": f"q{i}", "question": f"Which number is {i}?", "answer": {"value": str(i), "aliases": [str(i)]}}
        for i in range(questions)
    ]
    (folder / "questions.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    config = {
        "name": "many",
        "questions": {"source": str(folder / "questions.jsonl")},
        "protocol": "trivia-debate",
        "models": {"x": {"path": "x"}, "y": {"path": "y"}},
        "seats": ["x", "y"],
        **changes,
    }
    path = folder / "run.yaml"
    path.write_bytes(orjson.dumps(config))
    return path


class Latent(ScriptedEngine):
    """Says something that depends on the seed, after a while; counts how many wait."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(lambda messages, seed: f"It is {seed % 5}.")
        self.seconds = seconds
        self.waiting = self.most = 0

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await asyncio.sleep(self.seconds)
        self.waiting -= 1
        return await super().chat(messages, sampling, seed)


def run(config: RunConfig, out: Path, engine: Any, **options: Any) -> GenerationSummary:
    return generate(config, out, Shard(0, 1), lambda _: {"x": engine, "y": engine}, lambda _: None, **options)


def test_no_more_trees_grow_at_once_than_asked_for(tmp_path: Path) -> None:
    config = load_config(write_run(tmp_path, 30), ["generate.concurrency=3", "protocol=chain"])
    engine = Latent(0.002)
    assert run(config, tmp_path / "trees", engine).trees == 30
    assert engine.most == 3


def test_requests_under_way_are_counted_by_seat(tmp_path: Path) -> None:
    config = load_config(write_run(tmp_path, 8), ["generate.concurrency=4"])
    seen: list[tuple[int, ...]] = []
    engine = Latent(0.001)
    summary = generate(
        config, tmp_path / "t", Shard(0, 1), lambda _: {"x": engine, "y": engine}, lambda s: seen.append((*s.waiting,))
    )
    assert seen[0] == (0, 0)
    assert max(map(sum, seen)) > 0
    assert summary.waiting == [0, 0]


def test_the_summary_counts_what_stands_on_disk(tmp_path: Path) -> None:
    config = load_config(write_run(tmp_path, 10))
    told = run(config, tmp_path / "t", Latent()).to_dict()
    counted = tree_stats([tmp_path / "t"]).to_dict()
    shared = ("trees", "turns", "tokens", "clipped", "empty", "agreed", "claims", "levels")
    assert {key: told[key] for key in shared} == {key: counted[key] for key in shared}
    assert 0 < told["agreed"] < 1 and len(told["levels"]) == 4
    assert told["turns_per_second"] > 0
    # A launch counts its own trees only.
    again = run(config, tmp_path / "t", Latent()).to_dict()
    assert (again["done_before"], again["trees"], again["levels"], again["turns_per_second"]) == (10, 0, [], None)


def test_the_summary_is_shown_with_its_levels_once_there_are_trees(tmp_path: Path) -> None:
    config = load_config(write_run(tmp_path, 10))
    shown = io.StringIO()
    for table in run(config, tmp_path / "t", Latent()).tables("trees/many"):
        Console(file=shown, width=100).print(table)
    for words in ("trees/many", "agreed, share of turns", "branches end"):
        assert words in shown.getvalue()
    assert len(run(config, tmp_path / "t", Latent()).tables("trees/many")) == 1


def test_a_tree_whose_engine_gives_up_is_recorded_and_the_others_grow(tmp_path: Path) -> None:
    config = load_config(write_run(tmp_path, 10))

    def script(messages: Sequence[Message], seed: int) -> str:
        if "number is 7?" in messages[0]["content"]:
            raise EngineError("too long")
        return "It is 1."

    summary = run(config, tmp_path / "t", ScriptedEngine(script))
    assert (summary.trees, summary.failed, summary.left) == (9, 1, 0)
    assert {tree.question_id for tree in read_trees([tmp_path / "t"])} == {f"q{i}" for i in range(10)} - {"q7"}
    # Not tried again, unless asked to.
    assert run(config, tmp_path / "t", Latent()).owed == 0
    assert run(config, tmp_path / "t", Latent(), retry_failed=True).trees == 1


def test_a_broken_engine_ends_the_run_with_its_own_error_and_loses_no_tree(tmp_path: Path) -> None:
    config = load_config(write_run(tmp_path, 40), ["generate.concurrency=2"])
    asked = 0

    def script(messages: Sequence[Message], seed: int) -> str:
        nonlocal asked
        asked += 1
        if asked > 100:
            raise BadInput("the engine is gone")
        return f"It is {seed % 5}."

    with pytest.raises(BadInput, match="the engine is gone"):
        run(config, tmp_path / "t", ScriptedEngine(script))
    grown = sum(1 for _ in read_trees([tmp_path / "t"]))
    assert 0 < grown < 40
    assert run(config, tmp_path / "t", Latent()).trees == 40 - grown


def test_what_is_under_way_does_not_grow_with_the_questions(tmp_path: Path) -> None:
    def most_tasks(questions: int) -> int:
        config = load_config(write_run(tmp_path / str(questions), questions), ["generate.concurrency=8"])
        engine = Latent()
        tasks: list[int] = []
        generate(
            config,
            tmp_path / str(questions) / "t",
            Shard(0, 1),
            lambda _: {"x": engine, "y": engine},
            lambda summary: tasks.append(len(asyncio.all_tasks()) if summary.seconds else 0),
        )
        return max(tasks)

    # A task for each worker, and for each turn that a tree under way asks for.
    assert most_tasks(400) <= 8 * 22 + 4


PROGRAM = """
import signal
import sys
from pathlib import Path
# A shell starts what runs in its background with Ctrl-C switched off, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {here!r})
from test_generate import Latent
from pbt.config import load_config
from pbt.generate import generate
from pbt.store import Shard

engine = Latent(0.01)
config = load_config(Path(sys.argv[1]), sys.argv[3:])
summary = generate(config, Path(sys.argv[2]), Shard(0, 1), lambda _: {{"x": engine, "y": engine}}, lambda _: None)
sys.exit(4 if summary.left else 0)
"""


def started(config: Path, out: Path, *overrides: str) -> subprocess.Popen[str]:
    """A process that grows trees slowly, once some stand."""
    program = textwrap.dedent(PROGRAM.format(here=str(Path(__file__).parent)))
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(config), str(out), *overrides], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not any(path.stat().st_size for path in out.glob("shard-*.jsonl")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_when_time_is_up_trees_under_way_are_finished_and_the_rest_stays_owed(
    tmp_path: Path, number: signal.Signals
) -> None:
    config = write_run(tmp_path, 400)
    process = started(config, tmp_path / "t", "generate.concurrency=4")
    os.kill(process.pid, number)
    assert process.wait(30) == 4
    grown = {tree.question_id for tree in read_trees([tmp_path / "t"])}
    assert 0 < len(grown) < 400
    assert run(load_config(config), tmp_path / "t", Latent()).trees == 400 - len(grown)


def test_trees_that_outlast_the_grace_are_dropped(tmp_path: Path) -> None:
    config = write_run(tmp_path, 400)
    process = started(config, tmp_path / "t", "generate.concurrency=50", "generate.grace=0")
    begun = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 4
    assert time.monotonic() - begun < 10
    assert all(len(tree.turns) > 0 for tree in read_trees([tmp_path / "t"]))


def test_ctrl_c_leaves_whole_trees_and_can_be_gone_on_from(tmp_path: Path) -> None:
    config = write_run(tmp_path, 400)
    process = started(config, tmp_path / "t", "generate.concurrency=4")
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode not in (0, 4)
    assert "KeyboardInterrupt" in told
    grown = sum(1 for _ in read_trees([tmp_path / "t"]))
    assert run(load_config(config), tmp_path / "t", Latent()).trees == 400 - grown
