"""From the configuration to engines: what is loaded, how often, and with which adapters."""

import asyncio
from pathlib import Path

import pytest

from asking import GREEDY, QUESTIONS, SETTINGS, Expected, ask
from pbt.config import ModelConfig, OpenAIConfig
from pbt.engines.base import Engine, Reply
from pbt.engines.load import Adapted, load_engine, load_engines
from pbt.errors import BadInput


@pytest.fixture(scope="module")
def adapter(llama: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA folder that makes the pocket Llama speak otherwise; of rank 6, which is none of vLLM's own."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    lora = LoraConfig(task_type="CAUSAL_LM", r=6, lora_alpha=12, target_modules="all-linear", init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama, dtype="float32"), lora).save_pretrained(folder)
    return folder


def replies(engine: Engine) -> list[Reply]:
    async def everything() -> list[Reply]:
        return await asyncio.gather(*(engine.chat(ask(question), GREEDY, 0) for question in QUESTIONS))

    return asyncio.run(everything())


def test_a_model_with_and_without_adapter_is_loaded_once_and_both_speak(
    llama: str, adapter: Path, expected: Expected
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = {
        "base": ModelConfig(path=llama, engine=SETTINGS),
        "trained": ModelConfig(path=llama, engine=SETTINGS, adapter=str(adapter)),
    }
    engines = load_engines(models, ["base", "trained", "base"])
    assert list(engines) == ["base", "trained"]
    trained = engines["trained"]
    assert isinstance(trained, Adapted) and trained.base is engines["base"]

    async def together() -> list[Reply]:
        return await asyncio.gather(
            *(engine.chat(ask(question), GREEDY, 0) for question in QUESTIONS for engine in engines.values())
        )

    found = asyncio.run(together())
    assert found[::2] == expected.replies
    # The same adapter in PEFT, on the first words: later on, equal scores may be broken otherwise.
    tokenizer = AutoTokenizer.from_pretrained(llama)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama, dtype="float32"), str(adapter))
    inputs = tokenizer.apply_chat_template(ask(QUESTIONS[0]), add_generation_prompt=True, return_dict=True)
    text = found[1].text
    ids = tokenizer.encode(text, add_special_tokens=False)
    with torch.no_grad():
        logprobs = model(torch.tensor([inputs["input_ids"] + ids])).logits[0].log_softmax(-1)
    expected_score = sum(
        logprobs[len(inputs["input_ids"]) - 1 + place, token].item() for place, token in enumerate(ids)
    )
    (score,) = asyncio.run(trained.score(ask(QUESTIONS[0]), [text]))
    (base_score,) = asyncio.run(engines["base"].score(ask(QUESTIONS[0]), [text]))
    assert score.logprob == pytest.approx(expected_score, abs=1e-2)
    assert base_score.logprob < score.logprob - 1
    for engine in engines.values():
        engine.close()


def test_a_folder_without_an_adapter_is_refused(llama: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no adapter_config.json in it, so it is no LoRA adapter"):
        load_engine(ModelConfig(path=llama, engine=SETTINGS, adapter=str(tmp_path)))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match="no rank 'r' in it"):
        load_engine(ModelConfig(path=llama, engine=SETTINGS, adapter=str(tmp_path)))


def test_an_endpoint_needs_no_model_folder(vllm_server: str, expected: Expected) -> None:
    model = ModelConfig(path="pocket", openai=OpenAIConfig(base_url=vllm_server, server="vllm"))
    engine = load_engine(model)
    assert replies(engine) == expected.replies
    engine.close()


def test_when_one_model_cannot_be_loaded_the_others_are_closed(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pbt.engines.vllm import VllmEngine

    closed: list[VllmEngine] = []
    close = VllmEngine.close
    monkeypatch.setattr(VllmEngine, "close", lambda engine: (closed.append(engine), close(engine)))
    models = {"good": ModelConfig(path=llama, engine=SETTINGS), "bad": ModelConfig(path="/nowhere", engine=SETTINGS)}
    with pytest.raises(BadInput, match="no such model folder"):
        load_engines(models, models)
    assert len(closed) == 1
