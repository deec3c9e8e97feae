"""A seat's voice: an engine's reply, clipped and read, as the debate and the evaluations hear it.

The claim is read by rule, or by a model that is shown examples; then the request for it joins all others at that
model's engine. On request the speaker is also asked, aside, how sure it is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from pbt.config import Prompts, RunConfig
from pbt.debate.answers import NONE
from pbt.debate.chat import Message
from pbt.debate.grow import Speaker, Utterance
from pbt.debate.protocol import Clip, Sampling
from pbt.engines.base import Engine, EngineError, Reply
from pbt.extraction import claim_by_rule, claim_from_model, clip_unfinished, reading_messages

READING = Sampling(temperature=0, max_tokens=15, min_tokens=0)
"""How a model that reads claims is sampled."""


class Reading(NamedTuple):
    """The claim in a text."""

    claim: str
    raw: str | None = None
    """What the reader said, where that is something else."""


Reader = Callable[[str], Awaitable[Reading]]
"""Reads the claim of a text that is not empty. Raises EngineError."""


def hear(reply: Reply, clip: Clip = "truncated") -> Utterance:
    """What a partner hears: without an unfinished last sentence, with the claim read by rule.

    Under ``truncated`` a reply is unfinished when it ran into the token limit; one that ended by itself is whole, full
    stop or not.
    """
    text, clipped = _heard(reply, clip)
    return Utterance(text, claim_by_rule(text), clipped, reply.tokens)


async def read_by_rule(text: str) -> Reading:
    """Reads claims without a model."""
    return Reading(claim_by_rule(text))


def read_by_model(engine: Engine, prompts: Prompts) -> Reader:
    """Reads claims with a model, greedily. An answer that holds nothing is the empty claim."""

    async def read(text: str) -> Reading:
        try:
            reply = await engine.chat(reading_messages(prompts, text), READING, 0)
        except EngineError as error:
            raise EngineError(f"the claim of a turn could not be read: {error}") from error
        claim = claim_from_model(reply.text)
        return Reading(claim, reply.text if reply.text != claim else None)

    return read


async def confidence(engine: Engine, messages: Sequence[Message], text: str, prompts: Prompts) -> float:
    """P(yes) / (P(yes) + P(no)), asked of the speaker after it replied ``text`` to ``messages``. Raises EngineError."""
    aside: list[Message] = [
        *messages,
        {"role": "assistant", "content": text},
        {"role": "user", "content": prompts.confidence},
    ]
    try:
        scored = await engine.score(aside, (*prompts.yes, *prompts.no))
    except EngineError as error:
        raise EngineError(f"the confidence in a turn could not be asked: {error}") from error
    # Against the likeliest one, so that very small probabilities do not all become 0.
    most = max(one.logprob for one in scored)
    shares = [math.exp(one.logprob - most) for one in scored]
    return sum(shares[: len(prompts.yes)]) / sum(shares)


def speaker(
    engine: Engine,
    sampling: Sampling,
    clip: Clip = "truncated",
    read: Reader = read_by_rule,
    ask_confidence: Prompts | None = None,
) -> Speaker:
    """A seat played by an engine. With ``ask_confidence`` each turn carries the speaker's confidence.

    A reply that is empty once it is clipped has nothing to read, so it claims NONE and has no confidence.
    """

    async def speak(messages: Sequence[Message], seed: int) -> Utterance:
        reply = await engine.chat(messages, sampling, seed)
        text, clipped = _heard(reply, clip)
        if not text:
            return Utterance(text, NONE, clipped, reply.tokens)
        if ask_confidence is None:
            found, sure = await read(text), None
        else:
            found, sure = await asyncio.gather(read(text), confidence(engine, messages, text, ask_confidence))
        return Utterance(text, found.claim, clipped, reply.tokens, found.raw, sure)

    return speak


def speakers(config: RunConfig, engines: Mapping[str, Engine]) -> list[Speaker]:
    """The speakers of a run by seat. ``engines`` are by model name, one for each of ``config.speaking()``."""
    extraction, protocol = config.extraction, config.protocol
    read: Reader = read_by_rule
    if extraction.model and extraction.prompts:
        read = read_by_model(engines[extraction.model], extraction.prompts)
    ask = extraction.prompts if extraction.confidence else None
    return [
        speaker(engines[name], protocol.sampling_of(seat), protocol.clip_of(seat), read, ask)
        for seat, name in enumerate(config.seats)
    ]


def _heard(reply: Reply, clip: Clip) -> tuple[str, bool]:
    """The text without an unfinished last sentence, and whether one was cut off."""
    cut = clip == "always" or (clip == "truncated" and reply.truncated)
    return clip_unfinished(reply.text) if cut else (reply.text.strip(), False)
