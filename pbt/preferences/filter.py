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

from pbt.debate.chat import Message
from pbt.debate.tree import DebateTree
from pbt.engines.base import Engine, EngineError
from pbt.preferences.pairs import Code, RuleSet, Stance
from pbt.preferences.score import Synonyms, possible_synonyms, score_tree

log = logging.getLogger(__name__)

VERDICTS_FILE = "verdicts.jsonl"
"""The cache, in the dataset's folder; a build leaves it there for the next."""

_SAME = (" yes", " no")
_SAME_PROMPT = """\
Two answers were given to a trivia question. Do they name the same thing, though in other words? Say yes or no.

Question: Which country has the largest population in Africa?
Answers: Nigeria / the Federal Republic of Nigeria
Same: yes

Question: Who painted the ceiling of the Sistine Chapel?
Answers: Michelangelo / Raphael
Same: no

Question: In which year did the First World War begin?
Answers: 1914 / the summer of 1914
Same: yes

Question: Which is the largest moon of Saturn?
Answers: Titan / Triton
Same: no

Question: {question}
Answers: {gold} / {other}
Same:"""

_STANCE = (" agree", " disagree")
_STANCE_PROMPT = """\
Two partners discuss a trivia question. Does the second one's reply agree or disagree with what the first one says?

Question: What is the capital of Australia?
First: It is Sydney, everybody knows that.
Second: I hear you, but I stay with Canberra.
The reply: disagree

Question: Who wrote the novel Emma?
First: I have taught literature for years, it is Jane Austen.
Second: You convince me, it must be Jane Austen.
The reply: agree

Question: {question}
First: {partner}
Second: {reply}
The reply:"""


class Ask(NamedTuple):
    """One question to the model."""

    prompt: str
    labels: tuple[str, str]
    """The second one is the answer in a draw."""


class Confirmation(NamedTuple):
    """How the model reads the two replies of a pair; ``None`` where it could not be asked."""

    chosen: float | None
    """Log-probability of "agree" less that of "disagree"."""
    rejected: float | None


class Filter:
    """A model behind a cache. Use as a context manager.

    ``load`` starts the model; ``identity`` says which one it is, for the cache. A request that fails is counted,
    told, and asked again by the next build.
    """

    def __init__(self, cache: Path, identity: object, load: Callable[[], Engine]) -> None:
        self._path = cache
        self._cache: _Cache | None = None
        self._identity = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
        self._load = load
        self._engine: Engine | None = None
        self._runner = asyncio.Runner()
        self.asked = 0
        """Requests made."""
        self.failed = 0
        """Those that were not answered."""

    def synonyms(self, trees: Collection[DebateTree], rules: RuleSet) -> Synonyms:
        """Which answers that stand beside a right one in these trees are other words for it."""
        same: set[tuple[str, str, str]] = set()
        judged: set[tuple[str, str, str]] = set()
        # A copied answer changes the states below, where new neighbours may come up: a few rounds, one a level at most.
        while True:
            found = set().union(*(possible_synonyms(tree, score_tree(tree, rules, same)) for tree in trees))
            new = sorted(found - judged)
            if not new:
                return same
            prompts = [_SAME_PROMPT.format(question=question, gold=gold, other=other) for question, gold, other in new]
            odds = self._answer([Ask(prompt, _SAME) for prompt in prompts])
            same |= {names for names, yes in zip(new, odds, strict=True) if yes is not None and yes > 0}
            judged |= set(new)

    def confirm(self, pairs: Sequence[dict[str, Any]]) -> list[Confirmation]:
        """How the model reads the replies of pairs, given as lines of ``pairs.jsonl``."""
        asks = [
            Ask(
                _STANCE_PROMPT.format(
                    question=pair["question"],
                    partner=pair["prompt"][-1]["content"],  # the last message is the partner's turn
                    reply=pair[side][0]["content"],
                ),
                _STANCE,
            )
            for pair in pairs
            for side in ("chosen", "rejected")
        ]
        odds = self._answer(asks)
        return [Confirmation(*both) for both in zip(odds[::2], odds[1::2], strict=True)]

    def _answer(self, asks: Sequence[Ask]) -> list[float | None]:
        """The log-odds of the first label for each question; ``None`` where the model failed."""
        if self._cache is None:
            self._cache = _Cache(self._path)
        cache = self._cache
        keys = [self._key(ask) for ask in asks]
        new = {key: ask for key, ask in zip(keys, asks, strict=True) if key not in cache.odds}
        if new:
            self._runner.run(self._ask_all(new, cache))
            cache.flush()
        return [cache.odds.get(key) for key in keys]

    async def _ask_all(self, asks: dict[str, Ask], cache: _Cache) -> None:
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
