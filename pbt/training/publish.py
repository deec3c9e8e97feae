"""What is done with a trained model afterwards: its adapter merged, its files sent to the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from pbt.errors import BadInput
from pbt.provenance import RUN_FILE, read_run
from pbt.training.arguments import CHECKPOINTS
from pbt.training.attempt import partial_folder, refuse_existing
from pbt.training.callbacks import METRICS_FILE
from pbt.training.card import write_card
from pbt.training.model import ADAPTER, default_dtype, read_tokenizer, save_merged


class Upload(NamedTuple):
    """One file of a model, as it is sent."""

    path: str
    """Relative to the model's folder."""
    bytes: int


def merge_model(folder: Path, out: Path) -> Path:
    """Write the merged weights of a training result, a complete model folder, to ``out``. Raises BadInput."""
    adapter = folder / ADAPTER
    record = read_run(folder)
    if not adapter.is_dir():
        raise BadInput(f"{folder}: no {ADAPTER}/ in it; it was trained whole, so there is nothing to merge")
    refuse_existing(out)
    partial = partial_folder(out)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tokenizer = read_tokenizer(str(folder))
    tokenizer.save_pretrained(str(partial))
    load = record["config"][record["stage"]]["load"]
    save_merged(adapter, load.get("dtype", default_dtype()), tokenizer, partial)
    for name in (RUN_FILE, METRICS_FILE, "trainer_state.json"):
        shutil.copy2(folder / name, partial / name)
    write_card(partial)
    partial.rename(out)
    return out


def uploads(folder: Path) -> list[Upload]:
    """The files of a training result that are sent: all but checkpoints and TensorBoard's. Raises BadInput."""
    read_run(folder)
    kept_back = {CHECKPOINTS, "tensorboard"}
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    relative = [path.relative_to(folder) for path in found]
    return [Upload(str(path), (folder / path).stat().st_size) for path in relative if path.parts[0] not in kept_back]


def push_model(folder: Path, repository: str, private: bool) -> str:
    """Send a training result to a repository on the hub, which is made if need be; returns its address.

    Raises BadInput when the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub = HfApi()
    try:
        address = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=[each.path for each in uploads(folder)]
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise BadInput(f"{repository}: the hub refused: {' '.join(str(error).split())}") from None
    return str(address)
