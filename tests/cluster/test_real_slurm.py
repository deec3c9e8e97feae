"""The jobs on a real SLURM, with the pocket models: killed, timed out, refused, cancelled, and over Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pbt.store import read_trees
from slurm_cluster import ask, until

Pbt = Callable[..., subprocess.CompletedProcess[str]]

GREEDY = ("--set", "protocol.sampling.temperature=0")
ONE_BY_ONE = ("--set", "generate.concurrency=1")
"""Slow enough to be caught in the middle. How many trees grow at once is no part of what they are."""

pytestmark = pytest.mark.usefixtures("slurm")


def status(pbt: Pbt, run: str) -> list[dict[str, object]]:
    return json.loads(pbt("slurm", "status", run, "--json").stdout)["tasks"]


def trees(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("shard-????-of-????.jsonl"))


def in_queue() -> bool:
    return bool(ask("squeue", "--noheader"))


def test_a_killed_shard_is_owed_and_resubmitted_and_all_merge_to_what_one_process_grows(pbt: Pbt, data: Path) -> None:
    home = data.parent
    grown = home / "trees" / "sharded"
    few = ("--set", "name=sharded", "--set", "questions.limit=100", *GREEDY)
    submitted = pbt(
        *("slurm", "submit", "generate", "configs/pocket.yaml", "--shards", 4, "--json"),
        *(*few, *ONE_BY_ONE, "--set", "slurm.throttle=2"),
    )
    job = json.loads(submitted.stdout)["submitted"][0]["job"]

    shard = grown / "shard-0001-of-0004.jsonl"
    until(lambda: shard.exists() and shard.read_bytes().count(b"\n") > 1, "the second shard grows", 300)
    subprocess.run(["scancel", "--signal=KILL", f"{job}_1"], check=True)
    until(lambda: not in_queue(), "all jobs have ended", 180)

    tasks = status(pbt, "runs/sharded")
    assert [task["state"] for task in tasks] == ["DONE", "OWED", "DONE", "DONE"]
    assert [task["owed"] == 0 for task in tasks] == [True, False, True, True]
    assert sum(task["done"] + task["owed"] for task in tasks) == 100
    assert all(task["turns_per_second"] > 0 and "trees" in task["last_line"] for task in tasks)

    again = json.loads(pbt("slurm", "resubmit", "runs/sharded", "--json").stdout)["submitted"]
    assert [array["tasks"] for array in again] == [[1]]
    until(lambda: not in_queue(), "the resubmitted job has ended", 300)
    tasks = status(pbt, "runs/sharded")
    assert [(task["state"], task["owed"], task["restarts"]) for task in tasks] == [
        ("DONE", 0, 0),
        ("DONE", 0, 1),
        ("DONE", 0, 0),
        ("DONE", 0, 0),
    ]
    assert "nothing to submit" in pbt("slurm", "resubmit", "runs/sharded").stderr

    pbt("trees", "merge", grown, "--out", home / "trees" / "merged")
    pbt("generate", "configs/pocket.yaml", "--out", home / "trees" / "whole", *few)
    merged, whole = (
        {tree.question_id: tree for tree in read_trees([home / "trees" / name])} for name in ("merged", "whole")
    )
    assert len(whole) == 100
    assert merged == whole


def test_a_job_at_its_time_limit_requeues_itself_and_goes_on_but_stays_cancelled(pbt: Pbt, data: Path) -> None:
    grown = data.parent / "trees" / "timed"
    # SIGUSR1 comes 25 seconds before the end of the one minute that is SLURM's shortest limit.
    limits = ("slurm.time='1'", "slurm.grace=25", "generate.grace=1", "name=timed")
    sets = [word for value in limits for word in ("--set", value)]
    submitted = pbt("slurm", "submit", "generate", "configs/pocket.yaml", "--json", *sets, *ONE_BY_ONE)
    job = json.loads(submitted.stdout)["submitted"][0]["job"]
    log = data.parent / "runs" / "timed" / "slurm" / "logs" / f"generate-{job}_0.log"
    until(lambda: log.exists() and "requeues itself" in log.read_text(), "the job requeues itself", 90)
    before = trees(grown)
    until(lambda: "restart 1" in log.read_text(), "the job starts again", 60)
    until(lambda: trees(grown) > before, "the job goes on", 60)

    (task,) = status(pbt, "runs/timed")
    assert (task["state"], task["restarts"]) == ("RUNNING", 1)
    assert f"{job}_0" in pbt("slurm", "cancel", "runs/timed").stdout
    until(lambda: not in_queue(), "the job has ended", 60)
    time.sleep(6)  # as long as a job that requeues itself would wait
    (task,) = status(pbt, "runs/timed")
    assert (task["state"], task["detail"]) == ("OWED", "CANCELLED")
    ids = [tree.question_id for tree in read_trees([grown])]
    assert len(ids) == len(set(ids)) == task["done"] > 0


def test_a_training_that_is_told_to_stop_requeues_itself_and_goes_on(pbt: Pbt, data: Path, checkout: Path) -> None:
    home = data.parent
    pbt("build-prefs", checkout / "trees" / "sample", "--out", "runs/told/prefs", "--config", "configs/pocket.yaml")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    few = ("max_steps=60", "save_steps=5", "per_device_train_batch_size=4")
    told = subprocess.run(
        ["sbatch", "--parsable", "--array=2", "--cpus-per-task=1", str(checkout / "slurm" / "train.sbatch")]
        + ["sft", "configs/pocket.yaml", "--prefs", "runs/told/prefs", "--out", "runs/told"]
        + [word for setting in few for word in ("--set", f"sft.trainer.{setting}")],
        cwd=home,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    task = f"{told.stdout.strip()}_2"
    log = home / f"pbt-train-{task}.log"
    first = home / "runs/told/.sft-balanced.partial/checkpoints/checkpoint-5/whole"
    until(first.exists, "the first checkpoint is there", 300)
    subprocess.run(["scancel", "--batch", "--signal=USR1", task], check=True)
    until(lambda: "requeues itself" in log.read_text(), "the job requeues itself", 30)
    until(lambda: not in_queue(), "the job has started again and ended", 300)
    said = log.read_text()
    assert "ends with exit code 4" in said and "restart 1" in said
    assert "going on from runs/told/.sft-balanced.partial/checkpoints/checkpoint-" in said
    assert said.rstrip().endswith("ends with exit code 0")
    assert (home / "runs/told/sft-balanced/model.safetensors").is_file()


def test_ray_over_two_nodes_loses_one_and_every_tree_is_grown(pbt: Pbt, data: Path) -> None:
    settings = {
        "name": "ray",
        "questions.limit": 60,
        "seats": "[llama, llama]",
        "models.llama.ray": "{address: auto, replicas: 2, num_cpus: 1, wait: 10}",
        "slurm.partition": "both",
        "slurm.nodes": 2,
        "slurm.cpus": 1,
        "slurm.time": "'10'",
    }
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    pbt("slurm", "submit", "generate", "configs/pocket.yaml", *sets, *GREEDY, *ONE_BY_ONE)
    grown = data.parent / "trees" / "ray"
    until(lambda: trees(grown) > 2, "trees grow on both nodes", 150)
    lost = processes_of("two")
    assert lost
    for process in lost:
        os.kill(process, signal.SIGKILL)
    assert trees(grown) < 60
    until(lambda: not in_queue(), "the job has ended", 300)
    (task,) = status(pbt, "runs/ray")
    assert (task["state"], task["done"], task["failed"], task["restarts"]) == ("DONE", 60, 0, 0)
    assert not processes_of("one")


def processes_of(node: str) -> list[int]:
    """The processes of Ray that run under a node's slurmd."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if f"SLURMD_NODENAME={node}".encode() in environment and b"ray" in command:
            found.append(int(process.name))
    return found


def test_a_chain_whose_first_job_fails_is_resubmitted_whole(pbt: Pbt, data: Path) -> None:
    sets = ("--set", "name=chain", "--set", "questions.limit=4", "--set", "slurm.setup=['test -f go']")
    submitted = json.loads(pbt("slurm", "submit", "all", "configs/pocket.yaml", "--json", *sets).stdout)["submitted"]
    stages = ["generate", "build-prefs", "sft", "dpo", "eval"]
    assert [array["stage"] for array in submitted] == stages
    until(lambda: not in_queue(), "SLURM has given up on what waits for the failed job", 60)
    tasks = status(pbt, "runs/chain")
    assert [task["stage"] for task in tasks] == ["generate", "build-prefs", *["sft"] * 3, *["dpo"] * 3, "eval"]
    assert {task["state"] for task in tasks} == {"OWED"}
    assert [task["detail"] for task in tasks][:2] == ["FAILED", "CANCELLED"]

    again = json.loads(pbt("slurm", "resubmit", "runs/chain", "--json").stdout)["submitted"]
    assert [array["stage"] for array in again] == stages
    pbt("slurm", "cancel", "runs/chain")
    until(lambda: not in_queue(), "all that was cancelled is gone", 60)


def test_what_the_cluster_refuses_is_said_before_anything_is_submitted(pbt: Pbt, data: Path) -> None:
    sets = ("--set", "name=refused", "--set", "questions.limit=4")
    wrong = pbt("slurm", "submit", "all", "configs/pocket.yaml", *sets, "--set", "slurm.dpo.partition=gpus", check=2)
    assert wrong.stderr.count("\n") == 1
    assert "dpo: accept resist balanced: refused by sbatch" in wrong.stderr
    assert "nvalid partition" in wrong.stderr and "the cluster has both, one" in wrong.stderr
    much = pbt("slurm", "submit", "generate", "configs/pocket.yaml", *sets, "--set", "slurm.cpus=64", check=2)
    assert "configuration is not available" in much.stderr
    assert not (data.parent / "runs" / "refused" / "slurm" / "jobs.jsonl").exists()
    assert not in_queue()


def test_the_plain_scripts_run_by_hand(pbt: Pbt, data: Path, checkout: Path) -> None:
    """Preferences of no trees: the command runs in the job, and what it has to say is in the log."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        ["sbatch", "--wait", str(checkout / "slurm" / "build-prefs.sbatch"), "trees/none", "--out", "runs/none/prefs"],
        cwd=data.parent,
        env={**os.environ, "PATH": path},
        check=False,
    )
    (log,) = data.parent.glob("pbt-build-prefs-*.log")
    assert "pbt: trees/none: no such file or folder of trees" in log.read_text()
    assert "ends with exit code 2" in log.read_text()
