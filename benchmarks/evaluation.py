"""Evaluations against a loop that asks one item at a time.

Runs ``balanced`` and ``misinformation`` on the pocket Llama as ``pbt eval`` does, all items at once on vLLM, and the
same evaluation code on an engine that answers one request after the other with transformers' ``generate``: with its
key-value cache, and without it, as the authors' released loop generates. Same prompts and same limits on tokens; the
loops get fewer items, because they are slow. Prints items a second, medians of interleaved rounds, and their ratios.

    python benchmarks/evaluation.py --prefs runs/demo/prefs [--items 300] [--loop 10]
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from pbt.config import RunConfig, load_config
from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.engines.base import Continuation, Engine, Reply
from pbt.engines.load import load_engine
from pbt.engines.vllm import VllmEngine
from pbt.evaluation import balanced, misinformation
from pbt.evaluation.dialogue import Record, Voice


class Loop:
    """transformers, one request at a time."""

    def __init__(self, model: str, dtype: str, cached: bool) -> None:
        self.cached = cached
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()

    @torch.no_grad()
    def generate(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        inputs = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        greedy = sampling.temperature == 0
        torch.manual_seed(seed)
        out = self.model.generate(
            **inputs,
            use_cache=self.cached,
            do_sample=not greedy,
            temperature=None if greedy else sampling.temperature,
            top_p=None if greedy else sampling.top_p,
            max_new_tokens=sampling.max_tokens,
            min_new_tokens=sampling.min_tokens,
        )[0, inputs["input_ids"].shape[1] :]
        text = self.tokenizer.decode(out, skip_special_tokens=True).strip()
        ended = int(out[-1]) == self.tokenizer.eos_token_id
        return Reply(text, len(out), inputs["input_ids"].shape[1], not ended)

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        return self.generate(messages, sampling, seed)

    async def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[Continuation]:
        raise NotImplementedError("no evaluation here scores")

    def close(self) -> None:
        pass


Work = Callable[[Voice], Coroutine[Any, Any, list[Record]]]


def pace(engine: Engine, run: RunConfig, work: Work) -> float:
    """Items a second, with nothing cached before."""
    if isinstance(engine, VllmEngine):
        engine.forget()
    voice = Voice(engine, run.protocol.sampling, run.protocol.clip, run.seed)
    began = time.monotonic()
    records = asyncio.run(work(voice))
    assert not any(record.error for record in records)
    return len(records) / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/pocket.yaml"))
    parser.add_argument("--prefs", type=Path, required=True)
    parser.add_argument("--items", type=int, default=300, help="contexts a direction, and questions of claims")
    parser.add_argument("--loop", type=int, default=10, help="the same for the loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="KEY=VALUE, as of pbt")
    options = parser.parse_args()
    run = load_config(options.config, options.overrides)
    model = run.trained("dpo")

    def works(limit: int) -> dict[str, Work]:
        config = load_config(
            options.config, [f"eval.limit={limit}", "eval.misinformation.kinds=[logical]", *options.overrides]
        )
        contexts = balanced.read_contexts(options.prefs, limit, config.seed)
        claims = misinformation.read_claims(config).items
        return {
            "balanced": lambda voice: balanced.evaluate(voice, contexts, config.eval),
            "misinformation": lambda voice: misinformation.evaluate(voice, claims, config.protocol, config),
        }

    few, many = works(options.loop), works(options.items)
    engines: dict[str, Engine] = {
        "pbt eval": load_engine(model),
        "loop": Loop(model.path, model.engine.get("dtype", "auto"), cached=True),
        "loop, no cache": Loop(model.path, model.engine.get("dtype", "auto"), cached=False),
    }
    for engine in engines.values():
        pace(engine, run, works(2)["balanced"])  # the first requests pay for what is set up once
    found: dict[str, list[float]] = {f"{name}, {evaluation}": [] for name in engines for evaluation in few}
    for _ in range(options.rounds):
        for name, engine in engines.items():
            for evaluation, work in (many if name == "pbt eval" else few).items():
                found[f"{name}, {evaluation}"].append(pace(engine, run, work))
    for engine in engines.values():
        engine.close()
    table = Table("items/s", *engines, "ratio", "ratio, no cache", title="evaluation of the pocket Llama")
    for evaluation in few:
        paces = [statistics.median(found[f"{name}, {evaluation}"]) for name in engines]
        ratios = [f"{paces[0] / slow:.0f}" for slow in paces[1:]]
        table.add_row(evaluation, *(f"{pace:.1f}" for pace in paces), *ratios)
    Console().print(table)


if __name__ == "__main__":
    main()
