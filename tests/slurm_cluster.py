"""A SLURM of two nodes on this machine, started for the tests as whoever runs them: munged, slurmctld, two slurmd."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
CredType=cred/munge
# A job that requeues itself waits until its credential has expired: two minutes, unless told otherwise.
AuthInfo=socket={home}/munge/socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd-%n.log
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=2,batch_sched_delay=1
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=one Nodes=one Default=YES MaxTime=INFINITE State=UP
PartitionName=both Nodes=one,two MaxTime=INFINITE State=UP
"""


@contextmanager
def cluster() -> Iterator[Path]:
    """The cluster; yields its configuration, which SLURM_CONF names to every command."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    programs = {name: shutil.which(name, path=path) for name in ("munged", "slurmctld", "slurmd", "sbatch", "scancel")}
    missing = [name for name, found in programs.items() if not found]
    assert not missing, f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge"
    # Not pytest's folder: the name of a socket may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, ExitStack() as daemons:
        home = Path(folder)
        home.chmod(0o755)  # munged wants its socket to be within reach of everybody
        (home / "munge").mkdir(mode=0o755)
        (home / "state").mkdir()
        key = home / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        host = socket.gethostname().partition(".")[0]
        conf = home / "slurm.conf"
        conf.write_text(CONF.format(home=home, host=host, user=getpass.getuser(), ports=_free_ports(3)))

        def start(name: str, *arguments: str) -> None:
            log = daemons.enter_context((home / f"{name}.out").open("ab"))
            command = [str(programs[name]), *arguments]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            daemons.callback(_end, process)

        munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        with patch.dict(os.environ, SLURM_CONF=str(conf)):
            start("munged", "--foreground", *(f"--{option}={home}/munge/{name}" for option, name in munge.items()))
            until(lambda: (home / "munge" / "socket").exists(), "munged is there", 20)
            start("slurmctld", "-D", "-c")
            for node in ("one", "two"):
                start("slurmd", "-D", "-N", node)
            nodes = ("sinfo", "--noheader", "--Node", "--format=%T")
            until(lambda: set(ask(*nodes).split()) == {"idle"}, "all nodes are idle", 60)
            try:
                yield conf
            finally:
                ask("scancel", f"--user={getpass.getuser()}")
                until(lambda: not ask("squeue", "--noheader"), "the queue is empty", 60)


def until(true: Callable[[], object], what: str, seconds: float, every: float = 0.2) -> None:
    """Wait for something to become true, and fail when it does not in time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(every)


def ask(*command: str) -> str:
    """What a command of SLURM says; nothing while it cannot."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:  # slurmd waits long for a slurmctld that never answered
        daemon.kill()
        daemon.wait()


def _free_ports(count: int) -> Sequence[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
