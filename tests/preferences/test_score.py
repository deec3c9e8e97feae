"""Scores, section 3: right(n), 0 where undefined, plus the scores of the children whose ``right`` is defined."""

from __future__ import annotations

from collections.abc import Callable

from pbt.debate.tree import DebateTree
from pbt.preferences.score import score_tree

Debate = Callable[..., DebateTree]


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
    scores = score_tree(tree)
    assert scores.score == (10, 8, 4, 1, 2, 0, 3, 1, 1, 2)
    assert [found and found.right for found in scores.correct] == [None, 1, 1, 1, 2, 0, 1, 1, 1, 2]


def test_what_lies_below_an_undefined_turn_does_not_count_above_it(debate: Debate) -> None:
    tree = debate(("Paris", ("", ("Paris", "Paris")), "Lyon"))
    scores = score_tree(tree)
    assert [found and found.right for found in scores.correct] == [None, None, None, 2, 1]
    assert scores.score == (1, 0, 2, 2, 1)


def test_an_answer_that_contains_the_right_one_is_right_beside_it_only(debate: Debate) -> None:
    beside = score_tree(debate(("Paris", "Paris, France")))
    assert beside.score[1] == 2
    assert beside.right(1, 0) and beside.right(1, 1)
    alone = score_tree(debate(("Lyon", "Paris, France")))
    assert alone.score[1] == 0
    assert not alone.right(1, 1)
