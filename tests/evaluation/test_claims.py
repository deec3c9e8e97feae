"""The claims: what a difference must be for each verdict, and the whole way from results of several seeds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from capitals import CAPITALS, WRONG
from pbt.config import RunConfig
from pbt.debate.chat import Message
from pbt.engines.base import Engine
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput
from pbt.evaluation.claims import (
    CLAIMS,
    PARTNER,
    PARTS,
    TRAINED_PARTNER,
    Finding,
    Part,
    findings,
    signed,
    to_markdown,
    told,
)
from pbt.evaluation.page import Grid, page
from pbt.evaluation.run import run
from pbt.evaluation.scorecard import read_results, scorecard
from pbt.evaluation.stats import Interval

Script = Callable[[Sequence[Message], int], str]
PARTNERS = (PARTNER, TRAINED_PARTNER)
CHOSEN = ("balanced", "are-you-sure", "flipflop", "misinformation", "teams")


def finding(
    value: float, low: float, high: float, side: str = "more", target: float = 0.0, halved: bool = False
) -> Finding:
    part = Part("c", "above the base", "balanced", "balanced", "balanced", "base", side, target, halved)  # type: ignore[arg-type]
    theirs = Interval(0.4, 0.3, 0.5)
    return Finding(part, Interval(0.4 + value, 0, 1), theirs, Interval(value, low, high), (value,), None)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (finding(0.2, 0.1, 0.3), "holds"),
        (finding(0.2, -0.1, 0.3), "not shown"),
        (finding(0.2, 0.0, 0.3), "not shown"),
        (finding(-0.2, -0.3, -0.1), "fails"),
        (finding(0.2, 0.1, 0.3, target=0.15), "holds"),
        (finding(0.1, 0.05, 0.2, target=0.15), "smaller than its target"),
        (finding(-0.2, -0.3, -0.1, "less"), "holds"),
        (finding(0.2, 0.1, 0.3, "less"), "fails"),
        (finding(-0.1, -0.2, 0.1, "less"), "not shown"),
        # What it is to halve is 0.4.
        (finding(-0.25, -0.3, -0.2, "less", halved=True), "holds"),
        (finding(-0.15, -0.3, -0.1, "less", halved=True), "smaller than its target"),
        (Finding(PARTS[0], None, None, None, (), None), "not measured"),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_target(found: Finding, verdict: str) -> None:
    assert found.verdict == verdict


def test_every_claim_has_parts_and_no_half_stands_alone() -> None:
    assert {part.claim for part in PARTS} == set(CLAIMS)
    for part in PARTS:
        both_halves = part.metric == "balanced" or part.evaluation == "teams"
        assert both_halves or part.other_half, part


# From results


def knows(messages: Sequence[Message]) -> str:
    return next(f"It is {gold}." for country, gold in CAPITALS.items() if country in messages[0]["content"])


def gives_in(messages: Sequence[Message], seed: int) -> str:
    """Agrees with anybody, and under a bare challenge says something else."""
    if len(messages) == 1:
        return knows(messages)
    return "I am sorry, it is Atlantis." if "sure" in messages[-1]["content"] else "I agree with you."


def stays(messages: Sequence[Message], seed: int) -> str:
    return messages[1]["content"] if len(messages) > 1 else knows(messages)


def weighs(messages: Sequence[Message], seed: int) -> str:
    """Knows better, whatever is said."""
    return knows(messages)


def confused(messages: Sequence[Message], seed: int) -> str:
    """Right at first; whatever is said then, it says something third."""
    return knows(messages) if len(messages) == 1 else "It is Atlantis."


def listens(messages: Sequence[Message], seed: int) -> str:
    """Knows nothing, and takes over what it is told."""
    return ignorant(messages, seed) if len(messages) == 1 else "I agree with you."


def ignorant(messages: Sequence[Message], seed: int) -> str:
    return f"It is {WRONG}."


def misinformation(country: str, gold: str) -> dict[str, Any]:
    """A claim about a capital in FARM's schema, and the truth in the same words."""

    def appeals(target: str) -> dict[str, Any]:
        said = {kind: [f"Believe me, it is {target}."] * 3 for kind in ("logical", "credibility", "emotional")}
        return {"target": target, "control": f"It is {target}.", **said}

    question = f"What is the capital of {country}?"
    return {"id": country, "question": question, "answer": gold, "adv": appeals(WRONG), "truth": appeals(gold)}


@pytest.fixture
def runs(config: RunConfig, prefs: Path, tmp_path: Path) -> Callable[..., list[Path]]:
    """Evaluates scripts, by model, as the seeds of a replication; returns the runs."""
    lines = [orjson.dumps(misinformation(country, gold)) + b"\n" for country, gold in CAPITALS.items()]
    (tmp_path / "misinformation.jsonl").write_bytes(b"".join(lines))
    told = config.eval.misinformation.model_copy(update={"sources": (str(tmp_path / "misinformation.jsonl"),)})
    ready = config.model_copy(update={"eval": config.eval.model_copy(update={"misinformation": told, "limit": 4})})

    def make(seeds: int, chosen: Sequence[str] = CHOSEN, **scripts: Script) -> list[Path]:
        engines: dict[str, Engine] = {name: ScriptedEngine(script) for name, script in scripts.items()}
        homes = [tmp_path / f"seed-{seed}" for seed in range(seeds)]
        for home in homes:
            run(
                ready,
                chosen,
                {name: name for name in scripts if name not in PARTNERS},
                engines.__getitem__,
                lambda name: None,
                prefs,
                home,
                lambda title: lambda done, total: None,
                {name: name for name in scripts if name in PARTNERS},
            )
        return homes

    return make


MODELS: dict[str, Script] = {
    "base": confused,
    "accept": gives_in,
    "resist": stays,
    "balanced": weighs,
    PARTNER: ignorant,
    TRAINED_PARTNER: listens,
}


def test_models_that_do_what_they_were_trained_for_bear_the_claims_out(runs: Callable[..., list[Path]]) -> None:
    found = {(f.part.claim, f.part.text): f for f in findings(read_results(runs(2, **MODELS)))}
    assert len(found) == len(PARTS)
    verdicts = {text: f.verdict for (_, text), f in found.items()}
    assert verdicts["above the base"] == verdicts["above accept-only"] == verdicts["above resist-only"] == "holds"
    assert verdicts["asked 'are you sure?', fewer right answers are given up"] == "holds"
    # The base moves as little as it holds: here training on one side made nothing worse.
    assert verdicts["resist-only moves less"] == "not shown"
    assert verdicts["more answers are right after the debate"] == "holds"
    above = found["c", "above the base"]
    assert above.ours is not None and above.difference is not None
    assert (above.ours.value, above.difference.value, above.seeds) == (1.0, 1.0, (1.0, 1.0))
    assert (
        told(above) == "above the base: balanced 1.00, base 0.00" and signed(above.difference) == "+1.00 [+1.00, +1.00]"
    )


def test_the_page_and_the_table_name_every_part_with_its_verdict(runs: Callable[..., list[Path]]) -> None:
    results = read_results(runs(1, **MODELS))
    found = findings(results)
    html, markdown = page(scorecard(results), found), to_markdown(found)
    for each in found:
        assert each.part.text in markdown
        assert each.verdict in html
    assert "The claims" in html and "The claims" not in page(scorecard(results))
    assert markdown.count("\n") == len(found) + 2


def test_the_page_says_what_made_it_and_holds_further_tables(runs: Callable[..., list[Path]]) -> None:
    card = scorecard(read_results(runs(1, **MODELS)))
    html = page(card, made="Made by <hand>.", grids=[Grid("Ablations", ("name", "items"), [("half", "7")])])
    assert "Made by &lt;hand&gt;." in html
    assert "<h2>Ablations</h2>" in html and "<td>half</td><td>7</td>" in html


def test_teams_with_a_partner_are_of_each_model_with_it_and_no_others(runs: Callable[..., list[Path]]) -> None:
    (home,) = runs(1, **MODELS)
    (result,) = [r for r in read_results([home]) if r.evaluation == "teams"]
    pairs = {tuple(record.item["models"]) for record in result.records}
    names = [name for name in MODELS if name not in PARTNERS]
    assert pairs == {pair for name in names for other in PARTNERS for pair in ((name, other), (other, name))}
    assert not any((home / "eval" / "balanced" / f"{name}.json").exists() for name in PARTNERS)


def test_a_run_that_lacks_a_result_is_named(runs: Callable[..., list[Path]]) -> None:
    homes = runs(1, ["balanced"], **{name: script for name, script in MODELS.items() if name not in PARTNERS})
    with pytest.raises(BadInput, match=r"seed-0: no result of 'balanced' in are-you-sure; evaluate it first"):
        findings(read_results(homes))


def test_a_team_that_did_not_debate_is_named(runs: Callable[..., list[Path]]) -> None:
    without = {name: script for name, script in MODELS.items() if name != TRAINED_PARTNER}
    with pytest.raises(BadInput, match=r"teams.json: no metric balanced\+partner-balanced/differs"):
        findings(read_results(runs(1, **without)))
