"""Dialogues with the model under evaluation, held on all items at once, and the record that each leaves.

An evaluation is a list of items, a ``play`` that leads the dialogue on one of them, and a ``judge`` that says what came
of it. ``judge`` sees nothing but the item and what was said, so a stored dialogue can be judged again without a model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import orjson

from pbt.debate.chat import Message
from pbt.debate.grow import turn_seed
from pbt.debate.protocol import Clip, Sampling
from pbt.engines.base import Engine, EngineError, Reply
from pbt.speaker import hear

CONCURRENCY = 256
"""Requests that wait at the engine at once."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a dialogue."""

    role: str
    """``user`` is us, ``assistant`` the model; in a debate of models the name of the one that speaks."""
    text: str
    """As the other side reads it: without an unfinished last sentence; a reply may be empty."""
    aside: bool = False
    """Asked or answered beside the dialogue: no later message shows it."""
    uncut: str | None = None
    """The reply as the engine gave it, where that is more than ``text``."""


@dataclass(frozen=True, slots=True)
class Record:
    """What happened on one item: a line of the items file."""

    id: str
    """Of the item: the same for every model."""
    question_id: str
    sample: int
    """Which of the item's dialogues, from 0."""
    item: Mapping[str, Any]
    """All that was fixed before the model said anything."""
    said: tuple[Said, ...]
    """The dialogue, after the item's ``prompt`` if it has one."""
    outcome: Mapping[str, Any]
    """What came of it; empty when it failed."""
    error: str | None = None
    """Why a request failed for good."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, line: dict[str, Any]) -> Record:
        """Read a line of the items file. Raises KeyError or TypeError for another one."""
        return cls(**{**line, "said": tuple(Said(**said) for said in line["said"])})


class Item(Protocol):
    """What a dialogue is about: a dataclass of JSON values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...
    @property
    def question_id(self) -> str: ...


AnItem = TypeVar("AnItem", bound=Item)

Progress = Callable[[int, int], None]
"""Told how many dialogues are done, and of how many."""


def unseen(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass
class Voice:
    """The model under evaluation as a dialogue reaches it."""

    engine: Engine
    sampling: Sampling
    clip: Clip
    seed: int
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENCY))
    _asked: dict[bytes, asyncio.Task[Reply]] = field(default_factory=dict)

    async def reply(self, messages: Sequence[Message], sampling: Sampling, seeded: str, place: Sequence[int]) -> Said:
        """Reply to messages; ``seeded`` and ``place`` make the seed of the sampling. Raises EngineError.

        The same messages under the same seed, or under temperature 0, are asked once: so what several dialogues have in
        common, such as a first answer, is the same in all of them, and costs one request.
        """
        seed = turn_seed(self.seed, seeded, place) if sampling.temperature > 0 else 0
        key = orjson.dumps([messages, sampling.model_dump(), seed])
        if key not in self._asked:
            self._asked[key] = asyncio.create_task(self._ask(messages, sampling, seed))
        reply = await self._asked[key]
        text = hear(reply, self.clip).text
        return Said("assistant", text, uncut=reply.text if reply.text != text else None)

    async def _ask(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        async with self._slots:
            return await self.engine.chat(messages, sampling, seed)


class Dialogue:
    """One conversation under way."""

    def __init__(self, voice: Voice, item_id: str, sample: int, prompt: Sequence[Message] = ()) -> None:
        self.said: list[Said] = []
        self._voice = voice
        self._item_id = item_id
        self._sample = sample
        self._prompt = tuple(prompt)

    async def reply(self, temperature: float | None = None, *, shared: str | None = None) -> str:
        """Let the model speak; returns what it said. Raises EngineError.

        ``shared`` names what dialogues have in common that came here by the same words: all get the same reply.
        """
        sampling = self._voice.sampling
        return await self._speak(self._shown(), sampling, temperature, self._seeded(shared), aside=False)

    async def ask(self, text: str, temperature: float | None = None, *, shared: str | None = None) -> str:
        """Say ``text`` and let the model speak; ``shared`` as in ``reply``. Raises EngineError."""
        self.said.append(Said("user", text))
        return await self.reply(temperature, shared=shared)

    async def ask_aside(self, text: str, temperature: float | None = None, *, shared: str | None = None) -> str:
        """Ask something that the dialogue then goes on without; ``shared`` as in ``reply``. Raises EngineError.

        The reply may be as short as a single token.
        """
        messages = [*self._shown(), Message(role="user", content=text)]
        self.said.append(Said("user", text, aside=True))
        brief = self._voice.sampling.model_copy(update={"min_tokens": 0})
        return await self._speak(messages, brief, temperature, self._seeded(shared), aside=True)

    def _seeded(self, shared: str | None) -> tuple[str, tuple[int, ...]]:
        """What the sampling of the next reply is seeded by."""
        return shared if shared is not None else self._item_id, (self._sample, len(self.said))

    def _shown(self) -> list[Message]:
        return [*self._prompt, *(Message(role=s.role, content=s.text) for s in self.said if not s.aside)]

    async def _speak(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        temperature: float | None,
        seeded: tuple[str, tuple[int, ...]],
        *,
        aside: bool,
    ) -> str:
        if temperature is not None:
            sampling = sampling.model_copy(update={"temperature": temperature})
        said = await self._voice.reply(messages, sampling, *seeded)
        self.said.append(Said(said.role, said.text, aside, said.uncut))
        return said.text


async def hold(
    voice: Voice,
    items: Sequence[AnItem],
    play: Callable[[AnItem, Dialogue], Awaitable[None]],
    judge: Callable[[AnItem, Sequence[Said]], dict[str, Any]],
    *,
    prompt: Callable[[AnItem], Sequence[Message]] = lambda item: (),
    samples: int = 1,
    progress: Progress = unseen,
) -> list[Record]:
    """Hold ``samples`` dialogues on every item, all at once, and judge them; in the order of the items.

    An EngineError ends its dialogue and is recorded; whatever else is raised ends it all.
    """
    total = len(items) * samples
    done = 0

    async def one(item: AnItem, sample: int) -> Record:
        nonlocal done
        dialogue = Dialogue(voice, item.id, sample, prompt(item))
        error = None
        try:
            await play(item, dialogue)
        except EngineError as failure:
            error = str(failure)
        outcome = judge(item, dialogue.said) if error is None else {}
        done += 1
        progress(done, total)
        return Record(item.id, item.question_id, sample, asdict(item), tuple(dialogue.said), outcome, error)

    return list(await asyncio.gather(*(one(item, sample) for item in items for sample in range(samples))))


def spoken(said: Sequence[Said], *, aside: bool = False) -> list[str]:
    """The texts of the model's replies, in order: those of the dialogue, or those given aside."""
    return [each.text for each in said if each.role == "assistant" and each.aside == aside]
