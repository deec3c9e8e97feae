"""On any tree: the pairs that come out are exactly those that a word-for-word reading of the method finds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from math import comb
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pbt.config import PreferencesConfig
from pbt.debate.answers import Correctness, correctness, normalise
from pbt.debate.protocol import Protocol
from pbt.debate.tree import DebateTree
from pbt.preferences.balance import check_leakage
from pbt.preferences.build import gather
from pbt.preferences.pairs import judge_intended, siblings
from pbt.preferences.score import score_tree

Debate = Callable[..., DebateTree]
StoreTrees = Callable[[Path, Sequence[DebateTree]], Path]

claims = st.sampled_from(
    ["Paris", "Paris", "Paris, France", "Lyon", "The City of Lyon", "Agree", "Disagree", "NONE", ""]
)


def nodes(levels: int) -> st.SearchStrategy[Any]:
    """A turn with 0 to 3 children, ``levels`` deep at most; mostly 2 children, as in the standard tree."""
    if levels == 1:
        return claims
    below = nodes(levels - 1)
    children = st.one_of(st.tuples(below, below), st.lists(below, max_size=3).map(tuple))
    return st.builds(lambda claim, more: (claim, *more), claims, children)


def naive_correct(tree: DebateTree, turn_id: int) -> Correctness | None:
    """Section 2, replayed down the path of one turn."""
    held: list[str | None] = [None, None]
    for turn in tree.path(turn_id):
        said: str | None = turn.claim or None
        if said == "Agree":
            said = held[1 - turn.seat]
        elif said == "Disagree":
            said = held[turn.seat]
        held[turn.seat] = said
    return correctness((held[0], held[1]), tree.aliases)


def naive_score(tree: DebateTree, turn_id: int) -> int:
    """Section 3."""
    own = naive_correct(tree, turn_id)
    below = [child.id for child in tree.turns if child.parent == turn_id and naive_correct(tree, child.id) is not None]
    return (own.right if own else 0) + sum(naive_score(tree, child) for child in below)


def naive_code(tree: DebateTree, one: int, other: int, min_gap: float) -> str | None:
    """Section 4: the code of two siblings of which ``one`` would be chosen, or None."""
    high, low = naive_score(tree, one), naive_score(tree, other)
    if sum(t.parent == one for t in tree.turns) != sum(t.parent == other for t in tree.turns):
        return None
    if not high > low or high - low < min_gap * high or len(tree.path(one)) < 3:
        return None
    *_, gp, par, p = (turn.id for turn in tree.path(one))
    at_gp, at_par, at_p, at_d = (naive_correct(tree, turn) for turn in (gp, par, p, other))
    if at_gp is None or at_par is None or at_p is None or at_d is None:
        return None
    if at_p.right == at_d.right == 2:
        return None
    seat = tree.turns[one].seat
    if not at_p[seat] or at_d[seat]:
        return None
    if at_gp[seat] and not at_par[1 - seat]:
        return "resist"
    if not at_gp[seat] and at_par[1 - seat]:
        return "accept"
    return None


@settings(max_examples=150, deadline=None)
@given(nested=nodes(5), min_gap=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_exactly_the_pairs_of_the_method_come_out(debate: Debate, nested: Any, min_gap: float) -> None:
    tree = debate(nested)
    found = list(siblings(tree, score_tree(tree)))

    compared = {frozenset((one.chosen.id, one.rejected.id)) for one in found}
    assert len(compared) == len(found) == sum(comb(len(children), 2) for children in tree.children)

    for one in found:
        verdict = judge_intended(one, min_gap)
        assert verdict.code == naive_code(tree, one.chosen.id, one.rejected.id, min_gap)
        assert naive_code(tree, one.rejected.id, one.chosen.id, min_gap) is None
        assert (verdict.code is None) != (verdict.reason is None)
        # Above level 3 the speaker's previous turn came before one of the two had answered.
        assert verdict.code is None or one.chosen.level >= 3


@settings(max_examples=25, deadline=None)
@given(
    drawn=st.lists(
        st.tuples(nodes(4), st.sampled_from(["Paris", "paris", "Lyon", "Nice"]), st.integers(0, 5)),
        min_size=1,
        max_size=8,
    ),
    seed=st.integers(0, 3),
)
def test_no_split_leaks_and_nothing_is_lost_uncounted(
    debate: Debate, protocol: Protocol, store_trees: StoreTrees, drawn: list[Any], seed: int
) -> None:
    # Gold values and questions repeat freely, so some questions stand under gold values of two splits.
    trees = [
        debate(nested, gold=gold, question=f"Which city is {number}?", tree_id=f"t{index}")
        for index, (nested, gold, number) in enumerate(drawn)
    ]
    config = PreferencesConfig(split=(0.4, 0.3, 0.3))
    with tempfile.TemporaryDirectory() as folder:
        gathered = gather([store_trees(Path(folder) / "trees", trees)], config, protocol, seed)

    check_leakage(gathered.pairs)
    for homes in (
        {(normalise(pair.question), pair.split) for pair in gathered.pairs},
        {(normalise(pair.gold), pair.split) for pair in gathered.pairs},
    ):
        assert len({value for value, _ in homes}) == len(homes)

    assert len({pair.texts for pair in gathered.pairs}) == len(gathered.pairs)
    candidates = sum(comb(len(children), 2) for tree in trees for children in tree.children)
    assert len(gathered.pairs) + len(gathered.rejections) == candidates
