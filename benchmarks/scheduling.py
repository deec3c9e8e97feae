"""How busy scheduling keeps many replicas, without models: the loop that grows trees, on engines that only cost time.

Each of the two models is an engine of some replicas; a replica answers one request at a time, and a token takes
`--ms-per-token` milliseconds of a simulated clock, which jumps ahead whenever nothing else is to be done. The second
seat speaks 14 of the 21 turns of the paper's debate, so of 128 replicas it has 85; in a `chain` both seats speak
equally often, so there 64 of each are kept busy. Grows `--trees` trees into a real store and prints

* the share of each model's simulated time in which its replicas were busy, from the first request until fewer trees are
  left than grow at once;
* how many turns the loop handled in a real second: the ceiling that the scheduling itself sets;
* the peak memory of the process.

    python benchmarks/scheduling.py [--trees 100000] [--protocol trivia-debate] [--replicas 43 85] [--ms-per-token 5]
"""

import argparse
import asyncio
import resource
import selectors
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pbt.config import RunConfig, shipped_protocol
from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.engines.base import Continuation, Reply
from pbt.generate import GenerationSummary, grow_trees
from pbt.provenance import provenance
from pbt.questions import Question
from pbt.speaker import speakers
from pbt.store import Shard, TreeStore


class Jumping(selectors.DefaultSelector):
    """Instead of waiting until the next timer is due, sets the clock to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and timeout:
            self.now += timeout
        return found


def simulated() -> asyncio.AbstractEventLoop:
    """An event loop on a simulated clock."""
    clock = Jumping()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now  # type: ignore[method-assign]
    return loop


class Replicas:
    """Replies take the time of their tokens; at most ``count`` at once."""

    def __init__(self, count: int, seconds_per_token: float) -> None:
        self.count = count
        self.free = asyncio.Semaphore(count)
        self.seconds_per_token = seconds_per_token
        self.busy = 0.0
        """Seconds, over all replicas."""

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        tokens = 8 + seed % 33
        async with self.free:
            await asyncio.sleep(tokens * self.seconds_per_token)
            self.busy += tokens * self.seconds_per_token
        return Reply(f"It is number {seed % 1000}.", tokens, 50, False)

    async def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[Continuation]:
        raise NotImplementedError

    def close(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=100_000)
    parser.add_argument("--protocol", default="trivia-debate")
    parser.add_argument("--replicas", type=int, nargs=2, default=[43, 85])
    parser.add_argument("--ms-per-token", type=float, default=5)
    parser.add_argument("--concurrency", type=int, default=512)
    options = parser.parse_args()
    config = RunConfig.model_validate(
        {
            "name": "scheduling",
            "questions": {"source": "none"},
            "protocol": shipped_protocol(options.protocol),
            "models": {"x": {"path": "x"}, "y": {"path": "y"}},
            "seats": ["x", "y"],
            "generate": {"concurrency": options.concurrency},
        }
    )
    questions = [Question(f"q{i}", f"Which number is {i}?", str(i), (str(i),)) for i in range(options.trees)]
    summary = GenerationSummary(owed=len(questions), done_before=0)
    busy = [0.0, 0.0]

    async def run(store: TreeStore) -> None:
        seconds = options.ms_per_token / 1000
        engines = {name: Replicas(count, seconds) for name, count in zip("xy", options.replicas, strict=True)}
        loop = asyncio.get_running_loop()

        def watch(summary: GenerationSummary) -> None:
            # Once fewer trees are left than grow at once, replicas must run dry.
            if loop.time() and summary.left >= options.concurrency:
                busy[:] = [engine.busy / engine.count / loop.time() for engine in engines.values()]

        await grow_trees(config, questions, speakers(config, engines), store, summary, watch, asyncio.Event())

    with tempfile.TemporaryDirectory() as folder:
        store = TreeStore(Path(folder), Shard(0, 1), provenance(config, "benchmark"), config.generation())
        with asyncio.Runner(loop_factory=simulated) as runner:
            runner.run(run(store))
        store.close()
    table = Table("trees", "first model busy", "second model busy", "turns per real second", "real seconds", "peak MiB")
    table.add_row(
        str(summary.trees),
        *(f"{share:.3f}" for share in busy),
        f"{summary.turns / summary.seconds:.0f}",
        f"{summary.seconds:.0f}",
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}",
    )
    Console().print(table)


if __name__ == "__main__":
    main()
