"""What a trainer reports and guards while it runs.

Reports go to logging and to files, never to stdout, which is for results.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from accelerate import Accelerator, PartialState
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from pbt.errors import BadInput, Stopped
from pbt.training.attempt import WHOLE, disown_checkpoints, whole_checkpoints
from pbt.training.launch import is_worker

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
SHOWN_EVERY = 10.0
"""Seconds between two reports of training steps in the log; evaluations are always shown."""


class Report(TrainerCallback):
    """Writes each report of the trainer to ``metrics.jsonl``, and shows some in the log.

    The file always holds what the trainer's state holds, also after resuming: a line a report, with its ``step``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shown = -math.inf

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the file with what was reported before the checkpoint that training goes on from."""
        if state.is_world_process_zero:
            self._path.write_bytes(b"".join(orjson.dumps(report) + b"\n" for report in state.log_history))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for a report of the last step whatever ``logging_steps`` is."""
        if state.global_step >= state.max_steps:
            control.should_log = True
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take down one report: of a training step, or of an evaluation (keys ``eval_*``)."""
        if not (state.is_world_process_zero and logs):
            return
        with self._path.open("ab") as file:
            file.write(orjson.dumps(state.log_history[-1]) + b"\n")
        now = time.monotonic()
        if "loss" not in logs or now - self._shown > SHOWN_EVERY or state.global_step in (1, state.max_steps):
            self._shown = now
            shown = ", ".join(f"{key} {value:.4g}" for key, value in logs.items() if isinstance(value, int | float))
            logger.info("step %d of %d: %s", state.global_step, state.max_steps, shown)


class StopOnNaN(TrainerCallback):
    """Ends a training whose loss or gradient is no number any more, before such weights are saved."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._reported = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._reported = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Have every step reported that will be saved, and so looked at first."""
        if control.should_save:
            control.should_log = True
        return control

    on_epoch_end = on_step_end

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Raise BadInput when the report of a step holds a loss or gradient that is not finite."""
        if logs is None or "loss" not in logs:
            return
        # Under fp16 a gradient that overflows now and then is what the loss scale is for: the step is skipped.
        looked_at = ("loss",) if args.fp16 else ("loss", "grad_norm")
        for name in looked_at:
            if not math.isfinite(logs.get(name, 0.0)):
                first, last = self._reported + 1, state.global_step
                when = f"at step {last}" if first == last else f"between steps {first} and {last}"
                if state.is_world_process_zero:
                    # Loss and gradient of a step are those of the weights that the step before left, and maybe saved.
                    disown_checkpoints(Path(str(args.output_dir)), first - 1)
                kept = whole_checkpoints(Path(str(args.output_dir)))
                good = f"; the last good checkpoint is kept: {kept[-1]}" if kept else ""
                raise BadInput(
                    f"{self._stage}: the {name} became {logs[name]} {when} of {state.max_steps}{good}. Lower "
                    f"{self._stage}.trainer.learning_rate, or raise warmup_steps"
                )
        self._reported = state.global_step


class MarkWhole(TrainerCallback):
    """Marks a checkpoint that all processes have written to its end."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            Path(str(args.output_dir), f"checkpoint-{state.global_step}", WHOLE).touch()


class StopOnSignal(TrainerCallback):
    """Ends a training that is told to: at the end of the running step a checkpoint is saved, then Stopped is raised.

    SIGUSR1 asks for it, and SIGTERM in a training of one process; of several, torch ends all with SIGTERM when one has
    failed, and the step would never end. If any process is told, all stop at the same step. The last step is not
    stopped at: what comes after it is short.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._heard: tuple[signal.Signals, ...] = ()
        self._told = False
        self._stopping = False
        self._saving = False
        """Whether the checkpoint that is saved next is the one to stop after."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """From the first step to the end of the block. At any other time a signal ends the process, as it otherwise
        would: there is nothing yet to save, or it is saved. Where there is no main thread, nothing is heard."""
        numbers = (signal.SIGUSR1,) if is_worker() else (signal.SIGUSR1, signal.SIGTERM)
        heard = numbers if threading.current_thread() is threading.main_thread() else ()
        self._heard = heard
        before = {number: signal.getsignal(number) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for number in self._heard:
            signal.signal(number, self._tell)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for the checkpoint; of an epoch's last step when the epoch has had its evaluation."""
        if self._told:
            self._accelerator.set_trigger()
        self._stopping = self._accelerator.check_trigger() or self._stopping
        epoch_over = float(state.epoch or 0).is_integer()
        if self._stopping and state.global_step < state.max_steps and not epoch_over:
            control.should_save = self._saving = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self._stopping and not control.should_training_stop:
            control.should_save = self._saving = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Raise Stopped, unless the training has just come to its end by itself."""
        if not self._saving or control.should_training_stop:
            return
        if state.is_world_process_zero:
            logger.warning(
                "told to stop at step %d of %d: saved, and the same command goes on", state.global_step, state.max_steps
            )
        PartialState().wait_for_everyone()  # who ends first has the others ended: the mark must stand by then
        raise Stopped

    def _tell(self, *_: object) -> None:
        self._told = True


class _Bar(ProgressCallback):
    """The progress bar alone: transformers' own also writes every report on stdout."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        pass


def watch(trainer: Trainer, stage: str, folder: Path) -> StopOnSignal:
    """Have a trainer report into ``folder``, stop on NaN or a signal, and mark its checkpoints."""
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(_Bar())
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(folder / "tensorboard")
    trainer.add_callback(Report(folder / METRICS_FILE))
    stop = StopOnSignal(trainer.accelerator)
    # In this order: what is saved is marked before the end, and what the end saves is looked at first.
    trainer.add_callback(MarkWhole())
    trainer.add_callback(stop)
    trainer.add_callback(StopOnNaN(stage))
    return stop
