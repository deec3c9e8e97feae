"""Stage one: questions -> trees. Hundreds of trees grow at once; each is written as soon as it is finished."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.table import Table

from pbt.config import RunConfig
from pbt.counts import TreeCounts
from pbt.debate.chat import Message
from pbt.debate.grow import Speaker, grow
from pbt.debate.protocol import Sampling
from pbt.debate.tree import DebateTree, Turn
from pbt.engines.base import Continuation, Engine, EngineError, Reply
from pbt.provenance import provenance
from pbt.questions import Question, load_questions
from pbt.speaker import speakers
from pbt.store import Shard, TreeStore


@dataclass(kw_only=True)
class GenerationSummary(TreeCounts):
    """What one launch did; trees, turns and tokens count this launch only."""

    owed: int
    """Questions of this shard without a tree when the launch began."""
    done_before: int
    failed_before: int = 0
    """Questions that failed in an earlier launch and are not tried again."""
    failed: int = 0
    seconds: float = 0.0
    waiting: dict[str, int] = field(default_factory=dict)
    """By model: requests under way now."""
    stopped: bool = False
    """Whether a signal ended it before all that was owed was done."""

    @property
    def left(self) -> int:
        """Questions that are still owed."""
        return self.owed - self.trees - self.failed

    def to_dict(self) -> dict[str, Any]:
        """What was to do and how it went, rates per second, and what stands in the new trees."""
        return {
            "owed": self.owed,
            "done_before": self.done_before,
            "failed_before": self.failed_before,
            "failed": self.failed,
            "left": self.left,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 2),
            "turns_per_second": round(self.turns / self.seconds, 1) if self.seconds else None,
            "tokens_per_second": round(self.tokens / self.seconds, 1) if self.seconds else None,
            **super().to_dict(),
        }

    def tables(self, folder: str) -> list[Table]:
        """For a terminal: how it went, and level by level what stands in the new trees, if there are any."""
        facts = self.to_dict()
        table = Table("trees grown", str(self.trees), title=folder, title_justify="left", show_edge=False)
        table.add_row("already there", str(self.done_before))
        table.add_row("failed", str(self.failed))
        if self.failed_before:
            table.add_row("failed before", f"{self.failed_before} (--retry-failed tries them again)")
        if self.left:
            table.add_row("still owed", str(self.left))
        if not self.trees:
            return [table]
        table.add_row("time", str(timedelta(seconds=round(self.seconds))))
        table.add_row("turns", f"{self.turns} ({facts['turns_per_second'] or 0} a second)")
        table.add_row("tokens", f"{self.tokens} ({facts['tokens_per_second'] or 0} a second)")
        self.add_shares(table)
        return [table, self.levels_table()]


async def grow_trees(
    config: RunConfig,
    questions: Sequence[Question],
    speakers: Sequence[Speaker],
    store: TreeStore,
    summary: GenerationSummary,
    progress: Callable[[GenerationSummary], None],
    stop: asyncio.Event,
) -> None:
    """Grow one tree for each question, ``concurrency`` at once, and write each when it is whole.

    A tree whose engine gives up on a request becomes a line of the failures; the others go on. Once ``stop`` is set no
    tree is begun; those under way have ``generate.grace`` seconds, then they are dropped and stay owed.
    """
    start = time.monotonic()
    ahead = iter(questions)

    async def grow_one(question: Question) -> None:
        try:
            turns = await grow(question.id, question.text, config.protocol, speakers, config.seed)
        except EngineError as error:
            store.fail(question.id, error)
            summary.failed += 1
        else:
            tree = _tree(config, question, turns)
            store.write(tree)
            summary.count(tree)
        summary.seconds = time.monotonic() - start
        progress(summary)

    async def worker() -> None:
        # As many workers as trees may grow at once, all drawing from one list: memory does not grow with the questions.
        while not stop.is_set() and (question := next(ahead, None)) is not None:
            await grow_one(question)

    async def end_after_grace(workers: Sequence[asyncio.Task[None]]) -> None:
        await stop.wait()
        summary.stopped = True
        await asyncio.sleep(config.generate.grace)
        for task in workers:
            task.cancel()

    progress(summary)
    workers = [asyncio.ensure_future(worker()) for _ in range(min(config.generate.concurrency, len(questions)))]
    ending = asyncio.ensure_future(end_after_grace(workers))
    try:
        done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in (*workers, ending):
            task.cancel()
        await asyncio.gather(*workers, ending, return_exceptions=True)
        summary.seconds = time.monotonic() - start
    for task in done:
        if not task.cancelled():
            task.result()


@dataclass(frozen=True)
class _Counted:
    """An engine whose requests under way are counted in ``waiting`` by its name."""

    engine: Engine
    name: str
    waiting: dict[str, int]

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        with self._under_way():
            return await self.engine.chat(messages, sampling, seed)

    async def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[Continuation]:
        with self._under_way():
            return await self.engine.score(messages, continuations)

    def close(self) -> None:
        self.engine.close()

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self.waiting[self.name] += 1
        try:
            yield
        finally:
            self.waiting[self.name] -= 1


def generate(
    config: RunConfig,
    out: Path,
    shard: Shard,
    engines: Callable[[RunConfig], Mapping[str, Engine]],
    progress: Callable[[GenerationSummary], None],
    retry_failed: bool = False,
) -> GenerationSummary:
    """Grow what the shard still owes. ``engines`` loads the models of ``config.speaking()`` by name, and is called only
    if something is owed.

    Questions that failed before are tried again only with ``retry_failed``. SIGTERM and SIGUSR1, with which a cluster
    says that time is up, stop it as ``grow_trees`` says; Ctrl-C drops what is under way at once (KeyboardInterrupt).
    Either way every finished tree is on disk. Raises BadInput.
    """
    questions = load_questions(config.questions, config.seed)
    store = TreeStore(out, shard, provenance(config, "generate", config.generation()), config.generation())
    try:
        done = store.done()
        given_up = set() if retry_failed else store.failed() - done
        mine = [question for question in questions if shard.owns(question.id)]
        owed = [question for question in mine if question.id not in done | given_up]
        summary = GenerationSummary(
            owed=len(owed),
            done_before=sum(question.id in done for question in mine),
            failed_before=sum(question.id in given_up for question in mine),
            waiting=dict.fromkeys(config.speaking(), 0),
        )
        if owed:
            with _signals() as stopped:
                voices = engines(config)
                try:
                    asyncio.run(_run(config, owed, voices, store, summary, progress, stopped))
                finally:
                    # An adapter and its base model are two names of one engine, and closing it twice does no harm.
                    for engine in voices.values():
                        engine.close()
        return summary
    finally:
        store.close()


async def _run(
    config: RunConfig,
    owed: Sequence[Question],
    voices: Mapping[str, Engine],
    store: TreeStore,
    summary: GenerationSummary,
    progress: Callable[[GenerationSummary], None],
    stopped: _Stopped,
) -> None:
    stop = asyncio.Event()
    stopped.tell(asyncio.get_running_loop(), stop)
    counted = {name: _Counted(engine, name, summary.waiting) for name, engine in voices.items()}
    await grow_trees(config, owed, speakers(config, counted), store, summary, progress, stop)


class _Stopped:
    """Whether a signal has asked for the end; it may come while the engines are still loading."""

    def __init__(self) -> None:
        self._asked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def tell(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        """Set ``stop`` when the signal comes, or at once if it has come."""
        self._loop, self._stop = loop, stop
        if self._asked:
            stop.set()

    def __call__(self, *_: object) -> None:
        self._asked = True
        if self._loop and self._stop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)


@contextmanager
def _signals() -> Iterator[_Stopped]:
    """Catch SIGTERM and SIGUSR1 for as long as trees grow; where there is no main thread, nothing is caught."""
    stopped = _Stopped()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.signal(number, stopped) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
