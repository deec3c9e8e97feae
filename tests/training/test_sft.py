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
from pbt.training.sft import sft_trainer, train_sft


def test_the_loss_covers_the_reply_and_its_eos_and_nothing_else(
    write_config: Callable[..., RunConfig],
    prefs: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    rows: list[dict[str, Any]],
) -> None:
    with caplog.at_level(logging.INFO, logger="pbt.training"):
        trainer = sft_trainer(write_config(), "balanced", prefs, tmp_path / "out")
    tokenizer = trainer.processing_class
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    assert (batch["attention_mask"] == 0).any(), "rows of one length would not show what happens to padding"
    for row, labels in zip(rows, batch["labels"], strict=True):
        assert tokenizer.decode(labels[labels != -100]) == row["chosen"][0]["content"] + "<|end|>"
    assert "LEARNT 'No, I stay with Paris.<|end|>'" in caplog.text
    assert "it is Lyon.<|done|><|assistant|>' LEARNT" in caplog.text


def test_padding_with_the_eos_token_leaves_each_reply_its_own_eos(
    write_config: Callable[..., RunConfig], base: Path, prefs: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    model = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(model)
    trainer = sft_trainer(write_config(model), "balanced", prefs, tmp_path / "out")
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    assert (batch["labels"] == tokenizer.eos_token_id).sum(1).tolist() == [1] * len(rows)


def test_sft_lowers_the_loss_and_leaves_a_complete_folder(
    write_config: Callable[..., RunConfig], prefs: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    config = write_config()
    out = tmp_path / "run" / "sft-balanced"
    result = train_sft(config, "balanced", prefs, out)
    assert result.metrics["train_loss_end"] < 0.7 * result.metrics["train_loss_start"]
    assert result.metrics["eval_loss"] < 0.7 * result.metrics["train_loss_start"]
    assert [path.name for path in out.parent.iterdir()] == ["sft-balanced"], "the partial folder is gone"

    record = orjson.loads((out / "run.json").read_bytes())
    assert (record["stage"], record["regime"], record["pairs"]) == ("sft", "balanced", len(rows))
    assert record["start"] == config.models["tiny"].path
    assert record["digest"] == digest(config.resolved())
    assert record["metrics"] == result.metrics and result.metrics["steps"] == 12

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


def test_a_model_that_diverged_is_no_result(
    write_config: Callable[..., RunConfig], prefs: Path, tmp_path: Path
) -> None:
    config = write_config(sft={"trainer": {"learning_rate": 1e30, "max_steps": 3}})
    with pytest.raises(FloatingPointError, match=r"lower sft\.trainer\.learning_rate"):
        train_sft(config, "balanced", prefs, tmp_path / "sft")
    assert not (tmp_path / "sft").exists()
    assert train_sft(write_config(), "balanced", prefs, tmp_path / "sft").folder.is_dir(), "what it left is no obstacle"
