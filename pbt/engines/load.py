"""From the configuration to running engines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pbt.config import ModelConfig, digest
from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.engines.base import Continuation, Engine, Reply

if TYPE_CHECKING:
    from pbt.engines.ray import RayEngine
    from pbt.engines.vllm import VllmEngine


@dataclass(frozen=True)
class Adapted:
    """An adapter on a model that others use, too. Closing it closes the model."""

    base: VllmEngine | RayEngine
    adapter: str

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        return await self.base.chat(messages, sampling, seed, self.adapter)

    async def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[Continuation]:
        return await self.base.score(messages, continuations, self.adapter)

    def close(self) -> None:
        self.base.close()


def load_engine(model: ModelConfig) -> Engine:
    """One model, served as its configuration says. Raises BadInput."""
    return load_engines({"": model}, [""])[""]


def load_engines(models: dict[str, ModelConfig], names: Iterable[str]) -> dict[str, Engine]:
    """The engines of the named models. Raises BadInput, and then none is left running.

    A model that is named twice is loaded once, and so is one that differs from another in its adapter only.
    """
    families: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        families.setdefault(digest(models[name].model_dump(mode="json", exclude={"adapter"})), []).append(name)
    engines: dict[str, Engine] = {}
    with ExitStack() as on_failure:
        for family in families.values():
            for name, engine in zip(family, _load([models[name] for name in family]), strict=True):
                engines[name] = engine
                on_failure.callback(engine.close)
        on_failure.pop_all()
    return engines


def _load(family: Sequence[ModelConfig]) -> Sequence[Engine]:
    """One engine for each, all on one model."""
    model = family[0]
    # Absolute, because a worker may run in another folder than we do.
    folders = [str(Path(each.adapter).resolve()) if each.adapter else None for each in family]
    adapters = tuple(dict.fromkeys(folder for folder in folders if folder))
    base: VllmEngine | RayEngine
    if model.openai:
        from pbt.engines.openai import OpenAIEngine

        return [OpenAIEngine(model.path, model.openai)] * len(family)
    if model.ray:
        from pbt.engines.ray import RayEngine

        base = RayEngine(model.path, model.engine, model.ray, adapters)
    else:
        from pbt.engines.vllm import VllmEngine

        base = VllmEngine(model.path, model.engine, adapters)
    return [Adapted(base, folder) if folder else base for folder in folders]
