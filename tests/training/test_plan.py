"""Plans against what really happens on a small model; and every configuration that is shipped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from pbt.config import RunConfig, load_config
from pbt.errors import BadInput
from pbt.training.dpo import dpo_trainer, prepare_dpo
from pbt.training.plan import GIB, check_fits, count, plan, read_shape
from pbt.training.sft import prepare_sft, sft_trainer

CONFIGS = sorted(Path(__file__).resolve().parents[2].joinpath("configs").glob("*.yaml"))


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8, "dropout": 0.0}], ids=["full", "lora"])
def test_weights_gradients_optimizer_and_steps_are_those_of_the_real_training(
    lora: Any, write_config: Callable[..., RunConfig], sft_model: Path, prefs: Path, tmp_path: Path
) -> None:
    trainer_table = {"max_steps": -1, "num_train_epochs": 3, "per_device_train_batch_size": 3, "bf16": False}
    section = {"lora": lora, "load": {"dtype": "float32"}, "trainer": trainer_table}
    config = write_config(dpo=section)
    planned = plan(config, "dpo", "balanced", prefs, 1, None)
    ready = prepare_dpo(config, "balanced", prefs, tmp_path / "dpo", sft_model)
    trainer = dpo_trainer(ready)
    trainer.train()
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    frozen = [weight for weight in trainer.model.parameters() if not weight.requires_grad]

    def size(tensors: list[torch.Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    moments = [tensor for state in trainer.optimizer.state.values() for name, tensor in state.items() if name != "step"]
    assert planned.counts.trained == sum(weight.numel() for weight in trained)
    assert planned.memory["trained weights"] == planned.memory["gradients"] == size(trained)
    assert planned.memory["frozen weights"] == pytest.approx(size(frozen), rel=0.02)
    assert planned.memory["optimizer"] == size(moments)
    assert (planned.steps, planned.batch, planned.pairs) == (trainer.state.global_step, 3, 8)


def test_shapes_give_the_known_sizes_of_models_that_are_not_here(write_config: Callable[..., RunConfig]) -> None:
    sizes = {
        "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
        "meta-llama/Llama-3.1-70B-Instruct": 70_553_706_496,
        "mistralai/Mistral-7B-Instruct-v0.2": 7_241_732_096,
    }
    for name, size in sizes.items():
        assert count(read_shape(name), write_config().sft).all == size
    with pytest.raises(BadInput, match="its shape is not known"):
        read_shape("nobody/nothing")


def test_sharing_out_and_packing_take_the_memory_that_their_sources_say(write_config: Callable[..., RunConfig]) -> None:
    def memory(processes: int, way: str | None, **section: Any) -> dict[str, float]:
        config = load_config(CONFIGS[0].with_name("llama-8b-mistral-7b.yaml"))
        train = config.dpo.model_validate({**config.dpo.model_dump(), **section})
        config = config.model_copy(update={"dpo": train})
        return plan(config, "dpo", "balanced", Path("nowhere"), processes, way).memory

    whole, ddp, fsdp = memory(1, None), memory(8, "ddp"), memory(8, "fsdp2")
    assert whole["frozen weights"] == pytest.approx(2 * 8_030_261_248)
    assert ddp["frozen weights"] == whole["frozen weights"]
    assert fsdp["frozen weights"] == pytest.approx(whole["frozen weights"] / 8)
    four = memory(1, None, load={"quantization_config": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}})
    embeddings = 2 * 128256 * 4096
    linear = 8_030_261_248 - embeddings - 65 * 4096
    assert four["frozen weights"] == pytest.approx(linear * 4.127 / 8 + 2 * (embeddings + 65 * 4096))
    full = memory(8, "fsdp2", lora=None)
    assert full["trained weights"] == pytest.approx(4 * 8_030_261_248 / 8)
    assert full["reference"] == pytest.approx(2 * 8_030_261_248 / 8), "under FSDP it cannot be worked out beforehand"
    assert memory(8, "zero3", lora=None)["reference"] == 0


def test_a_plan_that_cannot_fit_is_refused_with_the_remedy() -> None:
    config = load_config(CONFIGS[0].with_name("llama-8b-mistral-7b.yaml"))
    planned = plan(config, "dpo", "balanced", Path("nowhere"), 1, None)
    assert planned.pairs is planned.steps is None, "there are no pairs yet"
    check_fits(planned, 24)
    with pytest.raises(BadInput, match=r"needs 2\d\.\d GiB on each GPU of 16 GiB, most of it for frozen weights"):
        check_fits(planned, 16)
    assert planned.total < 24 * GIB


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_plans_and_builds_its_trainers_on_a_shrunken_model(
    path: Path, base: Path, prefs: Path, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)  # where the pocket models of configs/pocket.yaml are
    processes = int(next((part[0] for part in path.stem.split("-") if part.endswith("gpu")), "1"))
    whole = load_config(path)
    for stage in ("sft", "dpo"):
        planned = plan(whole, stage, "balanced", prefs, processes, None)
        check_fits(planned, 24 if "8bit" in path.stem or "2gpu" in path.stem else 80)
        assert planned.steps

    # What a GPU alone can do is taken out: numbers in 16 bits, packed weights and the optimizer for them.
    loads = {stage: dict(getattr(whole, stage).load) for stage in ("sft", "dpo")}
    overrides = [f"models.llama.path={base}"]
    for stage, load in loads.items():
        load.pop("quantization_config", None)
        overrides.append(f"{stage}.load={json.dumps({**load, 'dtype': 'float32'})}")
        overrides += [f"{stage}.trainer.bf16=false", f"{stage}.trainer.optim=adamw_torch"]
    config = load_config(path, [*overrides, "sft.pairs=null", "dpo.pairs=null"])
    sft = sft_trainer(prepare_sft(config, "balanced", prefs, tmp_path / "sft"))
    assert sft.args.learning_rate == whole.sft.trainer["learning_rate"]
    dpo = dpo_trainer(prepare_dpo(config, "balanced", prefs, tmp_path / "dpo", base))
    assert dpo.args.beta == 0.1
    assert isinstance(dpo.model, PeftModel) == (whole.dpo.lora is not None)


def test_a_plan_of_unknown_numbers_is_refused(write_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = write_config(dpo={"load": {"dtype": "float8"}})
    with pytest.raises(BadInput, match=r"dpo.load.dtype: 'float8' is none that a plan knows \(float32, float16, "):
        plan(config, "dpo", "balanced", tmp_path, 1, None)
