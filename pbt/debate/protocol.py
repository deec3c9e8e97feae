"""The protocol: which seat speaks at which level, under which personas, seeing what, and how a reply is sampled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Sampling(BaseModel):
    """How one reply is sampled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] = 80
    min_tokens: Annotated[int, Field(ge=0)] = 8


class Level(BaseModel):
    """One level of the tree: every turn above gets one child for each persona."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seat: Literal[0, 1]
    personas: Annotated[tuple[str, ...], Field(min_length=1)]
    sees: Literal["path", "question"] = "path"
    """``question``: the speaker answers without having seen its partner (both answer first)."""


class Protocol(BaseModel):
    """A debate between two seats, as data. Refused at start when it cannot work."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    opening: str = "{instruction}\n\nQuestion: {question}"
    """The first user message; ``{instruction}`` is the persona's prompt, ``{question}`` the question."""
    personas: dict[str, str]
    """Prompt text by persona name."""
    levels: Annotated[tuple[Level, ...], Field(min_length=1)]
    sampling: Sampling = Sampling()
    stop_on_agreement: bool = True
    """Whether a turn that agrees, or makes both answers equal, becomes a leaf."""
    trained_persona: str = "standard"
    """The persona whose instruction stands in a preference pair's prompt and in evaluations."""

    @model_validator(mode="after")
    def _works(self) -> Protocol:
        for index, level in enumerate(self.levels):
            for persona in level.personas:
                if persona not in self.personas:
                    known = ", ".join(self.personas)
                    raise ValueError(f"levels.{index}.personas: no prompt for persona '{persona}' (known: {known})")
        if len(self.levels[0].personas) != 1:
            raise ValueError(f"levels.0.personas: a tree has one root, found {len(self.levels[0].personas)} personas")
        if self.trained_persona not in self.personas:
            raise ValueError(f"trained_persona: no prompt for persona '{self.trained_persona}'")
        for name in ("{instruction}", "{question}"):
            if name not in self.opening:
                raise ValueError(f"opening: {name} is missing, so the speaker would not see it")
        return self
