"""How fast trees grow: against a loop that asks for one turn at a time, and against the engine's own limit.

Three ways to the same debates of the pocket models, in turns, in one process on one machine:

* *trees*: as `pbt generate` grows them;
* *flat*: the prompts that the trees asked, with their token counts, given to the same engines all at once, and the
  claims of the replies read;
* *loop*: the shape of the authors' code: transformers, one request at a time, without a KV cache, and for every turn
  one generation, one extraction by the model and one confidence pass. It runs for `--loop-seconds` a round.

Prints medians and their ratios. `--tokens 80` makes every turn 80 tokens long. `--ray N` adds the trees on N replicas
of each model on Ray, of half a CPU each. `--set models.llama.engine.dtype=bfloat16` and the like change the engines;
the loop computes in the same precision, on all cores.

    python benchmarks/generation.py [--questions 200] [--rounds 3] [--tokens 80] [--loop-seconds 20] [--ray 2]
"""

import argparse
import asyncio
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from pbt.config import RunConfig, load_config, shipped_prompts
from pbt.debate.chat import Message
from pbt.debate.grow import Speaker, Utterance, grow
from pbt.debate.protocol import Sampling
from pbt.engines.base import Continuation, Engine, Reply
from pbt.engines.load import load_engines
from pbt.extraction import claim_by_rule, reading_messages
from pbt.generate import GenerationSummary, grow_trees
from pbt.provenance import provenance
from pbt.questions import Question, load_questions
from pbt.speaker import speakers
from pbt.store import Shard, TreeStore


class Pace(NamedTuple):
    turns: float
    """A second."""
    tokens: float


class Asked(NamedTuple):
    messages: Sequence[Message]
    sampling: Sampling
    seed: int
    tokens: int


@dataclasses.dataclass
class Recorder:
    """An engine that keeps what it was asked."""

    engine: Engine
    asked: list[Asked] = dataclasses.field(default_factory=list)

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        reply = await self.engine.chat(messages, sampling, seed)
        self.asked.append(Asked(messages, sampling, seed, reply.tokens))
        return reply

    async def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[Continuation]:
        return await self.engine.score(messages, continuations)

    def close(self) -> None:
        self.engine.close()


def trees(config: RunConfig, questions: Sequence[Question], engines: dict[str, Any]) -> Pace:
    """As `pbt generate` grows them, store included."""
    summary = GenerationSummary(owed=len(questions), done_before=0)

    async def run(store: TreeStore) -> None:
        await grow_trees(
            config, questions, speakers(config, engines), store, summary, lambda summary: None, asyncio.Event()
        )

    with tempfile.TemporaryDirectory() as folder:
        covers = config.generation()
        store = TreeStore(Path(folder), Shard(0, 1), provenance(config, "benchmark", covers), covers)
        asyncio.run(run(store))
        store.close()
    return Pace(summary.turns / summary.seconds, summary.tokens / summary.seconds)


def flat(recorders: Sequence[Recorder]) -> Pace:
    """All prompts of all models at once, each answered with as many tokens as before, and the claims read."""

    async def all_at_once() -> list[Reply]:
        return await asyncio.gather(
            *(
                recorder.engine.chat(
                    asked.messages,
                    asked.sampling.model_copy(update={"max_tokens": asked.tokens, "min_tokens": asked.tokens}),
                    asked.seed,
                )
                for recorder in recorders
                for asked in recorder.asked
            )
        )

    began = time.monotonic()
    replies = asyncio.run(all_at_once())
    for reply in replies:
        claim_by_rule(reply.text)
    seconds = time.monotonic() - began
    return Pace(len(replies) / seconds, sum(reply.tokens for reply in replies) / seconds)


def loop(config: RunConfig, questions: Sequence[Question], models: dict[str, Any], seconds: float) -> Pace:
    """One request at a time: generation, extraction and confidence for each turn, nothing cached."""
    prompts = shipped_prompts()
    until = time.monotonic() + seconds
    turns = tokens = 0

    class TimeUp(Exception):
        pass

    def ids(tokenizer: Any, messages: Sequence[Message]) -> Any:
        return tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]

    def sits(name: str) -> Speaker:
        model, tokenizer = models[name]
        sampling = config.protocol.sampling

        @torch.no_grad()
        def turn(messages: Sequence[Message]) -> Utterance:
            nonlocal turns, tokens
            if time.monotonic() > until:
                raise TimeUp
            prompt = ids(tokenizer, messages)
            out = model.generate(
                prompt,
                do_sample=True,
                temperature=sampling.temperature,
                max_new_tokens=sampling.max_tokens,
                min_new_tokens=sampling.min_tokens,
                use_cache=False,
            )[0, prompt.shape[1] :]
            text = tokenizer.decode(out, skip_special_tokens=True).strip()
            model.generate(
                ids(tokenizer, reading_messages(prompts, text)), do_sample=False, max_new_tokens=15, use_cache=False
            )
            model(ids(tokenizer, [*messages, {"role": "assistant", "content": text}]))
            turns += 1
            tokens += len(out)
            # The pocket models cannot read claims, so the rule decides where the tree goes.
            return Utterance(text, claim_by_rule(text), False, len(out))

        async def speak(messages: Sequence[Message], seed: int) -> Utterance:
            return turn(messages)

        return speak

    began = time.monotonic()
    for question in questions:
        try:
            asyncio.run(grow(question.id, question.text, config.protocol, [sits(n) for n in config.seats], config.seed))
        except TimeUp:
            break
    took = time.monotonic() - began
    return Pace(turns / took, tokens / took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/pocket.yaml"))
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, help="the length of every turn")
    parser.add_argument("--loop-seconds", type=float, default=20)
    parser.add_argument("--ray", type=int, help="replicas of each model on Ray")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="KEY=VALUE, as of pbt")
    options = parser.parse_args()
    exact = [f"protocol.sampling.{key}_tokens={options.tokens}" for key in ("max", "min")] if options.tokens else []
    # Each round has questions of its own, or the engines would have the openings in their caches.
    config = load_config(
        options.config, [f"questions.limit={options.questions * options.rounds}", *exact, *options.overrides]
    )
    questions = load_questions(config.questions, config.seed)
    engines = load_engines(config.models, config.speaking())
    on_ray = {}
    if options.ray:
        spread = [f"models.{name}.ray={{replicas: {options.ray}, num_cpus: 0.5}}" for name in config.speaking()]
        on_ray = load_engines(load_config(options.config, [*options.overrides, *spread]).models, config.speaking())
    models = {
        name: (
            AutoModelForCausalLM.from_pretrained(model.path, dtype=model.engine.get("dtype", "auto")),
            AutoTokenizer.from_pretrained(model.path),
        )
        for name, model in config.models.items()
    }
    paces: dict[str, list[Pace]] = {}

    def measured(name: str, run: Callable[[], Pace]) -> None:
        paces.setdefault(name, []).append(run())

    for number in range(options.rounds):
        asked = questions[number * options.questions : (number + 1) * options.questions]
        recorders = {name: Recorder(engine) for name, engine in engines.items()}
        measured("trees", lambda asked=asked, recorders=recorders: trees(config, asked, recorders))
        for engine in engines.values():
            engine.forget()  # or the flat batch would find its prompts computed
        measured("flat", lambda recorders=recorders: flat(list(recorders.values())))
        if on_ray:
            measured("trees on Ray", lambda asked=asked: trees(config, asked, on_ray))
        measured("loop", lambda asked=asked: loop(config, asked, models, options.loop_seconds))
    for engine in (*engines.values(), *on_ray.values()):
        engine.close()

    medians = {name: Pace(*map(statistics.median, zip(*found, strict=True))) for name, found in paces.items()}
    grown = medians["trees"]
    length = f", turns of {options.tokens} tokens" if options.tokens else ""
    table = Table(
        "", "turns/s", "tokens/s", "trees are", title=f"{options.questions} trees{length}, {options.rounds} rounds"
    )
    for name, pace in medians.items():
        by_turns = name == "loop"
        ratio = grown.turns / pace.turns if by_turns else grown.tokens / pace.tokens
        told = "" if name == "trees" else f"{ratio:.2f} x ({'turns/s' if by_turns else 'tokens/s'})"
        table.add_row(name, f"{pace.turns:.1f}", f"{pace.tokens:.0f}", told)
    Console().print(table)


if __name__ == "__main__":
    main()
