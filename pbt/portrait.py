"""A tree as a person reads it."""

from __future__ import annotations

import unicodedata

from rich.text import Text
from rich.tree import Tree

from pbt.debate.answers import State, correctness, is_right
from pbt.debate.tree import DebateTree, Turn

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of what would steer the terminal or not be seen: controls, direction marks, separators..."""


def visible(text: str) -> str:
    """A text with everything that is not to be seen written as an escape, line ends included."""
    return "".join(
        repr(character)[1:-1] if unicodedata.category(character) in _HIDDEN else character for character in text
    )


def portrait(tree: DebateTree) -> Tree:
    """The tree for a terminal: each turn with persona, text, claim, and what both seats hold and whether it is right.

    What a model wrote is neither markup nor control.
    """
    head = Text.assemble((visible(tree.question), "bold"), f"  (right: {visible(tree.gold)})")
    head.append(f"\ntree {visible(tree.tree_id)}, protocol {visible(tree.protocol)}", "dim")
    head.append("".join(f"\nseat {seat}: {visible(name)}" for seat, name in enumerate(tree.models)), "dim")
    drawn = Tree(head)
    branches: list[Tree] = []
    for turn in tree.turns:
        above = drawn if turn.parent is None else branches[turn.parent]
        branches.append(above.add(_turn(tree, turn)))
    return drawn


def _turn(tree: DebateTree, turn: Turn) -> Text:
    told = Text.assemble((f"turn {turn.id}  seat {turn.seat}  {visible(turn.persona)}", "cyan"))
    for known, word in ((turn.clipped, "clipped"), (not turn.text, "empty")):
        if known:
            told.append(f"  {word}", "yellow")
    if turn.text:
        told.append("\n" + "\n".join(visible(line) for line in turn.text.split("\n")))
    told.append(f"\nclaims {visible(turn.claim) or 'nothing'}", "bold")
    if turn.raw_claim is not None:
        told.append(f" (as extracted: {visible(turn.raw_claim)})", "dim")
    if turn.confidence is not None:
        told.append(f", confidence {turn.confidence:.2f}")
    state = tree.states[turn.id]
    for seat, (held, right) in enumerate(zip(state, _right(state, tree), strict=True)):
        told.append(f"{';' if seat else ' '} seat {seat} holds ")
        if held is None:
            told.append("nothing", "dim")
        else:
            told.append(visible(held))
            told.append(" (right)" if right else " (wrong)", "green" if right else "red")
    return told


def _right(state: State, tree: DebateTree) -> tuple[bool, ...]:
    """Whether each seat's answer is right, by containment too where two seats hold one."""
    both = correctness(state, tree.aliases) if len(state) == 2 else None
    return both or tuple(is_right(answer, tree.aliases) for answer in state)
