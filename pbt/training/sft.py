"""Supervised fine-tuning on the chosen turns; the loss covers the reply only."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from pbt.config import Regime, RunConfig
from pbt.training.model import lora_config
from pbt.training.stage import Job, Ready, TrainResult, prepare, train_and_save
from pbt.training.trainers import SFT


def train_sft(config: RunConfig, regime: Regime, prefs: Path, out: Path) -> TrainResult:
    """Train the base model on the chosen turns of ``prefs`` and write the model folder ``out``. Raises BadInput."""
    ready = prepare_sft(config, regime, prefs, out)
    return train_and_save(sft_trainer(ready), ready)


def prepare_sft(config: RunConfig, regime: Regime, prefs: Path, out: Path) -> Ready:
    """All that the trainer is built from, checked. Raises BadInput."""
    return prepare(Job(config, "sft", regime, prefs, config.trained("sft").path, out), ["chosen"], _chosen)


def sft_trainer(ready: Ready) -> SFT:
    """TRL's trainer, ready for its first step."""
    return SFT(
        model=ready.model,
        args=ready.args,
        train_dataset=ready.train,
        eval_dataset=ready.valid,
        processing_class=ready.tokenizer,
        peft_config=lora_config(ready.job.train.lora),
    )


def _chosen(pairs: Dataset) -> Dataset:
    """Pairs in TRL's prompt-completion format."""
    return pairs.rename_column("chosen", "completion").select_columns(["prompt", "completion"])
