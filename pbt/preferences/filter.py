"""The model filter: what a model says of answers and replies that rules cannot know (method, section 4).

Before scoring it is asked whether two answers name the same thing; of a pair, whether each reply agrees or disagrees
with the partner. An answer is the label whose continuation, the whole label with its leading space, is more likely.
What was asked once stands in a cache on disk, and the model is only loaded when something is new.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import orjson

from pbt.config import FilterPrompts
from pbt.debate.chat import Message
from pbt.debate.tree import DebateTree
from pbt.engines.base import Engine, EngineError
from pbt.preferences.pairs import Code, RuleSet, Stance
from pbt.preferences.score import Synonyms, possible_synonyms, score_tree

log = logging.getLogger(__name__)

VERDICTS_FILE = "verdicts.jsonl"
"""The cache, in the dataset's folder; a build leaves it there for the next."""


class Ask(NamedTuple):
    """One question to the model."""

    prompt: str
    """As the model reads it."""
    labels: tuple[str, str]
    """The second one is the answer in a draw."""


class Confirmation(NamedTuple):
    """How the model reads the two replies of a pair; ``None`` where it could not be asked."""

    chosen: float | None
    """Log-probability of "agree" less that of "disagree"."""
    rejected: float | None


class Filter:
    """A model behind a cache. Use as a context manager.

    ``load`` starts the model; ``identity`` says which one it is, for the cache, in which a verdict stands under model,
    prompt and labels. A request that fails is counted, told, and asked again by the next build.
    """

    def __init__(self, cache: Path, prompts: FilterPrompts, identity: object, load: Callable[[], Engine]) -> None:
        self._path = cache
        self._cache: _Cache | None = None
        self._prompts = prompts
        self._identity = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
        self._load = load
        self._engine: Engine | None = None
        self._runner = asyncio.Runner()
        self.asked = 0
        """Requests made."""
        self.failed = 0
        """Those that were not answered."""

    def synonyms(self, trees: Collection[DebateTree], rules: RuleSet, answered: Callable[[int], None]) -> Synonyms:
        """Which answers that stand beside a right one in these trees are other words for it.

        ``answered`` is told, as they come, how many more questions are settled.
        """
        same: set[tuple[str, str, str]] = set()
        judged: set[tuple[str, str, str]] = set()
        # A copied answer changes the states below, where new neighbours may come up: a few rounds, one a level at most.
        while True:
            found = set().union(*(possible_synonyms(tree, score_tree(tree, rules, same)) for tree in trees))
            new = sorted(found - judged)
            if not new:
                return same
            choice = self._prompts.synonyms
            filled = [choice.prompt.format(question=asked, gold=gold, other=other) for asked, gold, other in new]
            odds = self._answer([Ask(prompt, choice.labels) for prompt in filled], answered)
            same |= {names for names, yes in zip(new, odds, strict=True) if yes is not None and yes > 0}
            judged |= set(new)

    def confirm(self, pairs: Sequence[dict[str, Any]], answered: Callable[[int], None]) -> list[Confirmation]:
        """How the model reads the replies of pairs, given as lines of ``pairs.jsonl``; two questions for each.

        ``answered`` is told, as they come, how many more of them are settled.
        """
        choice = self._prompts.stance
        asks = [
            Ask(
                choice.prompt.format(
                    question=pair["question"],
                    partner=pair["prompt"][-1]["content"],  # the last message is the partner's turn
                    reply=pair[side][0]["content"],
                ),
                choice.labels,
            )
            for pair in pairs
            for side in ("chosen", "rejected")
        ]
        odds = self._answer(asks, answered)
        return [Confirmation(*both) for both in zip(odds[::2], odds[1::2], strict=True)]

    def _answer(self, asks: Sequence[Ask], answered: Callable[[int], None]) -> list[float | None]:
        """The log-odds of the first label for each question; ``None`` where the model failed."""
        if self._cache is None:
            self._cache = _Cache(self._path)
        cache = self._cache
        keys = [self._key(ask) for ask in asks]
        new = {key: ask for key, ask in zip(keys, asks, strict=True) if key not in cache.odds}
        answered(len(asks) - len(new))
        if new:
            self._runner.run(self._ask_all(new, cache, answered))
            cache.flush()
        return [cache.odds.get(key) for key in keys]

    async def _ask_all(self, asks: dict[str, Ask], cache: _Cache, answered: Callable[[int], None]) -> None:
        """Ask everything at once; the engine batches."""
        if self._engine is None:
            self._engine = self._load()
        engine = self._engine

        async def one(key: str, ask: Ask) -> None:
            self.asked += 1
            messages: list[Message] = [{"role": "user", "content": ask.prompt}]
            try:
                first, second = await engine.score(messages, ask.labels)
            except EngineError as error:
                self.failed += 1
                if self.failed == 1:  # the others are counted
                    log.warning("the filter's model gave no answer: %s", error)
            else:
                cache.add(key, first.logprob - second.logprob)
            answered(1)

        await asyncio.gather(*(one(key, ask) for key, ask in asks.items()))

    def _key(self, ask: Ask) -> str:
        content = b"\x1f".join((self._identity, *(text.encode() for text in (ask.prompt, *ask.labels))))
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def __enter__(self) -> Filter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.asked:
            log.info("the filter's model was asked %d times, and did not answer %d times", self.asked, self.failed)
        if self._engine is not None:
            self._engine.close()
        self._runner.close()
        if self._cache is not None:
            self._cache.close()


def stance(log_odds: float) -> Stance:
    """What the log-odds of "agree" amount to."""
    return "agree" if log_odds > 0 else "disagree"


def confirms(code: Code, chosen: float, rejected: float) -> bool:
    """Section 4, filter: resist needs chosen = disagree and rejected = agree, accept the reverse."""
    wanted = ("disagree", "agree") if code == "resist" else ("agree", "disagree")
    return (stance(chosen), stance(rejected)) == wanted


class _Cache:
    """Log-odds by the hash of what was asked; a line each, appended as it is learnt."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self.odds = dict(self._read())

    def _read(self) -> Iterator[tuple[str, float]]:
        self._file.seek(0)
        whole = 0
        for line in self._file:
            try:
                known = orjson.loads(line)
                yield known["key"], known["log_odds"]
            except (orjson.JSONDecodeError, KeyError, TypeError):
                break  # torn by a kill: it and what follows is asked again
            whole += len(line)
        self._file.truncate(whole)

    def add(self, key: str, log_odds: float) -> None:
        self.odds[key] = log_odds
        self._file.write(orjson.dumps({"key": key, "log_odds": log_odds}, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
