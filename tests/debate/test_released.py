"""The authors' state and stop rule, sentence by sentence (docs/preferences.md, two rule sets)."""

from __future__ import annotations

import pytest

from pbt.debate.answers import AGREE, NONE, State
from pbt.debate.released import ends_released, resolve_released


@pytest.mark.parametrize(
    ("claim", "seat", "parent", "state"),
    [
        # Raw tokens stay in the slots.
        (AGREE, 1, ("Lyon", None), ("Lyon", AGREE)),
        (NONE, 1, ("Lyon", "Nice"), ("Lyon", NONE)),
        # Disagree becomes the same slot two levels up; at level 1 that is empty, at level 0 it stays the word.
        ("Disagree", 1, ("Lyon", None), ("Lyon", None)),
        ("Disagree", 0, (None, None), ("Disagree", None)),
        ("Disagree", 1, ("Lyon", "Nice"), ("Lyon", "Nice")),
        ("DISAGREE", 0, ("Lyon", "Nice"), ("Lyon", "Nice")),
        # Recognised after lower-casing only: a blank or a full stop makes it an answer.
        (" Disagree", 1, ("Lyon", "Nice"), ("Lyon", " Disagree")),
        ("Disagree.", 1, ("Lyon", "Nice"), ("Lyon", "Disagree.")),
        # A Disagree after a Disagree is what the first one became.
        ("Disagree", 0, ("Disagree", "Nice"), ("Disagree", "Nice")),
    ],
)
def test_claims_stay_as_they_are_spelt(claim: str, seat: int, parent: State, state: State) -> None:
    assert resolve_released(claim, seat, parent) == state


@pytest.mark.parametrize(
    ("claim", "state", "ends"),
    [
        ("Agree", ("Lyon", "Agree"), True),
        ("agree", ("Lyon", "agree"), False),
        ("Agree.", ("Lyon", "Agree."), False),
        ("Lyon", ("Lyon", "Lyon"), True),
        ("lyon", ("Lyon", "lyon"), False),
        (NONE, (NONE, NONE), False),
        ("none", ("none", "none"), True),
        ("", ("", None), False),
        ("Lyon", ("Lyon", None), False),
    ],
)
def test_only_equal_spellings_end_a_branch(claim: str, state: State, ends: bool) -> None:
    assert ends_released(claim, state) is ends
