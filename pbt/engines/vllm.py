"""vLLM in this process: an engine core stepped by a thread of its own, fed from asyncio.

Requests that arrive while a step runs join the next one (continuous batching), so the caller never batches. Several
engines live in one process, each with its thread. vLLM's CPU kernels share scratch memory between the models of a
process and crash when two of them run at once, so on a CPU the engines step in turn.

LoRA adapters are loaded with the model and share its weights; each request says which one it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import difflib
import itertools
import json
import logging
import os
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

# Read by vLLM when it is imported: step the engine core here instead of in a process that it would spawn.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

from vllm import EngineArgs, RequestOutput, SamplingParams, TokensPrompt
from vllm.config.lora import MaxLoRARanks
from vllm.lora.request import LoRARequest
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
    id: str
    prompt: list[int]
    params: SamplingParams
    lora: LoRARequest | None
    future: asyncio.Future[RequestOutput]
    loop: asyncio.AbstractEventLoop


class _Abort(NamedTuple):
    """Nobody waits for this request any more."""

    id: str


class VllmEngine:
    """One model on vLLM, with the LoRA folders ``adapters``. ``settings`` go verbatim to vLLM's engine arguments."""

    def __init__(self, model: str, settings: dict[str, Any], adapters: Sequence[str] = ()) -> None:
        check_settings(model, settings)
        check_folder(model)
        ours: dict[str, Any] = {"disable_log_stats": True, "use_tqdm_on_load": False}
        if adapters:
            rank = max(_rank(folder) for folder in adapters)
            ours |= {
                "enable_lora": True,
                # For requests without an adapter, in a batch with others, vLLM's CPU kernels take slot -1, which is the
                # last one. So that one must stay empty.
                "max_loras": len(adapters) + current_platform.is_cpu(),
                "max_lora_rank": min((r for r in get_args(MaxLoRARanks) if r >= rank), default=rank),
            }
        if current_platform.is_cpu():
            # A prompt prefilled in chunks rewinds its random generator, which torch's CPU generators cannot do.
            ours["enable_chunked_prefill"] = False
            # Prefixes are cached in whole blocks, and of vLLM's 128 tokens most prompts here fill none.
            ours["block_size"] = 32
            if settings.get("tensor_parallel_size", 1) * settings.get("pipeline_parallel_size", 1) > 1:
                # vLLM would give each worker a NUMA node of its own, and most machines have one.
                os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        try:
            self._engine = LLMEngine.from_engine_args(EngineArgs(model=model, **{**ours, **settings}))
        except (ValueError, RuntimeError) as error:  # too little memory, a dtype the device lacks, a broken model
            log.debug("vLLM's start of %s", model, exc_info=True)
            raise BadInput(f"{model}: vLLM cannot start it: {error}; its settings are the model's 'engine'") from None
        self._tokenizer = self._engine.get_tokenizer()
        if not getattr(self._tokenizer, "chat_template", None):
            raise BadInput(f"{model}: its tokenizer has no chat template; put one into chat_template.jinja there")
        self._loras = {
            folder: LoRARequest(folder, number, str(Path(folder).resolve()))
            for number, folder in enumerate(adapters, start=1)
        }
        for folder, lora in self._loras.items():
            try:
                self._engine.add_lora(lora)
            except (ValueError, RuntimeError) as error:
                raise BadInput(f"{folder}: cannot be loaded as an adapter of {model}: {error}") from None
        self._longest = self._engine.model_config.max_model_len
        self._arrivals: queue.SimpleQueue[_Request | _Abort | None] = queue.SimpleQueue()
        self._ids = itertools.count()
        self._thread = threading.Thread(target=self._run, name=f"vllm {model}", daemon=True)
        self._thread.start()

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, seed: int, adapter: str | None = None
    ) -> Reply:
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
        done = (await self._ask(prompt, params, adapter)).outputs[0]
        return Reply(done.text.strip(), len(done.token_ids), len(prompt), done.finish_reason == "length")

    async def score(
        self, messages: Sequence[Message], continuations: Sequence[str], adapter: str | None = None
    ) -> list[Continuation]:
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
            output = await self._ask([*prompt, *ids], params, adapter)
            scored = output.prompt_logprobs[len(prompt) :]
            return Continuation(sum(at[token].logprob for at, token in zip(scored, ids, strict=True)), len(ids))

        return list(await asyncio.gather(*map(one, continuations)))

    async def _ask(self, prompt: list[int], params: SamplingParams, adapter: str | None) -> RequestOutput:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[RequestOutput] = loop.create_future()
        name = str(next(self._ids))
        lora = self._loras[adapter] if adapter else None
        self._arrivals.put(_Request(name, prompt, params, lora, future, loop))
        try:
            return await future
        except asyncio.CancelledError:
            self._arrivals.put(_Abort(name))
            raise

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

    def forget(self) -> None:
        """Empty the prefix cache, so that what is asked again costs what it cost first. Only while nothing is asked."""
        self._engine.reset_prefix_cache()

    def close(self) -> None:
        """Stop the thread and free the model. Requests still waiting fail. May be called again."""
        if not self._thread.is_alive():
            return
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
                    # A request that was aborted is no longer waited for.
                    if output.finished and (request := waiting.pop(output.request_id, None)):
                        _settle(request, output)
            except Exception as error:  # the engine itself broke: everybody who waits must hear of it
                log.exception("vLLM stopped")
                self._abandon(waiting, error)

    def _take(self, waiting: dict[str, _Request]) -> bool:
        """Hand all arrivals to the engine; block while it has nothing to do. False when asked to close."""
        while True:
            try:
                request = self._arrivals.get(block=not waiting)
            except queue.Empty:
                return True
            if request is None:
                return False
            if isinstance(request, _Abort):
                if waiting.pop(request.id, None):
                    self._engine.abort_request([request.id])
                continue
            try:
                self._engine.add_request(
                    request.id, TokensPrompt(prompt_token_ids=request.prompt), request.params, lora_request=request.lora
                )
                waiting[request.id] = request
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


def _rank(adapter: str) -> int:
    """The rank of a LoRA folder. Raises BadInput when it is none."""
    path = Path(adapter) / "adapter_config.json"
    try:
        return int(json.loads(path.read_text("utf-8"))["r"])
    except FileNotFoundError:
        raise BadInput(f"{adapter}: no adapter_config.json in it, so it is no LoRA adapter") from None
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{path}: no rank 'r' in it, so it is no LoRA adapter") from None
