"""Several processes for one training, by accelerate: one for each GPU, or on a machine without GPUs on its CPU.

Under SLURM a step with one task on each node (``srun --ntasks-per-node=1 pbt train ... --gpus 8``) becomes one training
over all of them: who is where is read from the step's environment.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from pbt.errors import BadInput

SHARED_OUT = {"ddp": False, "fsdp2": True, "zero3": True}
"""The shipped ways to share the work, and whether they share out the weights as well."""


class Nodes(NamedTuple):
    """The machines of one training."""

    number: int
    here: int
    """Which of them this is, from 0."""
    main: str | None
    """The address of the first; ``None`` when it is the only one."""
    port: int
    """Where the first one listens; 0 lets it choose."""


def accelerate_file(named: str | None) -> Path:
    """The file of a shipped way to share the work, ddp by default, or a file of the user's. Raises BadInput."""
    shipped = Path(str(resources.files("pbt.training").joinpath("accelerate", f"{named or 'ddp'}.yaml")))
    if shipped.is_file():
        return shipped
    if named and Path(named).is_file():
        return Path(named)
    raise BadInput(f"accelerate: '{named}' is neither shipped ({', '.join(SHARED_OUT)}) nor a file")


def is_worker() -> bool:
    """Whether this process is one of several that were launched for a training."""
    return "LOCAL_RANK" in os.environ


def is_main() -> bool:
    """Whether this process is the one that speaks: the only one, or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0


def launch(arguments: Sequence[str], processes: int, accelerate: str | None) -> int:
    """Run ``pbt ARGUMENTS`` in ``processes`` processes on each node; returns the exit code. Raises BadInput.

    SIGUSR1 is handed on to the processes of this node, which stop as ``callbacks.StopOnSignal`` says.
    """
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    file, gpus = accelerate_file(accelerate), torch.cuda.device_count()
    if 0 < gpus < processes:
        raise BadInput(f"--gpus {processes}: this machine has {gpus}")
    nodes = slurm_nodes()
    options = ["--config_file", file, "--num_processes", processes * nodes.number, "--num_machines", nodes.number]
    options += ["--machine_rank", nodes.here, "--main_process_port", nodes.port]
    if nodes.main is not None:
        options += ["--main_process_ip", nodes.main]
    # Its account of which process failed first would bury what that process itself said.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        with _handing_on():
            launch_command(launch_command_parser().parse_args([*map(str, options), "--module", "pbt.cli", *arguments]))
    except SignalException as ended:
        if ended.sigval != signal.SIGTERM:
            raise
        return 4
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode in (4, -signal.SIGUSR1):  # stopped; or told to before it could listen
            return 4
        if failure.exitcode != 2:
            print(f"pbt: process {failure.local_rank} ended with exit code {failure.exitcode}", file=sys.stderr)
        return 2 if failure.exitcode == 2 else 1
    return 0


@contextmanager
def _handing_on() -> Iterator[None]:
    """Give SIGUSR1 to the workers; before there are any, it ends the command with exit code 4."""
    import psutil

    def hand_on(*_: object) -> None:
        workers = [child for child in psutil.Process().children() if "LOCAL_RANK" in child.environ()]
        if not workers:
            sys.exit(4)
        for worker in workers:
            worker.send_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, hand_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def slurm_nodes() -> Nodes:
    """The nodes of the SLURM step that this process is a task of; this machine alone outside of one."""
    count = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    if count == 1:
        return Nodes(1, 0, None, 0)
    if os.environ.get("SLURM_STEP_NUM_TASKS") != str(count):
        raise BadInput("--gpus: start one task on each node (srun --ntasks-per-node=1); it starts its own processes")
    main = os.environ.get("MASTER_ADDR") or os.environ.get("SLURM_LAUNCH_NODE_IPADDR")
    if not main:
        raise BadInput("--gpus: MASTER_ADDR is not set; export the address of the first node")
    # The same on all nodes, and another for each job on a node that is shared.
    port = int(os.environ.get("MASTER_PORT") or 20000 + int(os.environ["SLURM_JOB_ID"]) % 20000)
    return Nodes(count, int(os.environ["SLURM_NODEID"]), main, port)
