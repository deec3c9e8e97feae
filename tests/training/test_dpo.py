"""DPO with the real trainer: where policy and reference start, and that the margin grows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pbt.config import RunConfig
from pbt.errors import BadInput
from pbt.training.dpo import train_dpo
from pbt.training.publish import merge_model
from pbt.training.sft import train_sft

LORA = {"lora": {"r": 4, "alpha": 8, "dropout": 0.0}}


LogProbability = Callable[[Path], float]


@pytest.fixture
def chosen_log_probability(rows: list[dict[str, Any]]) -> LogProbability:
    """The mean over all pairs of the log-probability of the chosen reply under a model, worked out without TRL."""

    def work_out(folder: Path) -> float:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        total = 0.0
        for row in rows:
            asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)
            whole = tokenizer.apply_chat_template([*row["prompt"], *row["chosen"]], return_dict=True)["input_ids"]
            with torch.no_grad():
                scores = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            total += sum(scores[i - 1, whole[i]].item() for i in range(len(asked["input_ids"]), len(whole)))
        return total / len(rows)

    return work_out


@pytest.mark.parametrize("beforehand", [True, False], ids=["precomputed", "at each step"])
@pytest.mark.parametrize(("method", "rate"), [({}, 0.003), (LORA, 0.03)], ids=["full", "lora"])
def test_policy_and_reference_both_start_as_the_sft_model(
    method: dict[str, Any],
    rate: float,
    beforehand: bool,
    write_config: Callable[..., RunConfig],
    base: Path,
    sft_model: Path,
    prefs: Path,
    tmp_path: Path,
    chosen_log_probability: LogProbability,
) -> None:
    trainer = {"learning_rate": rate, "max_steps": 16, "precompute_ref_log_probs": beforehand}
    out = tmp_path / "dpo-balanced"
    result = train_dpo(write_config(dpo={**method, "trainer": trainer}), "balanced", prefs, out, sft_model)
    first, *_, last = [
        report for report in json.loads((out / "trainer_state.json").read_text())["log_history"] if "loss" in report
    ]
    # The first step's rewards are policy against reference, so zero says that the two are one model, and the
    # log-probability says which.
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-5)
    assert first["rewards/rejected"] == pytest.approx(0, abs=1e-5)
    assert first["logps/chosen"] == pytest.approx(chosen_log_probability(sft_model), abs=1e-3)
    assert abs(first["logps/chosen"] - chosen_log_probability(base)) > 1

    assert last["rewards/margins"] > 0.1
    assert result.metrics["train_loss_end"] < result.metrics["train_loss_start"] == pytest.approx(0.6931, abs=1e-3)
    assert result.metrics["eval_rewards/accuracies"] == 1.0
    # What was saved is the trained policy, the adapter merged in.
    assert abs(chosen_log_probability(out) - first["logps/chosen"]) > 0.1
    assert (out / "adapter" / "adapter_model.safetensors").is_file() == bool(method)


def test_an_adapter_alone_is_trained_further_and_its_first_state_is_the_reference(
    write_config: Callable[..., RunConfig],
    base: Path,
    prefs: Path,
    tmp_path: Path,
    chosen_log_probability: LogProbability,
) -> None:
    lora = {"lora": {**LORA["lora"], "merge": False}}
    config = write_config(sft=lora, dpo={**lora, "trainer": {"max_steps": 3}})
    sft = train_sft(config, "balanced", prefs, tmp_path / "sft-balanced").folder
    assert not (sft / "model.safetensors").exists()
    out = train_dpo(config, "balanced", prefs, tmp_path / "dpo-balanced", sft).folder
    first = json.loads((out / "trainer_state.json").read_text())["log_history"][0]
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-5)
    merged = merge_model(sft, tmp_path / "merged")
    assert first["logps/chosen"] == pytest.approx(chosen_log_probability(merged), abs=1e-3)
    assert abs(first["logps/chosen"] - chosen_log_probability(base)) > 1
    assert sorted(path.name for path in (out / "adapter").glob("*.safetensors")) == ["adapter_model.safetensors"]
    assert not (out / "adapter" / "ref").exists()
    settings = json.loads((out / "adapter/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base), "one adapter on the base model, not one on another"

    with pytest.raises(BadInput, match=r"dpo\.lora: r 2, alpha 8, but the adapter of .* has r 4, alpha 8"):
        train_dpo(write_config(dpo={"lora": {"r": 2, "alpha": 8}}), "balanced", prefs, tmp_path / "other", sft)
    with pytest.raises(BadInput, match=r"holds an adapter alone; set dpo\.lora, or run 'pbt models merge'"):
        train_dpo(write_config(), "balanced", prefs, tmp_path / "other", sft)


@pytest.mark.parametrize(
    "variant",
    [
        {"trainer": {"loss_type": "ipo"}},
        {"trainer": {"loss_type": "robust", "label_smoothing": 0.1}},
        {"trainer": {"loss_type": "sigmoid_norm"}},
        {"trainer": {"loss_type": ["hinge", "sft"], "loss_weights": [1.0, 0.1]}},
        {"trainer": {"precompute_ref_log_probs": False}},
        {"method": "kto"},
        {"method": "kto", "lora": {"r": 4, "alpha": 8}},
    ],
    ids=lambda variant: " ".join(map(str, variant.values())),
)
def test_variants_by_configuration_alone_raise_the_chosen_over_the_rejected(
    variant: dict[str, Any], write_config: Callable[..., RunConfig], sft_model: Path, prefs: Path, tmp_path: Path
) -> None:
    section = {**variant, "trainer": {"max_steps": 10, "learning_rate": 0.003, **variant.get("trainer", {})}}
    out = train_dpo(write_config(dpo=section), "balanced", prefs, tmp_path / "dpo", sft_model).folder
    reports = json.loads((out / "trainer_state.json").read_text())["log_history"]
    margins = [report["rewards/margins"] for report in reports if "rewards/margins" in report]
    assert margins[0] == pytest.approx(0, abs=1e-5), "policy and reference start as one model"
    assert margins[-1] > 0.01


def test_options_that_do_not_go_together_are_named(
    write_config: Callable[..., RunConfig], sft_model: Path, prefs: Path, tmp_path: Path
) -> None:
    section = {"method": "kto", "trainer": {"train_sampling_strategy": "random"}}
    with pytest.raises(BadInput, match=r"dpo\.trainer: .*requires `train_sampling_strategy='sequential'`"):
        train_dpo(write_config(dpo=section), "balanced", prefs, tmp_path / "dpo", sft_model)


def test_without_from_sft_the_base_model_is_both(
    write_config: Callable[..., RunConfig],
    base: Path,
    prefs: Path,
    tmp_path: Path,
    chosen_log_probability: LogProbability,
) -> None:
    config = write_config(dpo={"from_sft": False, "trainer": {"max_steps": 1}})
    out = train_dpo(config, "balanced", prefs, tmp_path / "dpo", None).folder
    first = json.loads((out / "trainer_state.json").read_text())["log_history"][0]
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert first["logps/chosen"] == pytest.approx(chosen_log_probability(base), abs=1e-3)


def test_a_missing_or_foreign_sft_model_is_refused(
    write_config: Callable[..., RunConfig], sft_model: Path, prefs: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="no SFT model was given"):
        train_dpo(write_config(), "balanced", prefs, tmp_path / "dpo", None)
    with pytest.raises(BadInput, match="trained for regime 'balanced', not 'resist'"):
        train_dpo(write_config(), "resist", prefs, tmp_path / "dpo", sft_model)
