"""vLLM on a Ray cluster: replicas of one model, each an actor that holds the engine of ``engines/vllm.py``.

A replica's workers are placed together, by a placement group of one bundle each. All requests that open with the same
message go to the same replica, because it holds that prefix. When a replica dies, the living ones take its share at
once, what it had been asked included, each request at most ``attempts`` times in all; it is started again meanwhile,
and takes its share back. While none lives, requests wait ``wait`` seconds and then fail; when none can be started any
more, the program is told, not the single request.

Requests and replies travel in bunches, whatever has come up since the last: a call to an actor costs about as much as
a turn of a small model.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayTaskError
from ray.util import placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from pbt.config import RayConfig
from pbt.debate.chat import Message
from pbt.debate.protocol import Sampling
from pbt.engines.base import Continuation, EngineError, Reply
from pbt.engines.loop import LoopThread
from pbt.errors import BadInput

log = logging.getLogger(__name__)

_OWN_CLUSTER_WAIT = 10.0
"""Seconds to wait for room on a cluster that we started: nobody else will make any."""


class _Call(NamedTuple):
    """A request on its way to a replica."""

    id: int
    method: Literal["chat", "score"]
    arguments: tuple[Any, ...]


class _Answer(NamedTuple):
    id: int
    result: Any
    """What the engine returned, or the EngineError that it raised."""


class _Lost(Exception):
    """The replica died before it answered."""


class Replica:
    """One copy of the model, inside its actor."""

    def __init__(self) -> None:
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._answers: list[_Answer] = []
        self._broken: Exception | None = None
        self._news = asyncio.Event()

    async def load(self, model: str, settings: dict[str, Any], adapters: Sequence[str]) -> None:
        """Load the model. Raises BadInput."""
        from pbt.engines.vllm import VllmEngine

        self._engine = VllmEngine(model, settings, adapters)

    async def ask(self, calls: Sequence[_Call], dropped: Sequence[int]) -> None:
        """Begin requests, and end those that nobody waits for any more."""
        for call in calls:
            self._tasks[call.id] = asyncio.create_task(self._one(call))
        for name in dropped:
            if task := self._tasks.pop(name, None):
                task.cancel()

    async def answers(self) -> list[_Answer]:
        """Wait until there are some. Raises when the engine itself broke."""
        await self._news.wait()
        self._news.clear()
        if self._broken:
            raise RuntimeError(f"{type(self._broken).__name__}: {self._broken}")
        found, self._answers = self._answers, []
        return found

    async def _one(self, call: _Call) -> None:
        try:
            result = await getattr(self._engine, call.method)(*call.arguments)
        except EngineError as error:
            result = error
        except Exception as error:  # not this request's fault: the whole replica must be replaced
            self._broken, result = error, None
        self._tasks.pop(call.id, None)
        self._answers.append(_Answer(call.id, result))
        self._news.set()


class RayEngine:
    """One model on Ray. Raises BadInput when the cluster has no room for it, or the model cannot be loaded."""

    def __init__(self, model: str, settings: dict[str, Any], config: RayConfig, adapters: Sequence[str] = ()) -> None:
        workers = settings.get("tensor_parallel_size", 1) * settings.get("pipeline_parallel_size", 1)
        if workers > 1:
            # Without GPUs vLLM cannot put its workers on Ray: they are then processes beside the actor.
            settings = {"distributed_executor_backend": "ray" if config.num_gpus else "mp", **settings}
        # A worker may run in another folder than we do.
        folder = str(Path(model).resolve()) if Path(model).is_dir() else model
        self._attempts = config.attempts
        self._wait = config.wait
        self._ids = itertools.count()
        self._changed = asyncio.Condition()
        _connect(config.address)
        self._links = [
            _Link(f"replica {number} of {model}", (folder, settings, tuple(adapters)), workers, config, self._changed)
            for number in range(config.replicas)
        ]
        self._thread = LoopThread(f"ray {model}")
        try:
            self._thread.start(self._start()).result()
        except BaseException:
            self.close()
            raise

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, seed: int, adapter: str | None = None
    ) -> Reply:
        """Reply to a chat. Raises EngineError."""
        reply: Reply = await self._thread.run(self._ask(messages, "chat", (messages, sampling, seed, adapter)))
        return reply

    async def score(
        self, messages: Sequence[Message], continuations: Sequence[str], adapter: str | None = None
    ) -> list[Continuation]:
        """Log-probabilities of texts after a chat. Raises EngineError."""
        scored: list[Continuation] = await self._thread.run(
            self._ask(messages, "score", (messages, list(continuations), adapter))
        )
        return scored

    def close(self) -> None:
        """End the replicas and give their place back. Requests still waiting are cancelled. May be called again."""
        self._thread.close()
        for link in self._links:
            link.end()

    async def _start(self) -> None:
        await asyncio.gather(*(link.start() for link in self._links))
        self._serving = [asyncio.create_task(link.serve()) for link in self._links]

    async def _ask(
        self, messages: Sequence[Message], method: Literal["chat", "score"], arguments: tuple[Any, ...]
    ) -> Any:
        prefix = hashlib.blake2b(messages[0]["content"].encode()).hexdigest()
        patience = AsyncRetrying(
            retry=retry_if_exception_type(_Lost), stop=stop_after_attempt(self._attempts), reraise=True
        )
        try:
            async for attempt in patience:
                with attempt:
                    link = await self._living(prefix)
                    return await link.ask(_Call(next(self._ids), method, arguments))
        except _Lost as lost:
            raise EngineError(f"asked {self._attempts} times, and each time the replica died: {lost}") from None

    async def _living(self, prefix: str) -> _Link:
        """The replica that answers what begins so: of those that live, the one whose name and the prefix hash highest.
        A death moves the share of the dead alone, and spreads it over all others. Raises EngineError."""
        async with self._changed:
            while not (living := [link for link in self._links if link.state == "serving"]):
                if all(link.gone for link in self._links):
                    first = self._links[0]
                    raise RuntimeError(f"no replica is left; {first.name}: {first.gone}")
                # What has found its place will serve; loading takes as long as it takes.
                loading = any(link.state == "loading" for link in self._links)
                try:
                    async with asyncio.timeout(None if loading else self._wait):
                        await self._changed.wait()
                except TimeoutError:
                    raise EngineError(
                        f"no replica is alive, and none found a place on the cluster again in {self._wait:g} s"
                    ) from None
        return max(living, key=lambda link: _hash(f"{link.name} {prefix}"))


class _Link:
    """Our end of one replica: sends it requests, takes its answers, and replaces its actor."""

    def __init__(
        self,
        name: str,
        model: tuple[str, dict[str, Any], tuple[str, ...]],
        workers: int,
        config: RayConfig,
        changed: asyncio.Condition,
    ) -> None:
        self.name = name
        self.state: Literal["away", "loading", "serving"] = "away"
        self.gone: BaseException | None = None
        """Why it could not be started again."""
        self.actor: Any = None
        self._model = model
        self._workers = workers
        self._config = config
        self._changed = changed
        """Told of each change of ``state`` and ``gone``."""
        self._group: PlacementGroup | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._calls: list[_Call] = []
        self._dropped: list[int] = []
        self._news = asyncio.Event()

    async def ask(self, call: _Call) -> Any:
        """Raises _Lost when the replica dies first, and EngineError."""
        future = self._waiting[call.id] = asyncio.get_running_loop().create_future()
        self._calls.append(call)
        self._news.set()
        try:
            return await future
        except asyncio.CancelledError:
            if self._waiting.pop(call.id, None):
                self._dropped.append(call.id)
                self._news.set()
            raise

    async def start(self) -> None:
        """Find a place and load the model there. Raises BadInput."""
        if self._group is None:
            self._group = await self._place()
        # vLLM's own workers take the GPUs of the bundles where there are several.
        self.actor = (
            ray.remote(Replica)
            .options(
                num_cpus=self._config.num_cpus,
                num_gpus=self._config.num_gpus if self._workers == 1 else 0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
                ),
            )
            .remote()
        )
        try:
            # A place may be lost with its node; loading may take as long as it takes.
            await asyncio.wait_for(self.actor.__ray_ready__.remote(), self._config.wait)
            await self._become("loading")
            await self.actor.load.remote(*self._model)
            await self._become("serving")
        except RayTaskError as error:
            if isinstance(error.cause, BadInput):
                raise error.cause from None
            raise
        except TimeoutError:
            ray.kill(self.actor)
            raise TimeoutError(f"no room on the cluster in {self._config.wait:g} s") from None
        finally:
            if self.state == "loading":
                await self._become("away")

    async def serve(self) -> None:
        """Until the end: exchange with the replica, and when it dies put another in its place."""
        while True:
            exchange = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]
            await asyncio.wait(exchange, return_when=asyncio.FIRST_EXCEPTION)
            for task in exchange:
                task.cancel()
            outcomes = await asyncio.gather(*exchange, return_exceptions=True)
            error = next(e for e in outcomes if isinstance(e, Exception))
            log.warning("%s died with %d requests: %s", self.name, len(self._waiting), _first_line(error))
            self.state = "away"  # before its requests look for another
            self._lose(error)
            ray.kill(self.actor)
            try:
                await self._restart()
            except Exception as failed:  # whatever keeps it from starting: the others must take over
                log.error("%s cannot be started again: %s", self.name, _first_line(failed))
                self.gone = failed
                await self._become("away")
                return

    def end(self) -> None:
        """Kill the actor and give its place back."""
        if ray.is_initialized():
            if self.actor is not None:
                ray.kill(self.actor)
            if self._group is not None:
                remove_placement_group(self._group)
        self.actor = self._group = None

    async def _become(self, state: Literal["away", "loading", "serving"]) -> None:
        async with self._changed:
            self.state = state
            self._changed.notify_all()

    async def _restart(self) -> None:
        def note(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            log.warning("%s, start %d: %s", self.name, state.attempt_number, _first_line(error))

        patience = AsyncRetrying(
            stop=stop_after_attempt(self._config.attempts),
            wait=wait_random_exponential(multiplier=0.5, max=30),
            before_sleep=note,
            reraise=True,
        )
        await patience(self.start)

    async def _send(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            calls, self._calls = self._calls, []
            dropped, self._dropped = self._dropped, []
            await self.actor.ask.remote(calls, dropped)

    async def _receive(self) -> None:
        while True:
            for answer in await self.actor.answers.remote():
                future = self._waiting.pop(answer.id, None)
                if future is None or future.done():
                    continue
                if isinstance(answer.result, EngineError):
                    future.set_exception(answer.result)
                else:
                    future.set_result(answer.result)

    def _lose(self, error: BaseException) -> None:
        self._calls.clear()
        self._dropped.clear()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_Lost(_first_line(error)))
        self._waiting.clear()

    async def _place(self) -> PlacementGroup:
        each = {"CPU": self._config.num_cpus, "GPU": self._config.num_gpus}
        bundle = {name: amount for name, amount in each.items() if amount}
        group = placement_group([bundle] * self._workers, strategy="PACK")
        wait = self._config.wait if self._config.address else min(self._config.wait, _OWN_CLUSTER_WAIT)
        if not await asyncio.to_thread(group.wait, wait):
            free = {name: amount for name, amount in ray.available_resources().items() if name in each}
            remove_placement_group(group)
            raise BadInput(
                f"{self.name}: no room on the Ray cluster for {self._workers} x {bundle} (free: {free}); "
                "lower replicas, num_cpus or num_gpus"
            )
        return group


def _connect(address: str | None) -> None:
    """Join the cluster, or start one on this machine. Raises BadInput. Once for all models of a process."""
    if ray.is_initialized():
        return
    try:
        if address and re.fullmatch(r"[^/]+:\d+", address):
            # Ray itself goes on trying for minutes where nobody listens.
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError) as error:
        raise BadInput(f"ray.address: no cluster at '{address}': {_first_line(error)}") from None


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _first_line(error: BaseException | None) -> str:
    """What an error of Ray says before its traces."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else ''}"
