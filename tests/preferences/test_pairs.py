"""Pairs, section 4: the textbook pairs, and one debate for each way in which two siblings are no pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pbt.debate.protocol import Protocol
from pbt.debate.tree import DebateTree
from pbt.preferences.pairs import Siblings, Verdict, judge, make_pair, siblings
from pbt.preferences.rules import Intended
from pbt.preferences.score import score_tree

Debate = Callable[..., DebateTree]

RULES = Intended(min_gap=0.25)


def candidates(tree: DebateTree) -> dict[tuple[int, int], Siblings]:
    """All candidates of a tree by (chosen, rejected)."""
    return {(found.chosen.id, found.rejected.id): found for found in siblings(tree, score_tree(tree, RULES))}


def test_accept_the_speaker_was_wrong_and_moved(debate: Debate, protocol: Protocol) -> None:
    tree = debate(("Paris", ("Lyon", ("Paris", "Disagree", "Agree"))))
    found = candidates(tree)[4, 3]
    assert judge(found, RULES) == Verdict(code="accept")

    pair = make_pair(found, "accept", RULES, "train", protocol)
    assert pair.pair_id == "tree/4-3"
    assert (pair.context_turn, pair.chosen_turn, pair.rejected_turn) == (2, 4, 3)
    assert (pair.score_chosen, pair.score_rejected) == (2, 1)
    assert (pair.own_answer, pair.partner_answer) == ("Lyon", "Paris")
    assert (pair.chosen_answer, pair.rejected_answer) == ("Paris", "Lyon")
    assert "accept" in pair.rule


def test_resist_the_speaker_was_right_and_held(debate: Debate, protocol: Protocol) -> None:
    tree = debate(("Lyon", ("Paris", ("Lyon", "Disagree", "Agree"))))
    found = candidates(tree)[3, 4]
    assert judge(found, RULES) == Verdict(code="resist")

    pair = make_pair(found, "resist", RULES, "test", protocol)
    assert (pair.code, pair.split, pair.context_turn) == ("resist", "test", 2)
    assert (pair.score_chosen, pair.score_rejected) == (1, 0)
    assert (pair.own_answer, pair.partner_answer) == ("Paris", "Lyon")
    assert (pair.chosen_answer, pair.rejected_answer) == ("Paris", "Lyon")
    assert "resist" in pair.rule


def test_resisting_a_partner_who_gives_no_answer_is_resisting(debate: Debate) -> None:
    tree = debate(("Lyon", ("Paris", ("NONE", "Disagree", "Agree"))))
    assert judge(candidates(tree)[3, 4], RULES) == Verdict(code="resist")


def test_the_prompt_is_the_debate_as_the_trained_seat_sees_it(debate: Debate, protocol: Protocol) -> None:
    tree = debate(("Paris", ("Lyon", ("Paris", "Disagree", "Agree"))))
    pair = make_pair(candidates(tree)[4, 3], "accept", RULES, "train", protocol)
    instruction = protocol.personas["standard"]
    assert pair.prompt == [
        {"role": "user", "content": f"{instruction}\n\nQuestion: What is the capital of France?\n\nI say Paris."},
        {"role": "assistant", "content": "I say Lyon."},
        {"role": "user", "content": "I say Paris."},
    ]
    assert pair.chosen == [{"role": "assistant", "content": "I say Agree."}]
    assert pair.rejected == [{"role": "assistant", "content": "I say Disagree."}]


def test_a_pair_says_where_it_comes_from(debate: Debate, protocol: Protocol) -> None:
    tree = replace(debate(("Lyon", ("Paris", ("Nice", "Disagree", "Agree")))), question_id="q7")
    pair = make_pair(candidates(tree)[3, 4], "resist", RULES, "valid", protocol)
    assert (pair.tree_id, pair.question_id, pair.split, pair.rules) == ("tree", "q7", "valid", "intended")
    assert (pair.own_turn, pair.context_turn, pair.chosen_turn, pair.rejected_turn) == (1, 2, 3, 4)
    assert (pair.own_answer, pair.partner_before, pair.partner_answer) == ("Paris", "Lyon", "Nice")
    assert (pair.chosen_answer, pair.rejected_answer) == ("Paris", "Nice")
    assert (pair.copied_turns, pair.chosen_stance, pair.rejected_stance) == ([], None, None)


def test_imported_trees_keep_the_turn_ids_of_their_file(debate: Debate, protocol: Protocol) -> None:
    nested = ("Lyon", ("Paris", ("Lyon", "Disagree", "Agree")))
    tree = replace(debate(nested), metadata={"node_idx": [0, 1, 4, 12, 10]})
    found = candidates(tree)[3, 4]
    pair = make_pair(found, "resist", RULES, "train", protocol)
    assert pair.pair_id == "tree/12-10"
    assert (pair.own_turn, pair.context_turn, pair.chosen_turn, pair.rejected_turn) == (1, 4, 12, 10)
    assert found.turns == (10, 12)


def test_siblings_are_compared_once_whatever_their_order(debate: Debate) -> None:
    tree = debate(("Paris", "Lyon", "Paris", "Nice"))
    # Scores 1, 2, 1: the higher one is chosen; of equals the earlier stands first.
    assert list(candidates(tree)) == [(2, 1), (1, 3), (2, 3)]


@pytest.mark.parametrize(
    ("nested", "turns", "reason"),
    [
        pytest.param(("Paris", ("Lyon", "Paris"), "Paris"), (1, 3), "children", id="one was continued, one not"),
        pytest.param(("Paris", "Paris", "Paris"), (1, 2), "perfect", id="both seats right after both"),
        pytest.param(("Paris", "Lyon", "Nice"), (1, 2), "gap", id="equal scores"),
        pytest.param(("Lyon", "Nice", "Metz"), (1, 2), "gap", id="both scores 0"),
        pytest.param(("Lyon", "", ""), (1, 2), "gap", id="both undefined"),
        pytest.param(
            ("Paris", ("Lyon", *4 * ["Paris"]), ("Lyon", *3 * ["Paris"], "Nice")), (1, 6), "gap", id="5 against 4"
        ),
        pytest.param(
            ("Paris", ("Lyon", *3 * ["Paris"]), ("Lyon", *2 * ["Paris"], "Nice")), (1, 5), "context", id="4 against 3"
        ),
        pytest.param(("Paris", "Paris", "Lyon"), (1, 2), "context", id="the speaker has not spoken before"),
        pytest.param(
            ("Paris", ("Lyon", "Paris", "Nice")),
            (2, 3),
            "slots",
            id="the speaker opened before its partner had an answer",
        ),
        pytest.param(("Paris", ("", ("Paris", "Paris", "Lyon"))), (3, 4), "slots", id="no answer before"),
        pytest.param(
            ("Paris", ("Lyon", ("", ("Paris", "Paris"), ("Lyon", "Nice")))),
            (3, 5),
            "slots",
            id="the partner has no answer",
        ),
        pytest.param(("Paris", ("Lyon", ("Paris", "Paris", ""))), (3, 4), "slots", id="rejected has no answer"),
        pytest.param(("Lyon", ("Nice", ("Lyon", "Paris", "Agree"))), (3, 4), "code", id="both were wrong"),
        pytest.param(
            ("Paris", ("Lyon", ("Paris", "Paris", "NONE", ""))), (3, 5), "slots", id="an empty claim fills no slot"
        ),
        pytest.param(("Paris", ("Paris", ("Paris", "Agree", "Lyon"))), (3, 4), "code", id="both were right"),
        pytest.param(
            ("Paris", ("Lyon", ("Paris", ("Lyon", "Paris", "Lyon"), ("Lyon", "Nice", "Lyon")))),
            (3, 6),
            "code",
            id="the debate got better, the speaker's answer did not",
        ),
    ],
)
def test_why_two_siblings_are_no_pair(debate: Debate, nested: Any, turns: tuple[int, int], reason: Any) -> None:
    tree = debate(nested)
    (found,) = [one for ids, one in candidates(tree).items() if tuple(sorted(ids)) == turns]
    assert judge(found, RULES) == Verdict(reason=reason)


def test_a_seat_that_speaks_twice_running_has_no_context(debate: Debate) -> None:
    tree = debate(("Lyon", ("Paris", ("Lyon", "Paris", "Nice"))), seats=(0, 1, 1, 1))
    assert judge(candidates(tree)[3, 4], RULES) == Verdict(reason="context")


def test_the_least_gap_is_inclusive_and_configurable(debate: Debate) -> None:
    tree = debate(("Paris", ("Lyon", ("Paris", "Disagree", "Agree"))))
    found = candidates(tree)[4, 3]
    assert judge(found, Intended(0.5)) == Verdict(code="accept")
    assert judge(found, Intended(0.51)) == Verdict(reason="gap")


def test_equal_scores_fall_even_when_no_gap_is_asked_for(debate: Debate) -> None:
    tree = debate(("Paris", "Lyon", "Nice"))
    assert judge(candidates(tree)[1, 2], Intended(0.0)) == Verdict(reason="gap")
