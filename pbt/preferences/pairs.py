"""Pairs: which two siblings of a tree make a preference, of which code, and if none, why (method, section 4).

An unordered pair of siblings is one candidate. A *rule set* judges it: each rule is one small function, and a candidate
falls at the first rule that it does not meet. What comes out is a ``Pair``, the line of the dataset, or a reason.
Rules that both rule sets share stand here, the others in ``pbt.preferences.rules`` and ``pbt.preferences.released``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from pbt.config import Rules
from pbt.debate.chat import Message, messages_for
from pbt.debate.protocol import Protocol as DebateProtocol
from pbt.debate.tree import DebateTree, Turn
from pbt.preferences.score import NO_SYNONYMS, Reading, Scores, Synonyms, score_tree
from pbt.questions import Split

Code = Literal["accept", "resist"]
CODES: tuple[Code, ...] = ("accept", "resist")

SPLITS: tuple[Split, ...] = ("train", "valid", "test")

Stance = Literal["agree", "disagree"]

Reason = Literal[
    "children", "perfect", "gap", "context", "slots", "code", "duplicate", "crossing", "unconfirmed", "unanswered"
]
REASONS: dict[Reason, str] = {
    "children": "unequal numbers of children",
    "perfect": "both perfect",
    "gap": "scores too close",
    "context": "no earlier turn of speaker and partner",
    "slots": "a seat without an answer",
    "code": "neither resisting nor accepting",
    "duplicate": "same texts as an earlier pair",
    "crossing": "question stands in two splits",
    "unconfirmed": "the filter reads the replies otherwise",
    "unanswered": "the filter's model gave no answer",
}
"""Why a candidate is not emitted, in the order in which it is tested."""


class Siblings(NamedTuple):
    """One candidate: two children of one turn."""

    tree: DebateTree
    scores: Scores
    chosen: Turn
    """The one with the higher score; of equals the earlier."""
    rejected: Turn

    @property
    def turns(self) -> tuple[int, int]:
        """The two ids, as their file numbers them, the smaller first."""
        ids = file_ids(self.tree)
        one, other = ids[self.chosen.id], ids[self.rejected.id]
        return (one, other) if one < other else (other, one)


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


class RuleSet(Reading, Protocol):
    """A named rule set: how answers are read, and the two rules in which the sets differ."""

    @property
    def name(self) -> Rules: ...

    def wide(self, high: int, low: int) -> bool:
        """Rule 3: whether two scores are far enough apart."""
        ...

    def code(self, pair: Siblings, context: Context) -> Code | None:
        """Rule 4: what the pair teaches, all slots being filled."""
        ...

    def words(self, code: Code) -> str:
        """The rule behind a code, in words."""
        ...


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
    own_turn: int
    """The speaker's previous turn. Turn ids are those of the file that the tree was read from."""
    context_turn: int
    """The partner's turn that the two reply to."""
    chosen_turn: int
    rejected_turn: int
    score_chosen: int
    score_rejected: int
    own_answer: str
    """What the speaker held after its previous turn; this and those below are answers as the rule set resolves them."""
    partner_before: str
    """What the partner held then."""
    partner_answer: str
    """What the partner held after the context turn."""
    chosen_answer: str
    rejected_answer: str
    copied_turns: list[int]
    """Turns of the context, or of the two, whose answer a model found to be a synonym of the right one."""
    context_persona: str
    chosen_persona: str
    rejected_persona: str
    rules: Rules
    rule: str
    """The rule that made the pair, in words."""
    chosen_stance: Stance | None
    """How the filter's model reads the reply; null without a filter, as are the three below."""
    chosen_log_odds: float | None
    """Log-probability of "agree" less that of "disagree"."""
    rejected_stance: Stance | None
    rejected_log_odds: float | None
    prompt: list[Message]
    """The debate up to the context turn, as the trained seat sees it under the protocol's trained persona."""
    chosen: list[Message]
    rejected: list[Message]

    @property
    def texts(self) -> tuple[str, ...]:
        """What makes two pairs duplicates: code, chosen, rejected and context."""
        return (self.code, *(said["content"] for said in (*self.chosen, *self.rejected, *self.prompt)))


class Judged(NamedTuple):
    """What became of the candidates of one tree."""

    pairs: list[Pair]
    rejections: list[Rejection]


def judge_tree(
    tree: DebateTree, rules: RuleSet, protocol: DebateProtocol, split: Split, synonyms: Synonyms = NO_SYNONYMS
) -> Judged:
    """Score a tree, and judge every pair of siblings."""
    pairs: list[Pair] = []
    rejections: list[Rejection] = []
    for found in siblings(tree, score_tree(tree, rules, synonyms)):
        code, reason = judge(found, rules)
        if code is not None:
            pairs.append(make_pair(found, code, rules, split, protocol))
        elif reason is not None:
            rejections.append(Rejection(tree.tree_id, found.turns, reason))
    return Judged(pairs, rejections)


def file_ids(tree: DebateTree) -> Sequence[int]:
    """Turn ids as the tree's file numbers them, by turn id: imported trees keep those of their source."""
    ids: Sequence[int] = tree.metadata.get("node_idx") or range(len(tree.turns))
    return ids


def siblings(tree: DebateTree, scores: Scores) -> Iterator[Siblings]:
    """Every unordered pair of siblings once: turns in preorder, each with its later siblings."""
    turns, score = tree.turns, scores.score
    for turn in turns:
        if turn.parent is None:
            continue
        beside = tree.children[turn.parent]
        for other_id in beside[beside.index(turn.id) + 1 :]:
            if score[turn.id] >= score[other_id]:
                yield Siblings(tree, scores, turn, turns[other_id])
            else:
                yield Siblings(tree, scores, turns[other_id], turn)


def judge(pair: Siblings, rules: RuleSet) -> Verdict:
    """The rules of section 4 in their order."""
    if not equal_children(pair):
        return Verdict(reason="children")
    if both_perfect(pair):
        return Verdict(reason="perfect")
    if not rules.wide(pair.scores.score[pair.chosen.id], pair.scores.score[pair.rejected.id]):
        return Verdict(reason="gap")
    context = context_of(pair)
    if context is None:
        return Verdict(reason="context")
    if not slots_filled(pair, context):
        return Verdict(reason="slots")
    code = rules.code(pair, context)
    return Verdict(reason="code") if code is None else Verdict(code=code)


def equal_children(pair: Siblings) -> bool:
    """Section 4, rule 1: as many turns were grown below one as below the other."""
    children = pair.tree.children
    return len(children[pair.chosen.id]) == len(children[pair.rejected.id])


def both_perfect(pair: Siblings) -> bool:
    """Section 4, rule 2: after either turn both seats are right, so neither is better."""
    correct = pair.scores.correct
    return correct[pair.chosen.id] == correct[pair.rejected.id] == (True, True)


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
    return None not in [correct[turn.id] for turn in (*context, pair.chosen, pair.rejected)]


def make_pair(found: Siblings, code: Code, rules: RuleSet, split: Split, protocol: DebateProtocol) -> Pair:
    """The dataset line of a candidate that its rule set gave a code."""
    tree, scores, chosen, rejected = found
    context = context_of(found)
    assert context is not None  # a candidate without context has no code
    own, partner = context
    seat = chosen.seat
    path = tree.path(partner.id)
    ids = file_ids(tree)
    return Pair(
        pair_id=f"{tree.tree_id}/{ids[chosen.id]}-{ids[rejected.id]}",
        tree_id=tree.tree_id,
        question_id=tree.question_id,
        question=tree.question,
        gold=tree.gold,
        aliases=list(tree.aliases),
        code=code,
        split=split,
        own_turn=ids[own.id],
        context_turn=ids[partner.id],
        chosen_turn=ids[chosen.id],
        rejected_turn=ids[rejected.id],
        score_chosen=scores.score[chosen.id],
        score_rejected=scores.score[rejected.id],
        own_answer=_held(scores, own, seat),
        partner_before=_held(scores, own, 1 - seat),
        partner_answer=_held(scores, partner, 1 - seat),
        chosen_answer=_held(scores, chosen, seat),
        rejected_answer=_held(scores, rejected, seat),
        copied_turns=[ids[turn.id] for turn in (*path, chosen, rejected) if turn.id in scores.copied],
        context_persona=partner.persona,
        chosen_persona=chosen.persona,
        rejected_persona=rejected.persona,
        rules=rules.name,
        rule=rules.words(code),
        chosen_stance=None,
        chosen_log_odds=None,
        rejected_stance=None,
        rejected_log_odds=None,
        prompt=messages_for(protocol, tree.question, seat, protocol.trained_persona, path),
        chosen=[{"role": "assistant", "content": chosen.text}],
        rejected=[{"role": "assistant", "content": rejected.text}],
    )


def _held(scores: Scores, turn: Turn, seat: int) -> str:
    answer = scores.held[turn.id][seat]
    assert answer is not None  # the rule on slots was met
    return answer
