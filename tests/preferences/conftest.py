"""Debates written down as nested tuples, and what a build needs besides them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from pbt.config import RunConfig, read_yaml
from pbt.debate.answers import normalise
from pbt.debate.protocol import Protocol
from pbt.debate.tree import DebateTree, Turn
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
def record(protocol: Protocol) -> dict[str, Any]:
    """The provenance of a run."""
    table = {
        "name": "few",
        "questions": {"source": "questions.jsonl"},
        "protocol": protocol,
        "models": {"persuader": {"path": "one"}, "replier": {"path": "other"}},
        "seats": ("persuader", "replier"),
    }
    return provenance(RunConfig.model_validate(table), "build-prefs")


@pytest.fixture(scope="session")
def store_trees(record: dict[str, Any]) -> Callable[[Path, Sequence[DebateTree]], Path]:
    """Write trees the way ``pbt generate`` does."""

    def write(folder: Path, trees: Sequence[DebateTree]) -> Path:
        store = TreeStore(folder, Shard(0, 1), record, covers={})
        for tree in trees:
            store.write(tree)
        store.close()
        return folder

    return write
