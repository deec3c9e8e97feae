"""vLLM on Ray actors, with the shipped pocket model: the replies are those of one process, and no death loses any."""

import asyncio
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from asking import GREEDY, QUESTIONS, SCORED, SETTINGS, Expected, ask
from pbt.config import RayConfig
from pbt.debate.chat import Message
from pbt.engines.base import EngineError, Reply
from pbt.engines.ray import RayEngine, Replica
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput


@pytest.fixture(scope="module")
def engine(llama: str) -> Iterator[RayEngine]:
    """Two replicas that share the cores of this machine."""
    engine = RayEngine(llama, SETTINGS, RayConfig(replicas=2, num_cpus=0.5))
    yield engine
    engine.close()


def replies(engine: RayEngine, times: int = 1) -> list[Reply | BaseException]:
    async def everything() -> list[Reply | BaseException]:
        asked = (engine.chat(ask(question), GREEDY, 0) for question in QUESTIONS * times)
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(everything())


def test_greedy_replies_are_those_of_one_process(engine: RayEngine, expected: Expected) -> None:
    assert replies(engine) == expected.replies


def test_workers_that_share_a_model_say_what_one_says(llama: str, expected: Expected) -> None:
    """Tensor parallelism: two workers of one replica, in a placement group of two bundles."""
    engine = RayEngine(llama, {**SETTINGS, "tensor_parallel_size": 2}, RayConfig(num_cpus=0.25))
    try:
        assert len(engine._links[0]._group.bundle_specs) == 2  # type: ignore[union-attr]
        assert replies(engine) == expected.replies
    finally:
        engine.close()


def test_scores_are_those_of_one_process(engine: RayEngine, expected: Expected) -> None:
    scores = asyncio.run(engine.score(ask(QUESTIONS[0]), SCORED))
    assert [score.tokens for score in scores] == [score.tokens for score in expected.scores]
    assert [score.logprob for score in scores] == pytest.approx([score.logprob for score in expected.scores], abs=1e-3)


def test_a_prompt_longer_than_the_model_fails_alone(engine: RayEngine, expected: Expected) -> None:
    async def both() -> list[Reply | BaseException]:
        long = engine.chat(ask("very " * 400 + "long?"), GREEDY, 0)
        return await asyncio.gather(long, engine.chat(ask(QUESTIONS[0]), GREEDY, 0), return_exceptions=True)

    failed, answered = asyncio.run(both())
    assert isinstance(failed, EngineError)
    assert "more than max_model_len 128" in str(failed)
    assert answered == expected.replies[0]


def test_what_begins_alike_goes_to_one_replica(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: Counter[tuple[int, str]] = Counter()
    for number, link in enumerate(engine._links):

        def note(call: Any, number: int = number, asked: Any = link.ask) -> Any:
            taken[number, call.arguments[0][0]["content"]] += 1
            return asked(call)

        monkeypatch.setattr(link, "ask", note)

    async def debate() -> None:
        def said(question: str, reply: str) -> list[Message]:
            return [*ask(question), {"role": "assistant", "content": reply}, {"role": "user", "content": "Why?"}]

        await asyncio.gather(
            *(engine.chat(said(question, reply), GREEDY, 0) for question in QUESTIONS for reply in ("Paris.", "Lima."))
        )

    asyncio.run(debate())
    assert set(taken.values()) == {2}
    assert {number for number, _ in taken} == {0, 1}


def test_the_living_take_the_requests_of_the_lost_at_once_until_it_is_back(
    engine: RayEngine, expected: Expected, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also: while none lives requests wait, but not for ever. Starting again is held up, as by a full cluster."""
    first, second = engine._links
    room = threading.Event()
    sent: Counter[int] = Counter()
    for number, link in enumerate(engine._links):

        async def start(start: Any = link.start) -> None:
            await asyncio.to_thread(room.wait)
            await start()

        def note(call: Any, number: int = number, ask: Any = link.ask) -> Any:
            sent[number] += 1
            return ask(call)

        monkeypatch.setattr(link, "start", start)
        monkeypatch.setattr(link, "ask", note)

    async def everything() -> list[Reply]:
        asked = [asyncio.ensure_future(engine.chat(ask(q), GREEDY, 0)) for q in QUESTIONS * 40]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        ray.kill(first.actor)
        return await asyncio.gather(*asked)

    try:
        began = time.monotonic()
        with caplog.at_level(logging.WARNING, logger="pbt.engines.ray"):
            assert asyncio.run(everything()) == expected.replies * 40
        assert time.monotonic() - began < 30 < engine._wait
        assert first.state == "away"
        lost = re.findall(r"replica 0 of .* died with (\d+) requests", caplog.text)
        assert len(lost) == 1 and int(lost[0]) > 0
        assert sent.total() == len(QUESTIONS) * 40 + int(lost[0]), "each that was lost is asked once more"

        monkeypatch.setattr(engine, "_wait", 1.0)
        ray.kill(second.actor)
        until(lambda: second.state == "away")
        assert all(isinstance(one, EngineError) and "no replica is alive" in str(one) for one in replies(engine))
        monkeypatch.setattr(engine, "_wait", 300.0)
        threading.Timer(0.5, room.set).start()
        assert replies(engine) == expected.replies, "those that wait are answered by who comes back"
    finally:
        room.set()
    until(lambda: first.state == second.state == "serving")
    sent.clear()
    assert replies(engine) == expected.replies
    assert set(sent) == {0, 1}


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_request_is_asked_again_only_so_often(
    engine: RayEngine, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_attempts", 1)

    async def everything() -> list[Reply | BaseException]:
        asked = [asyncio.ensure_future(engine.chat(ask(q), GREEDY, 0)) for q in QUESTIONS * 40]
        await asyncio.sleep(0)
        ray.kill(engine._links[0].actor)
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(everything())
    failed = [one for one in found if not isinstance(one, Reply)]
    assert failed
    assert all(isinstance(one, EngineError) and "asked 1 times" in str(one) for one in failed)
    assert all(one in (*failed, expected.replies[i % len(QUESTIONS)]) for i, one in enumerate(found))
    until(lambda: engine._links[0].state == "serving")


def test_when_a_replica_does_not_come_back_the_others_answer(
    engine: RayEngine, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test with this engine: it leaves it with one replica less, then with none."""

    async def broken() -> None:
        raise BadInput("the model folder is gone")

    def lose(link: Any) -> list[Reply | BaseException]:
        monkeypatch.setattr(link, "start", broken)
        ray.kill(link.actor)
        until = time.monotonic() + 30
        while not link.gone and time.monotonic() < until:
            found = replies(engine)
        return found

    assert replies(engine) == expected.replies
    assert lose(engine._links[0]) == replies(engine) == expected.replies
    lose(engine._links[1])
    assert all(isinstance(one, RuntimeError) and "the model folder is gone" in str(one) for one in replies(engine))


def test_a_cluster_without_room_says_so(llama: str) -> None:
    with pytest.raises(BadInput, match=r"no room on the Ray cluster for 1 x \{'CPU': 1000.0\}"):
        RayEngine(llama, SETTINGS, RayConfig(num_cpus=1000, wait=0.5))


def test_what_a_replica_refuses_is_heard_here(llama: str) -> None:
    with pytest.raises(BadInput, match=r"vLLM has no 'max_modl_len'; did you mean 'max_model_len'\?"):
        RayEngine(llama, {"max_modl_len": 128}, RayConfig(num_cpus=0.5))


def test_a_cluster_that_is_not_there_is_named(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(BadInput, match=r"no cluster at '127.0.0.1:1'"):
        RayEngine(llama, SETTINGS, RayConfig(address="127.0.0.1:1"))


def test_a_replica_whose_engine_broke_asks_to_be_replaced() -> None:
    class Broken(ScriptedEngine):
        async def chat(self, *arguments: Any) -> Reply:
            raise MemoryError("no memory is left")

    async def broken() -> None:
        from pbt.engines.ray import _Call

        replica = Replica()
        replica._engine = Broken(lambda messages, seed: "")
        await replica.ask([_Call(0, "chat", (ask("Why?"), GREEDY, 0, None))], [])
        await replica.answers()

    with pytest.raises(RuntimeError, match="MemoryError: no memory is left"):
        asyncio.run(broken())
