"""Direct preference optimisation on the pairs; policy and reference both start as the SFT model."""

from __future__ import annotations

import logging
from pathlib import Path

from trl import DPOConfig, DPOTrainer

from pbt.config import Regime, RunConfig
from pbt.errors import BadInput
from pbt.provenance import RUN_FILE, read_run
from pbt.training.arguments import trainer_arguments
from pbt.training.data import load_pairs
from pbt.training.model import load_model, load_tokenizer, lora_config
from pbt.training.result import TrainResult, make_partial, refuse_existing, train_and_save

logger = logging.getLogger(__name__)


def train_dpo(config: RunConfig, regime: Regime, prefs: Path, out: Path, start: Path | None) -> TrainResult:
    """Train on the pairs of ``prefs`` and write the model folder ``out``. Raises BadInput.

    ``start`` is the SFT model's folder; with ``dpo.from_sft`` off it is the base model that is trained instead. What
    training starts from is also the reference: a frozen copy, or under LoRA the same weights without the adapter.
    """
    refuse_existing(out)
    origin = _origin(config, regime, start)
    args = trainer_arguments(DPOConfig, "dpo", config.dpo.trainer, config.seed, out)
    tokenizer = load_tokenizer(origin, config.dpo)
    pairs = load_pairs(prefs, regime, config.dpo, config.seed, tokenizer, args, ["chosen", "rejected"])
    # TRL needs no copy when the adapter can be switched off, or when it computes the reference's part beforehand.
    copied = config.dpo.lora is None and not args.precompute_ref_log_probs
    model = load_model(origin, config.dpo, "dpo")
    reference = load_model(origin, config.dpo, "dpo") if copied else None
    make_partial(out)
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=args,
        train_dataset=pairs.train,
        eval_dataset=pairs.valid,
        processing_class=tokenizer,
        peft_config=lora_config(config.dpo.lora),
    )
    logger.info("%d pairs; policy and reference start from %s", len(pairs.train), origin)
    return train_and_save(trainer, config, "dpo", regime, origin, out)


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
