"""The result of a training stage: a complete model folder with run.json, whole or not there at all.

It is written to ``.<name>.partial`` beside it and renamed when complete. It loads in transformers and vLLM like any
model; after LoRA the merged model stands at the top and the adapter in ``adapter/``. ``trainer_state.json`` holds
every report of the trainer, ``checkpoints/`` what the trainer saved on its way, if it was told to.
"""

from __future__ import annotations

import logging
import math
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel
from trl import DPOTrainer, SFTTrainer

from pbt.config import Regime, RunConfig
from pbt.errors import BadInput
from pbt.provenance import provenance, write_run
from pbt.training.callbacks import report_by_logging

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """A trained model."""

    folder: Path
    pairs: int
    """How many pairs it was trained on."""
    metrics: dict[str, float]
    """``steps``, ``seconds``, ``peak_rss_mib`` (of the whole process), ``train_loss_start`` and ``train_loss_end``
    (of its first and its last report), and TRL's ``eval_*`` on the valid split after training."""


def partial_folder(out: Path) -> Path:
    """Where a result is written until it is complete."""
    return out.with_name(f".{out.name}.partial")


def refuse_existing(out: Path) -> None:
    """Raise BadInput when ``out`` is taken: a model is never written over."""
    if out.exists():
        raise BadInput(f"{out}: is already there; remove it to train again, or use another --out")


def make_partial(out: Path) -> None:
    """Make the folder to write into, without what a killed training left; for when all input is known to be good."""
    partial = partial_folder(out)
    if partial.exists():
        logger.warning("%s: removing what an unfinished training left", partial)
        shutil.rmtree(partial)
    partial.mkdir(parents=True)


def train_and_save(
    trainer: SFTTrainer | DPOTrainer,
    config: RunConfig,
    stage: Literal["sft", "dpo"],
    regime: Regime,
    start: str,
    out: Path,
) -> TrainResult:
    """Train, evaluate, and write the result to ``out``. ``start`` is the model that the trainer started from.

    Raises FloatingPointError, and leaves no result, when the loss did not stay finite.
    """
    report_by_logging(trainer)
    began = time.monotonic()
    trainer.train()
    evaluated = trainer.evaluate() if trainer.eval_dataset is not None else {}
    losses = [report["loss"] for report in trainer.state.log_history if "loss" in report]
    if not math.isfinite(losses[-1]):
        raise FloatingPointError(f"{stage}: the loss became {losses[-1]}; lower {stage}.trainer.learning_rate")
    metrics = {
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - began, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "train_loss_start": losses[0],
        "train_loss_end": losses[-1],
        **evaluated,
    }
    partial = partial_folder(out)
    _save_model(trainer, start, (config.sft if stage == "sft" else config.dpo).load, partial)
    trainer.state.save_to_json(str(partial / "trainer_state.json"))
    rows: Any = trainer.train_dataset
    pairs = len(rows)
    record = {"regime": regime, "start": start, "pairs": pairs, "metrics": metrics}
    write_run(partial, {**provenance(config, stage), **record})
    checkpoints = partial / "checkpoints"
    if checkpoints.is_dir() and not any(checkpoints.iterdir()):
        checkpoints.rmdir()
    partial.rename(out)
    return TrainResult(out, pairs, metrics)


def _save_model(trainer: SFTTrainer | DPOTrainer, start: str, load: dict[str, Any], folder: Path) -> None:
    model: PreTrainedModel | PeftModel = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder / "adapter"))
        if "quantization_config" in load:
            # Merged into quantised weights, the adapter would be rounded away with them: merge into the full ones.
            whole = AutoModelForCausalLM.from_pretrained(start, dtype=load.get("dtype", "auto"))
            model = PeftModel.from_pretrained(whole, str(folder / "adapter"))
        model = model.merge_and_unload()
    model.config.use_cache = True  # the trainer had turned it off; who loads the result wants to generate
    model.save_pretrained(str(folder))
    tokenizer: Any = trainer.processing_class
    tokenizer.save_pretrained(str(folder))
