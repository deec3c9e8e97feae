"""An executor whose processes are on the nodes of a Ray cluster, for stages that share work among processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray

from pbt.errors import BadInput

T = TypeVar("T")


class RayPool(Executor):
    """Runs calls as tasks, each on one CPU of the cluster at RAY_ADDRESS."""

    def __init__(self) -> None:
        """Raises BadInput when no cluster answers."""
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
            except ConnectionError as error:
                raise BadInput(
                    f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}: no Ray cluster answers: {error}"
                ) from None

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Start one call; what it raises as BadInput is raised here as it was, without Ray's words around it."""
        found: Future[T] = Future()

        def settle(done: Future[Any]) -> None:
            if done.exception() is not None:
                found.set_exception(done.exception())
            elif isinstance(done.result(), BadInput):
                found.set_exception(done.result())
            else:
                found.set_result(done.result())

        _call.remote(fn, args, kwargs).future().add_done_callback(settle)
        return found

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the cluster, if it was this pool that connected; unfinished calls end with the connection."""
        if self._ours:
            ray.shutdown()


@ray.remote(num_cpus=1)
def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return fn(*args, **kwargs)
    except BadInput as error:
        return error
