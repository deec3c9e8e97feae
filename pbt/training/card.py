"""The card of a trained model, ``README.md`` in its folder: what it came from, how good it is, how to load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pbt.errors import BadInput
from pbt.provenance import read_run, write_atomic
from pbt.training.model import ADAPTER, has_weights

CARD_FILE = "README.md"

_WORDS = {
    "accept": "pairs in which moving to a right partner is preferred, alone",
    "resist": "pairs in which keeping a right answer is preferred, alone",
    "balanced": "as many pairs that prefer accepting as pairs that prefer resisting",
}
_METRICS = {
    "eval_held": "held: right answers kept against a wrong partner",
    "eval_moved": "moved: wrong answers given up for a right partner",
    "eval_balanced": "balanced accuracy, the mean of the two",
    "eval_loss": "loss",
    "eval_rewards/accuracies": "reward accuracy",
    "eval_rewards/margins": "reward margin",
    "eval_logps/chosen": "log-probability of the chosen reply",
    "eval_logps/rejected": "log-probability of the rejected reply",
}


def write_card(folder: Path) -> Path:
    """Write the card of a training result from its ``run.json``; returns its path. Raises BadInput."""
    path = folder / CARD_FILE
    write_atomic(path, card(folder).encode())
    return path


def card(folder: Path) -> str:
    """The card of a training result. Raises BadInput when ``folder`` is none."""
    record = read_run(folder)
    if record.get("stage") not in ("sft", "dpo") or "data" not in record:
        raise BadInput(f"{folder}: no model that 'pbt train' of this version wrote")
    stage = record["config"][record["stage"]]
    method = record["stage"] if record["stage"] == "sft" else stage["method"]
    merged = has_weights(folder)
    adapted = (folder / ADAPTER).is_dir()
    base = record["base"]
    local = Path(base).exists()
    header: dict[str, Any] = {
        **({} if local else {"base_model": base, "base_model_relation": "finetune" if merged else "adapter"}),
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["trl", method, "persuasion-balanced-training"],
    }
    trained = f"LoRA (r {stage['lora']['r']}, alpha {stage['lora']['alpha']})" if adapted else "full fine-tuning"
    facts = {
        "base model": Path(base).name if local else base,
        "trained from": "the base model" if record["start"] == base else f"`{Path(record['start']).name}`",
        "method": f"{method.upper()}, {trained}",
        "regime": f"{record['regime']}: {_WORDS[record['regime']]}",
        "data": f"{record['pairs']} pairs, digest `{record['data']['digest']}`",
        "configuration": f"`{record['name']}`, digest `{record['digest']}`, seed {record['seed']}",
        "made": f"{record['created']} by pbt {record['version']}",
        "steps": _steps(record["metrics"]),
    }
    metrics = {words: record["metrics"][key] for key, words in _METRICS.items() if key in record["metrics"]}
    return "\n".join(
        [
            "---",
            yaml.safe_dump(header, sort_keys=False).strip(),
            "---",
            "",
            f"# {record['name']} {record['stage']} {record['regime']}",
            "",
            "Trained to hold a right answer against wrong persuasion, and to give up a wrong one for a right partner, "
            "to the degree that its regime asks for.",
            "",
            *_table(("", ""), facts),
            "",
            "## On held-out pairs",
            "",
            *(
                _table(("measure", "value"), {name: f"{value:.4g}" for name, value in metrics.items()})
                or ["Not taken."]
            ),
            "",
            "All measures are in `run.json`, all reports of the trainer in `metrics.jsonl`.",
            "",
            "## Loading it",
            "",
            *_loading(merged, adapted),
            "",
        ]
    )


def _steps(metrics: dict[str, float]) -> str:
    chosen = f"; the weights are those of step {metrics['best_step']:.0f}" if "best_step" in metrics else ""
    return f"{metrics['steps']:.0f}{chosen}"


def _table(head: tuple[str, str], rows: dict[str, str]) -> list[str]:
    if not rows:
        return []
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _loading(merged: bool, adapted: bool) -> list[str]:
    """How to load a result, in transformers and in vLLM; FOLDER is where it stands."""
    if merged:
        lines = [
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
            "```",
            "",
            "```bash",
            "vllm serve FOLDER",
            "```",
        ]
        return [*lines, "", f"`{ADAPTER}/` holds the LoRA adapter alone."] if adapted else lines
    return [
        "This folder holds a LoRA adapter and no merged weights; `pbt models merge FOLDER --out MERGED` makes them.",
        "",
        "```python",
        "from peft import AutoPeftModelForCausalLM",
        "from transformers import AutoTokenizer",
        "",
        f'model = AutoPeftModelForCausalLM.from_pretrained("FOLDER/{ADAPTER}")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        "```",
        "",
        "```bash",
        f"vllm serve BASE --enable-lora --lora-modules pbt=FOLDER/{ADAPTER}",
        "```",
    ]
