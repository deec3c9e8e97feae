"""Supervised fine-tuning on the chosen turns; the loss covers the reply only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from pbt.config import Regime, RunConfig
from pbt.training.arguments import trainer_arguments
from pbt.training.data import load_pairs
from pbt.training.model import load_model, load_tokenizer, lora_config
from pbt.training.result import TrainResult, make_partial, refuse_existing, train_and_save

logger = logging.getLogger(__name__)


def train_sft(config: RunConfig, regime: Regime, prefs: Path, out: Path) -> TrainResult:
    """Train the base model on the chosen turns of ``prefs`` and write the model folder ``out``. Raises BadInput."""
    trainer = sft_trainer(config, regime, prefs, out)
    return train_and_save(trainer, config, "sft", regime, config.trained("sft").path, out)


def sft_trainer(config: RunConfig, regime: Regime, prefs: Path, out: Path) -> SFTTrainer:
    """TRL's trainer, ready for its first step, with one example in the log as the loss sees it. Raises BadInput."""
    refuse_existing(out)
    args = trainer_arguments(SFTConfig, "sft", config.sft.trainer, config.seed, out)
    start = config.trained("sft").path
    tokenizer = load_tokenizer(start, config.sft)
    pairs = load_pairs(prefs, regime, config.sft, config.seed, tokenizer, args, ["chosen"])
    model = load_model(start, config.sft, "sft")
    make_partial(out)
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=_chosen(pairs.train),
        eval_dataset=_chosen(pairs.valid) if pairs.valid is not None else None,
        processing_class=tokenizer,
        peft_config=lora_config(config.sft.lora),
    )
    prepared: Any = trainer.train_dataset
    batch = trainer.data_collator([prepared[0]])
    shown = readable_mask(tokenizer, batch["input_ids"][0].tolist(), batch["labels"][0].tolist())
    logger.info("%d pairs; the first one as the loss sees it: %s", len(pairs.train), shown)
    return trainer


def _chosen(pairs: Dataset) -> Dataset:
    """Pairs in TRL's prompt-completion format."""
    return pairs.rename_column("chosen", "completion").select_columns(["prompt", "completion"])


def readable_mask(tokenizer: PreTrainedTokenizerBase, input_ids: Sequence[int], labels: Sequence[int]) -> str:
    """One example in words: each run of tokens that the loss leaves out, or covers, as such."""
    spans = []
    for learnt, run in groupby(zip(input_ids, labels, strict=True), lambda pair: pair[1] != -100):
        spans.append(f"{'LEARNT' if learnt else 'masked'} {tokenizer.decode([token for token, _ in run])!r}")
    return " ".join(spans)
