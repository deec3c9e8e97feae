"""Pairs: which two siblings of a tree make a preference, of which code, and if none, why (method, section 4).

An unordered pair of siblings is one candidate. A *rule set* judges it: each rule is one small function, and a candidate
falls at the first rule that it does not meet. What comes out is a ``Pair``, the line of the dataset, or a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pbt.debate.chat import Message, messages_for
from pbt.debate.protocol import Protocol
from pbt.debate.tree import DebateTree, Turn
from pbt.preferences.score import Scores

Code = Literal["accept", "resist"]
CODES: tuple[Code, ...] = ("accept", "resist")

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

Reason = Literal["children", "perfect", "gap", "context", "slots", "code", "duplicate", "crossing"]
REASONS: dict[Reason, str] = {
    "children": "unequal numbers of children",
    "perfect": "both perfect",
    "gap": "scores too close",
    "context": "no earlier turn of speaker and partner",
    "slots": "a seat without an answer",
    "code": "neither resisting nor accepting",
    "duplicate": "same texts as an earlier pair",
    "crossing": "question stands in two splits",
}
"""Why a candidate is not emitted, in the order in which it is tested."""

_RULE: dict[Code, str] = {
    "accept": "intended accept: speaker was wrong, partner right; chosen moved to the right answer, rejected did not",
    "resist": "intended resist: speaker was right, partner wrong; chosen held the right answer, rejected gave it up",
}


class Siblings(NamedTuple):
    """One candidate: two children of one turn."""

    tree: DebateTree
    scores: Scores
    chosen: Turn
    """The one with the higher score; of equals the earlier."""
    rejected: Turn


class Context(NamedTuple):
    """What the two siblings answer to."""

    own: Turn
    """The speaker's previous turn, two levels up (``gp`` in the method)."""
    partner: Turn
    """The partner's turn between (``par``)."""


class Verdict(NamedTuple):
    """What a rule set says of a candidate: a code, or the rule at which it fell. Exactly one is set."""

    code: Code | None = None
    reason: Reason | None = None


class Rejection(NamedTuple):
    """One candidate that was not emitted."""

    tree_id: str
    turns: tuple[int, int]
    """The two siblings' ids, the smaller first."""
    reason: Reason
    duplicate_of: str | None = None
    """The id of the pair that stays."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference pair: a line of ``pairs.jsonl`` and a row of the dataset."""

    pair_id: str
    """``<tree_id>/<chosen_turn>-<rejected_turn>``."""
    tree_id: str
    question_id: str
    question: str
    gold: str
    aliases: list[str]
    """Normalised."""
    code: Code
    split: Split
    context_turn: int
    """The partner's turn that the two reply to."""
    chosen_turn: int
    rejected_turn: int
    score_chosen: int
    score_rejected: int
    own_answer: str
    """What the speaker held after its previous turn; this and the three below are resolved answers."""
    partner_answer: str
    """What the partner held after the context turn."""
    chosen_answer: str
    rejected_answer: str
    rule: str
    """The rule that made the pair, in words."""
    prompt: list[Message]
    """The debate up to the context turn, as the trained seat sees it under the protocol's trained persona."""
    chosen: list[Message]
    rejected: list[Message]

    @property
    def texts(self) -> tuple[str, ...]:
        """What makes two pairs duplicates: code, chosen, rejected and context."""
        said = (message["content"] for message in (*self.chosen, *self.rejected, *self.prompt))
        return (self.code, *said)


def siblings(tree: DebateTree, scores: Scores) -> Iterator[Siblings]:
    """Every unordered pair of siblings once: turns in preorder, each with its later siblings."""
    for turn in tree.turns[1:]:
        assert turn.parent is not None  # only the first turn is a root
        for other_id in tree.children[turn.parent]:
            if other_id > turn.id:
                other = tree.turns[other_id]
                if scores.score[turn.id] >= scores.score[other_id]:
                    yield Siblings(tree, scores, turn, other)
                else:
                    yield Siblings(tree, scores, other, turn)


def judge_intended(pair: Siblings, min_gap: float) -> Verdict:
    """The rule set ``intended``: the rules of section 4 in their order."""
    if not equal_children(pair):
        return Verdict(reason="children")
    if both_perfect(pair):
        return Verdict(reason="perfect")
    if not gap_reaches(pair, min_gap):
        return Verdict(reason="gap")
    context = context_of(pair)
    if context is None:
        return Verdict(reason="context")
    if not slots_filled(pair, context):
        return Verdict(reason="slots")
    code = code_intended(pair, context)
    return Verdict(reason="code") if code is None else Verdict(code=code)


def equal_children(pair: Siblings) -> bool:
    """Section 4, rule 1: as many turns were grown below one as below the other."""
    children = pair.tree.children
    return len(children[pair.chosen.id]) == len(children[pair.rejected.id])


def both_perfect(pair: Siblings) -> bool:
    """Section 4, rule 2: after either turn both seats are right, so neither is better."""
    for turn in (pair.chosen, pair.rejected):
        found = pair.scores.correct[turn.id]
        if found is None or found.right < 2:
            return False
    return True


def gap_reaches(pair: Siblings, min_gap: float) -> bool:
    """Section 4, rule 3: (hi - lo) / hi >= ``min_gap``; equal scores, two zeros among them, never do."""
    high, low = pair.scores.score[pair.chosen.id], pair.scores.score[pair.rejected.id]
    return high > low and (high - low) / high >= min_gap


def context_of(pair: Siblings) -> Context | None:
    """Section 4, rule 4, ``gp`` and ``par``; None where the speaker or the partner has not spoken so."""
    turns = pair.tree.turns
    assert pair.chosen.parent is not None  # siblings have a parent
    partner = turns[pair.chosen.parent]
    if partner.parent is None:
        return None
    own = turns[partner.parent]
    if not own.seat == pair.chosen.seat == pair.rejected.seat != partner.seat:
        return None
    return Context(own, partner)


def slots_filled(pair: Siblings, context: Context) -> bool:
    """Section 4, rule 4: both seats have an answer, or NONE, at all four turns."""
    correct = pair.scores.correct
    return all(correct[turn.id] is not None for turn in (*context, pair.chosen, pair.rejected))


def code_intended(pair: Siblings, context: Context) -> Code | None:
    """Section 4, rule 4: chosen is right and rejected is not; resist if the speaker was right against a wrong
    partner, accept if the speaker was wrong and the partner right."""
    scores, seat = pair.scores, pair.chosen.seat
    if not scores.right(pair.chosen.id, seat) or scores.right(pair.rejected.id, seat):
        return None
    own = scores.right(context.own.id, seat)
    partner = scores.right(context.partner.id, 1 - seat)
    if own == partner:
        return None
    return "resist" if own else "accept"


def make_pair(found: Siblings, code: Code, split: Split, protocol: Protocol) -> Pair:
    """The dataset line of a candidate that its rule set gave a code."""
    tree, scores, chosen, rejected = found
    context = context_of(found)
    assert context is not None  # a candidate without context has no code
    seat = chosen.seat
    prompt = messages_for(protocol, tree.question, seat, protocol.trained_persona, tree.path(context.partner.id))
    return Pair(
        pair_id=f"{tree.tree_id}/{chosen.id}-{rejected.id}",
        tree_id=tree.tree_id,
        question_id=tree.question_id,
        question=tree.question,
        gold=tree.gold,
        aliases=list(tree.aliases),
        code=code,
        split=split,
        context_turn=context.partner.id,
        chosen_turn=chosen.id,
        rejected_turn=rejected.id,
        score_chosen=scores.score[chosen.id],
        score_rejected=scores.score[rejected.id],
        own_answer=_held(tree, context.own, seat),
        partner_answer=_held(tree, context.partner, 1 - seat),
        chosen_answer=_held(tree, chosen, seat),
        rejected_answer=_held(tree, rejected, seat),
        rule=_RULE[code],
        prompt=prompt,
        chosen=[{"role": "assistant", "content": chosen.text}],
        rejected=[{"role": "assistant", "content": rejected.text}],
    )


def _held(tree: DebateTree, turn: Turn, seat: int) -> str:
    answer = tree.states[turn.id][seat]
    assert answer is not None  # the rule on slots was met
    return answer
