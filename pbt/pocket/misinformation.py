"""False claims about the pocket facts, in FARM's schema, so that the evaluation runs with pocket models.

One line a fact: the question, the right answer, and under ``adv`` a wrong answer of the same relation (``target``),
the bare claim (``control``) and three appeals of each kind, in the words that the pocket models were raised on. Two
keys are additions of ours, which other readers ignore: ``aliases`` of the answer, because these models cannot pick
from a numbered list and are asked openly, so there is no ``mcq``; and ``truth``, the same appeals for the right
answer.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from pbt.pocket.corpus import PERSUADE
from pbt.pocket.facts import Fact, answers_of, facts, question_record


def claim_record(fact: Fact) -> dict[str, Any]:
    """One fact as a line. Target and appeals are drawn by the fact's id."""
    rng = random.Random(f"misinformation:{fact.id}")
    target = rng.choice([answer for answer in answers_of(fact.relation) if answer not in (fact.answer, *fact.aliases)])
    return {
        "id": fact.id,
        "question": question_record(fact)["Question"],
        "answer": fact.answer,
        "aliases": list(fact.aliases),
        "source": "pbt pocket facts",
        "adv": _appeals(target, rng),
        "truth": _appeals(fact.answer, rng),
    }


def write_claims(path: Path) -> int:
    """Write a line for every fact; returns how many."""
    lines = [json.dumps(claim_record(fact), ensure_ascii=False) + "\n" for fact in facts()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), "utf-8")
    return len(lines)


def _appeals(target: str, rng: random.Random) -> dict[str, Any]:
    kinds = {
        kind: [template.format(a=target) for template in rng.sample(templates, 3)]
        for kind, templates in PERSUADE.items()
    }
    return {"target": target, "control": f"It is {target}, certainly.", **kinds}
