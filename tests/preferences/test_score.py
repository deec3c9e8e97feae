"""Scores, section 3: right(n), 0 where undefined, plus the scores of the children whose ``right`` is defined."""

from __future__ import annotations

from collections.abc import Callable

from pbt.debate.tree import DebateTree
from pbt.preferences.rules import Intended
from pbt.preferences.score import possible_synonyms, score_tree

Debate = Callable[..., DebateTree]

RULES = Intended(min_gap=0.25)


def test_a_turn_is_worth_the_correctness_of_the_whole_debate_below_it(debate: Debate) -> None:
    tree = debate(
        ("Paris",                # 0: seat 1 has no answer yet: 0, and 8 + 2 below
         ("Lyon",                # 1: seat 0 right: 1, and 4 + 0 + 3 below
          ("Paris",              # 2: 1, and 1 + 2 below
           "Lyon",               # 3: 1
           "Agree"),             # 4: both right: 2
          "Lyon",                # 5: seat 0 gave in: 0
          ("Paris",              # 6: 1, and 1 + 1 below
           "Disagree",           # 7: still Lyon: 1
           "NONE")),             # 8: NONE fills the slot and is wrong: 1
         "Paris")                # 9: both right: 2
    )  # fmt: skip
    scores = score_tree(tree, RULES)
    assert scores.score == (10, 8, 4, 1, 2, 0, 3, 1, 1, 2)
    assert [found and found.right for found in scores.correct] == [None, 1, 1, 1, 2, 0, 1, 1, 1, 2]


def test_what_lies_below_an_undefined_turn_does_not_count_above_it(debate: Debate) -> None:
    tree = debate(("Paris", ("", ("Paris", "Paris")), "Lyon"))
    scores = score_tree(tree, RULES)
    assert [found and found.right for found in scores.correct] == [None, None, None, 2, 1]
    assert scores.score == (1, 0, 2, 2, 1)


def test_an_answer_that_contains_the_right_one_is_right_beside_it_only(debate: Debate) -> None:
    beside = score_tree(debate(("Paris", "Paris, France")), RULES)
    assert beside.score[1] == 2
    assert beside.right(1, 0) and beside.right(1, 1)
    alone = score_tree(debate(("Lyon", "Paris, France")), RULES)
    assert alone.score[1] == 0
    assert not alone.right(1, 1)


def test_a_synonym_of_the_right_answer_becomes_it_in_this_state_and_below(debate: Debate) -> None:
    tree = debate(("Paris", ("Lutetia", ("Disagree", "Agree", "Nice"))))
    assert score_tree(tree, RULES).score[1:] == (1 + 1 + 2 + 1, 1 + 2 + 1, 2, 1)
    same = {(tree.question, "Paris", "Lutetia")}
    scores = score_tree(tree, RULES, same)
    assert scores.held == (
        ("Paris", None),
        ("Paris", "Paris"),
        ("Paris", "Paris"),
        ("Paris", "Paris"),
        ("Paris", "Nice"),
    )
    assert scores.score == (2 + 2 + 2 + 1, 2 + 2 + 2 + 1, 2 + 2 + 1, 2, 1)
    assert scores.copied == {1}


def test_a_synonym_is_possible_only_beside_exactly_one_right_answer(debate: Debate) -> None:
    tree = debate(("Paris", ("Lutetia", "Nice", "NONE"), "Paris, France", "Paris", "NONE", "..."))
    assert possible_synonyms(tree, score_tree(tree, RULES)) == {(tree.question, "Paris", "Lutetia")}
