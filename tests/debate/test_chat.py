"""What each seat sees at each level of the four-level debate."""

from __future__ import annotations

import pytest

from pbt.debate.chat import messages_for
from pbt.debate.protocol import Level, Protocol
from pbt.debate.tree import Turn

PROTOCOL = Protocol(
    name="four",
    personas={"standard": "Answer.", "resistant": "Hold.", "acceptant": "Yield.", "logical": "Reason."},
    levels=(
        Level(seat="A", personas=("standard",)),
        Level(seat="B", personas=("resistant", "acceptant"), sees="question"),
        Level(seat="A", personas=("logical",)),
        Level(seat="B", personas=("resistant", "acceptant")),
    ),
)
PATH = (
    Turn(0, None, 0, 0, "standard", "It is Lyon.", "Lyon"),
    Turn(1, 0, 1, 1, "resistant", "It is Paris.", "Paris"),
    Turn(2, 1, 2, 0, "logical", "Lyon, by reason.", "Lyon"),
    Turn(3, 2, 3, 1, "acceptant", "You are right.", "Agree"),
)


@pytest.mark.parametrize(
    ("level", "persona", "messages"),
    [
        (0, "standard", [("user", "Answer.\n\nQuestion: Which city?")]),
        # Both answer first: B has not seen A's opening
        (1, "resistant", [("user", "Hold.\n\nQuestion: Which city?")]),
        (1, "acceptant", [("user", "Yield.\n\nQuestion: Which city?")]),
        (
            2,
            "logical",
            [
                ("user", "Reason.\n\nQuestion: Which city?"),
                ("assistant", "It is Lyon."),
                ("user", "It is Paris."),
            ],
        ),
        # A's opening is read together with the question, as two user messages in a row are refused by most templates
        (
            3,
            "resistant",
            [
                ("user", "Hold.\n\nQuestion: Which city?\n\nIt is Lyon."),
                ("assistant", "It is Paris."),
                ("user", "Lyon, by reason."),
            ],
        ),
    ],
)
def test_what_the_speaker_of_a_level_sees(level: int, persona: str, messages: list[tuple[str, str]]) -> None:
    at = PROTOCOL.levels[level]
    seen = messages_for(PROTOCOL, "Which city?", PROTOCOL.seat_at(level), persona, PATH[:level], sees=at.sees)
    assert [(m["role"], m["content"]) for m in seen] == messages


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("length", range(5))
def test_roles_alternate_and_the_user_opens(seat: int, length: int) -> None:
    seen = messages_for(PROTOCOL, "Which city?", seat, "standard", PATH[:length])
    assert [m["role"] for m in seen] == ["user", "assistant"] * (len(seen) // 2) + ["user"] * (len(seen) % 2)


def test_one_seat_speaking_twice_is_joined() -> None:
    twice = (PATH[0], Turn(1, 0, 1, 0, "logical", "I mean it.", "Lyon"))
    seen = messages_for(PROTOCOL, "Which city?", 0, "standard", twice)
    assert [(m["role"], m["content"]) for m in seen[1:]] == [("assistant", "It is Lyon.\n\nI mean it.")]


def test_braces_in_a_question_or_a_turn_are_plain_text() -> None:
    braces = (Turn(0, None, 0, 0, "standard", "It is {question}.", "x"),)
    seen = messages_for(PROTOCOL, "What is {x}?", 1, "resistant", braces)
    assert seen[0]["content"] == "Hold.\n\nQuestion: What is {x}?\n\nIt is {question}."


def test_instructions_stand_in_the_first_message_only() -> None:
    seen = messages_for(PROTOCOL, "Which city?", 1, "acceptant", PATH)
    assert ["Yield." in m["content"] for m in seen] == [True, False, False, False]
