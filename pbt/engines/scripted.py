"""An engine without a model: replies come from a function. Any flow runs with it, in tests and in dry runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.engines.base import Reply


class ScriptedEngine:
    """Replies with ``script(messages, seed)``; a token is a word."""

    def __init__(self, script: Callable[[Sequence[Message], int], str]) -> None:
        self.script = script

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        text = self.script(messages, seed)
        words = len(text.split())
        return Reply(text, words, sum(len(m["content"].split()) for m in messages), words > sampling.max_tokens)

    def close(self) -> None:
        """Nothing to free."""
