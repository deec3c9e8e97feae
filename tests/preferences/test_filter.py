"""The model filter, section 4: synonyms before scoring, then agreeing and disagreeing; nothing is asked twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from pbt.config import FilterConfig, ModelConfig, shipped_filter_prompts
from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.debate.tree import DebateTree
from pbt.engines.base import Continuation, EngineError, Reply
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput
from pbt.preferences.filter import confirms, stance
from pbt.preferences.funnel import Funnel
from pbt.preferences.progress import Phase
from pbt.provenance import read_run

Debate = Callable[..., DebateTree]
StoreTrees = Callable[[Path, Sequence[DebateTree]], Path]
Build = Callable[..., Funnel]


@dataclass
class Judge:
    """An engine that knows ``synonyms``, finds agreement in replies by ``agrees``, and keeps what it is asked."""

    agrees: Callable[[str], bool] = lambda reply: "Agree" in reply
    synonyms: frozenset[str] = frozenset()
    fails_on: str = "\0"
    asked: list[str] = field(default_factory=list)
    loaded: int = 0
    closed: int = 0

    def __call__(self, model: ModelConfig) -> Judge:
        self.loaded += 1
        assert model.path == "other"
        return self

    async def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[Continuation]:
        (message,) = messages
        prompt = message["content"]
        self.asked.append(prompt)
        if self.fails_on in prompt:
            raise EngineError("too long")
        *_, question, first, second = prompt.splitlines()[:-1]
        assert question.startswith("Question: ") or first.startswith("Question: ")
        if continuations == (" yes", " no"):
            yes = second.removeprefix("Answers: ") in self.synonyms
        else:
            assert continuations == (" agree", " disagree")
            yes = self.agrees(second)
        return await ScriptedEngine(
            lambda *_: "", lambda _, text: -1.0 if (text == continuations[0]) == yes else -3.5
        ).score(messages, continuations)

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        raise AssertionError("the filter only scores")

    def close(self) -> None:
        self.closed += 1


FILTER = {"model": "replier"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def folder(
    both_codes: Callable[[int], DebateTree], store_trees: StoreTrees, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return store_trees(tmp_path_factory.mktemp("twenty") / "trees", [both_codes(number) for number in range(20)])


@pytest.mark.parametrize(
    ("code", "chosen", "rejected", "kept"),
    [
        ("resist", -1.0, 1.0, True),
        ("resist", 1.0, 1.0, False),
        ("resist", -1.0, -1.0, False),
        ("resist", 1.0, -1.0, False),
        ("accept", 1.0, -1.0, True),
        ("accept", -1.0, -1.0, False),
        ("accept", 1.0, 1.0, False),
        ("accept", -1.0, 1.0, False),
    ],
)
def test_resist_needs_disagree_over_agree_and_accept_the_reverse(
    code: Any, chosen: float, rejected: float, kept: bool
) -> None:
    assert confirms(code, chosen, rejected) is kept


def test_a_draw_is_no_agreement() -> None:
    assert (stance(0.0), stance(1e-9)) == ("disagree", "agree")


def test_confirmed_pairs_stay_and_carry_the_verdicts(tmp_path: Path, folder: Path, build: Build) -> None:
    judge = Judge()
    funnel = build([folder], tmp_path / "out", judge, filter=FILTER)
    assert funnel.emitted == {"accept": 20, "resist": 20}
    assert (judge.loaded, judge.closed) == (1, 1)
    pairs = {pair["pair_id"]: pair for pair in lines(tmp_path / "out" / "pairs.jsonl")}
    resist, accept = pairs["t000/3-4"], pairs["t000/8-7"]
    assert (resist["chosen_stance"], resist["rejected_stance"]) == ("disagree", "agree")
    assert (resist["chosen_log_odds"], resist["rejected_log_odds"]) == (-2.5, 2.5)
    assert (accept["chosen_stance"], accept["rejected_stance"]) == ("agree", "disagree")


def test_progress_counts_requests_as_they_are_answered(tmp_path: Path, folder: Path, build: Build) -> None:
    phases: list[Phase] = []
    seen: set[int] = set()

    def agrees(reply: str) -> bool:
        seen.add(phases[-1].done)
        return "Agree" in reply

    build([folder], tmp_path / "out", Judge(agrees), filter=FILTER, progress=phases.append)
    walk, confirm, write = phases
    assert (walk.unit, walk.answers) == ("bytes", 40)
    assert (confirm.unit, confirm.done, confirm.total) == ("requests", 80, 80)
    assert len(seen) > 40  # and not all at the end
    assert write.unit == "rows"

    build([folder], tmp_path / "out", Judge(), filter=FILTER, progress=phases.append)
    assert phases[4] == confirm  # what the cache answers counts too


def test_the_whole_label_with_its_leading_space_is_scored_after_partner_and_reply(
    tmp_path: Path, folder: Path, build: Build
) -> None:
    judge = Judge()
    build([folder], tmp_path / "out", judge, filter=FILTER)
    stances = [prompt for prompt in judge.asked if prompt.endswith("The reply:")]
    assert len(stances) == 80
    assert "Question: Which gold has number 0?\nFirst: I say Nice.\nSecond: I say Disagree.\nThe reply:" in stances[0]


def test_refuted_pairs_fall_with_a_reason(tmp_path: Path, folder: Path, build: Build) -> None:
    judge = Judge(agrees=lambda reply: True)
    with pytest.raises(BadInput, match="40 unconfirmed"):
        build([folder], tmp_path / "out", judge, filter=FILTER)
    fallen = [fall for fall in lines(tmp_path / "out" / "rejections.jsonl") if fall["reason"] == "unconfirmed"]
    assert {(fall["tree_id"], *fall["turns"]) for fall in fallen} == {
        (f"t{number:03d}", *turns) for number in range(20) for turns in ((3, 4), (7, 8))
    }


def test_a_rerun_asks_nothing_twice_and_loads_no_model(tmp_path: Path, folder: Path, build: Build) -> None:
    first, second, third = Judge(), Judge(), Judge()
    build([folder], tmp_path / "out", first, filter=FILTER)
    before = (tmp_path / "out" / "pairs.jsonl").read_bytes()
    assert len(first.asked) == len(set(first.asked))
    build([folder], tmp_path / "out", second, filter=FILTER, size="max")
    assert (second.loaded, second.asked) == (0, [])
    assert (tmp_path / "out" / "pairs.jsonl").read_bytes() == before

    # A kill tears the last line: what it said is asked again, and nothing else.
    cache = tmp_path / "out" / "verdicts.jsonl"
    cache.write_bytes(cache.read_bytes()[:-5])
    build([folder], tmp_path / "out", third, filter=FILTER)
    assert len(third.asked) == 1
    assert (tmp_path / "out" / "pairs.jsonl").read_bytes() == before


def test_other_prompts_are_asked_as_they_are_written_and_take_no_verdict_of_earlier_ones(
    tmp_path: Path, folder: Path, build: Build
) -> None:
    out = tmp_path / "out"
    build([folder], out, Judge(), filter=FILTER)
    digest = read_run(out)["digest"]

    prompts = shipped_filter_prompts().model_dump()
    prompts["stance"]["prompt"] = "Weigh {{well}}.\n" + prompts["stance"]["prompt"]
    judge = Judge()
    build([folder], out, judge, filter={**FILTER, "prompts": prompts})
    assert len(judge.asked) == 80
    assert all(prompt.startswith("Weigh {well}.\nTwo partners") for prompt in judge.asked)
    assert read_run(out)["digest"] != digest

    # The verdicts of both stay, so going back asks nothing.
    back = Judge()
    build([folder], out, back, filter=FILTER)
    assert (back.asked, read_run(out)["digest"]) == ([], digest)


def test_the_saved_configuration_says_what_the_model_was_really_asked(
    tmp_path: Path, folder: Path, build: Build
) -> None:
    build([folder], tmp_path / "out", Judge(), filter=FILTER)
    saved = read_run(tmp_path / "out")["config"]["preferences"]["filter"]["prompts"]
    assert saved == shipped_filter_prompts().model_dump(mode="json")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"prompt": "Is {gold} {other}?"}, "must name {question}, {gold}, {other} in braces"),
        ({"prompt": "{question} {gold} {other} {reply}"}, "it names {gold}, {other}, {question}, {reply}"),
        ({"prompt": "{question} {gold} {other.__class__}"}, "must name {question}, {gold}, {other} in braces"),
        ({"prompt": "{question} {gold} {other} }"}, "a brace that is meant must stand twice"),
        ({"labels": [" yes", " yes"]}, "the two labels must differ"),
        ({"labels": [" yes"]}, "labels"),
    ],
)
def test_prompts_that_cannot_be_asked_are_refused(changed: dict[str, Any], told: str) -> None:
    prompts = shipped_filter_prompts().model_dump()
    prompts["synonyms"] |= changed
    with pytest.raises(ValidationError) as refused:
        FilterConfig.model_validate({**FILTER, "prompts": prompts})
    assert told in str(refused.value)


def test_an_interrupted_build_leaves_its_verdicts_for_the_next(tmp_path: Path, folder: Path, build: Build) -> None:
    broken = Judge(agrees=lambda reply: 1 / 0 > 0)
    with pytest.raises(ZeroDivisionError):
        build([folder], tmp_path / "out", broken, filter=FILTER)
    assert broken.closed == 1
    synonyms = sum(prompt.endswith("Same:") for prompt in broken.asked)
    assert synonyms > 0
    again = Judge()
    build([folder], tmp_path / "out", again, filter=FILTER)
    assert len(again.asked) == 80


def test_a_request_that_fails_is_counted_and_asked_again_by_the_next_build(
    tmp_path: Path, folder: Path, build: Build
) -> None:
    judge = Judge(fails_on="Question: Which gold has number 7?\nFirst")
    funnel = build([folder], tmp_path / "out", judge, filter=FILTER)
    assert (funnel.rejected["unanswered"], funnel.emitted) == (2, {"accept": 19, "resist": 19})
    assert funnel.unanswered == 4
    again = Judge()
    assert build([folder], tmp_path / "out", again, filter=FILTER).emitted == {"accept": 20, "resist": 20}
    assert len(again.asked) == 4


def test_a_synonym_that_the_model_does_not_judge_is_none_and_is_counted(
    tmp_path: Path, folder: Path, build: Build
) -> None:
    funnel = build([folder], tmp_path / "out", Judge(fails_on="Same:"), filter=FILTER)
    assert funnel.emitted == {"accept": 20, "resist": 20}
    assert funnel.rejected["unanswered"] == 0
    assert funnel.unanswered == 40  # two wrong answers stand beside the right one, on each of twenty questions


def test_who_was_right_in_other_words_did_not_move(
    tmp_path: Path, debate: Debate, both_codes: Callable[[int], DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    nested = ("Paris", ("Lutetia", ("Paris", "Agree", "Disagree")))
    trees = [debate(nested, tree_id="s"), *(both_codes(number) for number in range(20))]
    store_trees(tmp_path / "trees", trees)
    assert build([tmp_path / "trees"], tmp_path / "plain").emitted == {"accept": 21, "resist": 20}

    judge = Judge(synonyms=frozenset({"Paris / Lutetia"}))
    funnel = build([tmp_path / "trees"], tmp_path / "filtered", judge, filter=FILTER)
    assert funnel.emitted == {"accept": 20, "resist": 20}
    assert funnel.rejected["perfect"] == 1


def test_the_resolved_string_is_copied_once_and_holds_below(
    tmp_path: Path, debate: Debate, both_codes: Callable[[int], DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    # B was right in other words, and holds against a partner who leaves the right answer.
    nested = ("Paris", ("Lutetia", ("Nice", "Disagree", "Agree")))
    trees = [debate(nested, tree_id="s"), *(both_codes(number) for number in range(20))]
    store_trees(tmp_path / "trees", trees)
    judge = Judge(synonyms=frozenset({"Paris / Lutetia"}))
    build([tmp_path / "trees"], tmp_path / "out", judge, filter=FILTER)
    (pair,) = [pair for pair in lines(tmp_path / "out" / "pairs.jsonl") if pair["tree_id"] == "s"]
    assert (pair["code"], pair["copied_turns"]) == ("resist", [1])
    assert (pair["own_answer"], pair["chosen_answer"], pair["rejected_answer"]) == ("Paris", "Paris", "Nice")

    asked = [prompt.splitlines()[-2] for prompt in judge.asked if prompt.endswith("Same:")]
    assert "Answers: Paris / Lutetia" in asked
    # Below the copy A's other answer stands beside the right one.
    assert "Answers: Paris / Nice" in asked
    assert not any(token in line for line in asked for token in ("Agree", "Disagree", "NONE"))
