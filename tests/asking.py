"""What the tests of the engines ask, and the form of what the engine in process answers."""

from typing import Any, NamedTuple

from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.engines.base import Continuation, Reply

SETTINGS: dict[str, Any] = {"dtype": "float32", "enforce_eager": True, "max_model_len": 128, "max_num_seqs": 64}
GREEDY = Sampling(temperature=0, max_tokens=24, min_tokens=4)
COUNTRIES = ("France", "Peru", "Japan", "Kenya", "Norway", "Italy", "Spain", "Chile")
SCORED = ("It is Paris, certainly.", "Lima", " Lima")


def ask(question: str) -> list[Message]:
    return [{"role": "user", "content": question}]


QUESTIONS = [f"What is the capital of {country}?" for country in COUNTRIES]


class Expected(NamedTuple):
    """What vLLM in this process says."""

    replies: list[Reply]
    """Greedy, to QUESTIONS."""
    scores: list[Continuation]
    """Of SCORED, after the first question."""
