"""Protocols: the shipped ones load, and one that cannot work is refused by the key that is wrong."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pbt.debate.protocol import Protocol

SHIPPED = sorted(
    (f for f in resources.files("pbt").joinpath("protocols").iterdir() if f.name.endswith(".yaml")),
    key=lambda f: f.name,
)


def table(**changes: Any) -> dict[str, Any]:
    return {
        "name": "two",
        "personas": {"standard": "Answer.", "firm": "Hold."},
        "levels": [{"seat": 0, "personas": ["standard"]}, {"seat": 1, "personas": ["firm", "standard"]}],
        **changes,
    }


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.name)
def test_a_shipped_protocol_is_the_debate_of_the_paper(file: Any) -> None:
    protocol = Protocol.model_validate(yaml.safe_load(file.read_text("utf-8")))
    assert protocol.name == file.name.removesuffix(".yaml")
    assert [level.seat for level in protocol.levels] == [0, 1, 0, 1]
    assert [level.personas for level in protocol.levels] == [
        ("standard",),
        ("resistant", "acceptant"),
        ("logical", "emotional", "credibility"),
        ("resistant", "acceptant"),
    ]
    assert [level.sees for level in protocol.levels] == ["path", "question", "path", "path"]
    assert protocol.sampling.temperature == 0.7
    assert protocol.stop_on_agreement


def test_sampling_defaults_are_the_papers() -> None:
    sampling = Protocol.model_validate(table()).sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.min_tokens) == (0.7, 80, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"levels": [{"seat": 0, "personas": ["standard"]}, {"seat": 1, "personas": ["frim"]}]},
            r"levels\.1\.personas: no prompt for persona 'frim' \(known: standard, firm\)",
        ),
        (
            {"levels": [{"seat": 0, "personas": ["standard", "firm"]}]},
            r"levels\.0\.personas: a tree has one root, found 2",
        ),
        ({"trained_persona": "calm"}, r"trained_persona: no prompt for persona 'calm'"),
        ({"opening": "{instruction}"}, r"opening: \{question\} is missing"),
        ({"opening": "{question}"}, r"opening: \{instruction\} is missing"),
        ({"levels": []}, r"levels\s.*at least 1"),
        ({"levels": [{"seat": 2, "personas": ["standard"]}]}, r"levels\.0\.seat\s"),
        ({"levels": [{"seat": 0, "personas": []}]}, r"levels\.0\.personas\s"),
        ({"levels": [{"seat": 0, "personas": ["standard"], "sees": "all"}]}, r"levels\.0\.sees\s"),
        ({"sampling": {"temperature": -1}}, r"sampling\.temperature\s"),
        ({"sampling": {"top_p": 0}}, r"sampling\.top_p\s"),
        ({"stop": True}, r"stop\s.*not permitted"),
    ],
)
def test_a_protocol_that_cannot_work_is_refused_by_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Protocol.model_validate(table(**changes))
