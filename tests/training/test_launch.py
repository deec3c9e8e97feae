"""Several processes: how they are started on one machine and on many, and what they say when something is wrong."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pbt.cli import app
from pbt.errors import BadInput
from pbt.training.launch import SHARED_OUT, Nodes, accelerate_file, slurm_nodes


def test_every_shipped_way_is_a_file(tmp_path: Path) -> None:
    assert {accelerate_file(way).stem for way in SHARED_OUT} == set(SHARED_OUT)
    assert accelerate_file(None) == accelerate_file("ddp")
    own = tmp_path / "own.yaml"
    own.touch()
    assert accelerate_file(str(own)) == own
    with pytest.raises(BadInput, match=r"'fsdp' is neither shipped \(ddp, fsdp2, zero3\) nor a file"):
        accelerate_file("fsdp")


def test_nodes_are_read_from_the_slurm_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm_nodes() == Nodes(1, 0, None, 0)
    step = {
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NODEID": "1",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
        "SLURM_JOB_ID": "123456",
    }
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    assert slurm_nodes() == Nodes(2, 1, "10.0.0.7", 23456)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    with pytest.raises(BadInput, match="start one task on each node"):
        slurm_nodes()


def test_what_is_wrong_is_said_once_whatever_the_number_of_processes(
    write_yaml: Callable[..., Path], prefs: Path, tmp_path: Path
) -> None:
    path = write_yaml(sft={"trainer": {"max_length": 16}})
    arguments = ("sft", path, "--regime", "balanced", "--prefs", prefs, "--out", tmp_path, "--processes", "2")
    line = [sys.executable, "-m", "pbt.cli", "train", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("8 of 8 pairs are longer than the trainer's max_length, 16 tokens") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--accelerate", "ddp"), "--accelerate: 'ddp' is how several processes share the work, and there is one"),
        (("--set", "sft.accelerate=fsdp2"), "sft.accelerate: 'fsdp2' is how several processes share the work"),
        (("--gpu-memory", "24"), "--gpu-memory: is what a plan is held against; add --plan"),
    ],
)
def test_what_one_process_would_ignore_is_refused(
    options: tuple[str, str], said: str, write_yaml: Callable[..., Path], prefs: Path, tmp_path: Path
) -> None:
    arguments = map(str, ("train", "sft", write_yaml(), "--prefs", prefs, "--out", tmp_path, *options))
    with pytest.raises(BadInput) as caught:
        app(args=list(arguments), standalone_mode=False)
    assert str(caught.value).startswith(said)
