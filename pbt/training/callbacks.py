"""What a trainer reports while it runs: through logging, never on stdout, which is for results."""

from __future__ import annotations

import logging
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

logger = logging.getLogger(__name__)


class LogMetrics(TrainerCallback):
    """Logs each report of the trainer as one line, and makes it report its last step whatever ``logging_steps`` is."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for a report of the last step."""
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
        """Log one report: of a training step, or of an evaluation (keys ``eval_*``)."""
        if state.is_world_process_zero and logs:
            shown = ", ".join(f"{key} {value:.4g}" for key, value in logs.items() if isinstance(value, int | float))
            logger.info("step %d of %d: %s", state.global_step, state.max_steps, shown)


class _Bar(ProgressCallback):
    """The progress bar alone: transformers' own also writes every report on stdout."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        pass


def report_by_logging(trainer: Trainer) -> None:
    """Put our reports in the place of those that transformers prints on stdout."""
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(_Bar())
    trainer.add_callback(LogMetrics())
