"""Answers as the authors' code keeps them: claims stay in the slots as they are spelt.

docs/preferences.md lists where this differs from ``pbt.debate.answers``. For debates between two seats.
"""

from __future__ import annotations

from pbt.debate.answers import AGREE, NONE, State


def resolve_released(claim: str, seat: int, parent: State) -> State:
    """The raw slots after ``seat`` made ``claim``; ``parent`` is ``(None, None)`` before the first turn.

    Only Disagree, recognised after lower-casing alone, is replaced: by the slot of the same seat two levels up, which
    is the one that ``parent`` still holds. At level 1 that is empty; at level 0 the word stays.
    """
    first = parent == (None, None)
    held = parent[seat] if claim.lower() == "disagree" and not first else claim
    return (*parent[:seat], held, *parent[seat + 1 :])


def ends_released(claim: str, state: State) -> bool:
    """Whether the authors' code ends a branch here: "Agree" spelt exactly so, or two equal strings in the slots.

    Slots that are both empty, or both "NONE", are not equal.
    """
    if claim == AGREE:
        return True
    one, other = (answer or "" for answer in state)
    return one == other and one not in ("", NONE)
