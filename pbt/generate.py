"""Stage one: questions -> trees. Hundreds of trees grow at once; each is written as soon as it is finished."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from pbt.config import RunConfig
from pbt.debate.answers import NONE, is_right
from pbt.debate.grow import grow
from pbt.debate.tree import DebateTree, Turn
from pbt.engines.base import Engine, EngineError
from pbt.provenance import provenance
from pbt.questions import Question, load_questions
from pbt.speaker import speaker
from pbt.store import Shard, TreeStore


@dataclass
class GenerationSummary:
    """What one launch did; turns and tokens count this launch only."""

    owed: int
    """Questions of this shard without a tree when the launch began."""
    done_before: int
    trees: int = 0
    failed: int = 0
    turns: int = 0
    tokens: int = 0
    seconds: float = 0.0
    clipped: int = 0
    empty: int = 0
    none: int = 0
    leaves_agreed: int = 0
    """Turns that ended their branch before the last level."""
    right: Counter[int] = field(default_factory=Counter)
    """By level: turns after which the speaker's answer was right."""
    spoken: Counter[int] = field(default_factory=Counter)
    """By level: turns."""

    def count(self, tree: DebateTree, levels: int) -> None:
        """Add a finished tree."""
        self.trees += 1
        self.turns += len(tree.turns)
        for turn in tree.turns:
            self.tokens += turn.tokens
            self.clipped += turn.clipped
            self.empty += not turn.text
            self.none += turn.claim == NONE
            self.leaves_agreed += turn.level + 1 < levels and not tree.children[turn.id]
            self.spoken[turn.level] += 1
            self.right[turn.level] += is_right(tree.states[turn.id][turn.seat], tree.aliases)

    def to_dict(self) -> dict[str, Any]:
        """Counts, rates per second, and shares of turns."""
        turns = max(self.turns, 1)
        return {
            "owed": self.owed,
            "done_before": self.done_before,
            "trees": self.trees,
            "failed": self.failed,
            "turns": self.turns,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 2),
            "turns_per_second": round(self.turns / self.seconds, 1) if self.seconds else None,
            "tokens_per_second": round(self.tokens / self.seconds, 1) if self.seconds else None,
            "clipped": round(self.clipped / turns, 4),
            "empty": round(self.empty / turns, 4),
            "none": round(self.none / turns, 4),
            "stopped_early": round(self.leaves_agreed / turns, 4),
            "accuracy_by_level": {
                str(level): round(self.right[level] / count, 4) for level, count in sorted(self.spoken.items())
            },
        }

    def table(self, folder: str) -> Table:
        """For a terminal."""
        facts = self.to_dict()
        table = Table("trees grown", str(self.trees), title=folder, title_justify="left", show_edge=False)
        table.add_row("already there", str(self.done_before))
        table.add_row("failed", str(self.failed))
        table.add_row("turns", f"{self.turns} ({facts['turns_per_second'] or 0} a second)")
        table.add_row("tokens", f"{self.tokens} ({facts['tokens_per_second'] or 0} a second)")
        for name in ("clipped", "empty", "none", "stopped_early"):
            table.add_row(f"{name.replace('_', ' ')}, share of turns", str(facts[name]))
        for level, share in facts["accuracy_by_level"].items():
            table.add_row(f"right after level {level}", f"{share:.3f}")
        return table


async def grow_trees(
    config: RunConfig,
    questions: Sequence[Question],
    engines: Sequence[Engine],
    store: TreeStore,
    summary: GenerationSummary,
    progress: Callable[[GenerationSummary], None],
) -> None:
    """Grow one tree for each question, ``concurrency`` at once, and write each when it is whole.

    A tree whose engine gives up on a request becomes a line of the failures; the others go on.
    """
    speakers = [speaker(engine, config.protocol.sampling) for engine in engines]
    places = asyncio.Semaphore(config.generate.concurrency)
    start = time.monotonic()

    async def one(question: Question) -> None:
        async with places:
            try:
                turns = await grow(question.id, question.text, config.protocol, speakers, config.seed)
            except EngineError as error:
                store.fail(question.id, error)
                summary.failed += 1
            else:
                tree = _tree(config, question, turns)
                store.write(tree)
                summary.count(tree, len(config.protocol.levels))
        summary.seconds = time.monotonic() - start
        progress(summary)

    async with asyncio.TaskGroup() as group:
        for question in questions:
            group.create_task(one(question))


def generate(
    config: RunConfig,
    out: Path,
    shard: Shard,
    engines: Callable[[RunConfig], Sequence[Engine]],
    progress: Callable[[GenerationSummary], None],
    retry_failed: bool = False,
) -> GenerationSummary:
    """Grow what the shard still owes. ``engines`` loads one engine a seat, and is called only if something is owed.

    Questions that failed before are tried again only with ``retry_failed``. Raises BadInput.
    """
    questions = load_questions(config.questions, config.seed)
    store = TreeStore(out, shard, provenance(config, "generate", config.generation()), config.generation())
    try:
        done = store.done()
        settled = done if retry_failed else done | store.failed()
        mine = [question for question in questions if shard.owns(question.id)]
        owed = [question for question in mine if question.id not in settled]
        summary = GenerationSummary(owed=len(owed), done_before=sum(question.id in done for question in mine))
        if owed:
            voices = engines(config)
            try:
                asyncio.run(grow_trees(config, owed, voices, store, summary, progress))
            finally:
                for engine in dict.fromkeys(voices):
                    engine.close()
        return summary
    finally:
        store.close()


def _tree(config: RunConfig, question: Question, turns: tuple[Turn, ...]) -> DebateTree:
    return DebateTree(
        tree_id=question.id,
        question_id=question.id,
        question=question.text,
        gold=question.gold,
        aliases=question.aliases,
        protocol=config.protocol.name,
        models=config.seats,
        seed=config.seed,
        turns=turns,
    )
