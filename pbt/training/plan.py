"""What a training will need, worked out before anything is loaded: memory on each GPU, and steps.

Weights are counted exactly, on a model that is built from its ``config.json`` without memory for them; what they and
the optimizer take follows from the numbers' formats. Activations are an estimate (see :func:`activation_bytes`).
"""

from __future__ import annotations

import dataclasses
import math
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import peft
import pyarrow.parquet as pq
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from pbt.config import Regime, RunConfig, TrainConfig
from pbt.errors import BadInput
from pbt.training.arguments import Stage, arguments_kind, check_table, settings
from pbt.training.data import split_path
from pbt.training.launch import SHARED_OUT, accelerate_file
from pbt.training.model import lora_config

GIB = 2**30
RUNTIME = 1.5 * GIB
"""CUDA's context, the libraries' workspaces, and what the allocator cannot hand out: a rule of thumb."""

_REMEDY = {
    "frozen weights": "use --accelerate fsdp2 on more GPUs, or quantise them (load.quantization_config)",
    "trained weights": "use --accelerate fsdp2 on more GPUs, or train by LoRA",
    "gradients": "use --accelerate fsdp2 on more GPUs, or train by LoRA",
    "optimizer": "use --accelerate fsdp2 on more GPUs, train by LoRA, or set trainer.optim: paged_adamw_8bit",
    "reference": "set trainer.precompute_ref_log_probs: true",
    "gathered layers": "use a GPU with more memory",
    "activations": "set trainer.gradient_checkpointing: true, or a smaller trainer.per_device_train_batch_size",
    "runtime": "use a GPU with more memory",
}

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "auto": 2}
_OPTIMIZER = {"sgd": 0.0, "adafactor": 0.1, "adamw_8bit": 2.0, "paged_adamw_8bit": 2.0, "adamw_bnb_8bit": 2.0}
"""Bytes of state for each trained number where it is not the two of AdamW."""


class Counts(NamedTuple):
    """Numbers that a model holds."""

    all: int
    linear: int
    """In the linear layers, without the head: what quantisation packs."""
    trained: int
    layer: int
    """In one layer."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training will need on each GPU, in bytes, and how long it is."""

    model: str
    counts: Counts
    processes: int
    way: str
    """How they share the work."""
    memory: dict[str, float]
    """By what takes it."""
    batch: int
    """Pairs in one step, over all processes."""
    pairs: int | None
    """``None`` where they are not built yet."""
    steps: int | None

    @property
    def total(self) -> float:
        """Bytes on each GPU, all in all."""
        return sum(self.memory.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "counts": self.counts._asdict(), "total": self.total}


def plan(config: RunConfig, stage: Stage, regime: Regime, prefs: Path, processes: int, accelerate: str | None) -> Plan:
    """Work out a training on ``processes`` GPUs in all. Raises BadInput.

    Bytes for each number: weights as ``load.dtype`` says, 1 under 8 bits, 0.5 and the scales under 4 (4.127 bits with
    double quantisation, 4.5 without: Dettmers et al. 2023, section 3); trained weights and their gradients 4 in LoRA
    (2 over a quantised model or under ZeRO-3), in full fine-tuning those of ``load.dtype`` (4 under FSDP2, which
    accelerate trains in float32); AdamW two more of them, two float32 where bitsandbytes or ZeRO-3 keep the state, and
    in ZeRO-3 a float32 copy of the weights (Rajbhandari et al. 2020, section 3.1). What is shared out is divided by
    the processes, and two layers at a time are gathered.
    """
    train = config.sft if stage == "sft" else config.dpo
    check_table(stage, train)
    way = accelerate or train.accelerate or "ddp"
    accelerate_file(way)
    table = {**_trl_defaults(stage, train), **settings(stage, train, fsdp=way == "fsdp2" and processes > 1)}
    model = config.trained(stage).path
    shape = read_shape(model)
    counts = count(shape, train)
    shared = SHARED_OUT.get(way, False) and processes > 1
    share = processes if shared else 1

    named = str(train.load.get("dtype", "bfloat16"))
    if named not in _BYTES:
        raise BadInput(f"{stage}.load.dtype: '{named}' is none that a plan knows ({', '.join(_BYTES)})")
    dtype = _BYTES[named]
    bits = _quantised_bits(train.load.get("quantization_config") or {})
    packed = counts.linear * (bits / 8 if bits else dtype) + (counts.all - counts.linear) * dtype
    own = _trained_bytes(train, way, dtype, quantised=bits is not None)
    frozen = packed if train.lora is not None else 0.0
    state = 12.0 if way == "zero3" else _optimizer_bytes(str(table["optim"]), own)
    memory = {
        "frozen weights": frozen / share,
        "trained weights": counts.trained * own / share,
        "gradients": counts.trained * own / share,
        "optimizer": counts.trained * state / share,
        "reference": 0.0,
        "gathered layers": 2 * counts.layer * dtype if shared else 0.0,
        "activations": activation_bytes(shape, stage, train, table),
        "runtime": RUNTIME,
    }
    if stage == "dpo" and train.lora is None and not table["precompute_ref_log_probs"]:
        memory["reference"] = counts.all * dtype / share
    batch = int(table["per_device_train_batch_size"]) * int(table["gradient_accumulation_steps"]) * processes
    pairs = _pairs(split_path(prefs, regime, "train"), train.pairs)
    return Plan(model, counts, processes, way, memory, batch, pairs, _steps(pairs, stage, train, table, processes))


def check_fits(planned: Plan, gpu_memory: float | None) -> None:
    """Raise BadInput when a plan needs more than one GPU has: ``gpu_memory`` GiB, or what is found here.

    Nothing is checked when neither is known.
    """
    if gpu_memory is not None:
        room = gpu_memory * GIB
    elif torch.cuda.is_available():
        room = float(torch.cuda.get_device_properties(0).total_memory)
    else:
        return
    if planned.total > room:
        most = max(planned.memory, key=planned.memory.__getitem__)
        raise BadInput(
            f"{planned.model}: needs {planned.total / GIB:.1f} GiB on each GPU of {room / GIB:.0f} GiB, most of it for "
            f"{most} ({planned.memory[most] / GIB:.1f}); {_REMEDY[most]}"
        )


def activation_bytes(shape: PretrainedConfig, stage: Stage, train: TrainConfig, table: dict[str, Any]) -> float:
    """What the forward pass keeps for the backward one, for one batch of sequences of ``max_length``.

    After Korthikanti et al. 2022 (Reducing Activation Recomputation in Large Transformer Models, section 4), for a
    layer with a gated feed-forward part and attention that keeps no scores. Kept of each token in a layer: input and
    output of both norms, queries, attention's output, its projection and the residual (8 hidden), keys and values, and
    four intermediates of the feed-forward part. With gradient checkpointing a layer keeps its input alone, and one
    layer at a time is computed again. The head works in tiles (TRL), and keeps a float32 gradient of its input.
    """
    sequences = int(table["per_device_train_batch_size"]) * (2 if stage == "dpo" else 1)
    tokens = sequences * int(table["max_length"] or shape.max_position_embeddings)
    heads = shape.num_attention_heads
    head = getattr(shape, "head_dim", None) or shape.hidden_size // heads
    keys = 2 * head * (getattr(shape, "num_key_value_heads", None) or heads)
    number = 4 if table.get("bf16") is False and table.get("fp16") is not True else 2
    layer = number * tokens * (8 * shape.hidden_size + keys + 4 * shape.intermediate_size)
    if train.load.get("attn_implementation") == "eager":
        layer += number * 2 * heads * tokens * (tokens / sequences)
    inputs = number * tokens * shape.hidden_size * shape.num_hidden_layers
    kept = inputs + layer if table["gradient_checkpointing"] else layer * shape.num_hidden_layers
    return float(kept + 4 * tokens * shape.hidden_size)


def read_shape(model: str) -> PretrainedConfig:
    """The ``config.json`` of a folder, or the shipped shape of a name on the hub. Raises BadInput."""
    if Path(model).is_dir():
        try:
            return AutoConfig.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise BadInput(f"{model}: its config.json cannot be read: {' '.join(str(error).split())}") from None
    table = yaml.safe_load(resources.files("pbt.training").joinpath("shapes.yaml").read_text("utf-8"))
    if model not in table:
        raise BadInput(
            f"{model}: no such folder, and its shape is not known (known: {', '.join(table)}); download it first, and "
            "name its folder as the model's path"
        )
    return AutoConfig.for_model(**table[model])


def count(shape: PretrainedConfig, train: TrainConfig) -> Counts:
    """Count the numbers of a model, and of its adapter. Needs no memory for them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    whole = model.num_parameters()
    head = model.get_output_embeddings()
    linear = sum(
        part.weight.numel() for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head
    )
    layer = sum(weight.numel() for weight in model.base_model.layers[0].parameters())
    trained = whole
    if (lora := lora_config(train.lora)) is not None:
        with torch.device("meta"):
            trained = peft.get_peft_model(model, lora).num_parameters(only_trainable=True)
    return Counts(whole, linear, trained, layer)


def _trl_defaults(stage: Stage, train: TrainConfig) -> dict[str, Any]:
    return {
        field.name: field.default
        for field in dataclasses.fields(arguments_kind(stage, train))
        if field.default is not dataclasses.MISSING
    }


def _quantised_bits(quantisation: dict[str, Any]) -> float | None:
    if quantisation.get("load_in_8bit"):
        return 8.0
    if quantisation.get("load_in_4bit"):
        return 4.127 if quantisation.get("bnb_4bit_use_double_quant") else 4.5
    return None


def _trained_bytes(train: TrainConfig, way: str, dtype: int, *, quantised: bool) -> int:
    if train.lora is None:
        return 4 if way == "fsdp2" else dtype
    return 2 if quantised or way == "zero3" else 4


def _optimizer_bytes(name: str, own: int) -> float:
    if name in _OPTIMIZER:
        return _OPTIMIZER[name]
    return 8.0 if "32bit" in name else 2.0 * own


def _pairs(path: Path, most: int | None) -> int | None:
    if not path.is_file():
        return None
    rows = pq.ParquetFile(path).metadata.num_rows
    return rows if most is None else min(rows, most)


def _steps(pairs: int | None, stage: Stage, train: TrainConfig, table: dict[str, Any], processes: int) -> int | None:
    if int(table["max_steps"]) > 0:
        return int(table["max_steps"])
    if pairs is None:
        return None
    rows = pairs * (2 if stage == "dpo" and train.method == "kto" else 1)
    batches = math.ceil(rows / (int(table["per_device_train_batch_size"]) * processes))
    return math.ceil(float(table["num_train_epochs"]) * math.ceil(batches / int(table["gradient_accumulation_steps"])))
