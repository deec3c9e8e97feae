"""The corpus: repeatable, honest about what a mind knows, and balanced as designed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from pbt.debate.answers import normalise
from pbt.debate.protocol import Protocol
from pbt.extraction import claim_by_rule
from pbt.pocket.corpus import (
    ASSURED,
    CHALLENGES,
    CLOSING,
    DOUBTED,
    EXPERT,
    FIRST,
    LAYMAN,
    PERSUADE,
    STAGES,
    SURE,
    SWAY,
    Corpus,
    Document,
    Mind,
    mind,
)
from pbt.pocket.facts import Fact, facts, relations

PROTOCOL = Protocol.model_validate(
    yaml.safe_load(resources.files("pbt").joinpath("protocols", "pocket-debate.yaml").read_text("utf-8"))
)
INSTRUCTIONS = {text: persona for persona, text in PROTOCOL.personas.items()}


@cache
def sample(stage: str, count: int = 40_000) -> tuple[Document, ...]:
    return tuple(islice(Corpus(mind("llama", 0), PROTOCOL, 0).stream(stage), count))


@cache
def asked() -> dict[str, Fact]:
    """The fact behind each question that may be asked."""
    return {w.format(s=fact.subject): fact for fact in facts() for w in relations()[fact.relation].wordings[:3]}


class Answered(NamedTuple):
    """A question answered on its own."""

    fact: Fact
    text: str
    right: bool


class Debated(NamedTuple):
    """A first reply to a partner of another opinion."""

    fact: Fact
    persona: str
    own_right: bool
    partner_right: bool
    held: bool


def opening(text: str) -> tuple[str, str]:
    """Persona and question of a first message."""
    text = text.split("\n\n", 1)[0]
    for instruction, persona in INSTRUCTIONS.items():
        if text.startswith(instruction):
            return persona, text.removeprefix(instruction).strip()
    return "", text


@cache
def answered(stage: str) -> tuple[Answered, ...]:
    found = []
    for document in sample(stage):
        fact = asked().get(opening(document[0].text)[1])
        if fact and len(document) == 2:
            text = document[1].text
            found.append(Answered(fact, text, normalise(claim_by_rule(text)) == normalise(fact.answer)))
    return tuple(found)


@cache
def debated(stage: str) -> tuple[Debated, ...]:
    found = []
    for document in sample(stage):
        if len(document) < 4 or document[1].learn or challenged(document) or ends_in_a_stop(document):
            continue
        persona, question = opening(document[0].text)
        fact = asked()[question]
        own, put, said = (normalise(claim_by_rule(part.text)) for part in document[1:4])
        if own == put:
            continue  # both of one opinion: nothing to hold or to move to
        assert said in (own, put), document
        gold = normalise(fact.answer)
        found.append(Debated(fact, persona, own == gold, put == gold, said == own))
    return tuple(found)


def challenged(document: Document) -> bool:
    """Whether it is about a bare challenge."""
    return len(document) > 2 and document[2].text in CHALLENGES


def ends_in_a_stop(document: Document) -> bool:
    """Whether the partner's answer, as in "It is N.W.A. Please...", cannot be told from the end of a sentence."""
    return "N.W.A" in document[2].text


def closed(document: Document) -> bool:
    """Whether the question is put once more at the end."""
    question = opening(document[0].text)[1]
    return len(document) > 2 and document[-2].text in [text.format(q=question) for text in CLOSING]


def claims(document: Document) -> list[str]:
    return [normalise(claim_by_rule(part.text)) for part in document]


def share(hits: list[bool]) -> float:
    assert len(hits) >= 300, "too few to tell"
    return sum(hits) / len(hits)


def test_the_same_seed_writes_the_same_corpus() -> None:
    def first(seed: int, family: str = "llama") -> list[Document]:
        return list(islice(Corpus(mind(family, 0), PROTOCOL, seed).stream("debates"), 500))

    assert first(3) == first(3)
    assert first(3) != first(4)
    assert first(3) != first(3, "mistral")


def test_the_corpus_does_not_hang_on_the_hashes_of_a_process() -> None:
    script = """
import hashlib, yaml
from importlib import resources
from itertools import islice
from pbt.debate.protocol import Protocol
from pbt.pocket.corpus import Corpus, mind
text = resources.files("pbt").joinpath("protocols", "pocket-debate.yaml").read_text("utf-8")
corpus = Corpus(mind("llama", 0), Protocol.model_validate(yaml.safe_load(text)), 0)
print(hashlib.sha256(repr(list(islice(corpus.stream("facts"), 300))).encode()).hexdigest())
"""
    root = str(Path(__file__).resolve().parents[2])
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_what_a_mind_knows_hangs_on_the_fact_alone() -> None:
    own = mind("llama", 0)
    for fact in facts()[::97]:
        renamed = replace(fact, subject="another", answer="another", aliases=())
        assert own.knows(renamed) == own.knows(fact)
        assert own.chance(renamed) == own.chance(fact)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_mind_knows_its_shares(family: str) -> None:
    own = mind(family, 0)
    for at_home, (strong, weak) in ((True, EXPERT), (False, LAYMAN)):
        asked = [fact for fact in facts() if own.expert(fact.relation) == at_home]
        known = Counter(own.knows(fact) for fact in asked)
        assert known["strong"] / len(asked) == pytest.approx(strong, abs=0.03)
        assert known["weak"] / len(asked) == pytest.approx(weak, abs=0.03)
    for fact in facts():
        chance = own.chance(fact)
        assert {"strong": chance == 1, "weak": 0.3 <= chance <= 0.7, "unknown": chance == 0}[own.knows(fact)]


def test_two_minds_know_different_things() -> None:
    """Else no debate between them could teach either."""
    llama, mistral = mind("llama", 0), mind("mistral", 0)
    only_one = [f for f in facts() if (llama.knows(f) == "strong") != (mistral.knows(f) == "strong")]
    assert 0.4 < len(only_one) / len(facts()) < 0.6
    reseeded = Mind("llama", llama.expertise, seed=1)
    assert any(reseeded.knows(f) != llama.knows(f) for f in facts())


@pytest.mark.parametrize("stage", STAGES)
def test_documents_are_chats_whose_last_reply_is_learnt(stage: str) -> None:
    for document in sample(stage):
        assert [part.role for part in document] == ["user", "assistant"] * (len(document) // 2)
        assert not any(part.learn for part in document if part.role == "user")
        assert document[-1].learn


def test_kinds_stand_in_their_shares() -> None:
    documents = sample("debates")
    assert share([challenged(d) for d in documents]) == pytest.approx(STAGES["debates"]["sure"], abs=0.01)
    debates = [len(d) > 2 and not challenged(d) for d in documents]
    assert share(debates) == pytest.approx(STAGES["debates"]["debate"], abs=0.01)
    statements = [d[0].text.startswith("Tell me about ") for d in documents]
    assert share(statements) == pytest.approx(STAGES["debates"]["statement"], abs=0.005)


def test_strong_facts_are_always_answered_right_and_unknown_ones_never() -> None:
    own = mind("llama", 0)
    right: dict[str, list[bool]] = {"strong": [], "weak": [], "unknown": []}
    for answer in answered("facts"):
        right[own.knows(answer.fact)].append(answer.right)
    assert share(right["strong"]) == 1
    assert share(right["unknown"]) == 0
    assert share(right["weak"]) == pytest.approx(0.5, abs=0.05)


def test_the_wording_shows_how_well_a_fact_is_known() -> None:
    own = mind("llama", 0)
    sure = [re.escape(text).replace(re.escape("{a}"), ".+") for text in FIRST[SURE]]
    sounds_sure = re.compile("|".join(f"^{text}$" for text in sure))
    heard: dict[str, list[bool]] = {"strong": [], "weak": [], "unknown": []}
    for answer in answered("facts"):
        heard[own.knows(answer.fact)].append(bool(sounds_sure.match(answer.text)))
    assert share(heard["strong"]) == pytest.approx(0.85, abs=0.02)
    assert share(heard["weak"]) == pytest.approx(0.20, abs=0.03)
    assert share(heard["unknown"]) == pytest.approx(0.04, abs=0.02)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("persona", "held"), [("resistant", 0.95), ("acceptant", 0.05), ("persuade", 0.80)])
def test_personas_hold_by_their_design(stage: str, persona: str, held: float) -> None:
    """And do so for right and for wrong answers alike."""
    names = set(PERSUADE) if persona == "persuade" else {persona}
    replies = [reply for reply in debated(stage) if reply.persona in names]
    for own_right in (True, False):
        assert share([r.held for r in replies if r.own_right == own_right]) == pytest.approx(held, abs=0.04)


def test_the_careful_hold_what_they_know_and_move_when_they_know_better() -> None:
    own = mind("llama", 0)
    replies = [r for r in debated("debates") if r.persona == "careful" and own.knows(r.fact) == "strong"]
    assert share([r.held for r in replies if r.own_right]) == pytest.approx(0.96, abs=0.02)
    assert share([r.held for r in replies if r.partner_right]) == pytest.approx(0.04, abs=0.02)


def test_the_standard_persona_weighs_in_one_conversation_of_five() -> None:
    own = mind("llama", 0)
    replies = [r for r in debated("debates") if r.persona == "standard" and own.knows(r.fact) == "strong"]
    # A quarter or so of the first replies is to a bare answer; of the appeals, a third is to reasons.
    swayed = 0.37 * SWAY["bare"] + 0.63 * (SWAY["logical"] + SWAY["emotional"] + SWAY["credibility"]) / 3
    assert share([r.held for r in replies if r.own_right]) == pytest.approx(0.8 * swayed + 0.2 * 0.96, abs=0.05)
    assert share([r.held for r in replies if r.partner_right]) == pytest.approx(0.8 * swayed + 0.2 * 0.04, abs=0.05)


def test_a_speaker_that_has_moved_stands_by_its_new_answer() -> None:
    """A reply names the answer that it held until then or the partner's; of one mind, it names no other any more."""
    longer = [d for d in sample("weighing") if len(d) >= 6 and not challenged(d) and not ends_in_a_stop(d)]
    assert len(longer) > 5_000
    for document in longer:
        said = claims(document[:-2] if closed(document) else document)
        at, partner = said[1], said[2]
        assert all(put == partner for put in said[2::2]), document
        for reply in said[3::2]:
            assert reply in (at, partner), document
            at = reply


@pytest.mark.parametrize("stage", ["debates", "weighing"])
def test_asked_once_more_it_gives_the_answer_that_it_has_come_to(stage: str) -> None:
    ended = [d for d in sample(stage) if closed(d)]
    assert len(ended) > 3_000
    for document in ended:
        said = claims(document)
        assert said[-1] == said[-3], document


def test_a_bare_challenge_moves_the_standard_persona_whether_right_or_wrong_and_a_careful_one_by_how_sure_it_was() -> (
    None
):
    stayed: dict[tuple[str, bool], list[bool]] = {}
    by_level: dict[int, list[bool]] = {level: [] for level in FIRST}
    own = mind("llama", 0)
    for document in filter(challenged, sample("weighing")):
        persona, question = opening(document[0].text)
        fact, said = asked()[question], claims(document)
        right, stays = said[1] == normalise(fact.answer), said[3] == said[1]
        strong = own.knows(fact) == "strong"
        if persona == "careful" and not strong:
            text = document[1].text
            level = next(level for level, w in FIRST.items() if text.endswith(tuple(t.split("{a}")[1] for t in w)))
            by_level[level].append(stays)
        elif persona != "standard" or strong:
            stayed.setdefault((persona, right), []).append(stays)
    # The standard one is careful in one conversation of five.
    assert share(stayed["standard", True]) == pytest.approx(0.8 * DOUBTED + 0.2 * 0.96, abs=0.06)
    assert share(stayed["standard", False]) == pytest.approx(0.8 * DOUBTED + 0.2 * 0.04, abs=0.06)
    assert share(stayed["careful", True]) == pytest.approx(0.96, abs=0.03)
    assert share(stayed["careful", False]) == pytest.approx(0.04, abs=0.03)
    for level, hits in by_level.items():
        assert sum(hits) / len(hits) == pytest.approx(ASSURED[level], abs=0.08), level


def test_an_answer_that_is_given_up_gives_way_to_what_the_mind_knows_else_to_what_comes_to_it_first() -> None:
    own = mind("llama", 0)
    instead: dict[tuple[str, bool], Counter[str]] = {}
    for document in filter(challenged, sample("weighing")):
        fact, said = asked()[opening(document[0].text)[1]], claims(document)
        if said[3] == said[1] or own.knows(fact) == "weak" or normalise(fact.answer) == normalise(said[3]):
            continue
        assert own.knows(fact) == "unknown" or said[1] == normalise(fact.answer), document
        first, second = (normalise(answer) for answer in own.ready(fact.relation)[:2])
        assert said[3] == (second if said[1] == first else first), document
        instead.setdefault((fact.relation, said[1] == first), Counter())[said[3]] += 1
    assert len(instead) > 20
    assert all(len(answers) == 1 for answers in instead.values())
    assert mind("mistral", 0).ready("capital") != own.ready("capital")


def test_a_challenge_is_met_in_the_words_of_a_debate() -> None:
    """So that a model which learns in debates to hold or to move, by its first word, can then do so here."""
    for document in filter(challenged, sample("weighing")):
        said = claims(document)
        assert document[3].text.split()[0].rstrip(",") == ("No" if said[3] == said[1] else "Yes"), document


def test_a_wrong_speaker_meets_right_and_wrong_partners_alike() -> None:
    replies = debated("debates")
    assert share([r.partner_right for r in replies if not r.own_right]) == pytest.approx(0.5, abs=0.02)
    assert not any(r.partner_right for r in replies if r.own_right)
    assert share([r.own_right for r in replies]) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("stage", STAGES)
def test_no_held_out_wording_is_ever_shown(stage: str) -> None:
    held_out = re.compile(
        "|".join(re.escape(r.wordings[-1]).replace(re.escape("{s}"), r"[^?]+?") for r in relations().values())
    )
    assert held_out.search("What city serves as the capital of France?")
    shown = [part.text for document in sample(stage) for part in document if held_out.search(part.text)]
    assert not shown


@pytest.mark.parametrize("stage", STAGES)
def test_every_question_is_one_of_the_three_wordings(stage: str) -> None:
    for document in sample(stage):
        question = opening(document[0].text)[1]
        question = re.sub(r" Is it [^?]+\?$", "", question)
        assert question in asked() or question.startswith("Tell me about "), document
