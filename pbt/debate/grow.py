"""Growing one tree: question + protocol + speakers -> DebateTree, all children of a turn at once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from pbt.debate.answers import AGREE, State, resolve, same_answer
from pbt.debate.chat import Message, messages_for
from pbt.debate.protocol import Protocol
from pbt.debate.tree import Turn


class Utterance(NamedTuple):
    """What a speaker says in one turn."""

    text: str
    claim: str
    clipped: bool
    tokens: int


Speaker = Callable[[Sequence[Message], int], Awaitable[Utterance]]
"""Called with the messages that the seat sees and the seed of the turn."""


class _Node(NamedTuple):
    turn: Turn
    children: list[_Node]


def turn_seed(run_seed: int, tree_id: str, path: Sequence[int]) -> int:
    """The seed of a turn, from the run's seed, the tree and the child indexes that lead to the turn.

    So a turn's sampling depends neither on scheduling nor on sharding nor on restarts. 63 bits.
    """
    text = f"{run_seed}\x1f{tree_id}\x1f{'.'.join(map(str, path))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


async def grow(
    tree_id: str, question: str, protocol: Protocol, speakers: Sequence[Speaker], seed: int
) -> tuple[Turn, ...]:
    """Grow the turns of one tree, in preorder. ``speakers`` are by seat. Whatever a speaker raises ends the tree."""

    async def speak(index: tuple[int, ...], path: tuple[Turn, ...], parent: State, persona: str) -> _Node:
        at = len(path)
        level = protocol.levels[at]
        messages = messages_for(protocol, question, level.seat, persona, path, sees=level.sees)
        said = await speakers[level.seat](messages, turn_seed(seed, tree_id, index))
        turn = Turn(
            id=0,
            parent=None,
            level=at,
            seat=level.seat,
            persona=persona,
            text=said.text,
            claim=said.claim,
            clipped=said.clipped,
            tokens=said.tokens,
        )
        state = resolve(said.claim, level.seat, parent, parent[level.seat])
        agreed = protocol.stop_on_agreement and (said.claim == AGREE or same_answer(*state))
        if agreed or at + 1 == len(protocol.levels):
            return _Node(turn, [])
        personas = protocol.levels[at + 1].personas
        asked = [
            asyncio.ensure_future(speak((*index, i), (*path, turn), state, persona))
            for i, persona in enumerate(personas)
        ]
        try:
            return _Node(turn, await asyncio.gather(*asked))
        except BaseException:
            # A tree that has failed asks for nothing more: gather alone would let the other branches grow on.
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            raise

    return tuple(_preorder(await speak((0,), (), (None, None), protocol.levels[0].personas[0])))


def _preorder(root: _Node) -> list[Turn]:
    """Number the turns in preorder and point each at its parent."""
    numbered: list[Turn] = []

    def visit(node: _Node, parent: int | None) -> None:
        turn_id = len(numbered)
        fields = {name: getattr(node.turn, name) for name in Turn.__slots__}
        numbered.append(Turn(**{**fields, "id": turn_id, "parent": parent}))
        for child in node.children:
            visit(child, turn_id)

    visit(root, None)
    return numbered
