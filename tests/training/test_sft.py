"""SFT with the real trainer: what the loss covers, that it falls, and what is left on disk."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pbt.config import RunConfig, digest
from pbt.errors import BadInput
from pbt.training.sft import prepare_sft, sft_trainer, train_sft


def test_the_loss_covers_the_reply_and_its_eos_and_nothing_else(
    write_config: Callable[..., RunConfig], prefs: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    trainer = sft_trainer(prepare_sft(write_config(), "balanced", prefs, tmp_path / "out"))
    tokenizer = trainer.processing_class
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    assert (batch["attention_mask"] == 0).any(), "rows of one length would not show what happens to padding"
    learnt = [tokenizer.decode(labels[labels != -100]) for labels in batch["labels"]]
    assert sorted(learnt) == sorted(row["chosen"][0]["content"] + "<|end|>" for row in rows)


def test_padding_with_the_eos_token_leaves_each_reply_its_own_eos(
    write_config: Callable[..., RunConfig], prefs: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    config = write_config(sft={"pad_token": "<|end|>"})
    trainer = sft_trainer(prepare_sft(config, "balanced", prefs, tmp_path / "out"))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    assert (batch["labels"] == trainer.processing_class.eos_token_id).sum(1).tolist() == [1] * len(rows)


def test_sft_lowers_the_loss_and_leaves_a_complete_folder(
    write_config: Callable[..., RunConfig],
    prefs: Path,
    tmp_path: Path,
    rows: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = write_config()
    out = tmp_path / "run" / "sft-balanced"
    with caplog.at_level(logging.INFO, logger="pbt.training"):
        result = train_sft(config, "balanced", prefs, out)
    assert "trained on: 8 pairs (4 accept, 4 resist); evaluated on: 2 pairs (1 accept, 1 resist)" in caplog.text
    assert "train.parquet: 8 of 8 pairs fit; the longest has" in caplog.text
    # One example as the loss sees it, a line for each span.
    masked, learnt = caplog.text.split("as the loss sees it:\n")[1].splitlines()[:2]
    assert "masked" in masked and masked.endswith("it is Lyon.<|done|><|assistant|>'")
    assert "learnt" in learnt and learnt.endswith("'No, I stay with Paris.<|end|>'")

    assert result.metrics["train_loss_end"] < 0.7 * result.metrics["train_loss_start"]
    assert result.metrics["eval_loss"] < 0.7 * result.metrics["train_loss_start"]
    assert [path.name for path in out.parent.iterdir()] == ["sft-balanced"], "the partial folder is gone"
    assert not {"checkpoints", "data", "attempt.json", "training_args.bin"} & {path.name for path in out.iterdir()}

    record = orjson.loads((out / "run.json").read_bytes())
    assert (record["stage"], record["regime"], record["pairs"]) == ("sft", "balanced", len(rows))
    assert record["start"] == config.models["tiny"].path
    assert record["digest"] == digest(config.resolved())
    assert record["metrics"] == result.metrics and result.metrics["steps"] == 12
    reports = [orjson.loads(line) for line in (out / "metrics.jsonl").read_bytes().splitlines()]
    assert [report["step"] for report in reports if "loss" in report] == list(range(1, 13))
    assert any((out / "tensorboard").iterdir())

    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.use_cache
    assert (
        AutoTokenizer.from_pretrained(out).chat_template == AutoTokenizer.from_pretrained(record["start"]).chat_template
    )

    with pytest.raises(BadInput, match="already there; remove it"):
        train_sft(config, "balanced", prefs, out)


def test_lora_leaves_the_adapter_and_the_merged_model(
    write_config: Callable[..., RunConfig], base: Path, prefs: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    from peft import PeftModel

    config = write_config(sft={"lora": {"r": 4, "alpha": 8}})
    folder = train_sft(config, "balanced", prefs, tmp_path / "sft").folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer.apply_chat_template(rows[0]["prompt"], return_dict=True)["input_ids"]])
    with torch.no_grad():
        before = AutoModelForCausalLM.from_pretrained(base)(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")(ids).logits
    assert (merged - before).abs().max() > 0.1
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)


def test_an_empty_valid_split_trains_without_evaluation(
    write_config: Callable[..., RunConfig],
    tmp_path: Path,
    rows: list[dict[str, Any]],
    write_pairs: Callable[[Path, list[dict[str, Any]]], None],
) -> None:
    write_pairs(tmp_path / "prefs/data/accept/train.parquet", rows[1::2])
    write_pairs(tmp_path / "prefs/data/accept/valid.parquet", [])
    config = write_config(sft={"trainer": {"max_steps": 1}})
    result = train_sft(config, "accept", tmp_path / "prefs", tmp_path / "sft")
    assert result.pairs == 4
    assert not any(key.startswith("eval") for key in result.metrics)
