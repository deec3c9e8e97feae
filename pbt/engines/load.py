"""From the configuration to running engines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pbt.config import ModelConfig
from pbt.engines.base import Engine


def load_engine(path: str, settings: dict[str, Any]) -> Engine:
    """One model on in-process vLLM. Raises BadInput."""
    from pbt.engines.vllm import VllmEngine

    return VllmEngine(path, settings)


def load_engines(models: dict[str, ModelConfig], names: Iterable[str]) -> dict[str, Engine]:
    """One engine for each distinct name, so a model that sits on both seats is loaded once. Raises BadInput."""
    return {name: load_engine(models[name].path, models[name].engine) for name in dict.fromkeys(names)}
