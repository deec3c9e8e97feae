"""The paper's configuration, as far as it goes without the real weights.

Shrunken random models of the two architectures, with chat templates of the documented form, take the place of the
8B and the 7B; the protocol, the LoRA settings and the trainers' tables are those of the file.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from capitals import CAPITALS, pair
from pbt.config import RunConfig, load_config
from pbt.debate.chat import messages_for
from pbt.debate.tree import Turn
from pbt.engines.vllm import VllmEngine, check_settings
from pbt.generate import GenerationSummary, grow_trees
from pbt.pocket.models import build_tokenizer
from pbt.provenance import provenance
from pbt.questions import Question
from pbt.speaker import speakers
from pbt.store import Shard, TreeStore, read_trees
from pbt.training.dpo import train_dpo
from pbt.training.sft import train_sft

LLAMA = (
    "{{- bos_token }}{%- for m in messages %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{- m.content | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
MISTRAL = (
    "{{- bos_token }}{%- for m in messages %}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}"
    "{%- if m.role == 'user' %}{{- ' [INST] ' + m.content + ' [/INST]' }}"
    "{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}{%- endfor %}"
)


def tokenizer(bos: str, eos: str, extra: list[str], template: str) -> PreTrainedTokenizerFast:
    made = build_tokenizer("llama", [row for country in CAPITALS for row in (country, CAPITALS[country])], 400)
    made.add_special_tokens({"bos_token": bos, "eos_token": eos, "additional_special_tokens": extra})
    made.chat_template = template
    made.model_max_length = 4096
    return made


@pytest.fixture(scope="module")
def config(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The file itself, with the models shrunk, the GPU's settings taken out, and two steps of training."""
    home = tmp_path_factory.mktemp("shrunken")
    torch.manual_seed(0)
    shape = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32,
    }  # fmt: skip
    headers = ["<|start_header_id|>", "<|end_header_id|>"]
    llama = tokenizer("<|begin_of_text|>", "<|eot_id|>", headers, LLAMA)
    mistral = tokenizer("<s>", "</s>", ["[INST]", "[/INST]"], MISTRAL)
    models: list[tuple[str, Any, Any]] = [
        ("llama", llama, LlamaForCausalLM(LlamaConfig(vocab_size=len(llama), **shape))),
        ("mistral", mistral, MistralForCausalLM(MistralConfig(vocab_size=len(mistral), sliding_window=None, **shape))),
    ]
    overrides = ["seed=5"]
    for name, tokens, model in models:
        model.config.bos_token_id, model.config.eos_token_id = tokens.bos_token_id, tokens.eos_token_id
        model.generation_config.eos_token_id = tokens.eos_token_id
        model.save_pretrained(home / name)
        tokens.save_pretrained(home / name)
        engine = json.dumps({"dtype": "float32", "enforce_eager": True, "max_model_len": 2048})
        overrides += [f"models.{name}.path={home / name}", f"models.{name}.engine={engine}"]
    for stage in ("sft", "dpo"):
        overrides += [f"{stage}.load.dtype=float32"]
        overrides += [
            f"{stage}.trainer.{setting}"
            for setting in ("max_steps=2", "bf16=false", "optim=adamw_torch", "gradient_accumulation_steps=1")
        ]
    return load_config(checkout / "configs" / "llama-8b-mistral-7b.yaml", overrides)


def test_the_file_itself_names_settings_that_vllm_knows(checkout: Path) -> None:
    whole = load_config(checkout / "configs" / "llama-8b-mistral-7b.yaml")
    assert whole.models["llama"].path == "meta-llama/Llama-3.1-8B-Instruct"
    assert whole.trained("dpo") is whole.models["llama"]
    for model in whole.models.values():
        check_settings(model.path, model.engine)


def test_every_prompt_of_the_debate_fits_both_chat_templates(config: RunConfig) -> None:
    question = "What is the capital of France?"
    engines = {name: VllmEngine(model.path, model.engine) for name, model in config.models.items()}
    path = [
        Turn(0, None, 0, 0, "standard", "It is Lyon.", "Lyon"),
        Turn(1, 0, 1, 1, "resistant", "It is Paris.", "Paris"),
        Turn(2, 1, 2, 0, "logical", "It is Lyon, by its size.", "Lyon"),
    ]
    for at, spoken in enumerate((path[:0], path[:1], path[:2], path)):
        level, seat = config.protocol.level(at), config.protocol.seat_at(at)
        for persona in level.personas:
            messages = messages_for(config.protocol, question, seat, persona, spoken, sees=level.sees)
            engine = engines[config.seats[seat]]
            text = engine._tokenizer.decode(engine.prompt_ids(messages))
            assert text.startswith("<s>" if config.seats[seat] == "mistral" else "<|begin_of_text|>")
            assert "What is the capital of France?" in text
    for engine in engines.values():
        engine.close()


def test_trees_grow_from_both_architectures(config: RunConfig, tmp_path: Path) -> None:
    """Random weights talk nonsense; the debate must stand it: whole trees, every turn accounted for."""
    questions = [Question(str(i), f"What is the capital of {c}?", CAPITALS[c], ("x",)) for i, c in enumerate(CAPITALS)]
    engines = {name: VllmEngine(config.models[name].path, config.models[name].engine) for name in config.seats}
    summary = GenerationSummary(owed=len(questions), done_before=0)
    store = TreeStore(tmp_path, Shard(0, 1), provenance(config, "generate", {}), {})
    voices = speakers(config, engines)
    asyncio.run(grow_trees(config, questions, voices, store, summary, lambda summary: None, asyncio.Event()))
    store.close()
    for engine in engines.values():
        engine.close()
    assert (summary.trees, summary.failed) == (5, 0)
    for tree in read_trees([tmp_path]):
        assert tree.turns[0].persona == "standard"
        assert all(turn.tokens >= 1 for turn in tree.turns)


def test_lora_sft_and_dpo_run_with_the_tables_of_the_file(config: RunConfig, tmp_path: Path) -> None:
    rows = [pair(country, code) for country in CAPITALS for code in ("resist", "accept")]
    for split in ("train", "valid"):
        target = tmp_path / "prefs" / "data" / "balanced" / f"{split}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), target)
    sft = train_sft(config, "balanced", tmp_path / "prefs", tmp_path / "sft-balanced")
    dpo = train_dpo(config, "balanced", tmp_path / "prefs", tmp_path / "dpo-balanced", sft.folder)
    assert dpo.metrics["steps"] == 2
    adapter = json.loads((dpo.folder / "adapter" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (16, 32, 0.05)
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.rsplit(".")[-1] for name in adapter["target_modules"]} == linear
