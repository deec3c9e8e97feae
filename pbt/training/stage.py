"""What SFT and DPO share: all that stands before the trainer is built, and all that comes after.

Before: the tokenizer, the pairs and the configuration are checked, then the model is loaded, then the folder of the
unfinished training is made or found. After: train, evaluate, and write the result. Of several processes all run all of
it; the main one alone writes.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import EarlyStoppingCallback, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from pbt.config import Regime, RunConfig, TrainConfig
from pbt.errors import BadInput
from pbt.provenance import RUN_FILE, provenance, read_run, write_run
from pbt.training.arguments import CHECKPOINTS, Arguments, Stage, trainer_arguments
from pbt.training.attempt import ATTEMPT_FILE, LOCK, Attempt, begin, find_attempt, refuse_existing, whole_checkpoints
from pbt.training.balanced import Item, MeasureBalanced, read_items
from pbt.training.callbacks import watch
from pbt.training.card import write_card
from pbt.training.data import load_pairs, read_split, split_path
from pbt.training.mask import show_example
from pbt.training.model import ADAPTER, default_dtype, load_model, load_tokenizer, save_merged

logger = logging.getLogger(__name__)

DATA = "data"
"""Where, in the folder of an unfinished training, the checked pairs stand, and what TRL works out from them."""


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and where the result goes."""

    config: RunConfig
    stage: Stage
    regime: Regime
    prefs: Path
    start: str
    """The model that training starts from: a folder, or a name on the hub."""
    out: Path

    @property
    def train(self) -> TrainConfig:
        """The stage's section of the configuration."""
        return self.config.sft if self.stage == "sft" else self.config.dpo


class Ready(NamedTuple):
    """All that a trainer is built from."""

    job: Job
    args: Arguments
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel | PeftModel
    train: Dataset
    valid: Dataset | None
    items: list[Item]
    """What balanced accuracy is taken from; empty when it is not asked for."""
    attempt: Attempt
    lock: IO[bytes] | None
    """Of the attempt's folder; held by the main process."""
    data: dict[str, Any]
    """For the record: where the pairs come from, and their digest."""


@dataclass(frozen=True)
class TrainResult:
    """A trained model."""

    folder: Path
    pairs: int
    """How many pairs it was trained on."""
    metrics: dict[str, float]
    """``steps``, ``seconds``, ``peak_rss_mib`` (of the whole process), ``peak_gpu_mib`` (on a GPU),
    ``train_loss_start`` and ``train_loss_end`` (of the first and the last report), ``best_step`` (where a metric chose
    the checkpoint), and TRL's ``eval_*`` on the valid split for the weights of the result."""


def prepare(job: Job, sides: Sequence[str], view: Callable[[Dataset], Dataset]) -> Ready:
    """Check everything, load the model, and make or find the folder to train in. Raises BadInput.

    ``sides`` are the completions that are trained on; ``view`` turns pairs into the rows that the trainer takes.
    """
    refuse_existing(job.out)
    args = trainer_arguments(job.stage, job.train, job.config.seed, job.out)
    tokenizer = load_tokenizer(job.start, job.train, job.stage)
    pairs = load_pairs(job.prefs, job.regime, job.train, job.config.seed, tokenizer, args, sides)
    items: list[Item] = []
    if job.train.balanced is not None:
        path = split_path(job.prefs, job.regime, "valid")
        # From the file as it stands, so that a sample is the same in SFT and DPO, and for all limits of length.
        items = read_items(read_split(path), path, job.train.balanced.items, job.config.seed)
    data: dict[str, Any] = {"prefs": str(job.prefs), "digest": pairs.digest}
    covers = _covers(job, data["digest"], args.world_size)
    attempt = find_attempt(job.out, covers, args.max_steps)
    model = load_model(job.start, job.train, job.stage)
    lock = None
    with args.main_process_first(local=False):
        if args.process_index == 0:
            lock = begin(attempt, covers)
    splits = {"train": pairs.train, "valid": pairs.valid}
    # On disk, so that what TRL works out from the rows (their tokens, the reference's log-probabilities) is kept beside
    # them: for all processes, and for a training that goes on.
    stored = {name: _stored(view(rows), attempt.folder / DATA / name, args) for name, rows in splits.items() if rows}
    data["pairs"] = len(pairs.train)
    return Ready(job, args, tokenizer, model, stored["train"], stored.get("valid"), items, attempt, lock, data)


def train_and_save(trainer: Trainer, ready: Ready) -> TrainResult:
    """Train, evaluate, and write the result.

    Raises BadInput, and keeps the checkpoints, when the loss did not stay finite or the disk is full; and Stopped when
    a signal has ended it.
    """
    with ready.lock or nullcontext():
        if not torch.cuda.is_available():
            _keep_freed_memory()
        return _train_and_save(trainer, ready)


def _keep_freed_memory() -> None:
    """Let the process keep what a training step frees, for the next one.

    By default glibc gives blocks of many megabytes back to the kernel, which zeroes their pages anew in every step: a
    quarter of the time in which a small model trains on a CPU.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # of glibc alone
        trim_threshold, mmap_threshold = -1, -3  # as in malloc.h
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def _train_and_save(trainer: Trainer, ready: Ready) -> TrainResult:
    job, folder = ready.job, ready.attempt.folder
    stop = watch(trainer, job.stage, folder)
    if job.train.balanced is not None:
        trainer.add_callback(MeasureBalanced(trainer, ready.items, job.config.protocol, job.train.balanced))
        if job.train.balanced.patience is not None:
            trainer.add_callback(EarlyStoppingCallback(job.train.balanced.patience))
    if trainer.is_world_process_zero():
        logger.info("the first pair as the loss sees it:\n%s", show_example(trainer, ready.tokenizer))
    _check_space(trainer, folder)
    began = time.monotonic()
    checkpoint = ready.attempt.checkpoint
    with _space_for(folder, trainer):
        with stop.listening():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        evaluated = _evaluation(trainer)
        losses = [report["loss"] for report in trainer.state.log_history if "loss" in report]
        metrics: dict[str, float] = {
            "steps": trainer.state.global_step,
            "seconds": round(time.monotonic() - began, 1),
            "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "train_loss_start": losses[0],
            "train_loss_end": losses[-1],
            **evaluated,
        }
        if torch.cuda.is_available():
            metrics["peak_gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        if trainer.state.best_global_step is not None:
            metrics["best_step"] = trainer.state.best_global_step
        _save_model(trainer, ready, folder)
        if trainer.is_world_process_zero():
            _finish(trainer, ready, metrics)
    trainer.accelerator.wait_for_everyone()
    return TrainResult(job.out, ready.data["pairs"], metrics)


def read_result(folder: Path) -> TrainResult:
    """A result that another process has written. Raises BadInput."""
    record = read_run(folder)
    return TrainResult(folder, record["pairs"], record["metrics"])


def _covers(job: Job, digest: str, processes: int) -> dict[str, Any]:
    """What a training depends on: under anything else an unfinished one is not gone on with."""
    whole = job.config.resolved()
    made_by = read_run(Path(job.start)) if (Path(job.start) / RUN_FILE).is_file() else {}
    return {
        "seed": job.config.seed,
        "regime": job.regime,
        "start": {"path": job.start, "created": made_by.get("created")},
        "data": digest,
        "processes": processes,
        job.stage: whole[job.stage],
        **({"protocol": whole["protocol"]} if job.train.balanced is not None else {}),
    }


def _evaluation(trainer: Trainer) -> dict[str, float]:
    """The metrics of the weights as they now are: those that were reported of their step, else taken now."""
    if trainer.eval_dataset is None:
        return {}
    at = trainer.state.best_global_step if trainer.args.load_best_model_at_end else trainer.state.global_step
    reported: dict[str, float] = {}
    for report in trainer.state.log_history:
        if report["step"] == at and any(key.startswith("eval_") for key in report):
            reported |= {key: value for key, value in report.items() if key != "step"}
    return reported or trainer.evaluate()


def _stored(rows: Dataset, folder: Path, args: Arguments) -> Dataset:
    with args.main_process_first(local=False):
        if args.process_index == 0 and not (folder / "state.json").is_file():
            rows.save_to_disk(str(folder))
    return Dataset.load_from_disk(str(folder))


def _save_model(trainer: Trainer, ready: Ready, folder: Path) -> None:
    """Write the weights, sharded or not; all processes take part."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    model.config.use_cache = True  # the trainer had turned it off; who loads the result wants to generate
    lora = isinstance(model, PeftModel)
    target = folder / ADAPTER if lora else folder
    trainer.save_model(str(target))
    if not trainer.is_world_process_zero():
        return
    (target / "training_args.bin").unlink(missing_ok=True)
    shutil.rmtree(target / "ref", ignore_errors=True)  # the adapter that TRL keeps as the reference
    ready.tokenizer.save_pretrained(str(folder))
    train = ready.job.train
    if lora and train.lora is not None and train.lora.merge:
        save_merged(target, train.load.get("dtype", default_dtype()), ready.tokenizer, folder)


def _finish(trainer: Trainer, ready: Ready, metrics: dict[str, float]) -> None:
    """Write the records, clear away what only an unfinished training needs, and give the folder its name."""
    job, folder = ready.job, ready.attempt.folder
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
    record = {
        "regime": job.regime,
        "start": job.start,
        "base": job.config.trained(job.stage).path,
        "pairs": ready.data["pairs"],
        "data": ready.data,
        "processes": ready.args.world_size,
        "metrics": metrics,
    }
    write_run(folder, {**provenance(job.config, job.stage), **record})
    write_card(folder)
    (folder / ATTEMPT_FILE).unlink()
    (folder / LOCK).unlink()
    shutil.rmtree(folder / DATA)
    asked_for = {"save_strategy", "save_steps"} & job.train.trainer.keys()
    if not asked_for or not any(folder.glob(f"{CHECKPOINTS}/checkpoint-*")):
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    folder.rename(job.out)


def _check_space(trainer: Trainer, folder: Path) -> None:
    """Raise BadInput when the disk cannot hold the checkpoints that will stand at one time."""
    limit = trainer.args.save_total_limit
    if trainer.args.save_strategy == "no" or limit is None:
        return
    model: Any = trainer.model
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    held = [weight for weight in model.parameters() if weight.requires_grad or not isinstance(model, PeftModel)]
    # AdamW keeps two float32 numbers for each trained weight; the best checkpoint is kept beside the last ones.
    one = sum(weight.numel() * weight.element_size() for weight in held) + 8 * trained
    needed, free = one * (limit + 1), shutil.disk_usage(folder).free
    if needed > free:
        raise BadInput(
            f"{folder}: {limit + 1} checkpoints of {one / 2**30:.1f} GiB need more than the {free / 2**30:.1f} GiB "
            "that are free there; free some, use another --out, or set trainer.save_only_model"
        )


@contextmanager
def _space_for(folder: Path, trainer: Trainer) -> Iterator[None]:
    """Turn the errors of a full disk into one message."""
    try:
        yield
    except Exception as error:
        text = str(error)
        # torch's writer reports a short write without saying why, safetensors the reason in its text.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and "No space left" not in text and "inline_container" not in text:
            raise
        kept = whole_checkpoints(folder / CHECKPOINTS)
        left = f"goes on from {kept[-1]}" if kept else "starts anew"
        raise BadInput(
            f"{folder}: no space left to save at step {trainer.state.global_step}; free some and run the same command "
            f"again, it {left}"
        ) from None
