"""Answers: the normal form, the tokens, the states, what counts as right and what as equal."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.debate.answers import (
    AGREE,
    DISAGREE,
    NONE,
    Correctness,
    State,
    contains,
    correctness,
    is_right,
    normalise,
    read_claim,
    resolve,
    same_answer,
    unanimous,
)

TEXTS = st.text(max_size=40) | st.text(alphabet=string.ascii_letters + string.punctuation + " ‘’´`", max_size=40)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Paris", "paris"),
        ("  The   Beatles ", "beatles"),
        ("A Tale of Two Cities", "tale of two cities"),
        ("An apple and the pear", "apple and pear"),
        ("snake_case_name", "snake case name"),
        ("AC/DC", "ac dc"),
        ("Guns N' Roses", "guns n roses"),
        ("O’Neill ‘quoted´ `so`", "o neill quoted so"),
        ("Washington, D.C.", "washington d c"),
        ("Jay-Z", "jay z"),
        ("3,500", "3 500"),
        ("Édith Piaf", "édith piaf"),
        ("The", ""),
        ("...", ""),
        ("", ""),
    ],
)
def test_normalises_the_triviaqa_way(text: str, normal: str) -> None:
    assert normalise(text) == normal


@given(TEXTS)
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("Agree", AGREE),
        (" agree. ", AGREE),
        ("DISAGREE!", DISAGREE),
        ("None", NONE),
        ("none.", NONE),
        ("Agreement Treaty", "Agreement Treaty"),
        ("I agree", "I agree"),
        ("Agree (with Paris)", AGREE),
        ("Paris (the capital of France)", "Paris"),
        ("(nothing before it)", ""),
        ("  Paris ", "Paris"),
        ("", ""),
    ],
)
def test_recognises_a_token_only_when_it_is_the_whole(text: str, claim: str) -> None:
    assert read_claim(text) == claim


@pytest.mark.parametrize(
    ("claim", "seat", "parent", "state"),
    [
        ("Paris", 0, (None, None), ("Paris", None)),
        ("Paris", 1, ("Lyon", "Nice"), ("Lyon", "Paris")),
        (AGREE, 1, ("Lyon", "Nice"), ("Lyon", "Lyon")),
        (AGREE, 0, ("Lyon", "Nice"), ("Nice", "Nice")),
        (AGREE, 0, (None, None), (None, None)),
        (AGREE, 1, (NONE, "Nice"), (NONE, NONE)),
        (DISAGREE, 1, ("Lyon", "Nice"), ("Lyon", "Nice")),
        (DISAGREE, 1, ("Lyon", None), ("Lyon", None)),
        (NONE, 0, ("Lyon", "Nice"), (NONE, "Nice")),
        ("", 1, ("Lyon", "Nice"), ("Lyon", None)),
    ],
)
def test_resolves_each_token_by_seat(claim: str, seat: int, parent: State, state: State) -> None:
    assert resolve(claim, seat, parent, 1 - seat) == state


def test_among_three_agree_takes_the_answer_of_the_seat_replied_to() -> None:
    assert resolve(AGREE, 2, ("Lyon", "Nice", "Paris"), 1) == ("Lyon", "Nice", "Nice")
    assert resolve(AGREE, 0, ("Lyon", "Nice", "Paris"), 2) == ("Paris", "Nice", "Paris")


@pytest.mark.parametrize(
    ("state", "same"),
    [
        (("Paris", "paris"), True),
        (("Tolstoy", "Leo Tolstoy"), True),
        (("Paris", "Lyon"), False),
        (("Paris", None), False),
        ((NONE, NONE), False),
        (("Paris", "the Paris", "PARIS"), True),
        (("Paris", "Paris", "Lyon"), False),
        (("Paris", "Paris", None), False),
    ],
)
def test_unanimous_when_all_seats_hold_one_answer(state: State, same: bool) -> None:
    assert unanimous(state) is same


SLOTS = st.none() | st.sampled_from([NONE, "Paris", "Lyon"])


@given(st.lists(st.tuples(TEXTS | st.sampled_from([AGREE, DISAGREE, NONE]), st.sampled_from([0, 1])), max_size=8))
def test_a_state_never_holds_agree_or_disagree(spoken: list[tuple[str, int]]) -> None:
    state: State = (None, None)
    for text, seat in spoken:
        state = resolve(read_claim(text), seat, state, 1 - seat)
        assert AGREE not in state
        assert DISAGREE not in state


@pytest.mark.parametrize(
    ("short", "long", "same"),
    [
        ("tolstoy", "leo tolstoy", True),  # 21 > 11
        ("abc", "abcdefgh", True),  # 9 > 8
        ("abc", "abcdefghi", False),  # 9 > 9 is not so
        ("abc", "abcdefghij", False),
        ("lyon", "paris", False),
        ("paris", "paris", True),
        ("", "", False),
        ("", "x", False),
    ],
)
def test_contained_when_three_times_the_shorter_exceeds_the_longer(short: str, long: str, same: bool) -> None:
    assert contains(short, long) is same
    assert contains(long, short) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The Beatles", "beatles!", True),
        ("Tolstoy", "Leo Tolstoy", True),
        ("Paris", "Lyon", False),
        (NONE, NONE, False),
        (NONE, "None of them", False),
        (None, None, False),
        (None, "Paris", False),
        ("The", "A", False),
        ("...", "Paris", False),
    ],
)
def test_equal_answers(one: str | None, other: str | None, same: bool) -> None:
    assert same_answer(one, other) is same


@given(st.none() | TEXTS, st.none() | TEXTS)
def test_equality_has_no_order(one: str | None, other: str | None) -> None:
    assert same_answer(one, other) == same_answer(other, one)


PARIS = ("paris", "city of light")


@pytest.mark.parametrize(
    ("state", "right"),
    [
        (("Paris", "Lyon"), Correctness(True, False)),
        (("Lyon", "the City of Light!"), Correctness(False, True)),
        (("Paris", "paris."), Correctness(True, True)),
        (("Lyon", "Nice"), Correctness(False, False)),
        (("Paris", "Paris city"), Correctness(True, True)),  # contained, and one is gold
        (("Paris city", "Paris"), Correctness(True, True)),  # whichever seat it is
        (("Lyon", "Lyon city"), Correctness(False, False)),  # contained, but none is gold
        (("Paris", NONE), Correctness(True, False)),
        ((NONE, NONE), Correctness(False, False)),
        ((None, "Paris"), None),
        (("Paris", None), None),
    ],
)
def test_which_answers_of_a_state_are_right(state: State, right: Correctness | None) -> None:
    assert correctness(state, PARIS) == right


def test_right_counts_both_seats() -> None:
    assert [Correctness(a, b).right for a, b in ((False, False), (True, False), (False, True), (True, True))] == [
        0,
        1,
        1,
        2,
    ]


def test_none_is_right_for_no_question() -> None:
    assert correctness((NONE, "nobody"), ("none",)) == Correctness(False, False)
    assert not is_right(NONE, ("none",))


def test_one_answer_alone() -> None:
    assert is_right("The Paris", PARIS)
    assert not is_right("Lyon", PARIS)
    assert not is_right("Paris city", PARIS)
    assert not is_right(None, PARIS)


@given(SLOTS, SLOTS)
def test_swapping_the_seats_swaps_the_verdict(one: str | None, other: str | None) -> None:
    here, there = correctness((one, other), PARIS), correctness((other, one), PARIS)
    assert (here is None) == (there is None)
    assert here is None or there is None or here == Correctness(there.seat1, there.seat0)
