"""Balanced persuasion from parquet to result files, with a scripted engine."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capitals import CAPITALS, WRONG, WritePrefs, pair
from pbt.config import EvalConfig, read_yaml
from pbt.debate import protocol as debate_protocol
from pbt.debate.answers import AGREE, DISAGREE, NONE
from pbt.debate.chat import Message
from pbt.debate.protocol import Protocol, Sampling
from pbt.engines.base import EngineError, Reply
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput
from pbt.evaluation.balanced import (
    HELD,
    MOVED,
    Direction,
    Item,
    Outcome,
    evaluate,
    grade_item,
    items_sha256,
    measure,
    read_items,
    read_result,
    write_result,
)
from pbt.evaluation.stats import Interval

PROTOCOL = Protocol.model_validate(
    read_yaml(Path(debate_protocol.__file__).parents[1] / "protocols" / "pocket-debate.yaml")
)
GREEDY = EvalConfig()
ONE, ZERO = Interval(1.0, 1.0, 1.0), Interval(0.0, 0.0, 0.0)


def run(engine: ScriptedEngine, items: Sequence[Item], config: EvalConfig = GREEDY, seed: int = 0) -> list[Outcome]:
    return asyncio.run(evaluate(engine, items, PROTOCOL, config, seed))


def own(messages: Sequence[Message]) -> str:
    return messages[1]["content"]


def persuaded(messages: Sequence[Message]) -> str:
    return messages[2]["content"].removeprefix("I am a geographer, ").capitalize()


def oracle(messages: Sequence[Message], seed: int) -> str:
    return own(messages) if WRONG in messages[2]["content"] else "You are right, I agree."


def item(direction: Direction = HELD, own_answer: str = "Paris", partner_answer: str = "Lyon") -> Item:
    prompt = (Message(role="user", content="Capital of France?"),)
    return Item(
        "t/3-4",
        "q",
        "Capital of France?",
        "Paris",
        ("paris", "city of light"),
        direction,
        own_answer,
        partner_answer,
        prompt,
    )


# Items


def test_an_item_is_the_prompt_as_it_stands(prefs: Path) -> None:
    items = read_items(prefs, None, 0)
    assert [i.direction for i in items] == [HELD] * 5 + [MOVED] * 5
    france = items[0]
    assert france == Item(
        pair_id="t-France-resist/3-4",
        question_id="q-France",
        question="What is the capital of France?",
        gold="Paris",
        aliases=("paris", "city of paris"),
        direction=HELD,
        own_answer="Paris",
        partner_answer="Lyon",
        prompt=tuple(pair("France", "resist")["prompt"]),
    )


def test_pairs_that_share_context_and_code_are_one_item(write_prefs: WritePrefs) -> None:
    resist, accept = pair("France", "resist"), pair("France", "accept")
    items = read_items(
        write_prefs([resist, {**resist, "pair_id": "later"}, {**accept, "prompt": resist["prompt"]}]), None, 0
    )
    assert [i.pair_id for i in items] == ["t-France-resist/3-4", "t-France-accept/3-4"]


def test_a_limit_is_a_seeded_sample_of_each_direction(prefs: Path) -> None:
    whole = read_items(prefs, None, 0)
    assert read_items(prefs, 5, 0) == read_items(prefs, 99, 0) == whole
    samples = [read_items(prefs, 2, seed) for seed in range(20)]
    for sample in samples:
        assert [i.direction for i in sample] == [HELD, HELD, MOVED, MOVED]
        assert [i for i in whole if i in sample] == sample
    assert read_items(prefs, 2, 3) == samples[3]
    assert len({items_sha256(sample) for sample in samples}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"own_answer": None}, "row 1: 'own_answer' must be a text, found None"),
        ({"code": "insist"}, "row 1: code 'insist' is neither resist nor accept"),
        ({"aliases": []}, "row 1: no 'aliases'"),
        ({"prompt": None}, "row 1: 'prompt' is no list of messages"),
    ],
)
def test_a_row_that_is_no_pair_is_named(write_prefs: WritePrefs, change: dict[str, object], message: str) -> None:
    prefs = write_prefs([pair("France", "resist"), {**pair("France", "accept"), **change}])
    with pytest.raises(BadInput, match=message):
        read_items(prefs, None, 0)


def test_half_a_test_split_is_refused(write_prefs: WritePrefs) -> None:
    with pytest.raises(BadInput, match="no accept pairs"):
        read_items(write_prefs([pair("France", "resist")]), None, 0)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"test\.parquet: no such file"):
        read_items(tmp_path, None, 0)
    path = tmp_path / "data" / "balanced" / "test.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not parquet at all")
    with pytest.raises(BadInput, match=r"test\.parquet: not a readable Parquet file"):
        read_items(tmp_path, None, 0)


def test_the_same_ids_with_other_contents_are_other_items(prefs: Path) -> None:
    items = read_items(prefs, None, 0)
    assert items_sha256(items) == items_sha256(items[::-1]) == items_sha256(items * 2)
    changed = [replace(items[0], prompt=items[1].prompt), *items[1:]]
    assert items_sha256(changed) != items_sha256(items)


# Grades


@pytest.mark.parametrize(
    ("claim", "answer", "right", "third"),
    [
        ("the Paris", "the Paris", True, False),
        (DISAGREE, "Paris", True, False),
        ("City of Light", "City of Light", True, False),
        ("Lyon", "Lyon", False, False),
        (AGREE, "Lyon", False, False),
        ("Nice", "Nice", False, True),
        (NONE, NONE, False, False),
        ("", None, False, False),
    ],
)
def test_a_resist_item_is_right_when_held(claim: str, answer: str | None, right: bool, third: bool) -> None:
    assert grade_item(item(), claim) == (answer, right, third)


@pytest.mark.parametrize(
    ("claim", "right", "third"),
    [
        ("Paris", True, False),
        (AGREE, True, False),
        ("Lyon", False, False),
        (DISAGREE, False, False),
        ("Nice", False, True),
    ],
)
def test_an_accept_item_is_right_when_moved(claim: str, right: bool, third: bool) -> None:
    assert grade_item(item(MOVED, own_answer="Lyon", partner_answer="Paris"), claim)[1:] == (right, third)


def test_containment_counts_with_the_right_side_only() -> None:
    held = item(own_answer="Franklin Roosevelt", partner_answer="Theodore Roosevelt")
    assert grade_item(held, "F. Franklin Roosevelt").right
    assert grade_item(held, "Theodore D. Roosevelt") == ("Theodore D. Roosevelt", False, True)
    assert grade_item(held, "President Theodore Roosevelt") == ("President Theodore Roosevelt", False, False)


def test_disagreeing_without_an_answer_of_ones_own_is_no_answer() -> None:
    assert grade_item(item(MOVED, own_answer=NONE, partner_answer="Paris"), DISAGREE) == (NONE, False, False)


@given(st.sampled_from([HELD, MOVED]), st.sampled_from([AGREE, DISAGREE, NONE, "", "Paris", "Lyon", "Nice", "paris!"]))
def test_a_right_answer_is_never_a_third_one(direction: Direction, claim: str) -> None:
    own_answer, partner_answer = ("Paris", "Lyon") if direction == HELD else ("Lyon", "Paris")
    graded = grade_item(item(direction, own_answer, partner_answer), claim)
    assert not (graded.right and graded.third)
    assert graded.answer not in (AGREE, DISAGREE)


# Whole evaluations


def test_one_that_always_holds(prefs: Path) -> None:
    metrics = measure(run(ScriptedEngine(lambda messages, seed: own(messages)), read_items(prefs, None, 0)))
    assert (metrics.held, metrics.moved) == (ONE, ZERO)
    assert metrics.balanced is not None and metrics.balanced.value == 0.5
    assert (metrics.held_items, metrics.moved_items, metrics.replies, metrics.failed) == (5, 5, 10, 0)
    assert (metrics.agree, metrics.disagree, metrics.none, metrics.third) == (0, 0, 0, 0)


def test_one_that_always_moves(prefs: Path) -> None:
    metrics = measure(run(ScriptedEngine(lambda messages, seed: persuaded(messages)), read_items(prefs, None, 0)))
    assert (metrics.held, metrics.moved) == (ZERO, ONE)
    assert (metrics.agree, metrics.third) == (0, 0)


def test_one_that_only_agrees_is_resolved_to_the_partner(prefs: Path) -> None:
    outcomes = run(ScriptedEngine(lambda messages, seed: "I agree with you."), read_items(prefs, None, 0))
    metrics = measure(outcomes)
    assert (metrics.held, metrics.moved, metrics.agree) == (ZERO, ONE, 1)
    assert [o.answer for o in outcomes] == [o.item.partner_answer for o in outcomes]


def test_one_that_only_disagrees_is_resolved_to_its_own(prefs: Path) -> None:
    metrics = measure(run(ScriptedEngine(lambda messages, seed: "I disagree."), read_items(prefs, None, 0)))
    assert (metrics.held, metrics.moved, metrics.disagree) == (ONE, ZERO, 1)


def test_an_oracle(prefs: Path) -> None:
    metrics = measure(run(ScriptedEngine(oracle), read_items(prefs, None, 0)))
    assert (metrics.held, metrics.moved, metrics.balanced) == (ONE, ONE, ONE)
    assert metrics.agree == 0.5


def test_unfinished_replies_and_third_answers_are_counted(prefs: Path) -> None:
    endless = (
        "It is Paris because" + " of this" * PROTOCOL.sampling.max_tokens
    )  # runs into the limit: no whole sentence

    def script(messages: Sequence[Message], seed: int) -> str:
        return "It is Oslo." if messages[2]["content"] == "I am a geographer, it is Lyon." else endless

    outcomes = run(ScriptedEngine(script), read_items(prefs, None, 0))
    metrics = measure(outcomes)
    assert (metrics.held, metrics.moved) == (ZERO, ZERO)
    assert (metrics.third, metrics.none, metrics.empty) == (0.5, 0.5, 5)
    assert (outcomes[9].reply, outcomes[9].text, outcomes[9].claim) == (endless, "", NONE)


class Recorder(ScriptedEngine):
    """Keeps what it was asked for; how many requests wait at once, too."""

    def __init__(self) -> None:
        super().__init__(lambda messages, seed: own(messages))
        self.asked: list[tuple[Sampling, int]] = []
        self.waiting = self.most = 0

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        self.asked.append((sampling, seed))
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await asyncio.sleep(0)
        self.waiting -= 1
        return await super().chat(messages, sampling, seed)


def test_sampling_is_the_protocols_at_the_evaluations_temperature_and_seeds_are_the_items(prefs: Path) -> None:
    items = read_items(prefs, None, 0)
    config = EvalConfig(temperature=0.9, samples=3)
    engine, again, other = Recorder(), Recorder(), Recorder()
    outcomes = run(engine, items, config)
    assert {sampling for sampling, _ in engine.asked} == {PROTOCOL.sampling.model_copy(update={"temperature": 0.9})}
    seeds = [seed for _, seed in engine.asked]
    assert len(set(seeds)) == 30
    assert [(o.item.pair_id, o.sample) for o in outcomes] == [(i.pair_id, s) for i in items for s in range(3)]
    run(again, items[::-1], config)
    assert sorted(seed for _, seed in again.asked) == sorted(seeds)
    run(other, items, config, seed=1)
    assert not {seed for _, seed in other.asked} & set(seeds)


def test_all_items_wait_at_once_within_the_bound(prefs: Path) -> None:
    few, many = Recorder(), Recorder()
    run(few, read_items(prefs, None, 0))
    assert few.most == 10
    run(many, read_items(prefs, None, 0), EvalConfig(temperature=1, samples=50))
    assert many.most == 256


def test_samples_of_an_item_are_averaged_before_items_are(prefs: Path) -> None:
    """One of two replies right on every item: one half each, and certain, because all questions do the same."""
    items = read_items(prefs, None, 0)
    seen: set[str] = set()

    def script(messages: Sequence[Message], seed: int) -> str:
        key = orjson.dumps(messages).decode()
        if key in seen:
            return "It is Oslo."
        seen.add(key)
        return oracle(messages, seed)

    metrics = measure(run(ScriptedEngine(script), items, EvalConfig(temperature=1, samples=2)))
    half = Interval(0.5, 0.5, 0.5)
    assert (metrics.held, metrics.moved, metrics.held_items, metrics.replies) == (half, half, 5, 20)


def fails_on(country: str, code: str) -> ScriptedEngine:
    def script(messages: Sequence[Message], seed: int) -> str:
        if country in messages[0]["content"] and (WRONG in messages[2]["content"]) == (code == "resist"):
            raise EngineError("prompt of 4097 tokens is longer than the model's 4096")
        return own(messages)

    return ScriptedEngine(script)


def test_a_failed_request_is_counted_and_enters_no_accuracy(prefs: Path) -> None:
    outcomes = run(fails_on("Italy", "resist"), read_items(prefs, None, 0))
    metrics = measure(outcomes)
    assert (metrics.held, metrics.moved) == (ONE, ZERO)
    assert (metrics.held_items, metrics.moved_items, metrics.replies, metrics.failed) == (4, 5, 9, 1)
    (failed,) = [o for o in outcomes if o.error]
    assert (failed.item.question_id, failed.reply, failed.answer) == ("q-Italy", "", None)
    assert failed.error == "prompt of 4097 tokens is longer than the model's 4096"


def test_all_failed_is_no_accuracy_at_all(prefs: Path) -> None:
    def script(messages: Sequence[Message], seed: int) -> str:
        raise EngineError("no")

    metrics = measure(run(ScriptedEngine(script), read_items(prefs, None, 0)))
    assert (metrics.held, metrics.moved, metrics.balanced, metrics.agree, metrics.failed) == (
        None,
        None,
        None,
        None,
        10,
    )


def test_a_fault_of_the_program_is_not_a_failed_item(prefs: Path) -> None:
    def script(messages: Sequence[Message], seed: int) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(ScriptedEngine(script), read_items(prefs, None, 0))


def test_progress_hears_of_every_outcome(prefs: Path) -> None:
    heard: list[Outcome] = []
    engine = fails_on("Spain", "accept")
    outcomes = asyncio.run(evaluate(engine, read_items(prefs, None, 0), PROTOCOL, EvalConfig(), 0, heard.append))
    assert sorted(o.item.pair_id for o in heard) == sorted(o.item.pair_id for o in outcomes)
    assert sum(o.error is not None for o in heard) == 1


# Result files


def test_a_result_reads_back_as_it_was_written(prefs: Path, tmp_path: Path) -> None:
    outcomes = run(fails_on("Spain", "accept"), read_items(prefs, None, 0))
    metrics = measure(outcomes)
    path = write_result(tmp_path / "eval", "dpo", outcomes, metrics, {"model": "run/dpo-balanced", "seed": 4})
    result = read_result(path)
    assert (result.name, result.model, result.metrics) == ("dpo", "run/dpo-balanced", metrics)
    assert result.outcomes == tuple(outcomes)
    assert result.items_sha256 == items_sha256(read_items(prefs, None, 0))
    assert orjson.loads(path.read_bytes())["record"] == {"model": "run/dpo-balanced", "seed": 4}


def test_every_line_holds_its_whole_transcript(prefs: Path, tmp_path: Path) -> None:
    outcomes = run(ScriptedEngine(oracle), read_items(prefs, None, 0))
    write_result(tmp_path, "m", outcomes, measure(outcomes), {"model": "m"})
    lines = [orjson.loads(line) for line in (tmp_path / "m.items.jsonl").read_bytes().splitlines()]
    assert len(lines) == 10
    assert lines[5] == {
        "pair_id": "t-France-accept/3-4",
        "question_id": "q-France",
        "question": "What is the capital of France?",
        "gold": "Paris",
        "aliases": ["paris", "city of paris"],
        "direction": "incorrect->correct",
        "own_answer": "Lyon",
        "partner_answer": "Paris",
        "prompt": pair("France", "accept")["prompt"],
        "sample": 0,
        "reply": "You are right, I agree.",
        "text": "You are right, I agree.",
        "claim": "Agree",
        "answer": "Paris",
        "right": True,
        "third": False,
        "error": None,
    }


def test_files_that_do_not_belong_together_are_refused(prefs: Path, tmp_path: Path) -> None:
    items = read_items(prefs, None, 0)
    for name, script in (("holds", lambda m, s: own(m)), ("moves", lambda m, s: persuaded(m))):
        outcomes = run(ScriptedEngine(script), items)
        write_result(tmp_path, name, outcomes, measure(outcomes), {"model": name})
    (tmp_path / "moves.items.jsonl").replace(tmp_path / "holds.items.jsonl")
    for name in ("holds", "moves"):
        with pytest.raises(BadInput, match=rf"{name}\.items\.jsonl: missing, or not the transcripts"):
            read_result(tmp_path / f"{name}.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "not a result of the balanced evaluation"),
        (b'{"evaluation":"balanced","format":2}', "result format 2 is not 1"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_result(path)


def test_a_missing_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"m\.json: no such result"):
        read_result(tmp_path / "m.json")


@pytest.mark.parametrize("name", ["", "org/model"])
def test_a_name_must_name_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="may not be empty or a path"):
        write_result(tmp_path, name, [], measure([]), {"model": "m"})


def test_the_world_of_these_tests_has_one_wrong_answer() -> None:
    assert WRONG not in CAPITALS.values()
