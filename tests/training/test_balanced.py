"""Balanced accuracy while training: what it is taken from, that it is the policy's, and what it decides."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from capitals import CAPITALS, pair
from pbt.config import RunConfig
from pbt.engines.base import Reply
from pbt.errors import BadInput
from pbt.grading import HELD, MOVED
from pbt.training.balanced import accuracy, generate, read_items
from pbt.training.dpo import dpo_trainer, prepare_dpo
from pbt.training.sft import prepare_sft, sft_trainer, train_sft
from pbt.training.stage import train_and_save

WritePairs = Callable[[Path, list[dict[str, Any]]], None]
PAIRS = [pair(country, code) for country in CAPITALS for code in ("resist", "accept")]


def test_items_are_the_distinct_contexts_of_the_valid_split() -> None:
    twice = [*PAIRS, {**PAIRS[0], "pair_id": "another"}]
    items = read_items(Dataset.from_list(twice), Path("valid.parquet"), None, seed=1)
    assert [item.direction for item in items] == [HELD] * 5 + [MOVED] * 5
    assert items[0].own_answer == "Paris" and items[0].partner_answer == "Lyon" and "paris" in items[0].aliases
    few = read_items(Dataset.from_list(PAIRS), Path("valid.parquet"), 2, seed=1)
    assert [item.direction for item in few] == [HELD] * 2 + [MOVED] * 2
    assert few == read_items(Dataset.from_list(PAIRS), Path("valid.parquet"), 2, seed=1)


def test_a_split_that_cannot_be_graded_is_refused() -> None:
    with pytest.raises(BadInput, match=r"valid\.parquet: no accept pairs to take balanced accuracy from"):
        read_items(Dataset.from_list(PAIRS[::2]), Path("valid.parquet"), None, seed=1)
    with pytest.raises(BadInput, match=r"valid\.parquet: no resist pairs"):
        read_items(Dataset.from_list(PAIRS[1::2]), Path("valid.parquet"), None, seed=1)
    with pytest.raises(BadInput, match=r"valid\.parquet: no column aliases, which balanced accuracy needs"):
        read_items(Dataset.from_list(PAIRS).remove_columns("aliases"), Path("valid.parquet"), None, seed=1)


def test_replies_are_graded_as_the_evaluation_grades_them() -> None:
    items = read_items(Dataset.from_list(PAIRS[:4]), Path("valid.parquet"), None, seed=1)
    texts = {
        ("Paris", HELD): "No, I stay with Paris.",
        ("Rome", HELD): "You are right, it is Lyon.",
        ("Paris", MOVED): "You are right, I was wrong.",  # Agree is the partner's answer
        ("Rome", MOVED): "You are right, it is Rome.",
    }
    replies = []
    for item in items:
        gold = item.own_answer if item.direction == HELD else item.partner_answer
        replies.append(Reply(texts[gold, item.direction], tokens=9, prompt_tokens=9, truncated=False))
    assert accuracy(items, replies, "truncated") == (0.5, 1.0, 0.75)


def test_replies_are_those_of_greedy_decoding_one_by_one(
    write_config: Callable[..., RunConfig], sft_model: Path, prefs: Path, tmp_path: Path
) -> None:
    config = write_config(sft_model)
    trainer = sft_trainer(prepare_sft(config, "balanced", prefs, tmp_path / "out"))
    trainer.model.eval()
    items = read_items(Dataset.from_list(PAIRS), Path("valid.parquet"), None, seed=1)
    replies = generate(trainer, items, config.protocol, batch_size=4)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(sft_model), AutoTokenizer.from_pretrained(sft_model)
    limits = config.protocol.sampling
    for item, reply in zip(items, replies, strict=True):
        ids = tokenizer.apply_chat_template(list(item.prompt), add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        said: list[int] = []
        while len(said) < limits.max_tokens and tokenizer.eos_token_id not in said:
            with torch.no_grad():
                scores = model(torch.tensor([ids + said])).logits[0, -1]
            if len(said) < limits.min_tokens:
                scores[tokenizer.eos_token_id] = -torch.inf
            said.append(int(scores.argmax()))
        assert reply.text == tokenizer.decode(said, skip_special_tokens=True)
        assert (reply.tokens, reply.prompt_tokens) == (len(said), len(ids))
        assert reply.truncated == (tokenizer.eos_token_id not in said)


def test_the_best_checkpoint_is_the_one_with_the_best_balanced_accuracy(
    write_config: Callable[..., RunConfig], write_pairs: WritePairs, tmp_path: Path
) -> None:
    prefs = tmp_path / "prefs"
    write_pairs(prefs / "data/balanced/train.parquet", PAIRS)
    write_pairs(prefs / "data/balanced/valid.parquet", PAIRS)
    # Learns the ten replies by heart, then a rate that ruins it: the best is neither the first nor the last.
    trainer = {
        "max_steps": 60,
        "learning_rate": 0.02,
        "eval_steps": 10,
        "save_strategy": "steps",
        "save_total_limit": None,
        "lr_scheduler_type": "linear",
        "warmup_steps": 200,
    }
    section = {"trainer": trainer, "balanced": {"items": None}}
    result = train_sft(write_config(sft=section), "balanced", prefs, tmp_path / "sft")
    reports = json.loads((result.folder / "trainer_state.json").read_text())["log_history"]
    balanced = {report["step"]: report["eval_balanced"] for report in reports if "eval_balanced" in report}
    assert list(balanced) == [10, 20, 30, 40, 50, 60]
    for report in reports:
        if "eval_balanced" in report:
            assert report["eval_balanced"] == pytest.approx((report["eval_held"] + report["eval_moved"]) / 2)
    best = max(balanced, key=lambda step: (balanced[step], -step))
    assert balanced[best] > balanced[10], "it was learnt"
    assert result.metrics["best_step"] == best
    assert result.metrics["eval_balanced"] == balanced[best]
    chosen = AutoModelForCausalLM.from_pretrained(result.folder / f"checkpoints/checkpoint-{best}").state_dict()
    ours = AutoModelForCausalLM.from_pretrained(result.folder).state_dict()
    assert all(ours[name].equal(chosen[name]) for name in ours)


def test_training_stops_early_when_balanced_accuracy_does_not_rise(
    write_config: Callable[..., RunConfig], prefs: Path, tmp_path: Path
) -> None:
    # A rate of nothing changes nothing: the first evaluation is the best, the two after it are the patience.
    trainer = {"max_steps": 40, "learning_rate": 0.0, "eval_steps": 4, "save_steps": 4}
    section = {"trainer": {**trainer, "save_strategy": "steps"}, "balanced": {"patience": 2}}
    result = train_sft(write_config(sft=section), "balanced", prefs, tmp_path / "sft")
    assert (result.metrics["steps"], result.metrics["best_step"]) == (12, 4)


def test_dpo_is_measured_on_the_items_that_sft_was_and_begins_where_it_ended(
    write_config: Callable[..., RunConfig], write_pairs: WritePairs, tmp_path: Path
) -> None:
    prefs = tmp_path / "prefs"
    write_pairs(prefs / "data/balanced/train.parquet", PAIRS)
    write_pairs(prefs / "data/balanced/valid.parquet", PAIRS)
    balanced = {"items": 2}
    saving = {"save_strategy": "steps", "eval_steps": 50, "max_steps": 50}
    config = write_config(
        sft={"balanced": balanced, "trainer": {**saving, "learning_rate": 0.005}},
        dpo={"balanced": balanced, "trainer": {**saving, "learning_rate": 0.0, "max_steps": 1, "eval_steps": 1}},
    )
    sft = prepare_sft(config, "balanced", prefs, tmp_path / "sft")
    ended = train_and_save(sft_trainer(sft), sft)
    dpo = prepare_dpo(config, "balanced", prefs, tmp_path / "dpo", ended.folder)
    assert sft.items == dpo.items and len(dpo.items) == 4
    began = train_and_save(dpo_trainer(dpo), dpo)
    for name in ("held", "moved", "balanced"):
        assert began.metrics[f"eval_{name}"] == ended.metrics[f"eval_{name}"]
