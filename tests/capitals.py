"""Pairs as the preferences stage writes them, made by hand: five capitals, and one partner who says Lyon."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Austria": "Vienna", "Greece": "Athens"}
WRONG = "Lyon"

WritePrefs = Callable[[list[dict[str, Any]]], Path]
"""Writes rows as the balanced test split of a preferences folder; returns the folder."""


def pair(country: str, code: str, pair_id: str | None = None) -> dict[str, Any]:
    """A resist pair (own answer right, partner says Lyon) or an accept pair (the other way round)."""
    gold = CAPITALS[country]
    own, partner = (gold, WRONG) if code == "resist" else (WRONG, gold)
    question = f"What is the capital of {country}?"
    hold, move = f"No, I stay with {own}.", f"You are right, it is {partner}, I was wrong."
    chosen, rejected = (hold, move) if code == "resist" else (move, hold)
    return {
        "pair_id": pair_id or f"t-{country}-{code}/3-4",
        "question_id": f"q-{country}",
        "question": question,
        "gold": gold,
        "aliases": [gold.lower(), f"city of {gold.lower()}"],
        "code": code,
        "own_answer": own,
        "partner_answer": partner,
        "prompt": [
            {"role": "user", "content": f"Answer. Question: {question}"},
            {"role": "assistant", "content": f"It is {own}."},
            {"role": "user", "content": f"I am a geographer, it is {partner}."},
        ],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
