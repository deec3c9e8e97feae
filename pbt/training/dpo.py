"""Preference training, by DPO on the pairs or KTO on their turns; policy and reference both start as the SFT model."""

from __future__ import annotations

import logging
from pathlib import Path

from accelerate.utils import disable_fsdp_ram_efficient_loading, enable_fsdp_ram_efficient_loading
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.integrations import is_fsdp_enabled
from trl.data_utils import unpair_preference_dataset

from pbt.config import Regime, RunConfig
from pbt.errors import BadInput
from pbt.provenance import RUN_FILE, read_run
from pbt.training.model import load_model, lora_config
from pbt.training.stage import Job, Ready, TrainResult, prepare, train_and_save
from pbt.training.trainers import DPO, KTO

logger = logging.getLogger(__name__)


def train_dpo(config: RunConfig, regime: Regime, prefs: Path, out: Path, start: Path | None) -> TrainResult:
    """Train on the pairs of ``prefs`` and write the model folder ``out``. Raises BadInput.

    ``start`` is the SFT model's folder; with ``dpo.from_sft`` off it is the base model that is trained instead. What
    training starts from is also the reference: a frozen copy, or its log-probabilities worked out beforehand, or
    under LoRA the same weights without the adapter (or with the adapter as it was, where the SFT result is one).
    """
    ready = prepare_dpo(config, regime, prefs, out, start)
    return train_and_save(dpo_trainer(ready), ready)


def prepare_dpo(config: RunConfig, regime: Regime, prefs: Path, out: Path, start: Path | None) -> Ready:
    """All that the trainer is built from, checked. Raises BadInput."""
    job = Job(config, "dpo", regime, prefs, _origin(config, regime, start), out)
    if config.dpo.method == "dpo":
        return prepare(
            job, ["chosen", "rejected"], lambda pairs: pairs.select_columns(["prompt", "chosen", "rejected"])
        )
    return prepare(job, ["chosen", "rejected"], lambda pairs: _unpaired(pairs, config.seed))


def dpo_trainer(ready: Ready) -> DPO | KTO:
    """TRL's trainer, ready for its first step."""
    job = ready.job
    continued = isinstance(ready.model, PeftModel)
    # TRL needs no copy when an adapter can be switched off, or when it computes the reference's part beforehand.
    copied = job.train.lora is None and not ready.args.precompute_ref_log_probs
    kind = KTO if job.train.method == "kto" else DPO
    try:
        trainer = kind(
            model=ready.model,
            ref_model=_reference(job) if copied else None,
            args=ready.args,
            train_dataset=ready.train,
            eval_dataset=ready.valid,
            processing_class=ready.tokenizer,
            peft_config=None if continued else lora_config(job.train.lora),
        )
    except ValueError as error:  # options that do not go together
        raise BadInput(f"dpo.trainer: {' '.join(str(error).split())}") from None
    logger.info("policy and reference start from %s", job.start)
    return trainer


def _reference(job: Job) -> PreTrainedModel:
    # FSDP's sparing way to load, weights on one process alone, is undone for the policy only: see TRL's prepare_fsdp.
    sparing = is_fsdp_enabled()
    if sparing:
        disable_fsdp_ram_efficient_loading()
    try:
        return load_model(job.start, job.train, job.stage)
    finally:
        if sparing:
            enable_fsdp_ram_efficient_loading()


def _origin(config: RunConfig, regime: Regime, start: Path | None) -> str:
    if not config.dpo.from_sft:
        return config.trained("dpo").path
    if start is None:
        raise BadInput(
            "dpo.from_sft: no SFT model was given; make one with 'pbt train sft', or set dpo.from_sft: false"
        )
    if (start / RUN_FILE).is_file() and (other := read_run(start).get("regime")) not in (None, regime):
        raise BadInput(f"{start}: this model was trained for regime '{other}', not '{regime}'; start from its own SFT")
    return str(start)


def _unpaired(pairs: Dataset, seed: int) -> Dataset:
    """Each turn by itself with a ``label``, true for the chosen; shuffled, because KTO keeps the order of its rows."""
    rows = pairs.select_columns(["prompt", "chosen", "rejected"])
    return unpair_preference_dataset(rows).shuffle(seed=seed)
