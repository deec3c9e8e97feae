"""What made a result: configuration, digest, seed, code version, models, time. Saved beside every result."""

from __future__ import annotations

import subprocess
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

import pbt
from pbt.config import RunConfig, digest
from pbt.errors import BadInput

RUN_FILE = "run.json"


def provenance(config: RunConfig, stage: str, covers: Any = None) -> dict[str, Any]:
    """The record for one result. ``covers`` is the part of the configuration that the digest guards; all by default."""
    whole = config.resolved()
    return {
        "stage": stage,
        "name": config.name,
        "seed": config.seed,
        "digest": digest(whole if covers is None else covers),
        "version": code_version(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "models": {name: model.path for name, model in config.models.items()},
        "config": whole,
    }


def code_version() -> str:
    """The package's version, with the commit (and ``-dirty``) when it runs from a checkout."""
    root = Path(pbt.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return pbt.__version__
    shown = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return f"{pbt.__version__}+{shown.stdout.strip()}" if shown.returncode == 0 else pbt.__version__


def read_run(folder: Path) -> dict[str, Any]:
    """The record beside a result. Raises BadInput when the folder holds none."""
    path = folder / RUN_FILE
    try:
        record = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{folder}: no {RUN_FILE}, so this is no folder that pbt wrote") from None
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{path}: not valid JSON: {error}") from None
    if not isinstance(record, dict) or "config" not in record:
        raise BadInput(f"{path}: no 'config' in it, so this is no record that pbt wrote")
    return record


def write_run(folder: Path, record: dict[str, Any]) -> None:
    """Write the record whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / RUN_FILE, orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n")


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file by way of a temporary one, so that a reader or a crash never sees half of it.

    The temporary one has a name of its own, because several shards may write the same record at once.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
