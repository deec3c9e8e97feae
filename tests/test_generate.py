"""Growing many trees: how many at once, what a signal does, and what stays owed."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


def test_requests_under_way_are_counted_by_model(tmp_path: Path) -> None:
    config = load_config(write_run(tmp_path, 8), ["generate.concurrency=4"])
    seen: list[dict[str, int]] = []
    engine = Latent(0.001)
    summary = generate(
        config, tmp_path / "t", Shard(0, 1), lambda _: {"x": engine, "y": engine}, lambda s: seen.append({**s.waiting})
    )
    assert seen[0] == {"x": 0, "y": 0}
    assert max(sum(now.values()) for now in seen) > 0
    assert summary.waiting == {"x": 0, "y": 0}


def test_what_failed_before_is_told_again_until_it_is_tried_again(tmp_path: Path) -> None:
    class Refusing(Latent):
        async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
            raise EngineError("no")

    config = load_config(write_run(tmp_path, 3))
    first = run(config, tmp_path / "t", Refusing())
    assert (first.failed, first.failed_before) == (3, 0)
    again = run(config, tmp_path / "t", Latent())
    assert (again.owed, again.failed, again.failed_before) == (0, 0, 3)
    assert "--retry-failed" in shown(again)
    healed = run(config, tmp_path / "t", Latent(), retry_failed=True)
    assert (healed.trees, healed.failed_before) == (3, 0)
    assert run(config, tmp_path / "t", Latent()).failed_before == 0


def test_the_summary_tells_how_long_it_took(tmp_path: Path) -> None:
    summary = run(load_config(write_run(tmp_path, 2)), tmp_path / "t", Latent())
    summary.seconds = 3723.4
    assert "1:02:03" in shown(summary)


def shown(summary: GenerationSummary) -> str:
    console = Console(file=io.StringIO(), width=120)
    for table in summary.tables("t"):
        console.print(table)
    return console.file.getvalue()


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


class Begun(Latent):
    """Remembers which questions were opened."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.opened: set[str] = set()

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        self.opened.add(re.findall(r"Which number is \d+\?", messages[0]["content"])[0])
        return await super().chat(messages, sampling, seed)


def run_until(trees: int, number: signal.Signals, config: RunConfig, out: Path, engine: Latent) -> GenerationSummary:
    """Grow, and send this process a signal once so many trees stand."""

    def watch(summary: GenerationSummary) -> None:
        if summary.trees == trees and not summary.stopped:
            os.kill(os.getpid(), number)

    return generate(config, out, Shard(0, 1), lambda _: {"x": engine, "y": engine}, watch)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_when_time_is_up_trees_under_way_are_finished_and_the_rest_stays_owed(
    tmp_path: Path, number: signal.Signals
) -> None:
    config = load_config(write_run(tmp_path, 100), ["generate.concurrency=4"])
    engine = Begun(0.005)
    summary = run_until(5, number, config, tmp_path / "t", engine)
    assert summary.stopped
    assert {tree.question for tree in read_trees([tmp_path / "t"])} == engine.opened
    assert 5 < summary.trees < 100
    assert summary.left == 100 - summary.trees
    assert run(config, tmp_path / "t", Latent()).trees == summary.left


def test_trees_that_outlast_the_grace_are_dropped(tmp_path: Path) -> None:
    class Stuck(Begun):
        async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
            self.opened.add(re.findall(r"Which number is \d+\?", messages[0]["content"])[0])
            if int(re.findall(r"Which number is (\d+)", messages[0]["content"])[0]) >= 16:
                await asyncio.sleep(600)
            return await super().chat(messages, sampling, seed)

    config = load_config(write_run(tmp_path, 100), ["generate.concurrency=4", "generate.grace=0.1"])
    engine = Stuck(0.001)
    begun = time.monotonic()
    summary = run_until(15, signal.SIGTERM, config, tmp_path / "t", engine)
    assert time.monotonic() - begun < 60
    assert 15 <= summary.trees < len(engine.opened) < 100
    assert sum(1 for _ in read_trees([tmp_path / "t"])) == summary.trees
    assert run(config, tmp_path / "t", Latent()).trees == 100 - summary.trees


class Answering(BaseHTTPRequestHandler):
    """An endpoint that serves "x" and says the same to everybody."""

    def do_GET(self) -> None:
        self.send({"data": [{"id": "x"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send({"choices": [{"message": {"content": "It is four."}, "finish_reason": "stop"}]})

    def send(self, body: dict[str, Any]) -> None:
        data = orjson.dumps(body)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_ctrl_c_ends_the_command_with_130_and_whole_trees(tmp_path: Path, endpoint: str) -> None:
    model = {"path": "x", "openai": {"base_url": endpoint}}
    config = write_run(tmp_path, 2000, models={"x": model}, seats=["x", "x"], protocol="chain")
    # A shell starts what runs in its background with Ctrl-C switched off, and children inherit that.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from pbt.cli import main; main()"
    )
    out = tmp_path / "t"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "generate", str(config), "--out", str(out)], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    grown = out / "shard-0000-of-0001.jsonl"
    while not (grown.exists() and grown.stat().st_size):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert grown.read_bytes().endswith(b"}\n")
    trees = sum(1 for _ in read_trees([out]))
    assert 0 < trees < 2000
    summary = generate(load_config(config), out, Shard(0, 1), lambda _: {"x": Latent()}, lambda _: None)
    assert (summary.done_before, summary.trees) == (trees, 2000 - trees)
