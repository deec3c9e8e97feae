"""The rule set ``released``: one debate for each difference that docs/preferences.md lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pbt.debate.answers import Correctness, State
from pbt.debate.protocol import Protocol
from pbt.debate.tree import DebateTree
from pbt.preferences.pairs import Siblings, Verdict, judge, judge_tree, siblings
from pbt.preferences.released import Released
from pbt.preferences.rules import Intended
from pbt.preferences.score import Scores, score_tree

Debate = Callable[..., DebateTree]

RULES = Released(gap=0.5)
INTENDED = Intended(min_gap=0.25)


def candidates(tree: DebateTree, rules: Released | Intended = RULES) -> dict[tuple[int, int], Siblings]:
    return {(found.chosen.id, found.rejected.id): found for found in siblings(tree, score_tree(tree, rules))}


def held(tree: DebateTree) -> tuple[State, ...]:
    return score_tree(tree, RULES).held


def rights(scores: Scores) -> list[int | None]:
    return [None if found is None else found.right for found in scores.correct]


def test_disagree_is_the_same_slot_two_levels_up(debate: Debate) -> None:
    tree = debate(("Paris", ("Lyon", ("Nice", ("Disagree", ("Disagree", "Disagree"))))))
    assert held(tree)[3:] == (("Nice", "Lyon"), ("Nice", "Lyon"), ("Nice", "Lyon"))


def test_disagree_is_recognised_after_lower_casing_only(debate: Debate) -> None:
    tree = debate(("Paris", ("Lyon", ("DISAGREE", " disagree", "Disagree."))))
    assert held(tree)[2:] == (("Paris", "Lyon"), ("Paris", " disagree"), ("Paris", "Disagree."))


def test_disagree_is_empty_at_level_1_and_a_string_at_level_0(debate: Debate) -> None:
    tree = debate(("Disagree", "Disagree", ("Lyon", "Disagree")))
    assert held(tree) == (("Disagree", None), ("Disagree", None), ("Disagree", "Lyon"), ("Disagree", "Lyon"))
    assert rights(score_tree(tree, RULES)) == [None, None, 0, 0]


def test_agree_stays_in_the_slot_and_takes_the_other_string_when_correctness_is_asked(debate: Debate) -> None:
    # A2 moves to Lyon after B1 agreed with Paris: resolved when said, B1 would still hold Paris.
    tree = debate(("Paris", (" AGREE ", ("Lyon", "Disagree"))))
    assert held(tree)[1:] == (("Paris", "Paris"), ("Lyon", "Lyon"), ("Lyon", "Lyon"))
    intended = score_tree(debate(("Paris", ("Agree", ("Lyon", "Disagree")))), INTENDED)
    assert intended.held[1:] == (("Paris", "Paris"), ("Lyon", "Paris"), ("Lyon", "Paris"))


def test_two_seats_that_agree_are_wrong_even_where_agree_is_gold(debate: Debate) -> None:
    tree = debate(("Agree", ("Agree", "Paris")), gold="Agree")
    scores = score_tree(tree, RULES)
    assert rights(scores) == [None, 0, 0]
    assert scores.held[1:] == (("Agree", "Agree"), ("Paris", "Paris"))


def test_agreeing_with_nothing_leaves_the_state_undefined(debate: Debate) -> None:
    assert rights(score_tree(debate(("", "Agree")), RULES)) == [None, None]


def test_the_words_of_the_extractor_are_read_and_not_their_cleaned_form(debate: Debate) -> None:
    tree = debate(("Paris", "NONE"))
    tree = replace(tree, turns=(tree.turns[0], replace(tree.turns[1], raw_claim="none (no answer)")))
    assert held(tree)[1] == ("Paris", "none (no answer)")
    assert score_tree(tree, INTENDED).held[1] == ("Paris", "NONE")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        pytest.param("  PARIS ", True, id="stripped and lower-cased"),
        pytest.param("The Paris", False, id="articles stay"),
        pytest.param("Paris!", False, id="punctuation stays"),
        pytest.param("pa_ris", False, id="underscores stay"),
    ],
)
def test_candidates_are_only_stripped_and_lower_cased(answer: str, right: bool) -> None:
    # Beside an answer that shares nothing with it, so that containment stays out of it.
    assert RULES.correct((answer, "Qqq"), {"paris"}) == Correctness(right, False)


def test_where_containment_holds_seat_0_takes_the_string_of_seat_1() -> None:
    assert RULES.correct(("Paris, France", "Paris"), {"paris"}) == Correctness(True, True)
    assert RULES.correct(("Paris", "Paris, France"), {"paris"}) == Correctness(False, False)
    assert INTENDED.correct(("Paris", "Paris, France"), {"paris"}) == Correctness(True, True)


def test_containment_asks_for_more_than_a_third() -> None:
    assert RULES.correct(("abcxyz", "ab"), {"ab"}) == Correctness(False, True)  # 3 * 2 is not more than 6
    assert RULES.correct(("abcxy", "ab"), {"ab"}) == Correctness(True, True)


def test_a_pair_of_blank_answers_counts_as_contained() -> None:
    assert RULES.correct((" ", "  "), {"paris"}) == Correctness(False, False)
    assert RULES.correct((" ", "  "), {""}) == Correctness(True, True)
    assert RULES.correct((" ", "Paris"), {"paris"}) == Correctness(False, True)


def test_an_empty_slot_leaves_correctness_undefined() -> None:
    for slots in (("Paris", None), ("Paris", ""), (None, "Paris"), ("", "")):
        assert RULES.correct(slots, {"paris"}) is None


def test_none_is_an_ordinary_string() -> None:
    assert RULES.correct(("NONE", "Lyon"), {"none"}) == Correctness(True, False)
    assert RULES.correct(("NONE", "none of it"), {"none of it"}) == Correctness(True, True)
    assert INTENDED.correct(("NONE", "Lyon"), {"none"}) == Correctness(False, False)


def test_the_gap_must_be_exceeded_so_the_textbook_accept_pair_is_none(debate: Debate) -> None:
    tree = debate(("Paris", ("Lyon", ("Paris", "Disagree", "Agree"))))
    assert judge(candidates(tree)[4, 3], RULES) == Verdict(reason="gap")
    assert judge(candidates(tree, INTENDED)[4, 3], INTENDED) == Verdict(code="accept")
    assert judge(candidates(tree)[4, 3], Released(gap=0.49)) == Verdict(code="accept")


def test_equal_scores_fall_even_when_no_gap_is_asked_for(debate: Debate) -> None:
    assert judge(candidates(debate(("Paris", "Lyon", "Nice")))[1, 2], Released(gap=0.0)) == Verdict(reason="gap")


def test_resist_the_speaker_was_right_and_held(debate: Debate) -> None:
    tree = debate(("Lyon", ("Paris", ("Nice", "Paris", "Agree"))))
    assert judge(candidates(tree)[3, 4], RULES) == Verdict(code="resist")


def test_resist_with_a_right_partner_is_a_pair_here_and_none_as_intended(debate: Debate) -> None:
    tree = debate(("Paris", ("Paris", ("Paris", "Paris", "Lyon"))))
    low = Released(gap=0.3)
    assert judge(candidates(tree)[3, 4], low) == Verdict(code="resist")
    assert judge(candidates(tree, INTENDED)[3, 4], INTENDED) == Verdict(reason="code")


def test_resist_needs_as_many_right_answers_as_before(debate: Debate) -> None:
    # Beside "Paris x" the alias "Paris" makes both right by containment, the longer alias only its own seat.
    longer = "City of Light and Love"
    tree = debate(("Lyon", (longer, ("Paris x", "Paris", longer, "Lyon"))))
    tree = replace(tree, aliases=("paris", longer.lower()))
    found = candidates(tree)
    assert rights(found[3, 5].scores) == [None, 1, 1, 2, 1, 0]
    assert judge(found[3, 5], RULES) == Verdict(reason="code")
    assert judge(found[4, 5], RULES) == Verdict(code="resist")

    tree = replace(debate(("Lyon", ("Paris", ("Paris x", longer, "Lyon")))), aliases=tree.aliases)
    found = candidates(tree)
    assert rights(found[3, 4].scores) == [None, 1, 2, 1, 0]
    assert judge(found[3, 4], RULES) == Verdict(reason="code")


def test_accept_needs_more_right_answers_than_before_and_no_right_partner(debate: Debate) -> None:
    # Both were wrong, and B finds the right answer by itself: 1 against 0.
    tree = debate(("Lyon", ("Nice", ("Lyon", "Paris", "Agree"))))
    assert judge(candidates(tree)[3, 4], RULES) == Verdict(code="accept")
    assert judge(candidates(tree, INTENDED)[3, 4], INTENDED) == Verdict(reason="code")


def test_both_slots_must_be_filled_at_all_four_turns(debate: Debate) -> None:
    tree = debate(("Lyon", ("Disagree", ("Lyon", "Paris", "Lyon"))))
    assert judge(candidates(tree)[3, 4], RULES) == Verdict(reason="slots")


def test_unequal_children_and_perfect_siblings_fall_first(debate: Debate) -> None:
    assert judge(candidates(debate(("Paris", ("Lyon", "Paris"), "Paris")))[1, 3], RULES) == Verdict(reason="children")
    assert judge(candidates(debate(("Paris", "Paris", "Paris")))[1, 2], RULES) == Verdict(reason="perfect")


def test_a_pair_names_the_rule_set_and_the_answers_as_it_resolves_them(debate: Debate, protocol: Protocol) -> None:
    tree = debate(("Lyon", ("Paris", ("NICE", "Disagree", "agree"))))
    (pair,) = judge_tree(tree, RULES, protocol, "train").pairs
    assert (pair.code, pair.rules) == ("resist", "released")
    assert pair.rule.startswith("released resist")
    assert (pair.own_answer, pair.partner_before, pair.partner_answer) == ("Paris", "Lyon", "NICE")
    assert (pair.chosen_answer, pair.rejected_answer) == ("Paris", "NICE")
