"""vLLM in this process, with the shipped pocket models: what it answers, and how it fails."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbt.debate.protocol import Sampling
from pbt.engines.base import EngineError, Reply
from pbt.engines.vllm import VllmEngine
from pbt.errors import BadInput

SETTINGS = {"dtype": "float32", "enforce_eager": True, "max_model_len": 128}
GREEDY = Sampling(temperature=0, max_tokens=24, min_tokens=0)
WARM = Sampling(temperature=0.9, max_tokens=24, min_tokens=0)


def ask(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


QUESTIONS = [f"What is the capital of {country}?" for country in ("France", "Peru", "Japan", "Kenya", "Norway")]


@pytest.fixture(scope="module")
def engines(data: Path) -> Iterator[tuple[VllmEngine, VllmEngine]]:
    """Both pocket models in one process."""
    pair = tuple(VllmEngine(str(data / "pocket" / name), SETTINGS) for name in ("llama", "mistral"))
    yield pair
    for engine in pair:
        engine.close()


def test_greedy_replies_are_those_of_transformers(engines: tuple[VllmEngine, VllmEngine], data: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    async def replies() -> list[Reply]:
        return await asyncio.gather(*(engines[0].chat(ask(q), GREEDY, 0) for q in QUESTIONS))

    tokenizer = AutoTokenizer.from_pretrained(data / "pocket" / "llama")
    model = AutoModelForCausalLM.from_pretrained(data / "pocket" / "llama", dtype="float32")
    for question, reply in zip(QUESTIONS, asyncio.run(replies()), strict=True):
        inputs = tokenizer.apply_chat_template(
            ask(question), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**inputs, do_sample=False, max_new_tokens=24)[0, inputs["input_ids"].shape[1] :]
        assert reply.text == tokenizer.decode(out, skip_special_tokens=True).strip()
        assert reply.tokens == len(out)
        assert reply.prompt_tokens == inputs["input_ids"].shape[1]
        assert not reply.truncated


def test_scores_are_the_log_probabilities_of_transformers(engines: tuple[VllmEngine, VllmEngine], data: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = ["It is Paris, certainly.", "Lima", " Lima"]
    scored = asyncio.run(engines[0].score(ask(QUESTIONS[0]), texts))
    tokenizer = AutoTokenizer.from_pretrained(data / "pocket" / "llama")
    model = AutoModelForCausalLM.from_pretrained(data / "pocket" / "llama", dtype="float32")
    prompt = tokenizer.apply_chat_template(ask(QUESTIONS[0]), add_generation_prompt=True, return_dict=True)["input_ids"]
    for text, found in zip(texts, scored, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        # The logits at a place are those of the next token.
        expected = sum(logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(ids))
        assert found.tokens == len(ids)
        assert found.logprob == pytest.approx(expected, abs=1e-3)


def test_a_text_without_tokens_has_no_score(engines: tuple[VllmEngine, VllmEngine]) -> None:
    with pytest.raises(EngineError, match="no tokens"):
        asyncio.run(engines[0].score(ask(QUESTIONS[0]), [""]))


def test_a_seed_gives_the_same_reply_alone_and_in_a_crowd(engines: tuple[VllmEngine, VllmEngine]) -> None:
    async def alone() -> str:
        return (await engines[0].chat(ask(QUESTIONS[0]), WARM, 7)).text

    async def crowd() -> list[str]:
        others = [engine.chat(ask(q), WARM, i) for i, q in enumerate(QUESTIONS * 8) for engine in engines]
        replies = await asyncio.gather(engines[0].chat(ask(QUESTIONS[0]), WARM, 7), *others)
        return [reply.text for reply in replies]

    texts = asyncio.run(crowd())
    assert texts[0] == asyncio.run(alone())
    assert len(set(texts)) > len(QUESTIONS), "other seeds and models give other replies"


def test_a_conversation_that_goes_on_is_not_computed_anew(engines: tuple[VllmEngine, VllmEngine]) -> None:
    from vllm import SamplingParams

    began = ask("Please name, for each of these countries, its capital: France, Peru, Japan, Kenya, Norway, Chile.")
    went_on = [*began, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "And then?"}]

    def cached(messages: list[dict[str, str]]) -> int:
        prompt = engines[0].prompt_ids(messages)
        return asyncio.run(engines[0]._ask(prompt, SamplingParams(max_tokens=1), None)).num_cached_tokens

    engines[0].forget()
    assert cached(began) == 0
    assert cached(went_on) >= 32
    engines[0].forget()
    assert cached(went_on) == 0


def test_a_reply_cut_by_the_limit_is_marked(engines: tuple[VllmEngine, VllmEngine]) -> None:
    short = Sampling(temperature=0, max_tokens=2, min_tokens=0)
    reply = asyncio.run(engines[0].chat(ask(QUESTIONS[0]), short, 0))
    assert (reply.tokens, reply.truncated) == (2, True)


def test_a_prompt_longer_than_the_model_fails_alone(engines: tuple[VllmEngine, VllmEngine]) -> None:
    async def both() -> list[Reply | BaseException]:
        long = engines[0].chat(ask("very " * 400 + "long?"), GREEDY, 0)
        return await asyncio.gather(long, engines[0].chat(ask(QUESTIONS[0]), GREEDY, 0), return_exceptions=True)

    failed, answered = asyncio.run(both())
    assert isinstance(failed, EngineError)
    assert "more than max_model_len 128" in str(failed)
    assert isinstance(answered, Reply)


def test_messages_that_the_template_refuses_fail_alone(engines: tuple[VllmEngine, VllmEngine]) -> None:
    with pytest.raises(EngineError, match="chat template refused"):
        asyncio.run(engines[0].chat([{"role": "system", "content": "Be brief."}], GREEDY, 0))


def test_when_the_engine_breaks_everybody_who_waits_hears_of_it(
    engines: tuple[VllmEngine, VllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("out of memory")

    async def ask_all() -> list[Reply | BaseException]:
        return await asyncio.gather(*(engines[1].chat(ask(q), GREEDY, 0) for q in QUESTIONS), return_exceptions=True)

    with monkeypatch.context() as patch:
        patch.setattr(engines[1]._engine, "step", broken)
        assert [str(error) for error in asyncio.run(ask_all())] == ["out of memory"] * len(QUESTIONS)


def test_a_request_that_nobody_waits_for_is_dropped(engines: tuple[VllmEngine, VllmEngine]) -> None:
    async def give_up() -> Reply:
        long = Sampling(temperature=1, max_tokens=110, min_tokens=110)
        asked = [asyncio.ensure_future(engines[0].chat(ask(QUESTIONS[0]), long, seed)) for seed in range(8)]
        await asyncio.sleep(0.1)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        reply = await engines[0].chat(ask(QUESTIONS[0]), GREEDY, 0)
        assert not engines[0]._engine.has_unfinished_requests()
        return reply

    assert asyncio.run(give_up()).tokens > 0


def test_a_misspelt_setting_names_the_right_one(data: Path) -> None:
    with pytest.raises(BadInput, match=r"vLLM has no 'max_modl_len'; did you mean 'max_model_len'\?"):
        VllmEngine(str(data / "pocket" / "llama"), {"max_modl_len": 128})


def test_too_little_memory_is_said_with_what_to_change(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1000000")
    with pytest.raises(BadInput, match=r"(?s)llama: vLLM cannot start it: .*VLLM_CPU_KVCACHE_SPACE.*'engine'"):
        VllmEngine(str(data / "pocket" / "llama"), SETTINGS)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "no config.json"), ("tokenizer*", "no tokenizer"), ("chat_template*", "no chat template")],
)
def test_an_incomplete_model_folder_is_refused(data: Path, tmp_path: Path, missing: str, message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(data / "pocket" / "llama", folder)
    for file in folder.glob(missing):
        file.unlink()
    with pytest.raises(BadInput, match=message):
        VllmEngine(str(folder), SETTINGS)


def test_a_missing_model_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such model folder"):
        VllmEngine(str(tmp_path / "nowhere"), SETTINGS)
