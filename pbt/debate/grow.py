"""Growing one tree: question + protocol + speakers -> DebateTree, all children of a turn at once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from pbt.debate.answers import AGREE, State, resolve, unanimous
from pbt.debate.chat import Message, messages_for
from pbt.debate.protocol import Level, Protocol
from pbt.debate.released import ends_released, resolve_released
from pbt.debate.tree import Turn


class Utterance(NamedTuple):
    """What a speaker says in one turn; the fields are those of ``Turn``."""

    text: str
    claim: str
    clipped: bool
    tokens: int
    raw_claim: str | None = None
    confidence: float | None = None


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

    async def speak(index: tuple[int, ...], path: tuple[Turn, ...], parent: _States, persona: str) -> _Node:
        at = len(path)
        seat = protocol.seat_at(at)
        messages = messages_for(protocol, question, seat, persona, path, sees=protocol.level(at).sees)
        said = await speakers[seat](messages, turn_seed(seed, tree_id, index))
        turn = Turn(id=0, parent=None, level=at, seat=seat, persona=persona, **said._asdict())
        states = parent.after(turn, partner=path[-1].seat if path else (seat + 1) % len(protocol.seats))
        if at + 1 == protocol.depth or states.end(protocol.stop, turn):
            return _Node(turn, [])
        asked = [
            asyncio.ensure_future(speak((*index, i), (*path, turn), states, persona))
            for i, persona in enumerate(_personas(protocol.level(at + 1), seed, tree_id, index))
        ]
        try:
            return _Node(turn, await asyncio.gather(*asked))
        except BaseException:
            # A tree that has failed asks for nothing more: gather alone would let the other branches grow on.
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            raise

    (persona,) = _personas(protocol.level(0), seed, tree_id, ())
    nothing: State = (None,) * len(protocol.seats)
    return tuple(_preorder(await speak((0,), (), _States(nothing, nothing), persona)))


class _States(NamedTuple):
    """What the seats hold after a turn: resolved, and as the authors' code keeps it for its stop rule."""

    resolved: State
    raw: State

    def after(self, turn: Turn, partner: int) -> _States:
        claim = turn.raw_claim or turn.claim
        raw = resolve_released(claim, turn.seat, self.raw) if len(self.raw) == 2 else self.raw
        return _States(resolve(turn.claim, turn.seat, self.resolved, partner), raw)

    def end(self, rule: str, turn: Turn) -> bool:
        if rule == "released":
            return ends_released(turn.raw_claim or turn.claim, self.raw)
        if rule == "never":
            return False
        # Between two, who agrees ends the debate even where there was nothing to agree with.
        return unanimous(self.resolved) or (turn.claim == AGREE and len(self.resolved) == 2)


def _personas(level: Level, run_seed: int, tree_id: str, above: Sequence[int]) -> tuple[str, ...]:
    """The personas of the children of the turn that the child indexes ``above`` lead to, one child each."""
    if level.draw == "all":
        return level.personas
    drawn = turn_seed(run_seed, f"persona\x1f{tree_id}", above) % len(level.personas)
    return level.personas[drawn : drawn + 1]


def _preorder(root: _Node) -> list[Turn]:
    """Number the turns in preorder and point each at its parent."""
    numbered: list[Turn] = []

    def visit(node: _Node, parent: int | None) -> None:
        turn_id = len(numbered)
        numbered.append(replace(node.turn, id=turn_id, parent=parent))
        for child in node.children:
            visit(child, turn_id)

    visit(root, None)
    return numbered
