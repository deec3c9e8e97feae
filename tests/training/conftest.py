"""A random pocket Llama and eight pairs by hand: small enough to train in a second, real enough to load anywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from capitals import CAPITALS, pair
from pbt.config import RunConfig, load_config
from pbt.pocket.models import Size, build_model, build_tokenizer
from pbt.training.sft import train_sft

TRAINER = {
    "max_steps": 12,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "gradient_checkpointing": False,
    "save_strategy": "no",
}


PAIRS = [pair(country, code) for country in list(CAPITALS)[:4] for code in ("resist", "accept")]


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """The pairs of the training split, resist and accept in turn."""
    return PAIRS


@pytest.fixture(scope="session")
def write_pairs() -> Callable[[Path, list[dict[str, Any]]], None]:
    """Writes rows as one split's parquet file."""

    def write(path: Path, rows: list[dict[str, Any]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.Table.from_pylist(PAIRS).schema), path)

    return write


@pytest.fixture(scope="session")
def prefs(write_pairs: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight balanced training pairs, and the first two of them to evaluate on."""
    folder = tmp_path_factory.mktemp("prefs")
    write_pairs(folder / "data/balanced/train.parquet", PAIRS)
    write_pairs(folder / "data/balanced/valid.parquet", PAIRS[:2])
    (folder / "run.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model's folder."""
    folder = tmp_path_factory.mktemp("base")
    texts = [message["content"] for row in PAIRS for key in ("prompt", "chosen", "rejected") for message in row[key]]
    tokenizer = build_tokenizer("llama", texts, 400)
    torch.manual_seed(0)
    model = build_model("llama", tokenizer, Size(width=64, layers=2, head=32, feed_forward=64, vocab=400))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def write_yaml(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a run's YAML over ``base`` (or another model) with the given sections."""

    def write(model: Path = base, **sections: Any) -> Path:
        table: dict[str, Any] = {
            "name": "test",
            "seed": 3,
            "questions": {"source": "questions.jsonl"},
            "protocol": "pocket-debate",
            "models": {"tiny": {"path": str(model)}},
            "seats": ["tiny", "tiny"],
        }
        for stage in ("sft", "dpo"):
            section = sections.get(stage, {})
            table[stage] = {**section, "trainer": {**TRAINER, **section.get("trainer", {})}}
        path = tmp_path_factory.mktemp("config") / "run.yaml"
        path.write_text(yaml.safe_dump(table))
        return path

    return write


@pytest.fixture(scope="session")
def write_config(write_yaml: Callable[..., Path]) -> Callable[..., RunConfig]:
    """The same, loaded."""

    def write(*model: Path, **sections: Any) -> RunConfig:
        return load_config(write_yaml(*model, **sections))

    return write


@pytest.fixture(scope="session")
def sft_model(write_config: Callable[..., RunConfig], prefs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model trained by SFT, for DPO to start from."""
    return train_sft(write_config(), "balanced", prefs, tmp_path_factory.mktemp("run") / "sft-balanced").folder
