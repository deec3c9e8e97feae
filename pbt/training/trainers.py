"""TRL's trainers, with an order of the pairs that is a function of seed and epoch alone.

So a resumed training sees the pairs that it would have seen, and one on several processes those of one on a single
process. (The order by length that transformers offers is drawn from the state of torch's generator, which differs in
both cases.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments
from trl import DPOTrainer, KTOTrainer, SFTTrainer


class SeededOrder(Sampler[int]):
    """All places of a data set, shuffled anew in each epoch; with ``lengths``, in batches of like length.

    Of like length means: the shuffled places are cut into pools, each pool is sorted and cut into batches, and the
    batches are shuffled. Pools are half of the data or 50 batches, whichever is less, so that batches are never the
    same in two epochs.
    """

    def __init__(self, size: int, batch: int, seed: int, lengths: Sequence[int] | None = None) -> None:
        self.size = size
        self.batch = batch
        """Pairs in one step of the optimizer, over all processes."""
        self.seed = seed
        self.lengths = lengths
        self.epoch = 0

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch whose order is asked for next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        places: list[int] = torch.randperm(self.size, generator=generator).tolist()
        if self.lengths is None:
            return iter(places)
        lengths = self.lengths
        pool = self.batch * min(max(self.size // (2 * self.batch), 1), 50)
        pools = [sorted(places[i : i + pool], key=lengths.__getitem__) for i in range(0, self.size, pool)]
        ordered = [place for one in pools for place in one]
        batches = [ordered[i : i + self.batch] for i in range(0, self.size, self.batch)]
        # The last one stays last: it may be smaller, and would shift the others.
        shuffled = torch.randperm(len(batches) - 1, generator=generator).tolist()
        return iter([place for i in [*shuffled, len(batches) - 1] for place in batches[i]])


class _FollowEpochs(TrainerCallback):
    """Tells the order which epoch it is: accelerate does not, on several processes that resume inside an epoch."""

    def __init__(self, order: SeededOrder) -> None:
        self._order = order

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._order.set_epoch(int(state.epoch or 0))


class _InOrder(Trainer):
    """A trainer whose pairs come in a :class:`SeededOrder`, and whose evaluation takes them as they stand."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        args = self.args
        if args.train_sampling_strategy not in ("group_by_length", "random"):
            return super()._get_train_sampler(train_dataset)
        rows: Any = self.train_dataset
        order = SeededOrder(
            len(rows),
            args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            args.seed if args.data_seed is None else args.data_seed,
            row_lengths(rows) if args.train_sampling_strategy == "group_by_length" else None,
        )
        self.add_callback(_FollowEpochs(order))
        return order

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        # Not grouped by transformers, which would look for lengths where DPO has none: the rows are sorted already.
        return SequentialSampler(eval_dataset)


class SFT(_InOrder, SFTTrainer):
    """TRL's SFT in our order."""


class DPO(_InOrder, DPOTrainer):
    """TRL's DPO in our order."""


class KTO(_InOrder, KTOTrainer):
    """TRL's KTO; its rows come in the order of their file, as its estimate of the KL divergence needs them."""


def row_lengths(rows: Dataset) -> list[int]:
    """Tokens of each row of a data set that TRL has tokenized, padding aside: of its longest sequence."""
    table = rows.with_format("arrow")[:]

    def tokens(column: str) -> Any:
        return pc.list_value_length(table[column])

    if "input_ids" in table.column_names:
        return tokens("input_ids").to_pylist()
    return pc.add(tokens("prompt_ids"), pc.max_element_wise(tokens("chosen_ids"), tokens("rejected_ids"))).to_pylist()
