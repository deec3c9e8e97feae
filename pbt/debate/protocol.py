"""The protocol: which seats debate, who speaks at which level under which personas, seeing what, and when it ends."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Clip = Literal["truncated", "always", "never"]


class Sampling(BaseModel):
    """How one reply is sampled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] = 80
    min_tokens: Annotated[int, Field(ge=0)] = 8

    @model_validator(mode="after")
    def _in_order(self) -> Sampling:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens: {self.min_tokens} is more than max_tokens, {self.max_tokens}")
        return self


class Seat(BaseModel):
    """One party of the debate; a model sits on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    """In a round of three or more it stands before each turn that the others read."""
    sampling: Sampling | None = None
    """How this seat's replies are sampled; what it leaves out, and all of it when absent, is as the protocol says."""
    clip: Clip | None = None
    """Where this seat's unfinished last sentences are cut off; as the protocol says when absent."""


class Level(BaseModel):
    """One level of the tree: every turn above gets one child for each persona."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seat: str
    """Who speaks, by name."""
    personas: Annotated[tuple[str, ...], Field(min_length=1)]
    draw: Literal["all", "one"] = "all"
    """``one``: a single child, whose persona is drawn by the seed of the turn."""
    sees: Literal["path", "question"] = "path"
    """``question``: the speaker answers without having seen its partners (all answer first)."""


class Protocol(BaseModel):
    """A debate as data. Refused at start when it cannot work."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    seats: Annotated[tuple[Seat, ...], Field(min_length=2)] = (Seat(name="A"), Seat(name="B"))
    opening: str = "{instruction}\n\nQuestion: {question}"
    """The first user message; ``{instruction}`` is the persona's prompt, ``{question}`` the question."""
    personas: dict[str, Annotated[str, Field(min_length=1)]]
    """Prompt text by persona name."""
    levels: Annotated[tuple[Level, ...], Field(min_length=1)]
    turns: Annotated[int | None, Field(ge=1)] = None
    """Length of the longest branch. More than there are levels: the last ones, as many as there are seats, are
    repeated; as many as there are levels when absent."""
    sampling: Sampling = Sampling()
    stop: Literal["agreement", "released", "never"] = "agreement"
    """When a turn becomes a leaf: ``agreement``, when it agrees or makes all answers the same; ``released``, by the
    rule of the authors' code, which compares the answers as they are spelt; ``never`` before the last level."""
    clip: Clip = "truncated"
    """Where an unfinished last sentence is cut off: in replies that ran into the token limit, in all, in none."""
    trained_persona: str = "standard"
    """The persona whose instruction stands in a preference pair's prompt and in evaluations."""

    @model_validator(mode="before")
    @classmethod
    def _seats_differ_in_part(cls, table: Any) -> Any:
        """Give each seat that is sampled in its own way what it leaves out."""
        match table:
            case {"seats": [*seats], "sampling": {**shared}}:
                return {**table, "seats": [_filled(seat, shared) for seat in seats]}
        return table

    @model_validator(mode="after")
    def _works(self) -> Protocol:
        names = [seat.name for seat in self.seats]
        if len(set(names)) < len(names):
            raise ValueError(f"seats: two of them have one name ({', '.join(names)})")
        for index, level in enumerate(self.levels):
            if level.seat not in names:
                raise ValueError(f"levels.{index}.seat: {_unknown('seat', level.seat, names)}")
            for persona in level.personas:
                if persona not in self.personas:
                    raise ValueError(f"levels.{index}.personas: {_unknown('persona', persona, self.personas)}")
        root = self.levels[0]
        if len(root.personas) != 1 and root.draw == "all":
            raise ValueError(
                f"levels.0.personas: a tree has one root, found {len(root.personas)} personas; add 'draw: one'"
            )
        if self.turns is not None and self.turns > len(self.levels) < len(self.seats):
            raise ValueError(
                f"turns: {self.turns} turns repeat the last {len(self.seats)} levels, found {len(self.levels)} levels"
            )
        if self.trained_persona not in self.personas:
            raise ValueError(f"trained_persona: {_unknown('persona', self.trained_persona, self.personas)}")
        _check_opening(self.opening)
        if self.stop == "released" and len(self.seats) != 2:
            raise ValueError(f"stop: the rule 'released' is for two seats, found {len(self.seats)}")
        return self

    @property
    def depth(self) -> int:
        """How many turns the longest branch has."""
        return self.turns or len(self.levels)

    def level(self, at: int) -> Level:
        """The level that speaks at depth ``at``, counted from 0."""
        listed, round_ = len(self.levels), len(self.seats)
        return self.levels[at] if at < listed else self.levels[listed - round_ + (at - listed) % round_]

    def seat_at(self, at: int) -> int:
        """The index of the seat that speaks at depth ``at``."""
        return [seat.name for seat in self.seats].index(self.level(at).seat)

    def sampling_of(self, seat: int) -> Sampling:
        """How the replies of a seat are sampled."""
        return self.seats[seat].sampling or self.sampling

    def clip_of(self, seat: int) -> Clip:
        """Where the unfinished last sentences of a seat are cut off."""
        return self.seats[seat].clip or self.clip


def _filled(seat: Any, shared: dict[Any, Any]) -> Any:
    match seat:
        case {"sampling": {**own}}:
            return {**seat, "sampling": {**shared, **own}}
    return seat


def _check_opening(opening: str) -> None:
    """Refuse an opening that would not show the speaker its instruction and the question, each in braces."""
    try:
        named = [rest for _, *rest in Formatter().parse(opening) if rest[0] is not None]
    except ValueError as error:
        raise ValueError(f"opening: {error}; a brace that is meant must stand twice") from None
    for name in ("instruction", "question"):
        if [name, "", None] not in named:
            raise ValueError(f"opening: {{{name}}} is missing, so the speaker would not see it")
    for key, *_ in named:
        if key not in ("instruction", "question"):
            raise ValueError(f"opening: there is nothing to put for {{{key}}}; a brace that is meant must stand twice")


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    what = "there is no prompt for persona" if kind == "persona" else "there is no seat"
    return f"{what} '{name}'; {hint}"
