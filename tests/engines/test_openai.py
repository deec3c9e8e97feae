"""An endpoint of the OpenAI protocol: one that fails in every way, and a real vLLM server."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from asking import GREEDY, QUESTIONS, SCORED, Expected, ask
from pbt.config import OpenAIConfig
from pbt.debate.protocol import Sampling
from pbt.engines.base import EngineError, Reply
from pbt.engines.openai import OpenAIEngine
from pbt.errors import BadInput

KEY = "sk-0123456789abcdef"
GOOD = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": " It is Paris. "}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11},
}
ANSWER = Reply("It is Paris.", 4, 7, False)


@dataclass
class Endpoint:
    """A server on loopback that does what ``plan`` says, one word a request, and then answers well."""

    url: str = ""
    plan: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    state = Endpoint()
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.headers["Authorization"] == "Bearer sk-wrong":
                self.send(401, json.dumps({"error": {"message": "Incorrect API key provided: sk-wrong"}}))
            else:
                self.send(200, json.dumps({"object": "list", "data": [{"id": "pocket", "object": "model"}]}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.bodies.append(body)
                fault = state.plan.pop(0) if state.plan else ""
                state.under_way += 1
                state.most_under_way = max(state.most_under_way, state.under_way)
            try:
                self.answer(fault)
            finally:
                with state.lock:
                    state.under_way -= 1

        def answer(self, fault: str) -> None:
            match fault:
                case "429":
                    self.send(429, json.dumps({"error": {"message": "slow down"}}))
                case "429, wait":
                    self.send(429, "{}", retry_after="1")
                case "500" | "503":
                    self.send(int(fault), "<html>out of order</html>", kind="text/html")
                case "garbage":
                    self.send(200, '{"choices": [{"mess')
                case "not json":
                    self.send(200, "<html>welcome</html>", kind="text/html")
                case "wrong shape":
                    self.send(200, json.dumps({"choices": []}))
                case "half a body":
                    whole = json.dumps(GOOD)
                    self.send(200, whole[: len(whole) // 2], length=len(whole))
                    self.close_connection = True
                case "hang":
                    over.wait(10)
                    self.close_connection = True
                case "trickle":
                    self.send(200, " ", length=1000)
                    for _ in range(20):
                        if over.wait(0.1):
                            break
                        self.wfile.write(b" ")
                    self.close_connection = True
                case "hang up":
                    self.close_connection = True
                case "400":
                    self.send(400, json.dumps({"error": {"message": "maximum context length is 128 tokens"}}))
                case "half a character":
                    self.send(200, json.dumps(GOOD).replace(ANSWER.text, "\\ud83d"))
                case "404" | "408":
                    self.send(int(fault), json.dumps({"detail": "Not Found"}))
                case "401":
                    self.send(401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}))
                case "slow":
                    time.sleep(0.1)
                    self.send(200, json.dumps(GOOD))
                case _:
                    self.send(200, json.dumps(GOOD))

        def send(
            self,
            status: int,
            body: str,
            kind: str = "application/json",
            length: int | None = None,
            retry_after: str = "",
        ) -> None:
            data = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(length or len(data)))
            if retry_after:
                self.send_header("Retry-After", retry_after)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Silent."""

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (BrokenPipeError, ConnectionResetError):  # the client did not wait
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def chat(url: str, times: int = 1, **settings: Any) -> list[Reply | BaseException]:
    engine = OpenAIEngine("pocket", OpenAIConfig(base_url=url, timeout=0.5, **{"attempts": 3, **settings}))

    async def everything() -> list[Reply | BaseException]:
        return await asyncio.gather(
            *(engine.chat(ask("Why?"), GREEDY, 5) for _ in range(times)), return_exceptions=True
        )

    try:
        return asyncio.run(everything())
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("429", "HTTP 429: slow down"),
        ("500", "HTTP 500"),
        ("503", "HTTP 503"),
        ("garbage", "the body is not JSON"),
        ("not json", "no answer in the body"),
        ("wrong shape", "no answer in the body: choices"),
        ("half a character", "no answer in the body: choices.0.message.content: Value error"),
        ("408", "HTTP 408"),
        ("half a body", "the connection failed"),
        ("hang", "nothing came in time"),
        ("trickle", "nothing came in time"),
        ("hang up", "the connection failed"),
    ],
)
def test_a_failed_request_is_asked_again(endpoint: Endpoint, caplog: pytest.LogCaptureFixture, fault: str, said: str):
    endpoint.plan = [fault]
    with caplog.at_level(logging.WARNING, logger="pbt.engines.openai"):
        assert chat(endpoint.url) == [ANSWER]
    assert len(endpoint.bodies) == 2
    assert f"attempt 1 of 3: {said}" in caplog.text


@pytest.mark.parametrize("fault", ["429", "408", "garbage", "hang"])
def test_after_so_many_attempts_a_request_fails(endpoint: Endpoint, fault: str) -> None:
    endpoint.plan = [fault] * 2
    (error,) = chat(endpoint.url, attempts=2)
    assert isinstance(error, EngineError)
    assert str(error).startswith(f"{endpoint.url}: no answer in 2 attempts; the last: ")
    assert len(endpoint.bodies) == 2


def test_a_server_that_asks_for_a_pause_gets_it(endpoint: Endpoint) -> None:
    endpoint.plan = ["429, wait"]
    began = time.monotonic()
    assert chat(endpoint.url) == [ANSWER]
    assert time.monotonic() - began >= 1


def test_one_bad_request_among_many_fails_alone_and_at_once(endpoint: Endpoint) -> None:
    endpoint.plan = ["", "400", "", "500", ""]
    found = chat(endpoint.url, times=12)
    failed = [one for one in found if one != ANSWER]
    assert len(failed) == 1
    assert isinstance(failed[0], EngineError)
    assert "refused: HTTP 400" in str(failed[0]) and "maximum context length is 128 tokens" in str(failed[0])
    assert len(endpoint.bodies) == 12 + 1, "the 400 is not asked again, the 500 is"


def test_no_more_requests_are_under_way_than_allowed(endpoint: Endpoint) -> None:
    endpoint.plan = ["slow"] * 12
    assert chat(endpoint.url, times=12, concurrency=3) == [ANSWER] * 12
    assert endpoint.most_under_way == 3


def test_a_server_is_sent_only_what_it_knows(endpoint: Endpoint) -> None:
    chat(endpoint.url)
    chat(endpoint.url, server="vllm")
    plain, vllm = endpoint.bodies
    assert plain == {
        "model": "pocket",
        "messages": ask("Why?"),
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 24,
        "seed": 5,
    }
    assert vllm == {**plain, "min_tokens": 4, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


def test_only_a_server_of_vllm_scores(endpoint: Endpoint) -> None:
    engine = OpenAIEngine("pocket", OpenAIConfig(base_url=endpoint.url))
    with pytest.raises(EngineError, match=r"only vLLM's server scores texts; if it is one, set openai.server: vllm"):
        asyncio.run(engine.score(ask("Why?"), ["Yes"]))
    engine.close()


def test_a_key_stays_secret(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    endpoint.plan = ["500", "401"]
    with caplog.at_level(logging.INFO):
        (error,) = chat(endpoint.url, api_key_env="MY_KEY")
    assert isinstance(error, BadInput)
    assert "refuses every request (HTTP 401)" in str(error)
    assert KEY not in caplog.text + str(error) + repr(error.__cause__)


def test_what_would_fail_every_request_is_refused_at_start(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(model: str = "pocket", **settings: Any) -> str:
        with pytest.raises(BadInput) as caught:
            OpenAIEngine(model, OpenAIConfig(**{"base_url": endpoint.url, **settings}))
        return str(caught.value)

    monkeypatch.setenv("MY_KEY", "sk-wrong")
    assert "$NO_SUCH_KEY is not set" in refusal(api_key_env="NO_SUCH_KEY")
    assert "refuses the key in $MY_KEY" in refusal(api_key_env="MY_KEY")
    assert "sk-wrong" not in refusal(api_key_env="MY_KEY")
    assert "serves no 'rocket' (it serves: pocket); mend path" in refusal("rocket")
    assert "does not answer" in refusal(base_url="http://127.0.0.1:9/v1")


def test_a_url_without_v1_ends_the_run_and_not_each_question(endpoint: Endpoint) -> None:
    endpoint.plan = ["404"]
    (error,) = chat(endpoint.url)
    assert isinstance(error, BadInput)
    assert "refuses every request (HTTP 404: " in str(error) and "most end in /v1" in str(error)


@pytest.fixture
def server(vllm_server: str) -> Iterator[OpenAIEngine]:
    engine = OpenAIEngine("pocket", OpenAIConfig(base_url=vllm_server, server="vllm"))
    yield engine
    engine.close()


def test_greedy_replies_of_a_vllm_server_are_those_of_one_process(server: OpenAIEngine, expected: Expected) -> None:
    async def everything() -> list[Reply]:
        return await asyncio.gather(*(server.chat(ask(question), GREEDY, 0) for question in QUESTIONS))

    assert asyncio.run(everything()) == expected.replies


def test_scores_of_a_vllm_server_are_those_of_one_process(server: OpenAIEngine, expected: Expected) -> None:
    scores = asyncio.run(server.score(ask(QUESTIONS[0]), SCORED))
    assert [score.tokens for score in scores] == [score.tokens for score in expected.scores]
    assert [score.logprob for score in scores] == pytest.approx([score.logprob for score in expected.scores], abs=1e-3)
    with pytest.raises(EngineError, match="no tokens"):
        asyncio.run(server.score(ask(QUESTIONS[0]), [""]))


def test_a_vllm_server_keeps_to_the_sampling(server: OpenAIEngine) -> None:
    cut = Sampling(temperature=0, max_tokens=2, min_tokens=0)
    assert asyncio.run(server.chat(ask(QUESTIONS[0]), cut, 0)).truncated
    long = Sampling(temperature=0, max_tokens=30, min_tokens=30)
    assert asyncio.run(server.chat(ask(QUESTIONS[0]), long, 0)).tokens == 30
    warm = Sampling(temperature=1.5, max_tokens=24, min_tokens=0)
    first, again, other = (asyncio.run(server.chat(ask(QUESTIONS[0]), warm, seed)).text for seed in (1, 1, 2))
    assert first == again != other


def test_a_prompt_longer_than_the_model_of_a_vllm_server_fails_alone(server: OpenAIEngine, expected: Expected) -> None:
    async def both() -> list[Reply | BaseException]:
        long = server.chat(ask("very " * 400 + "long?"), GREEDY, 0)
        return await asyncio.gather(long, server.chat(ask(QUESTIONS[0]), GREEDY, 0), return_exceptions=True)

    failed, answered = asyncio.run(both())
    assert isinstance(failed, EngineError)
    assert "HTTP 400" in str(failed) and "128" in str(failed)
    assert answered == expected.replies[0]
    with pytest.raises(EngineError, match="more than max_model_len 128"):
        asyncio.run(server.score(ask("very " * 400 + "long?"), ["Yes"]))
