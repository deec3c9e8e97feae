"""A seat's voice: an engine's reply, clipped and read, as the debate and the evaluations hear it."""

from __future__ import annotations

from collections.abc import Sequence

from pbt.debate.chat import Message
from pbt.debate.grow import Speaker, Utterance
from pbt.debate.protocol import Sampling
from pbt.engines.base import Engine, Reply
from pbt.extraction import claim_by_rule, clip_unfinished


def hear(reply: Reply) -> Utterance:
    """What a partner hears: without an unfinished last sentence, with the claim read by rule.

    A reply is unfinished when it ran into the token limit; one that ended by itself is whole, full stop or not.
    """
    text, clipped = clip_unfinished(reply.text) if reply.truncated else (reply.text.strip(), False)
    return Utterance(text, claim_by_rule(text), clipped, reply.tokens)


def speaker(engine: Engine, sampling: Sampling) -> Speaker:
    """A seat played by an engine."""

    async def speak(messages: Sequence[Message], seed: int) -> Utterance:
        return hear(await engine.chat(messages, sampling, seed))

    return speak
