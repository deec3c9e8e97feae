"""Debates written down as nested tuples, and what a build needs besides them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from pbt.config import ModelConfig, RunConfig, read_yaml
from pbt.debate.answers import normalise
from pbt.debate.protocol import Protocol
from pbt.debate.tree import DebateTree, Turn
from pbt.engines.base import Engine
from pbt.preferences.build import build_preferences
from pbt.preferences.funnel import Funnel
from pbt.preferences.progress import Announce, unwatched
from pbt.provenance import provenance
from pbt.store import Shard, TreeStore


@pytest.fixture(scope="session")
def protocol() -> Protocol:
    return Protocol.model_validate(read_yaml(Path(str(resources.files("pbt") / "protocols" / "trivia-debate.yaml"))))


@pytest.fixture(scope="session")
def debate(protocol: Protocol) -> Callable[..., DebateTree]:
    """A tree from ``(claim, child, child...)``, a leaf being its claim alone. Ids are in reading order, from 0."""

    def build(
        nested: Any,
        gold: str = "Paris",
        question: str = "What is the capital of France?",
        tree_id: str = "tree",
        seats: Sequence[int] = (0, 1, 0, 1, 0, 1),
    ) -> DebateTree:
        turns: list[Turn] = []

        def visit(node: Any, parent: int | None, level: int) -> None:
            claim, *children = (node,) if isinstance(node, str) else node
            here = len(turns)
            turns.append(Turn(here, parent, level, seats[level], "standard", f"I say {claim}.", claim))
            for child in children:
                visit(child, here, level + 1)

        visit(nested, None, 0)
        models = ("persuader", "replier")
        aliases = (normalise(gold),)
        return DebateTree(tree_id, tree_id, question, gold, aliases, protocol.name, models, seed=0, turns=tuple(turns))

    return build


@pytest.fixture(scope="session")
def run(protocol: Protocol) -> RunConfig:
    """A run whose trees are those of ``debate``."""
    return RunConfig.model_validate(
        {
            "name": "few",
            "questions": {"source": "questions.jsonl"},
            "protocol": protocol,
            "models": {"persuader": {"path": "one"}, "replier": {"path": "other"}},
            "seats": ("persuader", "replier"),
        }
    )


@pytest.fixture(scope="session")
def store_trees(run: RunConfig) -> Callable[[Path, Sequence[DebateTree]], Path]:
    """Write trees the way ``pbt generate`` does."""

    def write(folder: Path, trees: Sequence[DebateTree]) -> Path:
        store = TreeStore(folder, Shard(0, 1), provenance(run, "generate", {}), covers={})
        for tree in trees:
            store.write(tree)
        store.close()
        return folder

    return write


def no_engine(model: ModelConfig) -> Engine:
    raise AssertionError("there is no filter, so no model is loaded")


@pytest.fixture(scope="session")
def build(run: RunConfig) -> Callable[..., Funnel]:
    """``build_preferences`` of that run; ``preferences`` and ``seed`` change its configuration."""

    def call(
        paths: Sequence[Path],
        out: Path,
        engine: Callable[[ModelConfig], Engine] = no_engine,
        seed: int = 0,
        workers: int = 1,
        strict: bool = False,
        progress: Announce = unwatched,
        **preferences: Any,
    ) -> Funnel:
        config = RunConfig.model_validate({**run.model_dump(), "seed": seed, "preferences": preferences})
        return build_preferences(config, paths, out, engine, workers=workers, strict=strict, progress=progress)

    return call


@pytest.fixture(scope="session")
def both_codes(debate: Callable[..., DebateTree]) -> Callable[[int], DebateTree]:
    """A debate with one resist pair (3 over 4) and one accept pair (8 over 7), on a question of its own."""

    def make(number: int) -> DebateTree:
        gold = f"Gold {number}"
        nested = (
            "Nice",
            (gold, ("Nice", "Disagree", "Agree")),
            ("Lyon", (gold, "Disagree", "Agree")),
        )
        return debate(nested, gold=gold, question=f"Which gold has number {number}?", tree_id=f"t{number:03d}")

    return make
