"""A seat's voice: how its replies are clipped and read, by rule or by a model, and how sure it is asked to be."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest

from pbt.config import Prompts, RunConfig, shipped_prompts, shipped_protocol
from pbt.debate.answers import NONE
from pbt.debate.chat import Message
from pbt.debate.grow import Utterance
from pbt.debate.protocol import Sampling
from pbt.engines.base import EngineError, Reply
from pbt.engines.scripted import ScriptedEngine
from pbt.speaker import read_by_model, speaker, speakers

PROMPTS = shipped_prompts()
ASKED: list[Message] = [{"role": "user", "content": "Which city?"}]


class Recorder(ScriptedEngine):
    """Keeps what it was asked, and how."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[tuple[Sequence[Message], Sampling, int]] = []

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        self.asked.append((messages, sampling, seed))
        return await super().chat(messages, sampling, seed)


def says(text: str, **options: Any) -> Utterance:
    speak = speaker(ScriptedEngine(lambda messages, seed: text), Sampling(max_tokens=8), **options)
    return asyncio.run(speak(ASKED, 1))


def reader(text: str) -> Recorder:
    return Recorder(lambda messages, seed: text)


def test_a_claim_is_read_by_rule_unless_asked_otherwise() -> None:
    assert says("It is Paris.") == Utterance("It is Paris.", "Paris", False, 3)


def test_a_reply_that_ran_into_the_limit_is_clipped_and_then_read() -> None:
    said = says("It is Paris. But some would say that it is Rome")
    assert (said.text, said.claim, said.clipped, said.tokens) == ("It is Paris.", "Paris", True, 11)


def test_a_model_reads_what_was_kept_of_the_reply() -> None:
    engine = reader("Paris (France)")
    said = says("It is Paris. But some would say that it is Rome", read=read_by_model(engine, PROMPTS))
    assert (said.claim, said.raw_claim) == ("Paris", "Paris (France)")
    ((messages, sampling, _),) = engine.asked
    assert messages[0]["content"].endswith("\nReply: It is Paris.\nAnswer:")
    assert (sampling.temperature, sampling.max_tokens, sampling.min_tokens) == (0, 15, 0)


@pytest.mark.parametrize(
    ("read", "claim", "raw"),
    [
        ("Paris", "Paris", None),
        ("agree.", "Agree", "agree."),
        ("NONE", NONE, None),
        ("", "", None),
        ("…\nx", "…", "…\nx"),
    ],
)
def test_what_a_model_read_is_kept_where_it_differs_from_the_claim(read: str, claim: str, raw: str | None) -> None:
    said = says("Paris.", read=read_by_model(reader(read), PROMPTS))
    assert (said.claim, said.raw_claim) == (claim, raw)


def test_nothing_is_asked_about_a_reply_that_is_empty() -> None:
    engine = reader("Paris")
    said = says(
        "one two three four five six seven eight nine", read=read_by_model(engine, PROMPTS), ask_confidence=PROMPTS
    )
    assert said == Utterance("", NONE, True, 9)
    assert engine.asked == []


def test_a_claim_that_cannot_be_read_fails_the_turn() -> None:
    class Refuses(ScriptedEngine):
        async def chat(self, *arguments: Any) -> Reply:
            raise EngineError("the prompt is too long")

    with pytest.raises(EngineError, match="the claim of a turn could not be read: the prompt is too long"):
        says("Paris.", read=read_by_model(Refuses(lambda messages, seed: ""), PROMPTS))


def test_confidence_is_the_share_of_yes_among_all_spellings_of_yes_and_no() -> None:
    logprobs = {"Yes": -1.0, " Yes": -3.0, "No": -2.0, " No": -5.0}
    seen: list[Sequence[Message]] = []

    def score(messages: Sequence[Message], text: str) -> float:
        seen.append(messages)
        return logprobs[text]

    speak = speaker(ScriptedEngine(lambda messages, seed: "Paris.", score), Sampling(), ask_confidence=PROMPTS)
    said = asyncio.run(speak(ASKED, 1))
    yes, no = (math.exp(logprobs[word]) + math.exp(logprobs[f" {word}"]) for word in ("Yes", "No"))
    assert said.confidence == pytest.approx(yes / (yes + no))
    assert seen[0] == [
        *ASKED,
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": PROMPTS.confidence},
    ]


def test_very_small_probabilities_still_give_a_confidence() -> None:
    prompts = Prompts(**{**PROMPTS.model_dump(), "yes": ["Yes"], "no": ["No"]})
    engine = ScriptedEngine(lambda messages, seed: "Paris.", lambda messages, text: -2000.0 - len(text))
    said = asyncio.run(speaker(engine, Sampling(), ask_confidence=prompts)(ASKED, 1))
    assert said.confidence == pytest.approx(1 / (1 + math.e))


def run(**extraction: Any) -> RunConfig:
    return RunConfig(
        name="small",
        questions={"source": "questions.json"},
        protocol=shipped_protocol("trivia-debate"),
        models={name: {"path": name} for name in ("one", "two", "three")},
        seats=("one", "two"),
        extraction=extraction,
    )


def test_the_seats_of_a_run_speak_with_their_engines_and_a_third_model_reads() -> None:
    engines = {name: Recorder(lambda messages, seed, name=name: f"It is {name.title()}.") for name in ("one", "two")}
    engines["three"] = reader("Rome")
    config = run(by="model", model="three")
    assert config.speaking() == ("one", "two", "three")
    voices = speakers(config, engines)
    said = [asyncio.run(speak(ASKED, 1)) for speak in voices]
    assert [one.text for one in said] == ["It is One.", "It is Two."]
    assert [one.claim for one in said] == ["Rome", "Rome"]
    assert [len(engine.asked) for engine in engines.values()] == [1, 1, 2]


def test_one_model_may_sit_on_both_seats_and_read() -> None:
    config = run(by="model", model="one").model_copy(update={"seats": ("one", "one")})
    assert config.speaking() == ("one",)


def test_without_a_word_about_extraction_the_rule_reads_and_nobody_is_asked_for_confidence() -> None:
    config = run()
    engines = {name: Recorder(lambda messages, seed: "It is Paris.") for name in config.speaking()}
    said = asyncio.run(speakers(config, engines)[0](ASKED, 1))
    assert (said.claim, said.raw_claim, said.confidence) == ("Paris", None, None)
    assert config.speaking() == ("one", "two")
