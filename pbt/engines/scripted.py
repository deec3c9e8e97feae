"""An engine without a model: replies come from a function. Any flow runs with it, in tests and in dry runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.engines.base import Continuation, Reply

Scorer = Callable[[Sequence[Message], str], float]


def _all_alike(messages: Sequence[Message], continuation: str) -> float:
    return -float(len(continuation.split()))


class ScriptedEngine:
    """Replies with ``script(messages, seed)``; a token is a word.

    ``scorer(messages, continuation)`` gives log-probabilities; without one, every word has -1.
    """

    def __init__(self, script: Callable[[Sequence[Message], int], str], scorer: Scorer = _all_alike) -> None:
        self.script = script
        self.scorer = scorer

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        text = self.script(messages, seed)
        words = len(text.split())
        return Reply(text, words, sum(len(m["content"].split()) for m in messages), words > sampling.max_tokens)

    async def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[Continuation]:
        return [Continuation(self.scorer(messages, text), len(text.split())) for text in continuations]

    def close(self) -> None:
        """Nothing to free."""
