"""On any tree: the pairs that come out are exactly those that a word-for-word reading of the method finds."""

from __future__ import annotations

import string
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import comb
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbt.config import PreferencesConfig
from pbt.debate.answers import normalise, read_claim
from pbt.debate.protocol import Protocol
from pbt.debate.tree import DebateTree, Turn
from pbt.preferences.balance import check_leakage
from pbt.preferences.gather import Counts, gather
from pbt.preferences.pairs import Pair, judge, judge_tree, siblings
from pbt.preferences.released import Released
from pbt.preferences.rules import Intended
from pbt.preferences.score import score_tree
from pbt.preferences.walk import Walk

Debate = Callable[..., DebateTree]
StoreTrees = Callable[[Path, Sequence[DebateTree]], Path]

# As an extractor may spell them: odd case, blanks, tokens with a full stop, nothing at all.
raw_claims = st.sampled_from(
    [
        *("Paris", "Paris", "paris ", " THE PARIS", "Paris, France", "Lyon", "Lyon", "The City of Lyon"),
        *("Agree", "agree", " AGREE ", "Disagree", "disagree", "Disagree.", "NONE", "none", "", " "),
    ]
)


def nodes(levels: int) -> st.SearchStrategy[Any]:
    """A turn with 0 to 3 children, ``levels`` deep at most; mostly 2 children, as in the standard tree."""
    if levels == 1:
        return raw_claims
    below = nodes(levels - 1)
    children = st.one_of(st.tuples(below, below), st.lists(below, max_size=3).map(tuple))
    return st.builds(lambda claim, more: (claim, *more), raw_claims, children)


def read(tree: DebateTree) -> DebateTree:
    """The tree with its claims cleaned, and what the extractor said kept beside them, as the store has them."""

    def turn(raw: Turn) -> Turn:
        claim = read_claim(raw.claim)
        return replace(raw, claim=claim, raw_claim=raw.claim if raw.claim != claim else None)

    return replace(tree, turns=tuple(turn(raw) for raw in tree.turns))


# --- The method read word for word, one turn at a time, without anything of pbt.


class Right(NamedTuple):
    """Whether each seat's answer is right."""

    seats: tuple[bool, bool]

    @property
    def count(self) -> int:
        return sum(self.seats)


def plain(text: str) -> str:
    """TriviaQA's normal form."""
    text = text.replace("_", " ").lower()
    text = "".join(" " if letter in string.punctuation + "‘’´`" else letter for letter in text)
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


def intended_right(tree: DebateTree, turn_id: int) -> Right | None:
    """Section 2."""
    slots: list[str | None] = [None, None]
    for turn in tree.path(turn_id):
        said = turn.raw_claim or turn.claim
        if plain(said) == "agree":
            slots[turn.seat] = slots[1 - turn.seat]
        elif plain(said) != "disagree":
            slots[turn.seat] = said.strip() or None
    if slots[0] is None or slots[1] is None:
        return None
    one, other = plain(slots[0]), plain(slots[1])
    gold = [answer != "none" and answer in tree.aliases for answer in (one, other)]
    short, long = sorted((one, other), key=len)
    same = short != "" and "none" not in (one, other) and short in long and 3 * len(short) > len(long)
    return Right((True, True)) if any(gold) and same else Right((gold[0], gold[1]))


def released_right(tree: DebateTree, turn_id: int) -> Right | None:
    """Section 2, (R)."""
    levels: list[dict[int, str]] = []  # the slots after each level
    for turn in tree.path(turn_id):
        said = turn.raw_claim or turn.claim
        slots = dict(levels[-1]) if levels else {}
        if said.lower() != "disagree":
            slots[turn.seat] = said
        elif turn.level == 0:
            slots[turn.seat] = "Disagree"
        elif turn.level == 1:
            slots.pop(turn.seat, None)
        else:
            slots[turn.seat] = levels[turn.level - 2].get(turn.seat, "")
        levels.append(slots)
    one, other = levels[-1].get(0, ""), levels[-1].get(1, "")
    agree = [answer.strip().lower() == "agree" for answer in (one, other)]
    if agree[0]:
        one = other
    if agree[1]:
        other = one
    if not one or not other:
        return None
    if all(agree):
        return Right((False, False))
    one, other = one.strip().lower(), other.strip().lower()
    short, long = sorted((one, other), key=len)
    if (not short and not long) or (short in long and 3 * len(short) > len(long)):
        one = other
    return Right((one in tree.aliases, other in tree.aliases))


RIGHT: dict[str, Callable[[DebateTree, int], Right | None]] = {"intended": intended_right, "released": released_right}


def naive_score(rules: str, tree: DebateTree, turn_id: int) -> int:
    """Section 3."""
    own = RIGHT[rules](tree, turn_id)
    below = [child.id for child in tree.turns if child.parent == turn_id and RIGHT[rules](tree, child.id) is not None]
    return (own.count if own else 0) + sum(naive_score(rules, tree, child) for child in below)


def naive_code(rules: str, tree: DebateTree, one: int, other: int, gap: float) -> str | None:
    """Section 4: the code of two siblings of which ``one`` would be chosen, or None."""
    high, low = naive_score(rules, tree, one), naive_score(rules, tree, other)
    if sum(t.parent == one for t in tree.turns) != sum(t.parent == other for t in tree.turns):
        return None
    if not high > low or len(tree.path(one)) < 3:
        return None
    if (high - low) / high < gap or (rules == "released" and (high - low) / high == gap):
        return None
    *_, gp, par, p = (turn.id for turn in tree.path(one))
    at_gp, at_par, at_p, at_d = (RIGHT[rules](tree, turn) for turn in (gp, par, p, other))
    if at_gp is None or at_par is None or at_p is None or at_d is None:
        return None
    if at_p.count == at_d.count == 2:
        return None
    seat = tree.turns[one].seat
    if not at_p.seats[seat] or at_d.seats[seat]:
        return None
    held = at_gp.seats[seat]
    if rules == "released":
        resist, accept = at_par.count == at_p.count, at_par.count < at_p.count
    else:
        resist, accept = not at_par.seats[1 - seat], at_par.seats[1 - seat]
    return "resist" if held and resist else "accept" if not held and accept else None


gaps = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@pytest.mark.parametrize("rules", ["intended", "released"])
@settings(max_examples=150, deadline=None)
@given(nested=nodes(5), gap=gaps)
def test_exactly_the_pairs_of_the_method_come_out(debate: Debate, rules: str, nested: Any, gap: float) -> None:
    tree = read(debate(nested))
    rule_set = Intended(gap) if rules == "intended" else Released(gap)
    scores = score_tree(tree, rule_set)
    assert list(scores.score) == [naive_score(rules, tree, turn.id) for turn in tree.turns]
    rights = [RIGHT[rules](tree, turn.id) for turn in tree.turns]
    assert [None if found is None else tuple(found) for found in scores.correct] == [r and r.seats for r in rights]

    found = list(siblings(tree, scores))
    compared = {frozenset((one.chosen.id, one.rejected.id)) for one in found}
    assert len(compared) == len(found) == sum(comb(len(children), 2) for children in tree.children)
    for one in found:
        verdict = judge(one, rule_set)
        assert verdict.code == naive_code(rules, tree, one.chosen.id, one.rejected.id, gap)
        assert naive_code(rules, tree, one.rejected.id, one.chosen.id, gap) is None
        assert (verdict.code is None) != (verdict.reason is None)
        # Above level 3 the speaker's previous turn came before one of the two had answered.
        assert verdict.code is None or one.chosen.level >= 3


@settings(max_examples=100, deadline=None)
@given(nested=nodes(5))
def test_under_intended_rules_it_does_not_matter_which_seat_has_which_number(
    debate: Debate, protocol: Protocol, nested: Any
) -> None:
    tree = read(debate(nested))
    swapped = replace(
        tree, models=tree.models[::-1], turns=tuple(replace(turn, seat=1 - turn.seat) for turn in tree.turns)
    )
    one, other = (judge_tree(which, Intended(0.25), protocol, "train") for which in (tree, swapped))
    assert one == other


@settings(max_examples=60, deadline=None)
@given(nested=nodes(4), rules=st.sampled_from([Intended(0.25), Released(0.5)]))
def test_names_of_trees_questions_and_models_change_nothing_but_names(
    debate: Debate, protocol: Protocol, nested: Any, rules: Any
) -> None:
    def nameless(pair: Pair) -> Pair:
        return replace(pair, pair_id="", tree_id="", question_id="")

    tree = read(debate(nested))
    renamed = replace(tree, tree_id="zz/1", question_id="zz", models=("x", "y"), seed=9)
    one, other = (judge_tree(which, rules, protocol, "train") for which in (tree, renamed))
    assert [nameless(pair) for pair in one.pairs] == [nameless(pair) for pair in other.pairs]
    assert [pair.pair_id.removeprefix("tree/") for pair in one.pairs] == [
        pair.pair_id.removeprefix("zz/1/") for pair in other.pairs
    ]
    assert [fall[1:] for fall in one.rejections] == [fall[1:] for fall in other.rejections]


drawn_trees = st.lists(
    st.tuples(nodes(4), st.sampled_from(["Paris", "paris", "Lyon", "Nice"]), st.integers(0, 5)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(drawn=drawn_trees, seed=st.integers(0, 3), shuffling=st.randoms(use_true_random=False))
def test_no_split_leaks_nothing_is_lost_and_order_is_nothing(
    debate: Debate, protocol: Protocol, store_trees: StoreTrees, drawn: list[Any], seed: int, shuffling: Random
) -> None:
    # Gold values and questions repeat freely, so some questions stand under gold values of two splits.
    trees = [
        read(debate(nested, gold=gold, question=f"Which city is {number}?", tree_id=f"t{index}"))
        for index, (nested, gold, number) in enumerate(drawn)
    ]
    walk = Walk(PreferencesConfig(split=(0.4, 0.3, 0.3)), {protocol.name: protocol}, seed)

    def build(trees: Sequence[DebateTree], shards: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            paths = [store_trees(folder / f"{shard}", trees[shard::shards]) for shard in range(shards)]
            with gather(walk, paths, folder, Counts()) as found:
                check_leakage(found.index, found.read)
                assert [found.read(place) for place in range(len(found.index))] == list(found.lines())
            read_lines = ((folder / file).read_bytes().splitlines() for file in ("pairs.jsonl", "rejections.jsonl"))
            pairs, rejections = ([orjson.loads(line) for line in lines] for lines in read_lines)
            return pairs, rejections

    pairs, rejections = build(trees, 1)
    for key in ("question", "gold"):
        homes = {(normalise(pair[key]), pair["split"]) for pair in pairs}
        assert len({value for value, _ in homes}) == len(homes)

    def texts(pair: dict[str, Any]) -> tuple[str, ...]:
        said = (message["content"] for side in ("prompt", "chosen", "rejected") for message in pair[side])
        return (pair["code"], pair["split"], *said)

    assert len({texts(pair) for pair in pairs}) == len(pairs)
    candidates = sum(comb(len(children), 2) for tree in trees for children in tree.children)
    assert len(pairs) + len(rejections) == candidates

    shuffled = list(trees)
    shuffling.shuffle(shuffled)
    again, fallen = build(shuffled, 2)
    assert sorted(map(texts, again)) == sorted(map(texts, pairs))
    assert len(fallen) == len(rejections)


@pytest.mark.parametrize("rules", [Intended(0.25), Released(0.5)], ids=["intended", "released"])
def test_odd_trees_are_walked(debate: Debate, protocol: Protocol, rules: Any) -> None:
    chain: Any = "Paris"
    for _ in range(200):
        chain = ("Agree", chain)
    same = ("Paris", ("Lyon", *3 * [("Paris", *4 * ["Paris"])]))
    odd = {
        "one turn": "Paris",
        "one turn, empty": "",
        "a deep chain": chain,
        "missing subtrees": ("Paris", ("Lyon", ("Paris", "Lyon", "Agree"), "Nice", ("Nice",))),
        "repeated texts": same,
        "everything empty": ("", ("", ("", "", ""))),
    }
    judged = {
        name: judge_tree(debate(nested, seats=(0, 1) * 101), rules, protocol, "train") for name, nested in odd.items()
    }
    assert [judged[name] for name in ("one turn", "one turn, empty", "a deep chain")] == 3 * [([], [])]
    assert {fall.reason for fall in judged["everything empty"].rejections} == {"gap"}
    assert {fall.reason for fall in judged["repeated texts"].rejections} == {"gap", "perfect"}
    assert [pair.code for pair in judged["missing subtrees"].pairs] == (
        ["accept"] if isinstance(rules, Intended) else []
    )


def test_none_among_the_aliases_makes_no_answer_right_only_as_released(debate: Debate) -> None:
    tree = debate(("NONE", "NONE"), gold="None")
    assert score_tree(tree, Intended(0.25)).score == (0, 0)
    assert score_tree(tree, Released(0.5)).score == (2, 2)
