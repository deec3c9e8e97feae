"""Protocols: the shipped ones load, and one that cannot work is refused by the key that is wrong."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pbt.debate.protocol import Protocol, Sampling

SHIPPED = sorted(
    (f for f in resources.files("pbt").joinpath("protocols").iterdir() if f.name.endswith(".yaml")),
    key=lambda f: f.name,
)


def table(**changes: Any) -> dict[str, Any]:
    return {
        "name": "two",
        "personas": {"standard": "Answer.", "firm": "Hold."},
        "levels": [{"seat": "A", "personas": ["standard"]}, {"seat": "B", "personas": ["firm", "standard"]}],
        **changes,
    }


def shipped(name: str) -> Protocol:
    return Protocol.model_validate(
        yaml.safe_load(resources.files("pbt").joinpath("protocols", f"{name}.yaml").read_text())
    )


def spoken(protocol: Protocol) -> list[tuple[str, tuple[str, ...], str]]:
    return [(level.seat, level.personas, level.sees) for level in protocol.levels]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.name)
def test_a_shipped_protocol_is_named_as_its_file(file: Any) -> None:
    assert Protocol.model_validate(yaml.safe_load(file.read_text("utf-8"))).name == file.name.removesuffix(".yaml")


@pytest.mark.parametrize("name", ["trivia-debate", "pocket-debate"])
def test_the_debate_of_the_paper_has_1_2_6_and_12_turns(name: str) -> None:
    protocol = shipped(name)
    assert spoken(protocol) == [
        ("A", ("standard",), "path"),
        ("B", ("resistant", "acceptant"), "question"),
        ("A", ("logical", "emotional", "credibility"), "path"),
        ("B", ("resistant", "acceptant"), "path"),
    ]
    assert protocol.sampling.temperature == 0.7
    assert (protocol.stop, protocol.clip, protocol.depth) == ("agreement", "truncated", 4)


def test_the_released_debate_opens_by_chance_and_stops_by_spelling() -> None:
    protocol = shipped("trivia-debate-released")
    assert protocol.levels[0].personas == ("resistant", "logical")
    assert protocol.levels[0].draw == "one"
    assert spoken(protocol)[1:] == spoken(shipped("trivia-debate"))[1:]
    assert protocol.personas == shipped("trivia-debate").personas
    assert (protocol.stop, protocol.clip) == ("released", "always")


@pytest.mark.parametrize("name", ["chain", "pocket-chain"])
def test_a_chain_is_one_branch_under_one_persona(name: str) -> None:
    protocol = shipped(name)
    assert protocol.depth == 4
    assert {level.personas for level in protocol.levels} == {("standard",)}
    assert [level.sees for level in protocol.levels] == ["path", "question", "path", "path"]


def test_more_turns_than_levels_repeat_the_last_round() -> None:
    protocol = shipped("chain").model_copy(update={"turns": 7})
    assert [protocol.level(at).seat for at in range(7)] == ["A", "B", "A", "B", "A", "B", "A"]
    assert [protocol.level(at).sees for at in range(7)] == ["path", "question", *["path"] * 5]
    around = shipped("trivia-round").model_copy(update={"turns": 8})
    assert [around.seat_at(at) for at in range(8)] == [0, 1, 2, 0, 1, 2, 0, 1]


def test_fewer_turns_than_levels_end_the_debate_early() -> None:
    assert shipped("trivia-debate").model_copy(update={"turns": 2}).depth == 2


def test_a_seat_may_be_sampled_in_its_own_way() -> None:
    seats = [{"name": "A"}, {"name": "B", "sampling": {"temperature": 0, "max_tokens": 20, "min_tokens": 1}}]
    protocol = Protocol.model_validate(table(seats=seats))
    assert protocol.sampling_of(0) == protocol.sampling
    assert (protocol.sampling_of(1).temperature, protocol.sampling_of(1).max_tokens) == (0, 20)


def test_what_a_seat_leaves_out_is_as_the_protocol_says() -> None:
    seats = [{"name": "A", "clip": "never"}, {"name": "B", "sampling": {"max_tokens": 6}}]
    protocol = Protocol.model_validate(
        table(seats=seats, sampling={"temperature": 0.5, "min_tokens": 4}, clip="always")
    )
    assert protocol.sampling_of(1) == Sampling(temperature=0.5, max_tokens=6, min_tokens=4)
    assert [protocol.clip_of(seat) for seat in (0, 1)] == ["never", "always"]
    assert Protocol.model_validate(protocol.model_dump()) == protocol


def test_sampling_defaults_are_the_papers() -> None:
    sampling = Protocol.model_validate(table()).sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.min_tokens) == (0.7, 80, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"levels": [{"seat": "A", "personas": ["standard"]}, {"seat": "B", "personas": ["frim"]}]},
            r"levels\.1\.personas: there is no prompt for persona 'frim'; did you mean 'firm'\?",
        ),
        (
            {"levels": [{"seat": "A", "personas": ["standard", "firm"]}]},
            r"levels\.0\.personas: a tree has one root, found 2",
        ),
        ({"trained_persona": "calm"}, r"trained_persona: there is no prompt for persona 'calm'; known: standard, firm"),
        ({"opening": "{instruction}"}, r"opening: \{question\} is missing"),
        ({"opening": "{question}"}, r"opening: \{instruction\} is missing"),
        ({"opening": "{instruction} {question} {topic}"}, r"opening: there is nothing to put for \{topic\}"),
        ({"opening": "{instruction} {question} {}"}, r"opening: there is nothing to put for \{\}"),
        ({"opening": "{instruction} {question} {"}, r"opening: .*a brace that is meant must stand twice"),
        ({"opening": "{{instruction}} {{question}}"}, r"opening: \{instruction\} is missing"),
        ({"levels": []}, r"levels\s.*at least 1"),
        (
            {"levels": [{"seat": "C", "personas": ["standard"]}]},
            r"levels\.0\.seat: there is no seat 'C'; known: A, B",
        ),
        ({"seats": [{"name": "A"}, {"name": "A"}]}, r"seats: two of them have one name"),
        ({"seats": [{"name": "A"}]}, r"seats\s.*at least 2"),
        ({"personas": {"standard": "", "firm": "Hold."}}, r"personas\.standard\s"),
        ({"levels": [{"seat": "A", "personas": ["standard"]}], "turns": 3}, r"turns: 3 turns repeat the last 2 levels"),
        ({"turns": 0}, r"turns\s"),
        ({"clip": "sometimes"}, r"clip\s"),
        (
            {"seats": [{"name": "A"}, {"name": "B"}, {"name": "C"}], "stop": "released"},
            r"stop: the rule 'released' is for two seats, found 3",
        ),
        ({"sampling": {"max_tokens": 4}}, r"min_tokens: 8 is more than max_tokens, 4"),
        ({"levels": [{"seat": "A", "personas": []}]}, r"levels\.0\.personas\s"),
        ({"levels": [{"seat": "A", "personas": ["standard"], "sees": "all"}]}, r"levels\.0\.sees\s"),
        ({"sampling": {"temperature": -1}}, r"sampling\.temperature\s"),
        ({"sampling": {"top_p": 0}}, r"sampling\.top_p\s"),
        ({"stop": "later"}, r"stop\s"),
        ({"ends": True}, r"ends\s.*not permitted"),
    ],
)
def test_a_protocol_that_cannot_work_is_refused_by_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Protocol.model_validate(table(**changes))
