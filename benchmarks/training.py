"""How `pbt train dpo` compares with a minimal script around TRL's DPOTrainer.

Two comparisons, each on the same model, pairs and machine, in turns; prints medians of pairs/s and their ratio:

* `same options`: the script has every option that `pbt train dpo` has, its defaults included; what differs is what pbt
  adds around the trainer (checks, reports, checkpoints, the result). At least 1.0 is wanted.
* `our defaults`: the script has TRL's defaults where pbt has its own (the reference's log-probabilities at each step,
  pairs in random order, padded as they come). At least 1.4 is wanted over 5 epochs, precomputation included.

Trained by LoRA as in the paper's setting, or with --full all weights, where the reference is a smaller part of the
work. A figure is pairs times epochs over the seconds from the call to the end of training; loading torch is left out
of both. On a machine that others use as well, --cpu-time counts the processor's seconds instead.

    python benchmarks/training.py [--pairs 256] [--epochs 5] [--batch 16] [--rounds 3] [--full] [--cpu-time]
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import pyarrow.parquet as pq
import transformers
from datasets import Dataset, disable_progress_bars
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from pbt.config import LoraConfig, RunConfig, load_config
from pbt.training.arguments import settings
from pbt.training.data import sample_pairs
from pbt.training.dpo import train_dpo
from pbt.training.model import lora_config


def minimal(model: str, rows: Dataset, folder: Path, options: dict[str, Any], lora: LoraConfig | None) -> None:
    """The script: load, train, save."""
    policy = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    # The reference is left to TRL, which loads it once more or works out its part beforehand.
    args = DPOConfig(output_dir=str(folder), use_cpu=True, bf16=False, disable_tqdm=True, **options)
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer = DPOTrainer(
        policy, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=lora_config(lora)
    )
    trainer.train()
    trainer.save_model()


def ours(config: RunConfig, model: str, prefs: Path, folder: Path) -> None:
    """`pbt train dpo` without the start of its process."""
    train_dpo(config, "balanced", prefs, folder / "dpo", Path(model))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/sft-balanced", help="an SFT model")
    parser.add_argument("--prefs", type=Path, default=Path("runs/demo/prefs"))
    parser.add_argument("--config", type=Path, default=Path("configs/pocket.yaml"))
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.monotonic
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    disable_progress_bars()

    table = {
        "per_device_train_batch_size": options.batch,
        "num_train_epochs": options.epochs,
        "learning_rate": 0.0001,
        "gradient_checkpointing": False,
        "max_length": 256,
    }
    overrides = [f"dpo.pairs={options.pairs}", f"dpo.trainer={table}"]
    config = load_config(options.config, [*overrides, *([] if options.full else ["dpo.lora={merge: false}"])])
    lora = config.dpo.lora
    train = pq.read_table(options.prefs / "data/balanced/train.parquet")
    rows = sample_pairs(Dataset(train), options.pairs, config.seed).select_columns(["prompt", "chosen", "rejected"])
    with tempfile.TemporaryDirectory() as empty:
        # No valid pairs: the script does not evaluate, so pbt is not to either.
        prefs = Path(empty)
        (prefs / "data/balanced").mkdir(parents=True)
        pq.write_table(train, prefs / "data/balanced/train.parquet")
        pq.write_table(train.slice(0, 0), prefs / "data/balanced/valid.parquet")
        same = settings("dpo", config.dpo, fsdp=False)
        same["train_sampling_strategy"] = "random"  # which in DPO the trainer cannot group by length without help
        plain = {**table, "report_to": "none", "save_strategy": "no"}
        grouped = config.model_copy(
            update={"dpo": config.dpo.model_copy(update={"trainer": {**table, "train_sampling_strategy": "random"}})}
        )
        contests: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
            "same options": (
                lambda folder: minimal(options.model, rows, folder, same, lora),
                lambda folder: ours(grouped, options.model, prefs, folder),
            ),
            "our defaults": (
                lambda folder: minimal(options.model, rows, folder, plain, lora),
                lambda folder: ours(config, options.model, prefs, folder),
            ),
        }
        shown = Table(
            "", "script, pairs/s", "pbt, pairs/s", "ratio", title=f"{options.pairs} pairs, batch {options.batch}"
        )
        for name, contest in contests.items():
            paces: tuple[list[float], list[float]] = ([], [])
            for _ in range(options.rounds):
                for run, pace in zip(contest, paces, strict=True):
                    with tempfile.TemporaryDirectory() as folder:
                        began = clock()
                        run(Path(folder))
                        pace.append(options.epochs * options.pairs / (clock() - began))
            script, pbt = map(statistics.median, paces)
            shown.add_row(name, f"{script:.1f}", f"{pbt:.1f}", f"{pbt / script:.2f}")
    Console().print(shown)


if __name__ == "__main__":
    main()
