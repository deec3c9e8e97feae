"""An unfinished training: a folder beside the result's, from which the same command goes on.

``.<name>.partial`` holds ``attempt.json`` (under which configuration, on which data), ``checkpoints/`` (what TRL saved
on its way), ``data/`` (the checked pairs, and what TRL worked out from them), ``metrics.jsonl`` and ``tensorboard/``.
It is renamed to the result when that is complete. A checkpoint counts once it is marked whole, the last thing that is
written of it.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from pbt.config import differences
from pbt.errors import BadInput
from pbt.provenance import write_atomic

logger = logging.getLogger(__name__)

ATTEMPT_FILE = "attempt.json"
LOCK = "lock"
WHOLE = "whole"
"""The mark of a checkpoint that was written to its end."""


@dataclass(frozen=True)
class Attempt:
    """A training that is about to start or to go on."""

    folder: Path
    checkpoint: Path | None
    """Where it goes on from; ``None`` at its beginning."""


def partial_folder(out: Path) -> Path:
    """Where a result is written until it is complete."""
    return out.with_name(f".{out.name}.partial")


def refuse_existing(out: Path) -> None:
    """Raise BadInput when ``out`` is taken: a model is never written over."""
    if out.exists():
        raise BadInput(f"{out}: is already there; remove it to train again, or use another --out")


def find_attempt(out: Path, covers: dict[str, Any], max_steps: int) -> Attempt:
    """Where a training of ``out`` under ``covers`` starts. Reads only.

    Raises BadInput, with the differing keys, when another configuration has left checkpoints there; what it left
    without any is nothing to lose. ``max_steps`` is the trainer's key.
    """
    folder = partial_folder(out)
    checkpoints = whole_checkpoints(folder / "checkpoints")
    if checkpoints and (changed := differences(_read(folder), covers)):
        raise BadInput(
            f"{folder}: an unfinished training under another configuration ({'; '.join(changed)}). Use the old "
            "configuration to go on, another --out, or remove that folder to start anew"
        )
    # Resumed inside an epoch at its very last step, the trainer would take one step more. Going on from the checkpoint
    # before that comes to the same weights.
    earlier = [path for path in checkpoints if max_steps <= 0 or _step(path) < max_steps]
    return Attempt(folder, earlier[-1] if earlier else None)


def begin(attempt: Attempt, covers: dict[str, Any]) -> IO[bytes]:
    """Make the folder, or clear it of what a kill left half-written; for when all input is known to be good.

    Returns the folder's lock, held until it is closed. Raises BadInput when another process holds it: the workers of a
    training may outlive the command that launched them.
    """
    folder = attempt.folder
    left_over = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK).open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise BadInput(f"{folder}: another process is training there; wait for it, or end it first") from None
    if attempt.checkpoint is None:
        if left_over:
            logger.warning("%s: removing what a training left that ended before its first checkpoint", folder)
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        write_atomic(folder / ATTEMPT_FILE, orjson.dumps(covers, option=orjson.OPT_INDENT_2) + b"\n")
        return lock
    for path in attempt.checkpoint.parent.glob("checkpoint-*"):
        if _step(path) > _step(attempt.checkpoint) or not (path / WHOLE).is_file():
            shutil.rmtree(path)
    logger.info("going on from %s", attempt.checkpoint)
    return lock


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that were written to their end, the earliest first."""
    return sorted((path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")), key=_step)


def disown_checkpoints(folder: Path, step: int) -> None:
    """Take the mark off the checkpoints from ``step`` on: they hold weights that are no good."""
    for path in whole_checkpoints(folder):
        if _step(path) >= step:
            (path / WHOLE).unlink()


def _read(folder: Path) -> dict[str, Any]:
    try:
        return orjson.loads((folder / ATTEMPT_FILE).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        raise BadInput(f"{folder}: an unfinished training without its {ATTEMPT_FILE}; remove the folder") from None


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))
