"""How close growing trees comes to the engine's limit.

Grows the pocket debate as `pbt generate` does and keeps every prompt with the number of tokens that answered it; then
gives the same prompts to the same engines all at once, one flat batch a model, each to be answered with just as
many tokens. Both in one process on one machine, in turns; prints medians and their ratio.

    python benchmarks/generation.py [--questions 200] [--rounds 3]
"""

import argparse
import asyncio
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from pbt.config import load_config
from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.engines.base import Engine, Reply
from pbt.engines.load import load_engines
from pbt.generate import GenerationSummary, grow_trees
from pbt.provenance import provenance
from pbt.questions import load_questions
from pbt.store import Shard, TreeStore


class Asked(NamedTuple):
    messages: Sequence[Message]
    sampling: Sampling
    seed: int
    tokens: int


@dataclasses.dataclass
class Recorder:
    """An engine that keeps what it was asked."""

    engine: Engine
    asked: list[Asked] = dataclasses.field(default_factory=list)

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        reply = await self.engine.chat(messages, sampling, seed)
        self.asked.append(Asked(messages, sampling, seed, reply.tokens))
        return reply

    def close(self) -> None:
        self.engine.close()


async def flat(recorders: Sequence[Recorder]) -> int:
    """All prompts of all models at once; returns the tokens generated."""
    replies = await asyncio.gather(
        *(
            recorder.engine.chat(
                asked.messages,
                asked.sampling.model_copy(update={"max_tokens": asked.tokens, "min_tokens": asked.tokens}),
                asked.seed,
            )
            for recorder in recorders
            for asked in recorder.asked
        )
    )
    return sum(reply.tokens for reply in replies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/pocket.yaml"))
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    config = load_config(options.config, [f"questions.limit={options.questions}"])
    questions = load_questions(config.questions, config.seed)
    engines = load_engines(config.models, config.seats)
    tree_pace: list[float] = []
    turn_pace: list[float] = []
    flat_pace: list[float] = []
    for number in range(options.rounds):
        recorders = {name: Recorder(engine) for name, engine in engines.items()}
        summary = GenerationSummary(owed=len(questions), done_before=0)
        with tempfile.TemporaryDirectory() as folder:
            covers = {**config.generation(), "seed": number}
            store = TreeStore(Path(folder), Shard(0, 1), provenance(config, "benchmark", covers), covers)
            asyncio.run(
                grow_trees(
                    config.model_copy(update={"seed": number}),
                    questions,
                    [recorders[name] for name in config.seats],
                    store,
                    summary,
                    lambda summary: None,
                )
            )
            store.close()
        turn_pace.append(summary.turns / summary.seconds)
        tree_pace.append(summary.tokens / summary.seconds)
        began = time.monotonic()
        tokens = asyncio.run(flat(list(recorders.values())))
        flat_pace.append(tokens / (time.monotonic() - began))
    for engine in engines.values():
        engine.close()
    table = Table("", "turns/s", "tokens/s", title=f"{len(questions)} trees, median of {options.rounds} rounds")
    grown, limit = statistics.median(tree_pace), statistics.median(flat_pace)
    table.add_row("growing trees", f"{statistics.median(turn_pace):.0f}", f"{grown:.0f}")
    table.add_row("one flat batch", "", f"{limit:.0f}")
    table.add_row("ratio", "", f"{grown / limit:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
