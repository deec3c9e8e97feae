"""Any endpoint that speaks the OpenAI protocol: a server of vLLM or another, or a provider.

A request is asked again, after a pause that grows and is jittered, when it was turned away (429), when the server
failed (5xx), when nothing came in time, or when what came is no answer (cut short, not JSON, the wrong shape). After
``attempts`` in all it fails with EngineError. A request that the server refuses for what it is, such as a prompt
longer than the model, fails at once; what concerns the endpoint (401, 403, 404) is BadInput and ends the run. Keys come
from the environment and appear in no message.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import openai
from pydantic import BaseModel, Field, ValidationError, field_validator
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from pbt.config import OpenAIConfig
from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.engines.base import Continuation, EngineError, Reply
from pbt.engines.loop import LoopThread
from pbt.errors import BadInput

log = logging.getLogger(__name__)

T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)

_PASSING = (
    openai.APIConnectionError,
    openai.RateLimitError,
    openai.InternalServerError,
    TimeoutError,
    ValueError,  # what came is not JSON, or not of the shape that it must have (pydantic's is a ValueError too)
)
"""What may be otherwise the next time; so may HTTP 408, for which the client has no class."""
_ENDPOINT = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""What concerns the endpoint and so every request."""
_LONGEST_PAUSE = 60.0
"""Seconds; also when the server asks for more."""

# A model's generation_config.json changes what vLLM's server samples from; these are the values that change nothing,
# as the engine in process has them.
_VLLM_PLAIN = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Said(BaseModel):
    content: str | None

    @field_validator("content")
    @classmethod
    def _whole(cls, content: str | None) -> str | None:
        """JSON can carry half of a character; no file can."""
        (content or "").encode("utf-8")
        return content


class _Choice(BaseModel):
    message: _Said
    finish_reason: str | None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class _Logprob(BaseModel):
    logprob: float


class _ScoredChoice(BaseModel):
    prompt_logprobs: list[dict[int, _Logprob] | None]


class _Scored(BaseModel):
    choices: list[_ScoredChoice] = Field(min_length=1)


class _Tokens(BaseModel):
    tokens: list[int]
    max_model_len: int


class _Served(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Served]


class OpenAIEngine:
    """One model of an endpoint. Raises BadInput for a server that cannot be reached, or that does not serve it."""

    def __init__(self, model: str, config: OpenAIConfig) -> None:
        key = os.environ.get(config.api_key_env, "") if config.api_key_env else "none"
        if not key:
            raise BadInput(f"openai.api_key_env of {model}: ${config.api_key_env} is not set; export the key there")
        self._model = model
        self._config = config
        self._client = openai.AsyncOpenAI(base_url=config.base_url, api_key=key, max_retries=0, timeout=config.timeout)
        self._places = asyncio.Semaphore(config.concurrency)
        self._thread = LoopThread(f"openai {model}")
        try:
            self._thread.start(self._check_served()).result()
        except BaseException:
            self.close()
            raise

    async def chat(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Reply:
        """Reply to a chat. Raises EngineError. Tokens are 0 where the server does not count them."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": list(messages),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
        }
        if self._config.server == "vllm":
            body |= {**_VLLM_PLAIN, "min_tokens": min(sampling.min_tokens, sampling.max_tokens)}
        done = await self._thread.run(self._ask("/chat/completions", body, _Completion))
        choice, usage = done.choices[0], done.usage or _Usage()
        text = (choice.message.content or "").strip()
        return Reply(text, usage.completion_tokens, usage.prompt_tokens, choice.finish_reason == "length")

    async def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[Continuation]:
        """Log-probabilities of texts after a chat. Raises EngineError, always where the server is not vLLM's:

        The OpenAI protocol has no way to ask for the probability of a given text.
        """
        if self._config.server != "vllm":
            raise EngineError(
                f"{self._config.base_url}: only vLLM's server scores texts; if it is one, set openai.server: vllm"
            )
        return await self._thread.run(self._score(messages, continuations))

    def close(self) -> None:
        """End the connections. Requests still waiting are cancelled. May be called again."""
        self._thread.close()

    async def _score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[Continuation]:
        tokenize = self._config.base_url.removesuffix("/").removesuffix("/v1") + "/tokenize"
        chat = {"model": self._model, "messages": list(messages), "add_generation_prompt": True}
        prompt = await self._ask(tokenize, chat, _Tokens)

        async def one(text: str) -> Continuation:
            alone = {"model": self._model, "prompt": text, "add_special_tokens": False}
            ids = (await self._ask(tokenize, alone, _Tokens)).tokens
            if not ids:
                raise EngineError(f"the text {text!r} has no tokens, so it has no probability")
            if len(prompt.tokens) + len(ids) + 1 > prompt.max_model_len:
                raise EngineError(
                    f"the prompt has {len(prompt.tokens)} tokens and the text to score {len(ids)}, "
                    f"together more than max_model_len {prompt.max_model_len}"
                )
            body = {
                "model": self._model,
                "prompt": [*prompt.tokens, *ids],
                "max_tokens": 1,
                "temperature": 0,
                "prompt_logprobs": 0,
            }
            scored = (await self._ask("/completions", body, _Scored)).choices[0].prompt_logprobs[len(prompt.tokens) :]
            return Continuation(sum(at[token].logprob for at, token in zip(scored, ids, strict=True) if at), len(ids))

        return list(await asyncio.gather(*map(one, continuations)))

    async def _ask(self, path: str, body: dict[str, Any], shape: type[B]) -> B:
        async def post() -> B:
            return shape.model_validate(await self._client.post(path, cast_to=object, body=body))

        async with self._places:
            return await self._patiently(post)

    async def _patiently(self, request: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer, at most ``attempts`` times. Raises EngineError."""
        patience = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(self._config.attempts),
            wait=_pause,
            before_sleep=self._log_retry,
            reraise=True,
        )
        try:
            async for attempt in patience:
                with attempt:
                    # The client's own limit is for silence; this one is for a server that trickles, too.
                    async with asyncio.timeout(self._config.timeout):
                        return await request()
        except _ENDPOINT as error:
            raise BadInput(
                f"openai.base_url of {self._model}: {self._config.base_url} refuses every request ({_plain(error)}); "
                "mend the URL (most end in /v1), the model's path, or the key in the variable of openai.api_key_env"
            ) from None
        except (*_PASSING, openai.APIStatusError) as error:
            if _may_pass(error):
                raise EngineError(
                    f"{self._config.base_url}: no answer in {self._config.attempts} attempts; the last: {_plain(error)}"
                ) from None
            raise EngineError(f"{self._config.base_url}: refused: {_plain(error)}") from None
        raise AssertionError("tenacity either returns or raises")

    def _log_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning(
            "%s: attempt %d of %d: %s",
            self._config.base_url,
            state.attempt_number,
            self._config.attempts,
            _plain(error),
        )

    async def _check_served(self) -> None:
        """Refuse at start what would fail every request. A server that does not list its models passes."""
        where = f"openai.base_url of {self._model}: {self._config.base_url}"
        try:
            async with asyncio.timeout(self._config.timeout):
                listed = await self._client.get("/models", cast_to=object)
            names = [served.id for served in _Models.model_validate(listed).data]
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            key = f"the key in ${self._config.api_key_env}" if self._config.api_key_env else "a request without a key"
            raise BadInput(f"{where} refuses {key}; set openai.api_key_env to where a valid one is") from None
        except (openai.APIConnectionError, TimeoutError) as error:
            raise BadInput(f"{where} does not answer ({_plain(error)}); start the server or mend the URL") from None
        except (openai.APIStatusError, ValueError) as error:
            log.warning("%s does not list its models: %s", where, _plain(error))
            return
        if self._model not in names:
            raise BadInput(f"{where} serves no '{self._model}' (it serves: {', '.join(names)}); mend path")


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, _PASSING) or (isinstance(error, openai.APIStatusError) and error.status_code == 408)


def _pause(state: RetryCallState) -> float:
    """Seconds before the next attempt: jittered and growing, and no less than the server asks for."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.response.headers.get("retry-after", "") if isinstance(error, openai.APIStatusError) else ""
    least = float(asked) if asked.isdigit() else 0.0
    return min(_LONGEST_PAUSE, max(least, wait_random_exponential(multiplier=0.5, max=_LONGEST_PAUSE)(state)))


def _plain(error: BaseException | None) -> str:
    """One short line on what went wrong."""
    match error:
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return f"HTTP {error.status_code}"  # its message may quote the key
        case openai.APIStatusError():
            said = " ".join(error.message.removeprefix(f"Error code: {error.status_code} - ").split())
            return f"HTTP {error.status_code}: {said[:300]}"
        case openai.APITimeoutError() | TimeoutError():
            return "nothing came in time"
        case openai.APIConnectionError():
            return f"the connection failed: {error.__cause__ or error}"
        case ValidationError():
            first = error.errors()[0]
            return f"no answer in the body: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        case ValueError():
            return f"the body is not JSON: {error}"
    return str(error)
