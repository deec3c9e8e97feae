"""From the configuration to engines: what is loaded, how often, and with which adapters."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from asking import GREEDY, QUESTIONS, SETTINGS, Expected, ask
from pbt.config import ModelConfig, OpenAIConfig, RunConfig, digest, load_config
from pbt.debate.tree import DebateTree
from pbt.engines.base import Engine, Reply
from pbt.engines.load import Adapted, load_engine, load_engines
from pbt.errors import BadInput
from pbt.generate import generate
from pbt.store import Shard, read_trees


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
    assert abs(base_score.logprob - score.logprob) > 0.1, "the base model is another"
    assert found[1::2] != expected.replies
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


def test_the_order_of_engine_settings_does_not_load_a_model_twice(llama: str) -> None:
    engines = load_engines(
        {
            "x": ModelConfig(path=llama, engine=SETTINGS),
            "y": ModelConfig(path=llama, engine=dict(reversed(SETTINGS.items()))),
        },
        ["x", "y"],
    )
    assert engines["x"] is engines["y"]
    engines["x"].close()


def test_a_debate_is_the_same_in_process_on_ray_and_behind_a_server(
    llama: str, vllm_server: str, tmp_path: Path
) -> None:
    """`pbt generate` in three ways, greedily: equal in every field of every turn."""
    questions = [
        {"question_id": f"q{number}", "question": text, "answer": {"value": "Paris", "aliases": ["Paris"]}}
        for number, text in enumerate(QUESTIONS[:4])
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in questions))
    ways = {
        "process": {"path": llama, "engine": SETTINGS},
        "ray": {"path": llama, "engine": SETTINGS, "ray": {"replicas": 2, "num_cpus": 0.5}},
        "server": {"path": "pocket", "openai": {"base_url": vllm_server, "server": "vllm"}},
    }

    def grown(way: str) -> list[DebateTree]:
        table = {
            "name": way,
            "questions": {"source": str(tmp_path / "questions.jsonl")},
            "protocol": "pocket-debate",
            "models": {"llama": ways[way]},
            "seats": ["llama", "llama"],
        }
        path = tmp_path / f"{way}.yaml"
        path.write_text(yaml.safe_dump(table))
        config = load_config(path, ["protocol.sampling={temperature: 0, max_tokens: 16, min_tokens: 4}"])
        summary = generate(
            config, tmp_path / way, Shard(0, 1), lambda run: load_engines(run.models, run.speaking()), lambda _: None
        )
        assert (summary.trees, summary.failed) == (4, 0)
        return sorted(read_trees([tmp_path / way]), key=lambda tree: tree.tree_id)

    process = grown("process")
    assert max(len(tree.turns) for tree in process) > 9
    assert grown("ray") == process
    assert grown("server") == process


def test_when_one_model_cannot_be_loaded_the_others_are_closed(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pbt.engines.vllm import VllmEngine

    closed: list[VllmEngine] = []
    close = VllmEngine.close
    monkeypatch.setattr(VllmEngine, "close", lambda engine: (closed.append(engine), close(engine)))
    models = {"good": ModelConfig(path=llama, engine=SETTINGS), "bad": ModelConfig(path="/nowhere", engine=SETTINGS)}
    with pytest.raises(BadInput, match="no such model folder"):
        load_engines(models, models)
    assert len(closed) == 1


def configured(folder: Path, *overrides: str, **model: Any) -> RunConfig:
    path = folder / "run.yaml"
    table = {
        "name": "small",
        "questions": {"source": "questions.json"},
        "protocol": "trivia-debate",
        "models": {"x": {"path": "models/x", "engine": {"seed": 1}, **model}, "y": {"path": "models/y"}},
        "seats": ["x", "x"],
    }
    path.write_text(yaml.safe_dump(table, sort_keys=False), "utf-8")
    return load_config(path, overrides)


URL = "http://127.0.0.1:8000/v1"


def test_where_a_model_runs_does_not_change_its_trees_but_what_it_is_does(tmp_path: Path) -> None:
    def changed(*overrides: str) -> bool:
        return digest(configured(tmp_path, *overrides).generation()) != digest(configured(tmp_path).generation())

    assert not changed("models.x.ray.replicas=4", "models.x.ray.num_gpus=1", "models.x.ray.address=auto")
    assert not changed(f"models.x.openai.base_url={URL}", "models.x.openai.concurrency=3")
    assert changed("models.x.adapter=runs/dpo")
    assert changed("models.x.path=models/z")
    assert changed("models.x.engine.dtype=float16")
    assert changed("extraction.by=model", "extraction.model=y")
    assert changed("extraction.confidence=true")


def test_the_wording_of_the_extraction_is_part_of_what_makes_a_tree(tmp_path: Path) -> None:
    asked = configured(tmp_path, "extraction.by=model", "extraction.model=y")
    assert asked.extraction.prompts is not None
    table = asked.extraction.prompts.model_dump(mode="json")
    other = asked.model_copy(update={"extraction": asked.extraction.model_copy(update={"prompts": None})})
    assert asked.generation()["extraction"]["prompts"] == table
    assert digest(asked.generation()) != digest(other.generation())
    assert configured(tmp_path).generation()["extraction"]["prompts"] is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["models.x.ray.replica=2"], "models.x.ray.replica: unknown key; did you mean 'replicas'?"),
        (["models.x.openai.base_ur=a"], "models.x.openai.base_ur: unknown key; did you mean 'base_url'?"),
        (["models.x.openai.server=vllm"], "models.x.openai.base_url: is required and missing"),
        (["models.x.adaptor=a"], "models.x.adaptor: unknown key; did you mean 'adapter'?"),
        (["models.x.ray={}", f"models.x.openai.base_url={URL}"], "models.x: ray and openai are both set"),
        (["models.x.adapter=a", f"models.x.openai.base_url={URL}"], "an endpoint serves an adapter under a name"),
        (["models.x.openai.base_url=http://me:secret@host/v1"], "models.x.openai.base_url: "),
        (["models.x.ray.num_cpus=0"], "models.x.ray: num_cpus and num_gpus are both 0"),
        (["extraction.by=model"], "extraction: model: is required for 'by: model'"),
        (["extraction.model=x"], "extraction: model: has no use under 'by: rule'"),
        (["extraction.by=model", "extraction.model=z"], "extraction.model: no model 'z' under models (known: x, y)"),
        (
            ["extraction.confidence=true", f"models.x.openai.base_url={URL}"],
            "extraction.confidence: needs the probabilities of texts, and of endpoints only vLLM's server gives them",
        ),
        (
            ["preferences.filter.model=x", f"models.x.openai.base_url={URL}"],
            "preferences.filter.model: needs the probabilities of texts",
        ),
        (["models.x.ray.address=a:1", "models.y.ray.address=b:1"], "models: they name different ray.address"),
        (["extraction.confidenc=true"], "extraction.confidenc: unknown key; did you mean 'confidence'?"),
    ],
)
def test_a_wrong_way_to_serve_or_to_read_is_named(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        configured(tmp_path, *overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
