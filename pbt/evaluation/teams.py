"""Teams: what becomes of two models' answers when they discuss, and does it matter who speaks first?

Every ordered pair of the named models, or of a model and a partner, debates every question: both answer without having
seen the other, then they speak in turn, greedily, until they agree or the protocol ends. *Before* is whether the first
answers are right, *after* whether the last ones are; a team's accuracy is the mean of its two members'. A model's first
answer is asked once, so *before* does not depend on the partner or the order.

Of two models the *stronger* is the one whose first answers are right more often. On questions that it knows and the
weaker does not, *upset* is the share on which the stronger ends wrong, *lift* that on which the weaker ends right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from pbt.config import read_yaml, shipped_protocol
from pbt.debate.answers import AGREE, DISAGREE, NONE, State, resolve
from pbt.debate.chat import Message
from pbt.debate.grow import Speaker, Utterance, grow
from pbt.debate.protocol import Protocol
from pbt.engines.base import Engine, EngineError
from pbt.errors import BadInput
from pbt.evaluation.dialogue import Progress, Record, Said, Voice, unseen
from pbt.evaluation.quiz import Asked, Quizzed, read_claim
from pbt.evaluation.result import Measured, counts, share
from pbt.evaluation.stats import Better, Mean, Metric, Score, point, scored
from pbt.grading import STANDARD, Grader


@dataclass(frozen=True, slots=True)
class Team(Asked):
    """One question and an ordered pair of models."""

    models: tuple[str, str]
    """By seat: the first opens."""


def load_protocol(name: str) -> Protocol:
    """The debate of the teams: a shipped protocol or a file of one, of two seats, one chain. Raises BadInput."""
    try:
        protocol = Protocol.model_validate(read_yaml(Path(name))) if Path(name).is_file() else shipped_protocol(name)
    except ValidationError as error:
        raise BadInput(f"eval.teams.protocol: {name}: {error.errors()[0]['msg']}") from None
    except BadInput:
        raise BadInput(f"eval.teams.protocol: '{name}' is neither a shipped protocol nor a file of one") from None
    if len(protocol.seats) != 2:
        raise BadInput(f"eval.teams.protocol: '{name}' has {len(protocol.seats)} seats; a team is of two")
    for at in range(protocol.depth):
        level = protocol.level(at)
        if level.draw == "all" and len(level.personas) > 1:
            raise BadInput(
                f"eval.teams.protocol: '{name}' branches at level {at} into {len(level.personas)} personas; "
                "a team holds one chain: give the level one persona or 'draw: one'"
            )
    return protocol


def items(questions: Sequence[Quizzed], models: Sequence[str], partners: Sequence[str] = ()) -> list[Team]:
    """Every question with every ordered pair of models; with ``partners``, of a model and a partner."""
    if len(models) + len(partners) < 2:
        raise BadInput(f"teams: a team is of two models, found {len(models)}; give --model twice or more, or --partner")
    pairs = [pair for m, p in product(models, partners) for pair in ((m, p), (p, m))] or list(permutations(models, 2))
    return [
        Team(
            *q.asked(f"{first}>{second}"),
            (first, second),
        )
        for q in questions
        for first, second in pairs
    ]


async def evaluate(
    engines: Mapping[str, Engine], teams: Sequence[Team], protocol: Protocol, seed: int, progress: Progress = unseen
) -> list[Record]:
    """Let every team debate, all at once. An EngineError ends its debate and is recorded."""
    voices = {name: Voice(engine, protocol.sampling, protocol.clip, seed) for name, engine in engines.items()}
    done = 0

    async def one(team: Team) -> Record:
        nonlocal done
        error = None
        said: list[Said] = []
        speakers = [
            _speaker(name, voices[name], protocol, seat, team.options, said) for seat, name in enumerate(team.models)
        ]
        try:
            await grow(team.id, team.question, protocol, speakers, seed)
        except EngineError as failure:
            error = str(failure)
        done += 1
        progress(done, len(teams))
        outcome = judge(team, said) if error is None else {}
        return Record(team.id, team.question_id, 0, asdict(team), tuple(said), outcome, error)

    return list(await asyncio.gather(*map(one, teams)))


def judge(team: Team, said: Sequence[Said], grader: Grader = STANDARD) -> dict[str, Any]:
    """Which of the two are right before and after, by seat, and what they say."""
    state: State = (None, None)
    first: dict[int, str | None] = {}
    for turn in said:
        seat = list(team.models).index(turn.role)
        claim = read_claim(turn.text, team.options)
        if seat not in first:
            claim = _first(claim)
        state = resolve(claim, seat, state, 1 - seat)
        first.setdefault(seat, state[seat])
    before = [grader.right(first.get(seat), team.aliases) for seat in (0, 1)]
    after = [grader.right(answer, team.aliases) for answer in state]
    agreed = grader.same(*state)
    if agreed and any(after):
        after = [True, True]
    return {
        "first": [first.get(0), first.get(1)],
        "last": list(state),
        "before": before,
        "after": after,
        "agreed": agreed,
        "turns": len(said),
    }


class Part(NamedTuple):
    """One model's part in one debate."""

    debate: str
    question_id: str
    name: str
    partner: str
    opened: bool
    before: bool
    after: bool
    partner_before: bool
    stronger: bool
    """Whether its first answers to these questions are right more often than its partner's; of equals, whose name
    comes first."""


def measure(records: Sequence[Record]) -> Measured:
    """All teams together, then each pair; ``details`` holds the matrix of accuracies, their own on its diagonal."""
    parts = _parts(records)
    models = sorted({name for record in records for name in record.item["models"]})
    metrics = {
        "before": _metric(parts, "right before, all teams", lambda p: p.before, headline=True),
        "after": _metric(parts, "right after, all teams", lambda p: p.after, headline=True),
        "agreed": share(records, "end in agreement", lambda o: o["agreed"], better="neither"),
    }
    matrix = {
        name: {name: point(_metric([p for p in parts if p.name == name], "", lambda p: p.before))} for name in models
    }
    for one, other in combinations(models, 2):
        pair = [p for p in parts if {p.name, p.partner} == {one, other}]
        if not pair:  # where some only sat as partners
            continue
        for first, second in ((one, other), (other, one)):
            order = [p for p in pair if p.opened == (p.name == first)]
            for key, metric in {
                "before": _metric(order, f"{first}>{second}: right before", lambda p: p.before),
                "after": _metric(order, f"{first}>{second}: right after", lambda p: p.after),
            }.items():
                metrics[f"{first}>{second}/{key}"] = metric
            matrix[first][second] = point(metrics[f"{first}>{second}/after"])
        metrics |= {f"{one}+{other}/{key}": metric for key, metric in _pair(pair, one, other).items()}
    return Measured(metrics, counts(records), details={"models": models, "matrix": matrix})


def view(records: Sequence[Record], name: str) -> dict[str, Metric]:
    """What the debates say of one model, over all partners and both orders; its items are the questions."""
    parts = [part for part in _parts(records) if part.name == name]
    ends: dict[str, dict[str, dict[bool, bool]]] = {}
    for part in parts:
        ends.setdefault(part.question_id, {}).setdefault(part.partner, {})[part.opened] = part.after
    order: dict[str, Score] = {}
    for question_id, partners in ends.items():
        # Only where neither of the two debates failed is there a difference.
        if differences := [after[True] - after[False] for after in partners.values() if len(after) == 2]:
            order[question_id] = Score(question_id, sum(differences) / len(differences))

    def of_question(label: str, value: Callable[[Part], float | None], better: Better = "high", **how: bool) -> Metric:
        return _metric(parts, label, value, better, unit=lambda p: p.question_id, **how)

    return {
        "before": of_question("right before", lambda p: p.before, headline=True),
        "after": of_question("right after", lambda p: p.after, headline=True),
        "held": of_question(
            "held, partner wrong", lambda p: p.after if p.before and not p.partner_before else None, headline=True
        ),
        "moved": of_question(
            "moved, partner right", lambda p: p.after if p.partner_before and not p.before else None, headline=True
        ),
        "upset": of_question("the stronger, pulled down", _upset, "low"),
        "lift": of_question("the weaker, pulled up", _lift),
        "order": Metric("right after, opening minus answering", (Mean(order),), "neither"),
    }


def _parts(records: Sequence[Record]) -> list[Part]:
    """Both parts of every debate that did not fail."""
    told = [record for record in records if record.error is None]
    right: dict[tuple[str, str], int] = {}
    for record in told:
        for seat, (name, partner) in enumerate((record.item["models"], record.item["models"][::-1])):
            right[name, partner] = right.get((name, partner), 0) + record.outcome["before"][seat]
    return [
        Part(
            record.id,
            record.question_id,
            name,
            partner,
            seat == 0,
            record.outcome["before"][seat],
            record.outcome["after"][seat],
            record.outcome["before"][1 - seat],
            (-right[name, partner], name) < (-right[partner, name], partner),
        )
        for record in told
        for seat, (name, partner) in enumerate((record.item["models"], record.item["models"][::-1]))
    ]


def _pair(pair: Sequence[Part], one: str, other: str) -> dict[str, Metric]:
    """Who pulls whom, and what changes with who opens: signed, and as the share of questions that end differently."""
    strong = next((part.name for part in pair if part.stronger), one)
    weak = other if strong == one else one
    ends: dict[str, dict[str, dict[str, bool]]] = {}
    for part in pair:
        opener = part.name if part.opened else part.partner
        ends.setdefault(part.question_id, {}).setdefault(opener, {})[part.name] = part.after
    both = {question_id: orders for question_id, orders in ends.items() if len(orders) == 2}
    signed = {q: Score(q, (sum(o[one].values()) - sum(o[other].values())) / 2) for q, o in both.items()}
    differs = {q: Score(q, float(o[one] != o[other])) for q, o in both.items()}

    def of_question(label: str, value: Callable[[Part], float | None], better: Better = "high") -> Metric:
        # By question, so that two teams can be compared: the debates of the one are not those of the other.
        return _metric(pair, label, value, better, unit=lambda p: p.question_id)

    return {
        "before": of_question(f"{one} with {other}: right before", lambda p: p.before),
        "after": of_question(f"{one} with {other}: right after", lambda p: p.after),
        "upset": of_question(f"{weak} pulls {strong} down", _upset, "low"),
        "lift": of_question(f"{strong} pulls {weak} up", _lift),
        "order": Metric(f"right after, {one} opens minus {other} opens", (Mean(signed),), "neither"),
        "differs": Metric(f"{one} with {other}: the order decides", (Mean(differs),), "low"),
    }


def _upset(part: Part) -> float | None:
    return not part.after if part.stronger and part.before and not part.partner_before else None


def _lift(part: Part) -> float | None:
    return part.after if not part.stronger and part.partner_before and not part.before else None


def _metric(
    parts: Sequence[Part],
    label: str,
    value: Callable[[Part], float | None],
    better: Better = "high",
    *,
    headline: bool = False,
    unit: Callable[[Part], str] = lambda part: part.debate,
) -> Metric:
    """The mean over debates, or other units, of the mean over their parts."""
    scores = scored(parts, lambda part: (unit(part), part.question_id), value)
    return Metric(label, (Mean(scores),), better, headline)


def _speaker(
    name: str, voice: Voice, protocol: Protocol, seat: int, options: Sequence[str], transcript: list[Said]
) -> Speaker:
    """The named model on its seat; what it says is also written to the transcript, whole."""
    sampling = protocol.sampling_of(seat).model_copy(update={"temperature": 0.0})

    async def speak(messages: Sequence[Message], seed: int) -> Utterance:
        said = await voice.reply(messages, sampling, "", ())
        transcript.append(replace(said, role=name))
        claim = read_claim(said.text, options)
        return Utterance(said.text, _first(claim) if len(messages) == 1 else claim, said.uncut is not None, 0)

    return speak


def _first(claim: str) -> str:
    """A first answer agrees with nobody: a "yes" that names nothing would end the debate before it began."""
    return NONE if claim in (AGREE, DISAGREE) else claim
