"""The ``trainer`` table of a stage as TRL's own configuration, with the few defaults that are ours.

Ours are: a checkpoint every tenth of the training, the last two of them kept; batches of pairs of like length; the
reference's log-probabilities worked out once, beforehand; every step reported, into TensorBoard's files too; and, where
balanced accuracy is asked for, an evaluation at every checkpoint and the best one chosen by it. A key in the table
overrides its default.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from accelerate.utils import DistributedType
from trl import DPOConfig, KTOConfig, SFTConfig

from pbt.config import TrainConfig
from pbt.errors import BadInput
from pbt.training.attempt import partial_folder

Stage = Literal["sft", "dpo"]
Arguments: TypeAlias = SFTConfig | DPOConfig | KTOConfig

CHECKPOINTS = "checkpoints"
"""Where, in the folder of an unfinished training, the trainer saves."""


def trainer_arguments(stage: Stage, train: TrainConfig, seed: int, out: Path) -> Arguments:
    """TRL's configuration from a table handed over verbatim; checkpoints go into the result's folder.

    Raises BadInput for a key that TRL does not know, with the nearest one that it does, and for a value it refuses.
    """
    check_table(stage, train)
    kind = arguments_kind(stage, train)
    fsdp = uses_fsdp()
    if fsdp and train.trainer.get("precompute_ref_log_probs"):
        raise BadInput(
            f"{stage}.trainer.precompute_ref_log_probs: under FSDP the model is not yet whole on every process at that "
            "time, so the reference would be wrong; remove the key"
        )
    table = {"output_dir": str(partial_folder(out) / CHECKPOINTS), "seed": seed, **settings(stage, train, fsdp=fsdp)}
    gpu = torch.cuda.is_available()
    machine = {"disable_tqdm": not sys.stderr.isatty(), "use_cpu": not gpu, "bf16": gpu and not table.get("fp16")}
    try:
        args = kind(**{**machine, **table})
    except (TypeError, ValueError, NotImplementedError) as error:
        raise BadInput(f"{stage}.trainer: {' '.join(str(error).split())}") from None
    if args.n_gpu > 1:
        raise BadInput(f"{stage}: one process sees {args.n_gpu} GPUs; add --gpus {args.n_gpu}, one process for each")
    _shard_on_cpu(args)
    return args


def arguments_kind(stage: Stage, train: TrainConfig) -> type[Arguments]:
    """TRL's configuration class of a stage."""
    if stage == "sft":
        return SFTConfig
    return KTOConfig if train.method == "kto" else DPOConfig


def check_table(stage: Stage, train: TrainConfig) -> None:
    """Raise BadInput for a key that TRL does not know, that belongs elsewhere, or a number in quotes."""
    kind = arguments_kind(stage, train)
    known = {field.name for field in dataclasses.fields(kind) if field.init}
    for key, value in train.trainer.items():
        where = f"{stage}.trainer.{key}"
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"see the fields of TRL's {kind.__name__}"
            raise BadInput(f"{where}: unknown key; {hint}")
        if key == "model_init_kwargs":
            raise BadInput(f"{where}: how the model is loaded stands under {stage}.load; move its content there")
        if key == "trust_remote_code":
            raise BadInput(f"{where}: code that comes with a model is never run; remove the key")
        if key in ("output_dir", "resume_from_checkpoint"):
            raise BadInput(f"{where}: results go to --out, and the same command resumes by itself; remove the key")
        if isinstance(value, str) and _is_number(value):
            raise BadInput(f"{where}: '{value}' is text to YAML; a number has a point and no quotes, such as 5.0e-4")


def uses_fsdp() -> bool:
    """Whether this process is one of several that share out the weights by FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def settings(stage: Stage, train: TrainConfig, *, fsdp: bool) -> dict[str, Any]:
    """The trainer's table over our defaults, as far as they do not depend on the machine."""
    table = train.trainer
    ours: dict[str, Any] = {
        "report_to": "tensorboard",
        "logging_steps": 1,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # we stop instead: see callbacks.StopOnNaN
        "save_strategy": "steps",
        "save_steps": 0.1,
        "per_device_eval_batch_size": table.get("per_device_train_batch_size", 8),
        # Two, so that a kill in the middle of writing one leaves a whole one.
        "save_total_limit": 2,
    }
    if stage == "sft" or train.method == "dpo":  # KTO wants its rows in the order of its file
        ours["train_sampling_strategy"] = "group_by_length"
    if stage == "dpo":
        ours["precompute_ref_log_probs"] = not fsdp and not table.get("sync_ref_model", False)
    if train.balanced is not None:
        strategy = table.get("eval_strategy", "steps")
        ours |= {
            "eval_strategy": strategy,
            "eval_steps": 0.1,
            "save_strategy": strategy,
            "save_steps": table.get("eval_steps", 0.1),
            "load_best_model_at_end": True,
            "metric_for_best_model": "balanced",
            "greater_is_better": True,
        }
    return {**ours, **table}


def _shard_on_cpu(args: Arguments) -> None:
    """Let FSDP shard over processes without GPUs.

    torch shards over gloo as over NCCL, but accelerate reads its FSDP settings only for kinds of processes that have
    an accelerator each; so these are declared to be such. The device stays the CPU.
    """
    state = args.distributed_state
    if uses_fsdp() and state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
