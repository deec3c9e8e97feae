"""The ``trainer`` table of a stage as TRL's own configuration, with the few defaults that are ours."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from pathlib import Path
from typing import Any, TypeVar

import torch
from trl import DPOConfig, SFTConfig

from pbt.errors import BadInput
from pbt.training.result import partial_folder

Arguments = TypeVar("Arguments", SFTConfig, DPOConfig)


def trainer_arguments(kind: type[Arguments], stage: str, table: dict[str, Any], seed: int, out: Path) -> Arguments:
    """TRL's configuration from a table handed over verbatim; checkpoints go into the result's folder.

    Raises BadInput for a key that TRL does not know, with the nearest one that it does, and for a value it refuses.
    """
    known = {field.name for field in dataclasses.fields(kind) if field.init}
    for key, value in table.items():
        where = f"{stage}.trainer.{key}"
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"see the fields of TRL's {kind.__name__}"
            raise BadInput(f"{where}: unknown key; {hint}")
        if key == "model_init_kwargs":
            raise BadInput(f"{where}: how the model is loaded stands under {stage}.load; move its content there")
        if key == "trust_remote_code":
            raise BadInput(f"{where}: code that comes with a model is never run; remove the key")
        if isinstance(value, str) and _is_number(value):
            raise BadInput(f"{where}: '{value}' is text to YAML; a number has a point and no quotes, such as 5.0e-4")
    gpu = torch.cuda.is_available()
    ours = {
        "output_dir": str(partial_folder(out) / "checkpoints"),
        "seed": seed,
        "report_to": "none",
        "save_strategy": "no",
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "disable_tqdm": not sys.stderr.isatty(),
        "use_cpu": not gpu,
        "bf16": gpu and not table.get("fp16", False),
    }
    try:
        return kind(**{**ours, **table})
    except (TypeError, ValueError, NotImplementedError) as error:
        raise BadInput(f"{stage}.trainer: {' '.join(str(error).split())}") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
