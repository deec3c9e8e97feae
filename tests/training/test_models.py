"""``pbt models``, and ``pbt train --plan``, as a user calls them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner
from vllm import LLM, SamplingParams

from pbt.cli import app
from pbt.config import RunConfig
from pbt.errors import BadInput
from pbt.training.card import card
from pbt.training.publish import merge_model
from pbt.training.sft import train_sft


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


@pytest.fixture(scope="module")
def adapter(write_config: Callable[..., RunConfig], prefs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result that holds an adapter and no merged weights."""
    lora = {"r": 4, "alpha": 8, "merge": False}
    config = write_config(sft={"lora": lora, "balanced": {"items": 1}, "trainer": {"save_strategy": "steps"}})
    return train_sft(config, "balanced", prefs, tmp_path_factory.mktemp("models") / "sft-balanced").folder


def test_the_card_tells_base_data_regime_metrics_and_how_to_load(adapter: Path, sft_model: Path) -> None:
    told = run("models", "card", adapter)
    assert told == (adapter / "README.md").read_text() == card(adapter)
    header = yaml.safe_load(told.split("---")[1])
    assert header["library_name"] == "peft" and "base_model" not in header, "a folder is no name on the hub"
    record = json.loads((adapter / "run.json").read_text())
    assert f"| data | 8 pairs, digest `{record['data']['digest']}` |" in told
    assert "| method | SFT, LoRA (r 4, alpha 8) |" in told
    assert "| regime | balanced: as many pairs that prefer accepting" in told
    assert f"| balanced accuracy, the mean of the two | {record['metrics']['eval_balanced']:.4g} |" in told
    assert "vllm serve BASE --enable-lora" in told and "AutoPeftModelForCausalLM" in told
    assert str(adapter.parent) not in told and record["base"] not in told, "no paths of this machine"
    assert "vllm serve FOLDER" in card(sft_model) and "full fine-tuning" in card(sft_model)
    with pytest.raises(BadInput, match=r"no run\.json"):
        card(adapter / "adapter")


def test_a_merged_adapter_loads_in_vllm_as_it_is_and_says_what_the_adapter_says(
    adapter: Path, base: Path, tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = tmp_path / "merged"
    assert str(merged) in run("models", "merge", adapter, "--out", merged).replace("\n", "")
    tokenizer = AutoTokenizer.from_pretrained(merged)
    prompt = tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter / "adapter")
    with torch.no_grad():
        expected = model.generate(input_ids=torch.tensor([prompt]), do_sample=False, max_new_tokens=12)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    engine = LLM(str(merged), dtype="float32", enforce_eager=True, max_model_len=256, disable_log_stats=True)
    made = engine.generate([{"prompt_token_ids": prompt}], SamplingParams(temperature=0, max_tokens=12), use_tqdm=False)
    assert list(made[0].outputs[0].token_ids) == expected[0, len(prompt) :].tolist()
    with pytest.raises(BadInput, match="already there"):
        merge_model(adapter, merged)
    with pytest.raises(BadInput, match="trained whole, so there is nothing to merge"):
        merge_model(merged, tmp_path / "again")


def test_a_dry_run_lists_what_would_be_sent_and_sends_nothing(adapter: Path) -> None:
    told = json.loads(run("models", "push", adapter, "someone/something", "--dry-run", "--json"))
    assert told["sent"] is False and told["repository"] == "someone/something"
    assert {"README.md", "run.json", "adapter/adapter_model.safetensors", "tokenizer.json"} <= told["files"].keys()
    assert not any(path.startswith(("checkpoints", "tensorboard")) for path in told["files"])
    assert told["files"]["run.json"] == (adapter / "run.json").stat().st_size
    assert "would be sent to someone/something" in run("models", "push", adapter, "someone/something", "--dry-run")


def test_a_plan_is_printed_for_every_regime_or_refused(write_yaml: Callable[..., Path], prefs: Path) -> None:
    path = write_yaml()
    told = json.loads(run("train", "dpo", path, "--prefs", prefs, "--plan", "--json"))
    assert told["balanced"]["steps"] == 12 and told["accept"]["pairs"] is None
    shown = run("train", "sft", path, "--prefs", prefs, "--regime", "balanced", "--plan", "--gpus", 2)
    assert "on 2 GPUs, shared out by ddp" in shown and "optimizer" in shown
    with pytest.raises(BadInput, match=r"on each GPU of 1 GiB, most of it for runtime \(1\.5\); use a GPU with more"):
        run("train", "sft", path, "--prefs", prefs, "--plan", "--gpu-memory", 1)
    with pytest.raises(BadInput, match="'fsdp3' is neither shipped"):
        run("train", "sft", path, "--prefs", prefs, "--plan", "--accelerate", "fsdp3")
