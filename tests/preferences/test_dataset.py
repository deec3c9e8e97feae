"""What the ecosystem makes of the folder: ``datasets`` opens it in every way it knows, TRL trains on it as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset, load_from_disk

from pbt.config import REGIMES
from pbt.debate.tree import DebateTree
from pbt.preferences.funnel import Funnel
from pbt.preferences.pairs import SPLITS, Pair

StoreTrees = Callable[[Path, Sequence[DebateTree]], Path]
Build = Callable[..., Funnel]


@pytest.fixture(scope="module")
def prefs(
    both_codes: Callable[[int], DebateTree],
    store_trees: StoreTrees,
    build: Build,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    home = tmp_path_factory.mktemp("prefs")
    build([store_trees(home / "trees", [both_codes(number) for number in range(60)])], home / "out")
    return home / "out"


def jsonl(prefs: Path, name: str, split: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (prefs / "jsonl" / name / f"{split}.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("regime", REGIMES)
def test_every_way_of_loading_gives_the_same_rows(prefs: Path, tmp_path: Path, regime: str) -> None:
    cache = str(tmp_path / "cache")
    by_card = load_dataset(str(prefs), regime, cache_dir=cache)
    saved, all_saved = load_from_disk(prefs / regime), load_from_disk(prefs)
    assert set(by_card) == set(saved) == set(SPLITS)
    for split in SPLITS:
        rows = jsonl(prefs, regime, split)
        file = prefs / "data" / regime / f"{split}.parquet"
        by_file = load_dataset("parquet", data_files={split: str(file)}, split=split, cache_dir=cache)
        for loaded in (by_card[split], saved[split], all_saved[f"{regime}/{split}"], by_file):
            assert list(loaded) == rows
            assert tuple(loaded.column_names) == tuple(Pair.__slots__)
    assert set(load_dataset("parquet", data_dir=str(prefs / "data" / regime), cache_dir=cache)) == {
        *("train", "validation", "test")  # as datasets calls a file named valid
    }


def test_the_folder_without_a_name_is_the_balanced_regime(prefs: Path, tmp_path: Path) -> None:
    loaded = load_dataset(str(prefs), cache_dir=str(tmp_path / "cache"))
    assert list(loaded["train"]) == jsonl(prefs, "balanced", "train")


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("split", SPLITS)
def test_the_views_hold_the_replies_of_the_regime(prefs: Path, regime: str, split: str) -> None:
    pairs = jsonl(prefs, regime, split)
    sft = [
        {"pair_id": p["pair_id"], "code": p["code"], "prompt": p["prompt"], "completion": p["chosen"]} for p in pairs
    ]
    kto = [
        {**row, "completion": pair[side], "label": side == "chosen"}
        for row, pair in zip(sft, pairs, strict=True)
        for side in ("chosen", "rejected")
    ]
    for name, rows in ((f"sft-{regime}", sft), (f"kto-{regime}", kto)):
        assert jsonl(prefs, name, split) == rows
        assert pq.read_table(prefs / "data" / name / f"{split}.parquet").to_pylist() == rows


@pytest.fixture(scope="module", params=["llama", "mistral"])
def model(request: pytest.FixtureRequest, prefs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random small model of each architecture, with its own chat template."""
    import torch

    from pbt.pocket.models import Size, build_model, build_tokenizer

    texts = [message["content"] for row in jsonl(prefs, "balanced", "train") for message in row["prompt"]]
    tokenizer = build_tokenizer(request.param, texts, 400)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    size = Size(width=32, layers=2, head=16, feed_forward=64, vocab=400)
    build_model(request.param, tokenizer, size).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


SETTINGS: dict[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "gradient_checkpointing": False,
    "bf16": False,
    "report_to": [],
    "save_strategy": "no",
    "max_length": 512,
    "use_cpu": True,
}


def test_trl_trains_by_dpo_on_the_dataset_as_it_is(prefs: Path, model: str, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    rows: Dataset = load_from_disk(prefs / "balanced")["train"]
    trainer = DPOTrainer(model, args=DPOConfig(str(tmp_path), **SETTINGS), train_dataset=rows)
    assert trainer.train().training_loss == pytest.approx(0.693, abs=0.01)  # log 2 before anything is learnt


def test_trl_trains_by_sft_on_the_view_of_chosen_replies(prefs: Path, model: str, tmp_path: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    rows = load_dataset(str(prefs), "sft-balanced", split="train", cache_dir=str(tmp_path / "cache"))
    trainer = SFTTrainer(model, args=SFTConfig(str(tmp_path), **SETTINGS), train_dataset=rows)
    assert trainer.train().training_loss > 0


def test_trl_trains_by_kto_on_the_view_of_labelled_replies(prefs: Path, model: str, tmp_path: Path) -> None:
    from trl import KTOConfig, KTOTrainer

    rows = load_dataset(str(prefs), "kto-balanced", split="train", cache_dir=str(tmp_path / "cache"))
    trainer = KTOTrainer(model, args=KTOConfig(str(tmp_path), **SETTINGS), train_dataset=rows)
    assert trainer.train().training_loss > 0
