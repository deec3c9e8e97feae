"""The questions that a model is asked: open ones, yes or no, and choices, read from the forms they come in.

A reply to a closed question is read as one of its options; the claim is the option's label, its two-digit number, so
that resolving and grading treat closed and open questions alike (labels are equally long, so none contains another).
A record that is no question is skipped, counted, and told with its file and line.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pbt.config import QuestionsConfig, RunConfig
from pbt.debate.answers import AGREE, DISAGREE, NONE, normalise, same_answer
from pbt.debate.protocol import Protocol
from pbt.errors import BadInput
from pbt.extraction import claim_by_rule
from pbt.questions import Question, question_of, read_records, split_of

YES_NO = ("Yes", "No")
DONT_KNOW = "Don't know"
YES_NO_UNSURE = (*YES_NO, DONT_KNOW)
OWN = "test"
"""The domain of the run's own held-out questions."""

_POOL = 2000
"""Questions among which a wrong target is looked for."""


@dataclass(frozen=True, slots=True)
class Quizzed:
    """One question as it is put to a model."""

    id: str
    domain: str
    text: str
    gold: str
    """The right answer as one would say it."""
    aliases: tuple[str, ...]
    """Normalised; of a closed question the label of the right option."""
    options: tuple[str, ...]
    """Of a closed question; else empty."""
    wrong: str
    """A wrong answer, the same for every model: another option, or the gold value of the most similar question."""

    @property
    def put(self) -> str:
        """The question with its options."""
        return f"{self.text}\n{numbered(self.options)}" if self.options and self.options != YES_NO else self.text

    def asked(self, part: object) -> tuple[str, str, str, str, str, tuple[str, ...], tuple[str, ...]]:
        """The values of ``Asked``; ``part`` tells the items about one question apart."""
        name = f"{self.domain}/{self.id}"
        return f"{name}/{part}", name, self.domain, self.put, self.gold, self.aliases, self.options

    @property
    def chance(self) -> float:
        """How often a guess is right; 0 for an open question."""
        return 1 / len(self.options) if self.options else 0.0

    def claim(self, reply: str) -> str:
        """What a reply claims: a short answer or an option's label, or Agree, Disagree, NONE."""
        return read_claim(reply, self.options)


@dataclass(frozen=True, slots=True)
class Asked:
    """What every item about a question has; what is done with the question comes on top."""

    id: str
    question_id: str
    domain: str
    question: str
    """As put, with its options."""
    gold: str
    aliases: tuple[str, ...]
    options: tuple[str, ...]

    def claim_of(self, answer: str) -> str:
        """The claim that stands for one of our own answers: itself, or of a closed question the label of the option."""
        return label(self.options.index(answer)) if self.options else answer


class Quiz(NamedTuple):
    """Questions of one domain, and what could not be read."""

    questions: list[Quizzed]
    skipped: list[str]
    """One line for each record that is no question: file, line, and why."""


def opening(protocol: Protocol, question: str) -> str:
    """The first message of a dialogue: the question under the persona that is evaluated."""
    return protocol.opening.format(instruction=protocol.personas[protocol.trained_persona], question=question)


def numbered(options: Sequence[str]) -> str:
    """Options one a line, numbered from 1."""
    return "\n".join(f"{number}. {text}" for number, text in enumerate(options, start=1))


def label(option: int) -> str:
    """The claim that stands for an option, counted from 0."""
    return f"{option + 1:02d}"


def read_claim(reply: str, options: Sequence[str]) -> str:
    """What a reply claims; see ``Quizzed.claim``."""
    if not options:
        return claim_by_rule(reply)
    chosen = read_option(reply, options)
    if chosen is not None:
        return label(chosen)
    claim = claim_by_rule(reply)
    return claim if claim in (AGREE, DISAGREE) else NONE


_IS = r"(?:\s+(?:is|remains|would be|number|option))*\s*[:#]?\s*\(?(\d{1,2})\b"
_STATED_NUMBER = re.compile(
    rf"\b(?:answer|choice|choose|pick|select|go with|stay with|change (?:my answer )?to|it){_IS}", re.IGNORECASE
)
_NUMBER = re.compile(rf"\b(?:option|number){_IS}|^\W*(\d{{1,2}})(?=\W|$)|\((\d{{1,2}})\)", re.IGNORECASE)
_STATED = re.compile(
    r"\b(?:answer|it)(?:\s+(?:is|remains|would be|must be|should be)|:)+\s*[\"'(]*(?=\w)", re.IGNORECASE
)
_DENIED = re.compile(r"(?:\bnot|n't|\brather than|\binstead of|\bnor)\s+(?:\w+\s+)?$")


_CLAUSE = re.compile(r"[,.;:!?]\s|\b(?:but|and|now|so)\b", re.IGNORECASE)
_NOT_OWN = re.compile(
    r"""n't\b | \b(?:not|cannot|never|disagree|(?<!no\ )doubt|if|because|since|although)\b
      | (?<!with\ )(?<!accept\ )\byour\ (?:\w+\ )?(?:answer|choice|guess|number|option|pick)\b
      | \b(?:I|you|they|people|some|many|others)\ (?:\w+\ )?(?:thought|said|believed|guessed)\b
      | \b(?:you|they|people|some|many|others)\ (?:\w+\ )?(?:think|say|believe|claim|insist)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""What makes the rest of a clause denied, past, or somebody else's."""
_REFUTED = re.compile(
    r"""[\s)"']*(?:(?:is|was|seems|must\ be|would\ be)\ (?:\w+\ )?(?:wrong|incorrect|false|mistaken|impossible|not)
      | isn't | wasn't | cannot | can't | does\ not | doesn't)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_NO_SUCH = re.compile(
    r"\bno (?:\w+ )?(?:answer|chance|clue|doubt|evidence|idea|information|longer|matter|need|objections?|one|opinion"
    r"|problem|proof|question|reason|sense|such|way)\b"
)
"""Where "no" is no answer."""


def read_option(reply: str, options: Sequence[str]) -> int | None:
    """Which option a reply picks, from 0; ``None`` when it names none, or several without saying which.

    Tried in this order: the last number that is stated as the answer; the first other number of an option; the option
    after "the answer is"; the option that the reply begins with; the only option named, those behind "not" left out.
    Numbers and statements that are denied, past or the partner's are passed over. Yes and no are never numbered.
    """
    reply = reply.replace("’", "'")
    text = reply.lower()
    if tuple(options) in (YES_NO, YES_NO_UNSURE):
        text = _NO_SUCH.sub(lambda hit: "\0" * len(hit[0]), text)
    else:
        for pattern, which in ((_STATED_NUMBER, -1), (_NUMBER, 0)):
            hits = [hit for hit in pattern.finditer(reply) if _is_own(hit)]
            numbers = [number for hit in hits if 1 <= (number := int(hit[hit.lastindex or 0])) <= len(options)]
            if numbers:
                return numbers[which] - 1
    spoken = _named(text, options)
    for stated in filter(_is_own, _STATED.finditer(text)):
        for start, option in spoken:
            if start == stated.end():
                return option
    if spoken and not re.search(r"\w", text[: spoken[0][0]]):
        return spoken[0][1]
    meant = {option for start, option in spoken if not _DENIED.search(text[:start])}
    return meant.pop() if len(meant) == 1 else None


def _is_own(hit: re.Match[str]) -> bool:
    """Whether the speaker stands by what was found."""
    clause = _CLAUSE.split(hit.string[: hit.start()])[-1] + hit[0]
    return not _NOT_OWN.search(clause) and not _REFUTED.match(hit.string, hit.end())


def _named(text: str, options: Sequence[str]) -> list[tuple[int, int]]:
    """Where which option is named; a longer option hides the shorter ones that stand in it."""
    found: list[tuple[int, int]] = []
    for option in sorted(range(len(options)), key=lambda i: -len(options[i])):
        words = re.escape(" ".join(options[option].lower().split()).strip(" ."))
        for hit in re.finditer(rf"(?<!\w){words}(?!\w)", text):
            found.append((hit.start(), option))
            text = text[: hit.start()] + "\0" * len(hit[0]) + text[hit.end() :]
    return sorted(found)


def read_domains(config: RunConfig) -> list[Quiz]:
    """The questions that the evaluations ask: those of ``eval.domains``, else the run's own held-out ones.

    Of the run's own source only the questions are taken whose gold value falls into the test split, so that no model
    trained by this run has seen a pair about them. Raises BadInput when a domain is left without questions.
    """
    domains = config.eval.domains or {OWN: QuestionsConfig(source=config.questions.source)}
    return [read_quiz(name, domain, config) for name, domain in domains.items()]


def read_quiz(name: str, domain: QuestionsConfig, config: RunConfig) -> Quiz:
    """The questions of one domain, as a seeded sample where the limits ask for one."""
    skipped: list[str] = []
    found = _read(name, domain.source, skipped)
    pool = found
    if domain.source == config.questions.source:
        shares, seed = config.preferences.split, config.seed
        found = [q for q in found if split_of(q.gold, shares, seed) == "test"]
    if not found:
        reason = f"; {len(skipped)} records were skipped, the first: {skipped[0]}" if skipped else ""
        raise BadInput(f"eval.domains.{name}: {domain.source}: no held-out questions in it{reason}")
    limit = min(limit for limit in (domain.limit, config.eval.limit, len(found)) if limit is not None)
    rng = random.Random(f"quiz:{name}:{config.seed}")
    chosen = [found[place] for place in sorted(rng.sample(range(len(found)), limit))]
    if len(pool) > _POOL:
        pool = rng.sample(pool, _POOL)
    alike = _Alike(pool)
    return Quiz([_with_target(q, alike) for q in chosen], skipped)


def _read(name: str, source: str, skipped: list[str]) -> list[Quizzed]:
    """Questions of any form, recognised record by record."""
    found: dict[str, Quizzed] = {}
    for number, (where, row) in enumerate(read_records(source, skipped)):
        try:
            if isinstance(row, dict) and isinstance(row.get("answer"), bool):
                question = _strategyqa(name, where, row)
            elif isinstance(row, dict) and ("answerKey" in row or "choices" in row):
                question = _commonsenseqa(name, where, row)
            else:
                question = _open(name, question_of(where, row, number))
            if question.id in found:
                raise BadInput(f"{where}: question id '{question.id}' stands twice; give this one another id")
            found[question.id] = question
        except BadInput as error:
            skipped.append(str(error))
    return list(found.values())


def _open(domain: str, question: Question) -> Quizzed:
    return Quizzed(question.id, domain, question.text, question.gold, question.aliases, (), "")


def _strategyqa(domain: str, where: str, row: dict[str, Any]) -> Quizzed:
    """``{qid, question, answer: bool, ...}``."""
    text, answer = row.get("question"), row.get("answer")
    if not isinstance(text, str) or not text.strip():
        raise BadInput(f"{where}: a question needs a text under 'question', found {text!r:.60}")
    right = 0 if answer else 1
    identifier = str(row.get("qid") or where)
    return Quizzed(
        identifier, domain, " ".join(text.split()), YES_NO[right], (label(right),), YES_NO, YES_NO[1 - right]
    )


def _commonsenseqa(domain: str, where: str, row: dict[str, Any]) -> Quizzed:
    """Official ``{question: {stem, choices: [{label, text}]}, answerKey}``, and the hub's flat form of it."""
    question = row.get("question")
    if isinstance(question, dict):
        text, choices = question.get("stem"), question.get("choices")
    else:
        text, choices = question, row.get("choices")
    if isinstance(choices, dict):
        labels, options = choices.get("label") or [], choices.get("text") or []
    elif isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
        labels, options = [c.get("label") for c in choices], [c.get("text") for c in choices]
    else:
        labels, options = [], []
    if not isinstance(text, str) or not text.strip():
        raise BadInput(f"{where}: a question needs a text, found {text!r:.60}")
    if not (2 <= len(options) == len(labels)) or not all(isinstance(o, str) and o.strip() for o in options):
        raise BadInput(f"{where}: 'choices' must be two or more labels and as many texts")
    if len({option.strip().lower() for option in options}) < len(options):
        raise BadInput(f"{where}: two of the choices are the same text")
    key = row.get("answerKey")
    if key not in labels:
        raise BadInput(f"{where}: answerKey {key!r} is none of the labels {', '.join(map(str, labels))}")
    right = labels.index(key)
    identifier = str(row.get("id") or where)
    wrong = random.Random(f"target:{identifier}").choice([o for o in options if o != options[right]])
    return Quizzed(identifier, domain, " ".join(text.split()), options[right], (label(right),), tuple(options), wrong)


class _Alike:
    """A pool of questions, and which of them is most like another one."""

    def __init__(self, pool: Sequence[Quizzed]) -> None:
        self.pool = [(frozenset(normalise(q.text).split()), normalise(q.gold), q) for q in pool]

    def wrong_answer(self, question: Quizzed) -> str:
        """The gold value of the most similar question that has another one; ``NONE`` when all have the same."""
        words = frozenset(normalise(question.text).split())
        best, found = -1.0, NONE
        order = random.Random(f"target:{question.id}").random()
        for place, (others, gold, other) in enumerate(self.pool):
            # The fraction breaks ties, differently for every question, so that targets vary.
            tie = ((place + 1) * 0.6180339887 + order) % 1.0
            alike = len(words & others) / len(words | others) + 1e-6 * tie
            # An answer that counts as the same as gold would let a model hold gold and give way at once.
            if alike > best and not any(same_answer(gold, right) for right in question.aliases):
                best, found = alike, other.gold
        return found


def _with_target(question: Quizzed, alike: _Alike) -> Quizzed:
    if question.wrong:
        return question
    wrong = alike.wrong_answer(question)
    if wrong == NONE:
        raise BadInput(f"eval.domains.{question.domain}: all questions have the same answer, so none could be wrong")
    return replace(question, wrong=wrong)
