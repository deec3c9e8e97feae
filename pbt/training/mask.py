"""One example as a person can read it: which of its tokens the loss leaves out, and which it covers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from transformers import PreTrainedTokenizerBase, Trainer


def show_example(trainer: Trainer, tokenizer: PreTrainedTokenizerBase) -> str:
    """The first row of the training data as the trainer's collator hands it to the loss; a line for each span.

    In DPO a row is two sequences, first the chosen, then the rejected.
    """
    rows: Any = trainer.train_dataset
    batch = trainer.data_collator([rows[0]])
    masks = batch["completion_mask"].bool() if "completion_mask" in batch else batch["labels"] != -100
    names = ["chosen", "rejected"] if len(masks) == 2 else [_name(rows[0])]
    lines = []
    for name, ids, mask, seen in zip(names, batch["input_ids"], masks, batch["attention_mask"].bool(), strict=True):
        spans = readable_mask(tokenizer, ids[seen].tolist(), mask[seen].tolist())
        lines += [f"  {name if place == 0 else '':<8}  {span}" for place, span in enumerate(spans)]
    return "\n".join(lines)


def readable_mask(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], learnt: Sequence[bool]) -> list[str]:
    """Each run of tokens that the loss leaves out (``masked``) or covers (``learnt``), with its text and length."""
    spans = []
    for covered, run in groupby(zip(ids, learnt, strict=True), lambda pair: pair[1]):
        tokens = [token for token, _ in run]
        text = str(tokenizer.decode(tokens))
        spans.append(f"{'learnt' if covered else 'masked'} {len(tokens):>4} tokens  {text!r}")
    return spans


def _name(row: dict[str, Any]) -> str:
    """What the one sequence of a row is: in KTO it may be an unwanted one."""
    return "rejected" if row.get("label") is False else "chosen"
