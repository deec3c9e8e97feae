"""vLLM in this process: an engine core stepped by a thread of its own, fed from asyncio.

Requests that arrive while a step runs join the next one (continuous batching), so the caller never batches. Several
engines live in one process, each with its thread. vLLM's CPU kernels share scratch memory between the models of a
process and crash when two of them run at once, so on a CPU the engines step in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import difflib
import itertools
import logging
import os
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Read by vLLM when it is imported: step the engine core here instead of in a process that it would spawn.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

from vllm import EngineArgs, RequestOutput, SamplingParams, TokensPrompt
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.engines.base import Continuation, EngineError, Reply
from pbt.errors import BadInput

log = logging.getLogger(__name__)


class _Turnstile:
    """A lock that lets threads through in the order of their arrival: no engine can starve another."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = 0
        self._serving = 0

    def __enter__(self) -> None:
        with self._changed:
            ticket = self._next
            self._next += 1
            self._changed.wait_for(lambda: self._serving == ticket)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._serving += 1
            self._changed.notify_all()


_stepping: contextlib.AbstractContextManager[None] = (
    _Turnstile() if current_platform.is_cpu() else contextlib.nullcontext()
)


class _Request(NamedTuple):
    prompt: list[int]
    params: SamplingParams
    future: asyncio.Future[RequestOutput]
    loop: asyncio.AbstractEventLoop


class VllmEngine:
    """One model on vLLM. ``settings`` go verbatim to vLLM's engine arguments."""

    def __init__(self, model: str, settings: dict[str, Any]) -> None:
        check_settings(model, settings)
        check_folder(model)
        ours: dict[str, Any] = {"disable_log_stats": True, "use_tqdm_on_load": False}
        if current_platform.is_cpu():
            # A prompt prefilled in chunks rewinds its random generator, which torch's CPU generators cannot do.
            ours["enable_chunked_prefill"] = False
        self._engine = LLMEngine.from_engine_args(EngineArgs(model=model, **{**ours, **settings}))
        self._tokenizer = self._engine.get_tokenizer()
        if not getattr(self._tokenizer, "chat_template", None):
            raise BadInput(f"{model}: its tokenizer has no chat template; put one into chat_template.jinja there")
        self._longest = self._engine.model_config.max_model_len
        self._arrivals: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._ids = itertools.count()
        self._thread = threading.Thread(target=self._run, name=f"vllm {model}", daemon=True)
        self._thread.start()

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        """Reply to a chat. Raises EngineError for a prompt that leaves no room, or that the template refuses."""
        prompt = self.prompt_ids(messages)
        if len(prompt) + sampling.max_tokens > self._longest:
            raise EngineError(
                f"the prompt has {len(prompt)} tokens and may be answered with {sampling.max_tokens}, "
                f"together more than max_model_len {self._longest}"
            )
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            min_tokens=min(sampling.min_tokens, sampling.max_tokens),
            seed=seed if sampling.temperature > 0 else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        done = (await self._ask(prompt, params)).outputs[0]
        return Reply(done.text.strip(), len(done.token_ids), len(prompt), done.finish_reason == "length")

    async def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[Continuation]:
        """Log-probabilities of texts after a chat. Raises EngineError, also for a text without tokens."""
        prompt = self.prompt_ids(messages)
        # prompt_logprobs=0 gives each prompt token's own log-probability; vLLM wants one new token at least.
        params = SamplingParams(
            temperature=0, max_tokens=1, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
        )

        async def one(text: str) -> Continuation:
            ids = self._tokenizer.encode(text, add_special_tokens=False)
            if not ids:
                raise EngineError(f"the text {text!r} has no tokens, so it has no probability")
            if len(prompt) + len(ids) + 1 > self._longest:
                raise EngineError(
                    f"the prompt has {len(prompt)} tokens and the text to score {len(ids)}, "
                    f"together more than max_model_len {self._longest}"
                )
            output = await self._ask([*prompt, *ids], params)
            scored = output.prompt_logprobs[len(prompt) :]
            return Continuation(sum(at[token].logprob for at, token in zip(scored, ids, strict=True)), len(ids))

        return list(await asyncio.gather(*map(one, continuations)))

    async def _ask(self, prompt: list[int], params: SamplingParams) -> RequestOutput:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[RequestOutput] = loop.create_future()
        self._arrivals.put(_Request(prompt, params, future, loop))
        return await future

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of a chat as the model's own template renders it, up to where the reply begins."""
        try:
            return list(
                self._tokenizer.apply_chat_template(
                    list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
                )
            )
        except Exception as error:  # a template is foreign code: whatever it raises concerns this chat alone
            raise EngineError(f"the chat template refused the messages: {error}") from error

    def close(self) -> None:
        """Stop the thread and free the model. Requests still waiting fail."""
        self._arrivals.put(None)
        self._thread.join()
        self._engine.engine_core.shutdown()
        del self._engine

    def _run(self) -> None:
        """Take what has arrived, step, hand out what has finished; sleep only when nothing is under way."""
        waiting: dict[str, _Request] = {}
        while True:
            try:
                if not self._take(waiting):
                    self._abandon(waiting, EngineError("the engine was closed"))
                    return
                with _stepping:
                    outputs = self._engine.step()
                for output in outputs:
                    if output.finished:
                        _settle(waiting.pop(output.request_id), output)
            except Exception as error:  # the engine itself broke: everybody who waits must hear of it
                log.exception("vLLM stopped")
                self._abandon(waiting, error)

    def _take(self, waiting: dict[str, _Request]) -> bool:
        """Add all arrivals to the engine; block while it has nothing to do. False when asked to close."""
        while True:
            try:
                request = self._arrivals.get(block=not waiting)
            except queue.Empty:
                return True
            if request is None:
                return False
            name = str(next(self._ids))
            try:
                self._engine.add_request(name, TokensPrompt(prompt_token_ids=request.prompt), request.params)
                waiting[name] = request
            except ValueError as error:
                _settle(request, EngineError(str(error)))

    @staticmethod
    def _abandon(waiting: dict[str, _Request], error: Exception) -> None:
        for request in waiting.values():
            _settle(request, error)
        waiting.clear()


def _settle(request: _Request, result: RequestOutput | Exception) -> None:
    """Finish a future from the engine's thread; the caller may have given up on it, or its loop be gone."""

    def settle() -> None:
        if request.future.done():
            return
        if isinstance(result, Exception):
            request.future.set_exception(result)
        else:
            request.future.set_result(result)

    if not request.loop.is_closed():
        request.loop.call_soon_threadsafe(settle)


def check_settings(model: str, settings: dict[str, Any]) -> None:
    """Refuse a setting that vLLM does not know. Raises BadInput with the nearest one it does."""
    known = [field.name for field in dataclasses.fields(EngineArgs)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise BadInput(f"engine settings of {model}: vLLM has no '{name}'{hint}")


def check_folder(model: str) -> None:
    """Refuse a local model folder that lacks what a chat needs. Raises BadInput; a name on the hub passes."""
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_absolute() or model.count("/") != 1 or folder.parent.is_dir():
            raise BadInput(f"{model}: no such model folder (a model of the hub is written OWNER/NAME)")
        return
    if not (folder / "config.json").is_file():
        raise BadInput(f"{model}: no config.json in it, so it is no model folder")
    if not any(folder.glob("tokenizer*")):
        raise BadInput(f"{model}: no tokenizer in it; save one there with tokenizer.save_pretrained")
