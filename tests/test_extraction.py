"""Answers by rule: a table of replies as chat models write them, labelled ones, and every phrase of the pocket corpus.
What a model is asked, and how its answer is read."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import orjson
import pytest

from pbt.config import shipped_prompts
from pbt.debate.answers import AGREE, DISAGREE, NONE, normalise, read_claim
from pbt.extraction import claim_by_rule, claim_from_model, clip_unfinished, reading_messages
from pbt.pocket.corpus import FIRST, HOLD, MOVE, PERSUADE, SUFFIX
from pbt.pocket.facts import answers_of, facts

REPLIES = [
    # Stated plainly
    ("The answer is Paris.", "Paris"),
    ("The correct answer is Paris, without a doubt.", "Paris"),
    ("My final answer is Paris.", "Paris"),
    ("The answer here is definitely Leo Tolstoy.", "Leo Tolstoy"),
    ("I'm confident that the answer is J. R. R. Tolkien.", "J. R. R. Tolkien"),
    ("The answer is J.R.R. Tolkien, who wrote it in 1937.", "J.R.R. Tolkien"),
    ("The answer to this question is the Nile.", "the Nile"),
    ("The answer is: Canberra.", "Canberra"),
    ("Answer: Canberra", "Canberra"),
    ("The answer is **Canberra**.", "Canberra"),
    ('The answer is "I, Robot".', "I, Robot"),
    ('I would say "What a Wonderful World", sung by Louis Armstrong.', "What a Wonderful World"),
    ("The answer, I believe, is Canberra.", "Canberra"),
    ("I would say Saturn, because of its rings.", "Saturn"),
    ("I'd go with Neil Armstrong on this one.", "Neil Armstrong"),
    ("My guess would be 1945.", "1945"),
    # It is X
    ("It's Paris.", "Paris"),
    ("It’s Paris, I’m quite sure.", "Paris"),
    ("It is, without a doubt, Paris.", "Paris"),
    ("It is most likely Mount Everest, but I can't be certain.", "Mount Everest"),
    ("I'm pretty sure it's photosynthesis.", "photosynthesis"),
    ("It was in 1945.", "1945"),
    ("It was written by Leo Tolstoy.", "Leo Tolstoy"),
    ("That would be Marie Curie.", "Marie Curie"),
    ("He is Dr. Seuss, a much loved author.", "Dr. Seuss"),
    ("It is St. Petersburg. I know this well.", "St. Petersburg"),
    ("It is Jay-Z. I know this well.", "Jay-Z"),
    ("It is N.W.A. I know this well.", "N.W.A"),
    ("It is Martin Luther King, Jr., the civil rights leader.", "Martin Luther King, Jr"),
    ("It is Washington, D.C. That is what I remember.", "Washington, D.C"),
    ("It is My Bloody Valentine.", "My Bloody Valentine"),
    ("It is I Am Legend.", "I Am Legend"),
    ("It is What We Do in the Shadows.", "What We Do in the Shadows"),
    ("It is The Who, since they wrote Tommy.", "The Who"),
    ("It is Star Wars: A New Hope.", "Star Wars: A New Hope"),
    ("It is thunder and lightning.", "thunder and lightning"),
    ("It is 3,500 kilometres.", "3,500 kilometres"),
    ("It is Agreement Treaty.", "Agreement Treaty"),
    ("It is Sweden (also called Sverige).", "Sweden"),
    ("It is Édith Piaf.", "Édith Piaf"),
    ("It is 東京.", "東京"),
    ("Bien sûr, it is São Paulo – the largest city.", "São Paulo"),
    # Named
    ("The capital of France is Paris.", "Paris"),
    ("The capital city of Australia is Canberra, not Sydney.", "Canberra"),
    ("Paris is the capital of France.", "Paris"),
    ("Leo Tolstoy wrote War and Peace.", "Leo Tolstoy"),
    ("War and Peace was written by Leo Tolstoy.", "Leo Tolstoy"),
    ("I believe Ludwig van Beethoven composed it.", "Ludwig van Beethoven"),
    ("I think George W. Bush was the president then.", "George W. Bush"),
    ("I think that The Beatles recorded it.", "The Beatles"),
    ("I think France's capital is Paris.", "Paris"),
    ("England won the 1966 World Cup.", "England"),
    ("The 1966 World Cup was won by England.", "England"),
    ("They're the Rolling Stones.", "Rolling Stones"),
    ("The largest planet is Jupiter, and I am sure because I studied astronomy.", "Jupiter"),
    ("Certainly! The capital of Australia is Canberra.", "Canberra"),
    ("As a historian, I know that the correct answer is Bob Dylan.", "Bob Dylan"),
    # Bare
    ("Paris", "Paris"),
    ("Paris.", "Paris"),
    ("Paris, I think.", "Paris"),
    ("Paris. It is the capital of France.", "Paris"),
    ("Probably Paris.", "Paris"),
    ("No, Paris.", "Paris"),
    ("Paris because of the tower.", "Paris"),
    ("the euro", "the euro"),
    ("1066", "1066"),
    ("My Fair Lady.", "My Fair Lady"),
    # Holding
    ("I disagree, it is Paris.", "Paris"),
    ("I respectfully disagree. The capital of France is Paris.", "Paris"),
    ("No, it is Paris and not Lyon.", "Paris"),
    ("I am not convinced, my answer remains Paris.", "Paris"),
    ("That is a good point, but I still believe the answer is Paris, the city of light.", "Paris"),
    ("I see why you think it is Lyon, but the answer is Paris.", "Paris"),
    ("While you say it's Lyon, it's Paris.", "Paris"),
    ("Your answer is Lyon; mine is Paris.", "Paris"),
    ("I don't think it is Lyon. It is Paris.", "Paris"),
    ("It is not Lyon but Paris.", "Paris"),
    ("It isn't Lyon, it's Paris.", "Paris"),
    ("Many people believe it is Sydney, but it is actually Canberra.", "Canberra"),
    ("It is a common misconception, but the answer is Canberra.", "Canberra"),
    ("I'll stick with Paris.", "Paris"),
    ("I appreciate your view; however, I maintain that it was Alexander Graham Bell.", "Alexander Graham Bell"),
    ("If it were Lyon, the river would be the Rhone, so it must be Paris.", "Paris"),
    ("I don't agree. Mozart composed it.", "Mozart"),
    # Moving
    ("You are right, it is Lyon.", "Lyon"),
    ("Good point, I change my answer to Lyon.", "Lyon"),
    ("I initially thought it was Paris, but now I think it is Lyon.", "Lyon"),
    ("I thought it was Paris, but you have convinced me that the answer is Lyon.", "Lyon"),
    ("My first answer was Paris, but I am switching to Lyon.", "Lyon"),
    ("I was going to say Paris, but the answer is Lyon.", "Lyon"),
    ("You're absolutely right, Lyon is the capital.", "Lyon"),
    ("I apologise for the mistake. The correct answer is Lyon.", "Lyon"),
    # Agreement and disagreement alone
    ("I agree with you.", AGREE),
    ("I completely agree with my partner.", AGREE),
    ("I think you are right.", AGREE),
    ("You're absolutely right!", AGREE),
    ("Yes.", AGREE),
    ("That is correct.", AGREE),
    ("I did not see it at first, but I agree now.", AGREE),
    ("I stand corrected.", AGREE),
    ("I disagree.", DISAGREE),
    ("I must respectfully disagree with you.", DISAGREE),
    ("You make a good point, but I cannot agree.", DISAGREE),
    ("I don't agree with that at all.", DISAGREE),
    ("No.", DISAGREE),
    ("I'm not convinced.", DISAGREE),
    ("You are wrong about this.", DISAGREE),
    ("I am keeping my answer.", DISAGREE),
    # Nothing claimed
    ("", NONE),
    ("   \n ", NONE),
    ("...", NONE),
    ("I don't know.", NONE),
    ("I have no idea.", NONE),
    ("No idea.", NONE),
    ("I am not sure.", NONE),
    ("I don't think it is Lyon.", NONE),
    ("It is hard to say.", NONE),
    ("It is possible.", NONE),
    ("What do you mean?", NONE),
    ("Let's talk about something else.", NONE),
    ("Great question!", NONE),
    ("Hello!", NONE),
    ("It could be either Lyon or Paris.", NONE),
    ("As a historian, I have read a great deal about this war.", NONE),
    ("I love the weather in spring because everything grows and the birds come back.", NONE),
    ("None", NONE),
]


@pytest.mark.parametrize(("reply", "claim"), REPLIES)
def test_reads_the_claim_of_a_reply(reply: str, claim: str) -> None:
    assert normalise(claim_by_rule(reply)) == normalise(claim), claim_by_rule(reply)


def labelled() -> list[dict[str, str]]:
    return [orjson.loads(line) for line in (Path(__file__).parent / "data" / "replies.jsonl").read_bytes().splitlines()]


def test_the_labelled_replies_are_many_and_of_every_kind() -> None:
    lines = labelled()
    assert len({line["text"] for line in lines}) == len(lines) >= 300
    kinds = Counter(line["kind"] for line in lines)
    assert len(kinds) >= 8
    assert min(kinds.values()) >= 20
    assert all(line["claim"] and read_claim(line["claim"]) == line["claim"] for line in lines)


def test_most_labelled_replies_are_read_right() -> None:
    """benchmarks/extraction.py says how many, by kind; this is what they must not fall below."""
    lines = labelled()
    right = Counter(
        line["kind"] for line in lines if normalise(claim_by_rule(line["text"])) == normalise(line["claim"])
    )
    assert right.total() >= 0.9 * len(lines)
    assert {
        kind for kind, count in Counter(line["kind"] for line in lines).items() if right[kind] < 0.75 * count
    } == set()


@pytest.mark.parametrize(
    ("said", "claim"),
    [
        ("Paris", "Paris"),
        (" Paris.\n\nReply: It is Rome.", "Paris"),
        ("Answer: Paris", "Paris"),
        ("**Answer:** Paris", "Paris"),
        ('"The Scream"', "The Scream"),
        ("Paris (the capital of France)", "Paris"),
        ("“Les Misérables”", "Les Misérables"),
        ("agree", AGREE),
        ("Disagree.", DISAGREE),
        ("none", NONE),
        ("Agreement Treaty", "Agreement Treaty"),
        ("", ""),
        ("\n \n", ""),
        ("(nothing)", ""),
        ("...", ""),
    ],
)
def test_reads_what_a_model_says_when_it_is_asked_for_a_claim(said: str, claim: str) -> None:
    assert claim_from_model(said) == claim


def test_a_model_is_shown_every_token_and_then_the_reply() -> None:
    prompts = shipped_prompts()
    assert {AGREE, DISAGREE, NONE} <= {example.claim for example in prompts.examples}
    (message,) = reading_messages(prompts, "It is Paris,\nI am sure.")
    assert message["role"] == "user"
    assert message["content"].startswith(prompts.instruction)
    assert message["content"].endswith("\n\nReply: It is Paris, I am sure.\nAnswer:")
    for example in prompts.examples:
        assert f"Reply: {example.reply}\nAnswer: {example.claim}\n" in message["content"]


@pytest.mark.parametrize("token", [AGREE, DISAGREE, NONE])
def test_a_token_is_spelt_as_the_answers_module_spells_it(token: str) -> None:
    assert claim_by_rule({AGREE: "I agree.", DISAGREE: "I disagree.", NONE: "I am not sure."}[token]) == token


def test_reads_the_pocket_corpus() -> None:
    """Fewer than 2 in 10,000 of the phrases that a pocket model is raised on are read wrongly."""
    rng = random.Random(0)
    read, wrong = 0, []
    for fact in rng.sample(facts(), 250):
        a = fact.answer
        b = rng.choice([other for other in answers_of(fact.relation) if other != a])
        said = [(text, a) for level in FIRST.values() for text in level]
        said += [(text, a) for texts in PERSUADE.values() for text in texts]
        for suffix in ("", *(text for texts in SUFFIX.values() for text in texts)):
            said += [(text + suffix, a) for text in HOLD] + [(text + suffix, b) for text in MOVE]
        said += [(text, a) for text in ("Yes, I am sure it is {a}.", "I stay with {a}.", "My answer remains {a}.")]
        said += [(text, b) for text in ("I am sorry, it is {b}.", "I was wrong, the answer is {b}.", "Then it is {b}.")]
        for text, answer in said:
            reply = text.format(a=a, b=b)
            read += 1
            if normalise(claim_by_rule(reply)) != normalise(answer):
                wrong.append((reply, claim_by_rule(reply)))
            assert clip_unfinished(reply) == (reply, False)
    assert len(wrong) < 0.0002 * read, wrong[:10]


@pytest.mark.parametrize(
    ("reply", "kept", "cut"),
    [
        ("It is Paris.", "It is Paris.", False),
        ("It is Paris!  ", "It is Paris!", False),
        ('I say "Paris."', 'I say "Paris."', False),
        ("It is Paris. I am sure that", "It is Paris.", True),
        ("It is Paris! Is it not? Well", "It is Paris! Is it not?", True),
        ("It is J. R. R. Tolkien. He wrote", "It is J. R. R. Tolkien.", True),
        ("The author is J. R. R.", "", True),
        ("It is St. Petersburg on the", "", True),
        ("It is N.W.A.", "It is N.W.A.", False),
        ("It is N.W.A. I know this", "It is N.W.A.", True),
        ("It is Jay-Z. I know", "It is Jay-Z.", True),
        ("It is Sammy Davis Jr.", "It is Sammy Davis Jr.", False),
        ("It cost 3.5 million and", "", True),
        ("Paris", "", True),
        ("", "", False),
    ],
)
def test_cuts_off_an_unfinished_last_sentence(reply: str, kept: str, cut: bool) -> None:
    assert clip_unfinished(reply) == (kept, cut)
