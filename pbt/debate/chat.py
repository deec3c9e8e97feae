"""The messages that a seat sees on a path of turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from pbt.debate.protocol import Protocol
from pbt.debate.tree import Turn


class Message(TypedDict):
    """One chat message in the form every chat template takes."""

    role: str
    content: str


def messages_for(
    protocol: Protocol, question: str, seat: int, persona: str, path: Sequence[Turn], *, sees: str = "path"
) -> list[Message]:
    """The conversation as ``seat`` sees it before it speaks under ``persona``.

    The persona's instruction and the question stand in the first user message; the speaker's own turns are
    ``assistant``, the partner's ``user``. Neighbours of one role are joined by a blank line, because most chat
    templates refuse two user messages in a row: a partner who opened is read together with the question. Among three
    seats or more, a partner's turn begins with the name of its seat.
    """
    opening = protocol.opening.format(instruction=protocol.personas[persona], question=question)
    messages: list[Message] = [{"role": "user", "content": opening}]
    for turn in path if sees == "path" else ():
        role = "assistant" if turn.seat == seat else "user"
        named = role == "user" and len(protocol.seats) > 2
        said = f"{protocol.seats[turn.seat].name}: {turn.text}" if named else turn.text
        if messages[-1]["role"] == role:
            messages[-1] = {"role": role, "content": f"{messages[-1]['content']}\n\n{said}"}
        else:
            messages.append({"role": role, "content": said})
    return messages
