"""The pairs that a stage trains on: one split of one regime, sampled and checked before the first step.

``PREFS/data/<regime>/<split>.parquet`` holds one pair a row, in TRL's conversational preference format.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, SFTConfig
from trl.data_utils import is_conversational

from pbt.config import Regime, TrainConfig
from pbt.errors import BadInput
from pbt.training.model import tokenize

_MESSAGES = ("prompt", "chosen", "rejected")


class Pairs(NamedTuple):
    """What a stage trains on, and what it is evaluated on; ``valid`` is ``None`` when that split is empty."""

    train: Dataset
    valid: Dataset | None


def load_pairs(
    prefs: Path,
    regime: Regime,
    train: TrainConfig,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    args: SFTConfig | DPOConfig,
    sides: Sequence[str],
) -> Pairs:
    """The train split (``train.pairs`` rows of it) and the valid split, with ``prompt``, ``chosen``, ``rejected``.

    ``sides`` are the completions that will be trained on. Raises BadInput when a file or a column is missing, for
    what :func:`pbt.training.model.tokenize` refuses, and when rows are too long, which TRL would cut or drop.
    """
    found = []
    for split in ("train", "valid"):
        path = prefs / "data" / regime / f"{split}.parquet"
        rows = _read(path)
        if split == "train":
            if not len(rows):
                raise BadInput(f"{path}: holds no pairs; grow more trees, or take another regime")
            rows = sample_pairs(rows, train.pairs, seed)
        _check_tokens(rows, path, tokenizer, args, sides)
        found.append(rows.select_columns(list(_MESSAGES)))
    return Pairs(found[0], found[1] if len(found[1]) else None)


def sample_pairs(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """At most ``count`` rows, a seeded sample in the order of the file, both codes in the proportion of the whole.

    Each code's share is rounded down, so that balanced pairs stay balanced.
    """
    if count is None or count >= len(rows):
        return rows
    by_code: dict[str, list[int]] = {}
    for index, code in enumerate(rows["code"]):
        by_code.setdefault(code, []).append(index)
    chosen: list[int] = []
    for code, indexes in sorted(by_code.items()):
        share = count * len(indexes) // len(rows)
        chosen += random.Random(f"pairs:{seed}:{code}").sample(indexes, share)
    return rows.select(sorted(chosen))


def _read(path: Path) -> Dataset:
    if not path.is_file():
        raise BadInput(f"{path}: no such file of pairs; make it with 'pbt build-prefs'")
    try:
        # Held in memory, not in the cache of datasets, whose key would have to notice that a file was rebuilt.
        rows = Dataset(pq.read_table(path))
    except pa.ArrowException as error:
        raise BadInput(f"{path}: not a Parquet file: {' '.join(str(error).split())}") from None
    missing = [name for name in (*_MESSAGES, "code") if name not in rows.column_names]
    if missing:
        raise BadInput(f"{path}: no column {', '.join(missing)} (found {', '.join(rows.column_names)})")
    if len(rows) and not all(is_conversational({name: rows[0][name]}) for name in _MESSAGES):
        raise BadInput(f"{path}: {', '.join(_MESSAGES)} must hold lists of messages with role and content")
    return rows


def _check_tokens(
    rows: Dataset,
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    args: SFTConfig | DPOConfig,
    sides: Sequence[str],
) -> None:
    lengths = []
    for number, row in enumerate(rows):
        tokens = [tokenize(tokenizer, row["prompt"], row[side], f"{path} row {number}") for side in sides]
        lengths.append(max(len(prompt) + len(completion) for prompt, completion in tokens))
    limits = {
        "the trainer's max_length": args.max_length,
        "the tokenizer's model_max_length": tokenizer.model_max_length,
    }
    for name, limit in limits.items():
        too_long = sum(length > limit for length in lengths) if limit else 0
        if too_long:
            raise BadInput(
                f"{path}: {too_long} of {len(rows)} pairs are longer than {name}, {limit} tokens (the longest: "
                f"{max(lengths)}); raise it, or build pairs with shorter turns (protocol.sampling.max_tokens)"
            )
