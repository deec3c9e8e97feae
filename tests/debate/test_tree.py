"""The debate tree: what is refused, and what is derived."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.debate.answers import AGREE, DISAGREE, NONE, resolve
from pbt.debate.tree import DebateTree, TreeError, Turn
from pbt.store import parse_tree


def turn(id: int, parent: int | None, level: int, claim: str = "Paris", **fields: object) -> Turn:
    return replace(Turn(id, parent, level, level % 2, "standard", f"It is {claim}.", claim), **fields)  # type: ignore[arg-type]


def tree(*turns: Turn) -> DebateTree:
    return DebateTree("t1", "q1", "Which?", "Paris", ("paris",), "p", ("llama", "mistral"), 7, turns)


FAMILY = (
    turn(0, None, 0, "Lyon"),
    turn(1, 0, 1, "Paris"),
    turn(2, 1, 2, AGREE),
    turn(3, 1, 2, DISAGREE),
    turn(4, 3, 3, NONE),
    turn(5, 3, 3, DISAGREE),
    turn(6, 0, 1, DISAGREE),
    turn(7, 6, 2, "Nice"),
)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((), "tree t1: it has no turns"),
        ((turn(1, None, 0),), "turn 1: expected id 0"),
        ((turn(0, None, 0), turn(2, 0, 1)), "turn 2: expected id 1"),
        ((turn(0, 0, 0),), "turn 0: only the first turn is a root"),
        ((turn(0, None, 0), turn(1, None, 0)), "turn 1: only the first turn is a root"),
        ((turn(0, None, 0), turn(1, 1, 1)), "turn 1: parent 1 does not come before it"),
        ((turn(0, None, 0), turn(1, -1, 1)), "turn 1: parent -1 does not come before it"),
        ((turn(0, None, 1),), "turn 0: level 1, but the root's is 0"),
        ((turn(0, None, 0), turn(1, 0, 2)), "turn 1: level 2 is not one below its parent's"),
        ((turn(0, None, 0, seat=2),), "turn 0: seat 2, but there are 2 seats"),
        (
            (turn(0, None, 0), turn(1, 0, 1), turn(2, 0, 1), turn(3, 1, 2)),
            "turn 3: not in preorder: the branch of turn 1 ended before it",
        ),
    ],
)
def test_refuses_a_tree_that_cannot_be(turns: tuple[Turn, ...], message: str) -> None:
    with pytest.raises(TreeError, match=message):
        tree(*turns)


def test_children_and_paths() -> None:
    grown = tree(*FAMILY)
    assert grown.children == ((1, 6), (2, 3), (), (4, 5), (), (), (7,), ())
    assert [t.id for t in grown.path(5)] == [0, 1, 3, 5]
    assert [t.id for t in grown.path(0)] == [0]


def test_states_are_resolved_top_down_and_by_seat() -> None:
    assert tree(*FAMILY).states == (
        ("Lyon", None),
        ("Lyon", "Paris"),
        ("Paris", "Paris"),  # Agree takes the other seat's answer
        ("Lyon", "Paris"),  # Disagree keeps the speaker's own
        ("Lyon", NONE),
        ("Lyon", "Paris"),
        ("Lyon", None),  # Disagree, but nothing was said before
        ("Nice", None),
    )


def test_the_graph_is_a_tree_that_carries_the_turns() -> None:
    grown = tree(*FAMILY)
    graph = grown.graph()
    assert nx.is_arborescence(graph)
    assert set(graph.edges) == {(t.parent, t.id) for t in FAMILY[1:]}
    assert all(graph.nodes[t.id]["turn"] is t for t in grown.turns)


@st.composite
def trees(draw: st.DrawFn) -> DebateTree:
    """Any tree in preorder, with any claims."""
    claims = st.sampled_from([AGREE, DISAGREE, NONE, ""]) | st.text(max_size=8)
    turns: list[Turn] = []
    branch: list[int] = []
    for index in range(draw(st.integers(1, 12))):
        level = 0 if index == 0 else draw(st.integers(1, len(branch)))
        del branch[level:]
        parent = branch[-1] if branch else None
        text, clipped = draw(st.text(max_size=30)), draw(st.booleans())
        turns.append(
            Turn(index, parent, level, draw(st.integers(0, 1)), "standard", text, draw(claims), clipped, len(text))
        )
        branch.append(index)
    text = st.text(max_size=10)
    return DebateTree(
        tree_id=draw(text),
        question_id=draw(text),
        question=draw(text),
        gold=draw(text),
        aliases=tuple(draw(st.lists(text, max_size=3))),
        protocol=draw(text),
        models=(draw(text), draw(text)),
        seed=draw(st.integers(0, 2**31)),
        turns=tuple(turns),
        metadata=draw(st.dictionaries(text, st.integers(-(2**63), 2**63 - 1) | text, max_size=2)),
    )


@given(trees())
def test_a_line_of_the_store_reads_back_as_the_tree(grown: DebateTree) -> None:
    assert parse_tree(orjson.dumps(grown.to_dict())) == grown


@given(trees())
def test_every_state_follows_from_the_one_above(grown: DebateTree) -> None:
    for turn_, state in zip(grown.turns, grown.states, strict=True):
        parent = (None, None) if turn_.parent is None else grown.states[turn_.parent]
        partner = 1 - turn_.seat if turn_.parent is None else grown.turns[turn_.parent].seat
        assert state == resolve(turn_.claim, turn_.seat, parent, partner)
        assert state[1 - turn_.seat] == parent[1 - turn_.seat]
        assert AGREE not in state
        assert DISAGREE not in state


@given(trees())
def test_turns_are_in_preorder(grown: DebateTree) -> None:
    walked = list(nx.dfs_preorder_nodes(grown.graph(), 0))
    assert walked == [t.id for t in grown.turns]
