"""The pairs that a stage trains on: one split of one regime, sampled and checked before the first step.

``PREFS/data/<regime>/<split>.parquet`` holds one pair a row, in TRL's conversational preference format.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl.data_utils import is_conversational

from pbt.config import Regime, TrainConfig
from pbt.errors import BadInput
from pbt.training.arguments import Arguments
from pbt.training.model import tokenize

logger = logging.getLogger(__name__)

_MESSAGES = ("prompt", "chosen", "rejected")


class Pairs(NamedTuple):
    """What a stage trains on, and what it is evaluated on; both ordered by length, the shortest first."""

    train: Dataset
    """``prompt``, ``chosen``, ``rejected``, ``code``."""
    valid: Dataset | None
    """The same columns; ``None`` when that split is empty."""
    digest: str
    """The first 16 hex digits of the SHA-256 of all their messages."""


def load_pairs(
    prefs: Path,
    regime: Regime,
    train: TrainConfig,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    args: Arguments,
    sides: Sequence[str],
) -> Pairs:
    """The train split (``train.pairs`` rows of it) and the valid split.

    ``sides`` are the completions that will be trained on. Raises BadInput when a file or a column is missing, for
    what :func:`pbt.training.model.tokenize` refuses, when rows are too long, which TRL would cut or drop, and when the
    codes are not those of the regime: as many of each in ``balanced``, one alone in the others.
    """
    found = []
    for split in ("train", "valid"):
        path = split_path(prefs, regime, split)
        rows = read_split(path)
        if split == "train":
            if not len(rows):
                raise BadInput(f"{path}: holds no pairs; grow more trees, or take another regime")
            _check_codes(rows, path, regime)
            if train.too_long == "refuse":
                rows = sample_pairs(rows, train.pairs, seed)
        rows = _fitting(rows, path, tokenizer, args, sides, train.too_long)
        if train.too_long == "drop":
            rows = even_codes(rows, seed) if split == "valid" or regime == "balanced" else rows
            rows = sample_pairs(rows, train.pairs, seed) if split == "train" else rows
            if split == "train":
                _check_codes(rows, path, regime)
        found.append(rows)
    logger.info("trained on: %s; evaluated on: %s", *(_told(rows) for rows in found))
    return Pairs(found[0], found[1] if len(found[1]) else None, _digest(found))


def split_path(prefs: Path, regime: Regime, split: str) -> Path:
    """The file of one split."""
    return prefs / "data" / regime / f"{split}.parquet"


def read_split(path: Path) -> Dataset:
    """One split with all its columns, in memory. Raises BadInput for a file that holds no pairs in TRL's format."""
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


def sample_pairs(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """At most ``count`` rows, a seeded sample in the order of the file, both codes in the proportion of the whole.

    Each code's share is rounded down, so that balanced pairs stay balanced.
    """
    if count is None or count >= len(rows):
        return rows
    places = _by_code(rows)
    return _take(rows, {code: count * len(found) // len(rows) for code, found in places.items()}, seed)


def even_codes(rows: Dataset, seed: int) -> Dataset:
    """As many rows of each code as there are of the rarest, a seeded sample in the order of the file."""
    places = _by_code(rows)
    return _take(rows, dict.fromkeys(places, min(map(len, places.values()), default=0)), seed)


def _by_code(rows: Dataset) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for index, code in enumerate(rows["code"]):
        places.setdefault(code, []).append(index)
    return dict(sorted(places.items()))


def _take(rows: Dataset, shares: dict[str, int], seed: int) -> Dataset:
    chosen: list[int] = []
    for code, found in _by_code(rows).items():
        chosen += random.Random(f"pairs:{seed}:{code}").sample(found, shares[code])
    return rows.select(sorted(chosen))


def _check_codes(rows: Dataset, path: Path, regime: Regime) -> None:
    count = Counter(rows["code"])
    if regime == "balanced":
        if count["accept"] != count["resist"]:
            raise BadInput(
                f"{path}: {count['accept']} accept and {count['resist']} resist pairs, but the balanced regime is as "
                "many of each; build the pairs again with 'pbt build-prefs'"
            )
    elif count.keys() != {regime}:
        raise BadInput(f"{path}: holds {_counted(count)}, but the {regime} regime is {regime} pairs alone")


def _fitting(
    rows: Dataset,
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    args: Arguments,
    sides: Sequence[str],
    too_long: str,
) -> Dataset:
    """The rows that no limit cuts, the shortest first; the others are refused, or dropped and counted."""
    lengths = []
    for number, row in enumerate(rows):
        tokens = [tokenize(tokenizer, row["prompt"], row[side], f"{path} row {number}") for side in sides]
        lengths.append(max(len(prompt) + len(completion) for prompt, completion in tokens))
    limits = {
        "the trainer's max_length": args.max_length,
        "the tokenizer's model_max_length": tokenizer.model_max_length,
    }
    kept = sorted(range(len(rows)), key=lambda place: (lengths[place], place))
    for name, limit in limits.items():
        fitting = [place for place in kept if not limit or lengths[place] <= limit]
        if (cut := len(kept) - len(fitting)) and too_long == "refuse":
            raise BadInput(
                f"{path}: {cut} of {len(rows)} pairs are longer than {name}, {limit} tokens (the longest: "
                f"{max(lengths)}); raise it, build pairs with shorter turns (protocol.sampling.max_tokens), or leave "
                "them out with too_long: drop"
            )
        if cut:
            logger.warning("%s: %d of %d pairs dropped, longer than %s, %s tokens", path, cut, len(rows), name, limit)
        kept = fitting
    if kept:
        longest = max(lengths[place] for place in kept)
        logger.info("%s: %d of %d pairs fit; the longest has %d tokens", path, len(kept), len(rows), longest)
    return rows.select_columns([*_MESSAGES, "code"]).select(kept)


def _told(rows: Dataset) -> str:
    return f"{len(rows)} pairs ({_counted(Counter(rows['code']))})" if len(rows) else "no pairs"


def _counted(count: Counter[str]) -> str:
    return ", ".join(f"{number} {code}" for code, number in sorted(count.items()))


def _digest(splits: Sequence[Dataset]) -> str:
    seen = hashlib.sha256()
    for rows in splits:
        for row in rows.select_columns([*_MESSAGES, "code"]):
            seen.update(orjson.dumps(row, option=orjson.OPT_SORT_KEYS) + b"\n")
        seen.update(b"\n")
    return seen.hexdigest()[:16]
