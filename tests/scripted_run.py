"""A run of ``pbt generate`` without models, for tests that kill it, starve it of disk, or start it twice.

``python scripted_run.py launch HOME TREES I/N [FILE_SIZE]`` is one launch, as the command makes it, exit codes
included. ``python scripted_run.py kill HOME TREES TIMES SEED`` launches as often, kills each launch with SIGKILL at a
random moment, and prints how many trees stood before and after each.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from pbt.config import load_config
from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.engines.base import Reply
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput
from pbt.generate import generate
from pbt.store import Shard


class Slow(ScriptedEngine):
    """Says something that depends on the seed alone, after a few milliseconds that depend on it too."""

    def __init__(self) -> None:
        super().__init__(lambda messages, seed: f"I think that it is {seed % 5}, of which I am quite sure.")

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        await asyncio.sleep(0.001 + seed % 97 / 20_000)
        return await super().chat(messages, sampling, seed)


def write_run(home: Path, questions: int) -> Path:
    """The configuration of such a run, with its questions beside it."""
    rows = [
        {"question_id": f"q{i}", "question": f"Which number is {i}?", "answer": {"value": str(i % 5), "aliases": []}}
        for i in range(questions)
    ]
    (home / "questions.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    path = home / "run.yaml"
    path.write_text(
        json.dumps(
            {
                "name": "scripted",
                "questions": {"source": str(home / "questions.jsonl")},
                "protocol": "trivia-debate",
                "models": {"one": {"path": "one"}, "two": {"path": "two"}},
                "seats": ["one", "two"],
                "generate": {"concurrency": 8},
            }
        )
    )
    return path


def launch(home: Path, trees: Path, shard: str) -> None:
    """Grow what the shard owes."""
    engine = Slow()
    generate(
        load_config(home / "run.yaml"),
        trees,
        Shard.parse(shard),
        lambda _: {"one": engine, "two": engine},
        print_nothing,
    )


def print_nothing(_: object) -> None:
    """Progress that nobody watches."""


def kill(home: Path, trees: Path, times: int, seed: int) -> None:
    """Launch and kill, over and over; each launch is a process of its own, forked so that it starts at once."""
    moments = random.Random(seed)
    shard = trees / f"{Shard(0, 1).stem}.jsonl"
    for number in range(times):
        before = count_lines(shard)
        child = os.fork()
        if child == 0:
            launch(home, trees, "0/1")
            os._exit(0)
        if number % 5:  # after some trees, in the middle of others
            wanted = before + moments.randint(1, 25)
            while (
                count_lines(shard) < wanted and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            ):
                time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"killed": os.WIFSIGNALED(status), "before": before, "trees": count_lines(shard)}))


def count_lines(path: Path) -> int:
    """Whole lines of a file; 0 where there is none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    what, home, trees, *rest = sys.argv[1:]
    if what == "kill":
        kill(Path(home), Path(trees), int(rest[0]), int(rest[1]))
    else:
        if len(rest) > 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(rest[1]), int(rest[1])))
        try:
            launch(Path(home), Path(trees), rest[0])
        except BadInput as error:
            sys.exit(f"pbt: {error}")
