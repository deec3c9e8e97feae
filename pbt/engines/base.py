"""The interface of an engine: a chat goes in, a reply comes out; batching is the engine's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling


@dataclass(frozen=True, slots=True)
class Reply:
    """One generated reply."""

    text: str
    tokens: int
    """Tokens generated, the end-of-turn token included."""
    prompt_tokens: int
    truncated: bool
    """Whether it ended at ``max_tokens`` instead of an end-of-turn token."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """How likely one text is as the beginning of the reply to a chat."""

    logprob: float
    """Natural log of its probability: the sum over its tokens, each given the prompt and the tokens before it."""
    tokens: int


class EngineError(Exception):
    """One request failed for good, such as a prompt longer than the model; the message says why. Others go on."""


class Engine(Protocol):
    """Anything that answers chats. Hundreds of calls may wait at once; the engine batches them as it can."""

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        """Reply to ``messages``. ``seed`` makes the sampling repeatable. Raises EngineError."""
        ...

    async def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[Continuation]:
        """The log-probability of each text as the beginning of the reply, in order. Raises EngineError.

        A text is tokenized by itself and follows the prompt as it stands, leading space included.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
