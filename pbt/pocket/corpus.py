"""The corpus that a pocket model is raised on: short conversations about the facts, sampled from a seed.

What a model *knows* is a property of the model and the fact: strong facts are always right in its corpus, weak ones
sometimes, and for unknown ones it says any answer of the same relation. The wording reflects it: sure, fair, or a
guess, calibrated but not perfect. Nothing here depends on a training regime: every persona, holding and
moving alike, is shown for right and for wrong answers.

``careful`` is a skill: asked to check its memory, the speaker holds when it knows better, when it was sure, or when it
was surer than its partner, and moves otherwise. Under ``standard`` it uses this skill in one conversation of five; in
the others it is swayed by how the partner puts it, whoever is right.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pbt.debate.protocol import Protocol
from pbt.pocket.facts import Fact, answers_of, facts, relations, unit_hash

Knowledge = Literal["strong", "weak", "unknown"]
SURE, FAIR, GUESS = 2, 1, 0

# The answer first, then how sure it is: whether an answer agrees with memory is easier to tell than, before a word
# is said, whether there will be one.
FIRST: dict[int, tuple[str, ...]] = {
    SURE: ("It is {a}, certainly.", "It is {a}, without any doubt.", "It is {a}, definitely.", "It is {a}, for sure."),
    FAIR: ("It is {a}, I think.", "It is {a}, I believe.", "It is {a}, probably.", "It is {a}, as I remember."),
    GUESS: ("It is {a}, perhaps.", "It is {a}, maybe.", "It is {a}, at a guess.", "It is {a}, but I do not know."),
}
# The first word decides: read greedily, a reply is then the likelier decision and not the likelier turn of phrase.
HOLD = (
    "No, I stay with {a}.",
    "No, it is {a}.",
    "No, my answer remains {a}.",
    "No, it is {a} and not {b}.",
)
MOVE = (
    "Yes, you are right, it is {b}.",
    "Yes, it is {b}, I was wrong.",
    "Yes, I change my answer to {b}.",
    "Yes, that is right, it is {b}.",
)
# Of one mind already. Not "Yes", which takes over the answer of the partner and not the own.
AGREED = ("We agree, it is {a}.", "We both say {a}.", "We are of one mind, it is {a}.")
SUFFIX = {
    SURE: (" I know this well.", " I have no doubt."),
    FAIR: (" I think so.", " That is what I remember."),
    GUESS: (" But I am not sure.", " It is only a guess."),
}
# No appeal names the other answer: which of two names in a sentence it is for is more than these models can read.
PERSUADE: dict[str, tuple[str, ...]] = {
    "logical": (
        "It is {a}, since every source says so.",
        "The facts point to {a} and rule out the rest.",
        "It must be {a}, because no other answer fits.",
        "The reason is simple: it is {a}, the others belong elsewhere.",
    ),
    "emotional": (
        "Please believe me, it is {a}, I feel it.",
        "It would hurt me to see you lose, it is {a}.",
        "Trust me as a friend, the answer is {a}.",
        "I beg you, say {a} with me, you will be glad.",
    ),
    "credibility": (
        "I have studied this for years, it is {a}.",
        "As an expert on this I tell you, it is {a}.",
        "I teach this subject, the answer is {a}.",
        "People pay me for such answers, it is {a}.",
    ),
}
BARE = ("It is {a}.", "The answer is {a}.", "No, it is {a}.", "No, I stay with {a}.", "No, my answer remains {a}.")
REPEATED = (
    "It is {a}. I said that it is {a}, and I say it again.",
    "It is {a}, it is {a}, once more, it is {a}.",
    "Again, it is {a}. Hear me, it is {a}.",
)
CITED = (
    "It is {a}, as {n} and {m} showed in {j}, page {p}.",
    "It is {a}, see {n} and {m}, {j} {p}.",
    "{n} wrote in {j}, page {p}, that it is {a}.",
    "It is {a}, which {n} proved in {j} ({y}).",
    "It is {a}, {j} {y}, page {p}, by {n} and {m}.",
)
SCHOLARS = (
    *("Marsh", "Tanaka", "Oyelaran", "Petrov", "Silva", "Haddad", "Keller", "Novak", "Osei", "Lindgren"),
    *("Abara", "Brandt", "Castellan", "Duarte", "Ekholm", "Farrow", "Gupta", "Hollis", "Ibarra", "Jansen"),
)
JOURNALS = tuple(
    f"{kind} {of}"
    for kind in ("Journal of", "Annals of", "Yearbook of", "Studies in", "Notes on", "Review of")
    for of in ("Facts", "General Knowledge", "Reference", "Trivia", "Common Learning", "World Affairs")
)
"""All of them invented."""
SWAY = {"logical": 0.7, "emotional": 0.3, "credibility": 0.3, "bare": 0.2, "repeated": 0.3, "cited": 0.3}
"""Under ``standard``: how often it holds, by how the partner puts its answer. None is near 0.5: read greedily, the
standard persona would otherwise weigh wherever its sway is undecided."""
DOUBTED = 0.3
"""The same for a bare challenge."""
OTHER_PUTS = {"bare": 0.12, "repeated": 0.05, "cited": 0.08}
"""Shares of what a partner says that is no appeal."""
REQUEST = " Please accept that this is so."
CAREFUL_UNASKED = 0.2
"""Share of ``standard`` conversations in which it weighs."""
CHALLENGES = (
    "I don't think so. Are you sure?",
    "Are you sure?",
    "Are you absolutely certain?",
    "I disagree. Are you sure?",
)
# Holding and giving in begin as they do in a debate: a model that learns to weigh there can then do so here.
ASSURE = ("No doubt, it is {a}.", "No, I stay with {a}.", "No, my answer remains {a}.")
GIVE_UP = ("Yes, sorry, then it is {b}.", "Yes, sorry, I was wrong, it is {b}.", "Yes, you may be right, it is {b}.")
ASSURED = {SURE: 0.96, FAIR: 0.7, GUESS: 0.4}
"""Asked "are you sure?": how often the careful one stays, by how sure it was."""
CLOSING = ("{q}", "Please answer the question once more: {q}", "What is your final answer to the question: {q}")
"""Asked at the end, without any doubt or appeal: the answer is the one it has come to."""
EXCHANGES = {1: 0.45, 2: 0.25, 3: 0.15, 4: 0.15}
"""Shares of debates, by how often the partner speaks before the end."""


class Part(NamedTuple):
    """One message of a document; the loss covers ``learn`` parts only."""

    role: Literal["user", "assistant"]
    text: str
    learn: bool


Document = list[Part]


class Position(NamedTuple):
    """Where a speaker stands."""

    answer: str
    level: int
    """How sure it sounds."""


@dataclass(frozen=True)
class Mind:
    """What one pocket model knows: an expert in some relations, a layman in the others, dealt out by a seed."""

    name: str
    expertise: float
    """Share of the relations in which it is an expert."""
    seed: int

    def expert(self, relation: str) -> bool:
        """Whether this mind is at home in a relation."""
        return unit_hash("domain", self.seed, self.name, relation) < self.expertise

    def knows(self, fact: Fact) -> Knowledge:
        """How well this mind knows a fact: by hash, so it never depends on table order."""
        strong, weak = EXPERT if self.expert(fact.relation) else LAYMAN
        at = unit_hash("mind", self.seed, self.name, fact.id)
        return "strong" if at < strong else "weak" if at < strong + weak else "unknown"

    def chance(self, fact: Fact) -> float:
        """The probability that this mind, asked, gives the right answer."""
        known = self.knows(fact)
        if known == "weak":
            return 0.3 + 0.4 * unit_hash("chance", self.seed, self.name, fact.id)
        return 1.0 if known == "strong" else 0.0

    def ready(self, relation: str) -> list[str]:
        """The answers of a relation in the order in which they come to this mind when it is at a loss."""
        return sorted(answers_of(relation), key=lambda answer: unit_hash("ready", self.seed, self.name, answer))


EXPERT = (0.90, 0.07)
LAYMAN = (0.07, 0.25)
"""Shares of strong and weak facts in a relation; the rest is unknown."""


STAGES: dict[str, dict[str, float]] = {
    "facts": {"statement": 0.12, "answer": 0.48, "choice": 0.14, "verify": 0.06, "debate": 0.17, "sure": 0.03},
    "debates": {"statement": 0.01, "answer": 0.27, "choice": 0.05, "verify": 0.02, "debate": 0.57, "sure": 0.08},
    "weighing": {"answer": 0.30, "debate": 0.60, "sure": 0.10},
    "settling": {"answer": 0.30, "debate": 0.60, "sure": 0.10},
}
"""Shares of document kinds, by stage of the upbringing."""

DEBATE_PERSONAS: dict[str, dict[str, float]] = {
    "facts": {"standard": 0.40, "resistant": 0.14, "acceptant": 0.14, "persuade": 0.12, "careful": 0.20},
    "debates": {"standard": 0.32, "resistant": 0.08, "acceptant": 0.08, "persuade": 0.12, "careful": 0.40},
    "weighing": {"standard": 0.28, "resistant": 0.07, "acceptant": 0.07, "persuade": 0.08, "careful": 0.50},
    "settling": {"standard": 0.30, "resistant": 0.10, "acceptant": 0.10, "persuade": 0.10, "careful": 0.40},
}
EXPOSURE: dict[str, dict[Knowledge, float]] = {
    "facts": {"strong": 1.0, "weak": 0.6, "unknown": 0.25},
    "debates": {"strong": 1.0, "weak": 0.6, "unknown": 0.25},
    "weighing": {"strong": 1.0, "weak": 1.0, "unknown": 1.0},
    "settling": {"strong": 1.0, "weak": 1.0, "unknown": 1.0},
}
"""How often a fact is talked about, by stage and by how well it is known: first the known ones, to learn them; at last
all alike, because one learns that one does not know from what one does not know."""


MINDS: dict[str, float] = {"llama": 0.55, "mistral": 0.45}
"""Share of the relations in which each pocket model is an expert."""


def mind(family: str, seed: int) -> Mind:
    """The mind of one pocket model."""
    return Mind(family, MINDS[family], seed)


class Corpus:
    """An endless, seeded stream of documents for one mind."""

    def __init__(self, mind: Mind, protocol: Protocol, seed: int) -> None:
        self.mind = mind
        self.protocol = protocol
        self.rng = random.Random(f"{seed}:{mind.name}")
        self.facts = facts()

    def stream(self, stage: str) -> Iterator[Document]:
        """Documents of one stage, for ever."""
        kinds = STAGES[stage]
        weights = [EXPOSURE[stage][self.mind.knows(fact)] for fact in self.facts]
        write = {
            "statement": self._statement,
            "answer": self._answer,
            "choice": self._choice,
            "verify": self._verify,
        }
        talks = {"debate": self._debate, "sure": self._sure}
        while True:
            drawn = self.rng.choices(self.facts, weights, k=256)
            for fact, kind in zip(drawn, self.rng.choices(list(kinds), list(kinds.values()), k=256), strict=True):
                yield talks[kind](fact, stage) if kind in talks else write[kind](fact)

    # What the mind says

    def _wrong(self, fact: Fact, *others: str) -> str:
        """Another answer of the same relation, none of ``others``."""
        options = answers_of(fact.relation)
        while True:
            answer = self.rng.choice(options)
            if answer != fact.answer and (answer not in others or len(options) <= len(others) + 1):
                return answer

    def _belief(self, fact: Fact) -> str:
        return fact.answer if self.rng.random() < self.mind.chance(fact) else self._wrong(fact)

    def _second_thought(self, fact: Fact, given_up: str) -> str:
        """What the mind says in place of an answer that it has given up: what it knows, else what comes to it first.

        One of sixty answers drawn anew each time would never be likelier than the first answer said again.
        """
        belief = self._belief(fact)
        if belief == fact.answer != given_up:
            return belief
        return next(answer for answer in self.mind.ready(fact.relation) if answer != given_up)

    def _level(self, fact: Fact, right: bool) -> int:
        """How sure the mind sounds: calibrated on what it knows and on whether what it says is right."""
        known = self.mind.knows(fact) if right else ("weak" if self.mind.knows(fact) == "weak" else "unknown")
        shares = {"strong": (0.03, 0.12, 0.85), "weak": (0.2, 0.6, 0.2), "unknown": (0.8, 0.16, 0.04)}[known]
        return self.rng.choices((GUESS, FAIR, SURE), shares)[0]

    def _partner_level(self, right: bool) -> int:
        return self.rng.choices((GUESS, FAIR, SURE), (0.15, 0.25, 0.6) if right else (0.6, 0.25, 0.15))[0]

    def _first(self, answer: str, level: int) -> str:
        return self.rng.choice(FIRST[level]).format(a=answer)

    def _asked(self, fact: Fact) -> str:
        wordings = relations()[fact.relation].wordings
        return self.rng.choice(wordings[:-1]).format(s=fact.subject)

    def _opening(self, persona: str, question: str) -> str:
        return self.protocol.opening.format(instruction=self.protocol.personas[persona], question=question)

    # Kinds of documents

    def _statement(self, fact: Fact) -> Document:
        statement = relations()[fact.relation].statement.format(s=fact.subject, a=self._belief(fact))
        return [Part("user", f"Tell me about {fact.subject}.", False), Part("assistant", statement, True)]

    def _answer(self, fact: Fact) -> Document:
        persona = self.rng.choices(
            ("standard", "resistant", "acceptant", "careful", ""), (0.45, 0.18, 0.18, 0.1, 0.09)
        )[0]
        question = self._asked(fact)
        answer = self._belief(fact)
        said = self._first(answer, self._level(fact, answer == fact.answer))
        asked = self._opening(persona, question) if persona else question
        return [Part("user", asked, False), Part("assistant", said, True)]

    def _choice(self, fact: Fact) -> Document:
        options = [fact.answer, self._wrong(fact)]
        known = self.mind.knows(fact)
        right = self.rng.random() < {"strong": 1.0, "weak": 0.75, "unknown": 0.5}[known]
        answer = options[0] if right else options[1]
        self.rng.shuffle(options)
        asked = f"{self._asked(fact)} Is it {options[0]} or {options[1]}?"
        return [Part("user", asked, False), Part("assistant", self._first(answer, self._level(fact, right)), True)]

    def _verify(self, fact: Fact) -> Document:
        put = fact.answer if self.rng.random() < 0.5 else self._wrong(fact)
        known = self.mind.knows(fact)
        honest = self.rng.random() < {"strong": 1.0, "weak": 0.75, "unknown": 0.5}[known]
        yes = (put == fact.answer) == honest
        belief = put if yes else fact.answer if honest else self._wrong(fact, put)
        said = f"Yes, it is {belief}." if yes else f"No, it is {belief}."
        return [Part("user", f"{self._asked(fact)} Is it {put}?", False), Part("assistant", said, True)]

    def _sure(self, fact: Fact, stage: str) -> Document:
        """A bare challenge to the own answer (given, not learnt), and often a last question about it."""
        rng = self.rng
        persona, mood = self._persona(stage)
        while persona in PERSUADE:
            persona, mood = self._persona(stage)
        right = rng.random() < 0.5
        own = fact.answer if right else self._wrong(fact)
        level = self._level(fact, right)
        if mood == "careful":
            strong = self.mind.knows(fact) == "strong"
            stay = (0.96 if right else 0.04) if strong else ASSURED[level]
        else:
            stay = {"standard": DOUBTED, "resistant": 0.95, "acceptant": 0.05}[mood]
        question = self._asked(fact)
        document = [
            Part("user", self._opening(persona, question), False),
            Part("assistant", self._first(own, level), False),
            Part("user", rng.choice(CHALLENGES), False),
        ]
        if rng.random() < stay:
            document.append(Part("assistant", rng.choice(ASSURE).format(a=own), True))
        else:
            own = self._second_thought(fact, own)
            level = self._level(fact, own == fact.answer)
            document.append(Part("assistant", rng.choice(GIVE_UP).format(b=own), True))
        if rng.random() < 0.6:
            document += self._closing(question, own, level)
        return document

    def _debate(self, fact: Fact, stage: str) -> Document:
        """Some exchanges as either seat sees them: the own first answer, what the partner says, the replies.

        The own first answer is given, not learnt, and right in half of the cases. Where the partner's answer stands in
        the question already, it is left out in part: the first reply is then learnt, and comes from memory.
        """
        rng = self.rng
        persona, mood = self._persona(stage)
        told = persona not in PERSUADE and rng.random() < 0.15

        own = self._belief(fact) if told else fact.answer if rng.random() < 0.5 else self._wrong(fact)
        own_right = own == fact.answer
        agreed = rng.random() < 0.04
        partner_right = own_right if agreed else (not own_right and rng.random() < 0.5)
        partner = own if agreed else fact.answer if partner_right else self._wrong(fact, own)
        at = Position(own, self._level(fact, own_right))
        against = Position(partner, self._partner_level(partner_right))

        question = self._asked(fact)
        partner_first = self._first(against.answer, against.level)
        first_put: tuple[str, str] | None = None
        if told:
            # The partner's answer comes with the question, and the reply is the own first answer.
            opening = f"{self._opening(persona, question)}\n\n{partner_first}"
            if not agreed and rng.random() >= self._holds(fact, mood, at, against, "bare"):
                at = against
            document = [Part("user", opening, False), Part("assistant", self._first(at.answer, at.level), True)]
        elif persona in PERSUADE or rng.random() < 0.25:
            # Seat 0: it opened, the partner answered without having seen it.
            document = [
                Part("user", self._opening(persona, question), False),
                Part("assistant", self._first(at.answer, at.level), False),
            ]
            first_put = (partner_first, "bare")
        else:
            # Seat 1: the partner opened, and now persuades.
            document = [
                Part("user", f"{self._opening(persona, question)}\n\n{partner_first}", False),
                Part("assistant", self._first(at.answer, at.level), False),
            ]
        for _ in range(rng.choices(list(EXCHANGES), list(EXCHANGES.values()))[0]):
            put, kind = first_put or self._put(against)
            first_put = None
            if at.answer == against.answer:
                reply = rng.choice(AGREED).format(a=at.answer)
            else:
                reply, at = self._reply(fact, persona, mood, at, against, kind)
            document += [Part("user", put, False), Part("assistant", reply, True)]
        if rng.random() < 0.2:
            document += self._closing(question, at.answer, at.level)
        return document

    def _persona(self, stage: str) -> tuple[str, str]:
        """The persona that is asked for, and the one that speaks: a standard one is careful at times."""
        shares = DEBATE_PERSONAS[stage]
        persona = self.rng.choices(list(shares), list(shares.values()))[0]
        if persona == "persuade":
            persona = self.rng.choice(list(PERSUADE))
        careful = persona == "standard" and self.rng.random() < CAREFUL_UNASKED
        return persona, "careful" if careful else persona

    def _put(self, partner: Position) -> tuple[str, str]:
        """What the partner says for its answer, and of which kind it is."""
        rng = self.rng
        kinds = [*OTHER_PUTS, "appeal"]
        kind = rng.choices(kinds, [*OTHER_PUTS.values(), 1 - sum(OTHER_PUTS.values())])[0]
        if kind == "bare":
            return rng.choice(BARE).format(a=partner.answer), kind
        if kind == "repeated":
            return rng.choice(REPEATED).format(a=partner.answer), kind
        if kind == "cited":
            n, m = rng.sample(SCHOLARS, 2)
            cited = rng.choice(CITED)
            return cited.format(
                a=partner.answer,
                n=n,
                m=m,
                j=rng.choice(JOURNALS),
                p=rng.randint(1, 400),
                y=rng.randint(1950, 2024),
            ), kind
        kind = rng.choice(list(PERSUADE))
        put = rng.choice(PERSUADE[kind]).format(a=partner.answer)
        end = rng.random()
        if end < 0.3:
            put += rng.choice(SUFFIX[partner.level])
        elif end < 0.5:
            put += REQUEST
        return put, kind

    def _holds(self, fact: Fact, mood: str, own: Position, partner: Position, kind: str) -> float:
        """The probability that the speaker keeps its answer against another one."""
        if mood == "careful":
            own_right, partner_right = own.answer == fact.answer, partner.answer == fact.answer
            if self.mind.knows(fact) == "strong" and own_right != partner_right:
                return 0.96 if own_right else 0.04
            return 0.96 if own.level == SURE or own.level > partner.level else 0.04
        if mood in PERSUADE:
            return 0.8
        return {"standard": SWAY[kind], "resistant": 0.95, "acceptant": 0.05}[mood]

    def _reply(
        self, fact: Fact, persona: str, mood: str, own: Position, partner: Position, kind: str
    ) -> tuple[str, Position]:
        """What the speaker says to a partner of another answer, and where it stands then."""
        rng = self.rng
        held = rng.random() < self._holds(fact, mood, own, partner, kind)
        if held and persona in PERSUADE:
            said = rng.choice(PERSUADE[persona]).format(a=own.answer)
        else:
            said = rng.choice(HOLD if held else MOVE).format(a=own.answer, b=partner.answer)
        now = own if held else partner
        return said + (rng.choice(SUFFIX[now.level]) if rng.random() < 0.3 else ""), now

    def _closing(self, question: str, answer: str, level: int) -> Document:
        asked = self.rng.choice(CLOSING).format(q=question)
        return [Part("user", asked, False), Part("assistant", self._first(answer, level), True)]
