"""Ray over the nodes of a job: where its head is, and waiting until all nodes have joined it."""

from __future__ import annotations

import logging
import time

import ray

from pbt.errors import BadInput

EVERY = 1.0
"""Seconds between two looks."""


def own_address() -> str:
    """The address of this machine that Ray itself would take: SLURM's name for it need not lead here from elsewhere."""
    return str(ray.util.get_node_ip_address())


def await_nodes(nodes: int, seconds: float) -> None:
    """Wait until the cluster at RAY_ADDRESS has so many living nodes. Raises BadInput when it has not in time."""
    until = time.monotonic() + seconds
    while not _connected():
        if time.monotonic() > until:
            raise BadInput(
                f"no Ray cluster answers at RAY_ADDRESS within {seconds:g} s; see the job's log for its start"
            )
        time.sleep(EVERY)
    try:
        while (found := sum(node["Alive"] for node in ray.nodes())) < nodes:
            if time.monotonic() > until:
                raise BadInput(
                    f"{found} of {nodes} nodes joined the Ray cluster within {seconds:g} s; see the job's log"
                )
            time.sleep(EVERY)
    finally:
        ray.shutdown()


def _connected() -> bool:
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.CRITICAL)
    except ConnectionError:
        return False
    return True
