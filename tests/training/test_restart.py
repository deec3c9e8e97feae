"""A training that ended early: what it keeps, and that the same command makes of it what it would have become."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback

from pbt.config import RunConfig, load_config
from pbt.errors import BadInput, Stopped
from pbt.training.attempt import whole_checkpoints
from pbt.training.dpo import train_dpo
from pbt.training.sft import prepare_sft, sft_trainer, train_sft
from pbt.training.stage import train_and_save

EPOCHS = {"max_steps": -1, "num_train_epochs": 15, "per_device_train_batch_size": 2, "save_strategy": "steps"}
"""Four steps an epoch, sixty in all, a checkpoint every six: inside an epoch as often as at the end of one."""


def command(*arguments: object) -> subprocess.Popen[bytes]:
    """``pbt train ARGUMENTS`` as a process."""
    line = [sys.executable, "-m", "pbt.cli", "train", *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def until_there(process: subprocess.Popen[bytes], path: Path) -> None:
    """Wait for a training to write a file."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read().decode()
        time.sleep(0.002)


def tell_after(process: subprocess.Popen[bytes], checkpoint: Path) -> str:
    """Send a training SIGUSR1 as soon as it has written a checkpoint; what it had to say when it has ended."""
    until_there(process, checkpoint / "whole")
    process.send_signal(signal.SIGUSR1)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 4, told.decode()
    return told.decode()


def kill_after(process: subprocess.Popen[bytes], checkpoint: Path) -> None:
    """Kill a training, and all its processes, as soon as it has written a checkpoint."""
    until_there(process, checkpoint / "whole")
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.kill()
    process.wait()


def reported_steps(folder: Path) -> list[int]:
    reports = [orjson.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    return [report["step"] for report in reports if "loss" in report]


def test_killed_inside_an_epoch_the_same_command_ends_with_the_same_weights(
    write_yaml: Callable[..., Path], prefs: Path, tmp_path: Path
) -> None:
    # With dropout, so that the state of the random generator matters as well as the order of the pairs.
    path = write_yaml(sft={"lora": {"r": 4, "alpha": 8, "dropout": 0.1}, "trainer": EPOCHS})
    home, whole = tmp_path / "killed", tmp_path / "whole"
    same = ("sft", path, "--regime", "balanced", "--prefs", prefs, "--out", home)
    partial = home / ".sft-balanced.partial"
    kill_after(command(*same), partial / "checkpoints/checkpoint-30")
    torn = partial / "checkpoints/checkpoint-60"
    shutil.copytree(partial / "checkpoints/checkpoint-30", torn, ignore=shutil.ignore_patterns("whole", "*.json"))

    process = command(*same)
    train_sft(load_config(path), "balanced", prefs, whole / "sft-balanced")
    _, told = process.communicate()
    assert process.returncode == 0, told.decode()
    assert b"going on from" in told

    ours, theirs = (load_file(folder / "sft-balanced/adapter/adapter_model.safetensors") for folder in (home, whole))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert reported_steps(home / "sft-balanced") == reported_steps(whole / "sft-balanced") == list(range(1, 61))
    assert not partial.exists()


@pytest.mark.parametrize("at", [7, 8, 12], ids=["inside an epoch", "at its end", "in the last step"])
def test_told_to_stop_it_saves_and_goes_on_as_if_it_had_not_been(
    at: int, write_config: Callable[..., RunConfig], prefs: Path, tmp_path: Path
) -> None:
    each = {"save_strategy": "epoch", "eval_strategy": "epoch", "save_total_limit": None}
    config = write_config(sft={"trainer": {**EPOCHS, **each, "num_train_epochs": 3}})
    before = signal.getsignal(signal.SIGUSR1)
    ready = prepare_sft(config, "balanced", prefs, tmp_path / "told")
    trainer = sft_trainer(ready)
    trainer.add_callback(_Tell(at))
    if at < 12:
        with pytest.raises(Stopped):
            train_and_save(trainer, ready)
        saved = whole_checkpoints(tmp_path / ".told.partial/checkpoints")
        assert [int(path.name.partition("-")[2]) for path in saved] == sorted({4, at})
        train_sft(config, "balanced", prefs, tmp_path / "told")
    else:  # what is left is short
        train_and_save(trainer, ready)
    assert signal.getsignal(signal.SIGUSR1) is before

    train_sft(config, "balanced", prefs, tmp_path / "whole")
    told, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("told", "whole"))
    assert told.keys() == whole.keys()
    assert all(told[name].equal(whole[name]) for name in told)
    reports = [
        [
            {key: value for key, value in orjson.loads(line).items() if key in ("step", "loss", "eval_loss")}
            for line in (tmp_path / name / "metrics.jsonl").read_bytes().splitlines()
        ]
        for name in ("told", "whole")
    ]
    assert reports[0] == reports[1]


def test_a_command_told_to_stop_ends_with_exit_code_4(
    write_yaml: Callable[..., Path], prefs: Path, tmp_path: Path
) -> None:
    same = ("sft", write_yaml(sft={"trainer": EPOCHS}), "--regime", "balanced", "--prefs", prefs, "--out", tmp_path)
    checkpoints = tmp_path / ".sft-balanced.partial/checkpoints"
    told = tell_after(command(*same), checkpoints / "checkpoint-6")
    assert "saved, and the same command goes on" in told and "Traceback" not in told
    step = int(whole_checkpoints(checkpoints)[-1].name.partition("-")[2])
    assert reported_steps(checkpoints.parent) == list(range(1, step + 1))
    assert 6 <= step < 60


def test_two_processes_sharded_told_to_stop_and_killed_end_as_one_that_was_not(
    write_yaml: Callable[..., Path], prefs: Path, sft_model: Path, tmp_path: Path
) -> None:
    balanced = {"items": 1, "batch_size": 1}
    trainer = {**EPOCHS, "learning_rate": 0.001, "num_train_epochs": 6}
    alone = write_yaml(dpo={"trainer": {**trainer, "per_device_train_batch_size": 4}, "balanced": balanced})
    path = write_yaml(dpo={"trainer": trainer, "balanced": balanced, "accelerate": "fsdp2"})
    home = tmp_path / "killed"
    shutil.copytree(sft_model, home / "sft-balanced")
    same = ("dpo", path, "--regime", "balanced", "--prefs", prefs, "--out", home, "--processes", 2)
    checkpoints = home / ".dpo-balanced.partial/checkpoints"
    said = tell_after(command(*same), checkpoints / "checkpoint-2")
    assert said.count("saved, and the same command goes on") == 1 and "Traceback" not in said
    kill_after(command(*same), checkpoints / "checkpoint-8")
    process = command(*same)
    out = tmp_path / "dpo-balanced"
    train_dpo(load_config(alone), "balanced", prefs, out, home / "sft-balanced")
    _, told = process.communicate()
    assert process.returncode == 0, told.decode()
    assert told.count(b"going on from") == 1, "one process speaks for all"

    ours, theirs = (
        [orjson.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
        for folder in (home / "dpo-balanced", out)
    )
    for key in ("loss", "rewards/margins", "eval_loss", "eval_balanced"):
        found = [report[key] for report in ours if key in report]
        assert found == pytest.approx([report[key] for report in theirs if key in report], abs=1e-4), key
        assert len(found) == (12 if key in ("loss", "rewards/margins") else 6)
    assert ours[0]["rewards/margins"] == pytest.approx(0, abs=1e-5), "the reference is the same on both processes"
    shards, whole = (load_file(folder / "model.safetensors") for folder in (home / "dpo-balanced", out))
    assert shards.pop("lm_head.weight").equal(shards["model.embed_tokens.weight"]), "tied, and gathered as both"
    assert shards.keys() == whole.keys()
    assert all(shards[name].allclose(whole[name], atol=1e-3) for name in shards)


def test_an_unfinished_training_under_another_configuration_is_refused(
    write_config: Callable[..., RunConfig], prefs: Path, tmp_path: Path
) -> None:
    def section(**trainer: Any) -> dict[str, Any]:
        return {"trainer": {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, **trainer}}

    out = tmp_path / "sft"
    ready = prepare_sft(write_config(sft=section()), "balanced", prefs, out)
    trainer = sft_trainer(ready)
    trainer.add_callback(_Interrupt(at=3))
    with pytest.raises(KeyboardInterrupt):
        train_and_save(trainer, ready)
    with pytest.raises(BadInput) as caught:
        train_sft(write_config(sft=section(learning_rate=0.02)), "balanced", prefs, out)
    assert "another configuration (sft.trainer.learning_rate: 0.01 -> 0.02)" in str(caught.value)
    assert train_sft(write_config(sft=section()), "balanced", prefs, out).metrics["steps"] == 4
    # Checkpoints that were asked for stay.
    assert [path.name for path in whole_checkpoints(out / "checkpoints")] == ["checkpoint-3", "checkpoint-4"]


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_last_good_checkpoint(
    write_config: Callable[..., RunConfig], prefs: Path, tmp_path: Path
) -> None:
    # The first step of the warm-up changes nothing, the second ruins the weights, the third meets them.
    trainer = {"learning_rate": 1e30, "warmup_steps": 9, "lr_scheduler_type": "linear"}
    saving = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None}
    with pytest.raises(BadInput, match=r"sft: the \w+ became nan at step 3 of 12; .* kept: .*checkpoint-1\. Lower"):
        train_sft(write_config(sft={"trainer": {**trainer, **saving}}), "balanced", prefs, tmp_path / "sft")
    assert not (tmp_path / "sft").exists()
    kept = whole_checkpoints(tmp_path / ".sft.partial/checkpoints")
    assert [path.name for path in kept] == ["checkpoint-1"], "the second holds the ruined weights"


def test_what_a_training_left_without_a_checkpoint_is_no_obstacle(
    write_config: Callable[..., RunConfig], prefs: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"Lower sft\.trainer\.learning_rate"):
        train_sft(write_config(sft={"trainer": {"learning_rate": 1e30}}), "balanced", prefs, tmp_path / "sft")
    assert train_sft(write_config(), "balanced", prefs, tmp_path / "sft").folder.is_dir()


def test_a_full_disk_is_named_and_nothing_saved_is_lost(
    write_config: Callable[..., RunConfig], prefs: Path, tmp_path: Path
) -> None:
    config = write_config(sft={"trainer": {"save_strategy": "steps", "save_steps": 4}})
    ready = prepare_sft(config, "balanced", prefs, tmp_path / "sft")
    trainer = sft_trainer(ready)
    trainer.add_callback(_FullDisk(Path(ready.args.output_dir) / "checkpoint-8"))
    with pytest.raises(BadInput, match=r"no space left to save at step 8; .* it goes on from .*checkpoint-4$"):
        train_and_save(trainer, ready)
    assert train_sft(config, "balanced", prefs, tmp_path / "sft").metrics["steps"] == 12


def test_too_little_space_for_the_checkpoints_is_refused_before_the_first_step(
    write_config: Callable[..., RunConfig], prefs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(sft={"trainer": {"save_strategy": "steps"}})
    ready = prepare_sft(config, "balanced", prefs, tmp_path / "sft")
    monkeypatch.setattr("pbt.training.stage.shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(2, 1, 1))
    with pytest.raises(BadInput, match=r"3 checkpoints of 0\.0 GiB need more than the 0\.0 GiB that are free"):
        train_and_save(sft_trainer(ready), ready)


def test_an_error_that_is_no_full_disk_stays_what_it_is(
    write_config: Callable[..., RunConfig], prefs: Path, tmp_path: Path
) -> None:
    ready = prepare_sft(write_config(), "balanced", prefs, tmp_path / "sft")
    trainer = sft_trainer(ready)
    trainer.add_callback(_Raise(PermissionError(errno.EACCES, "no")))
    with pytest.raises(PermissionError):
        train_and_save(trainer, ready)


class _Interrupt(TrainerCallback):
    def __init__(self, at: int) -> None:
        self._at = at

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._at:
            raise KeyboardInterrupt


class _Tell(TrainerCallback):
    def __init__(self, at: int) -> None:
        self._at = at

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self._at:
            os.kill(os.getpid(), signal.SIGUSR1)


class _Raise(TrainerCallback):
    def __init__(self, error: Exception) -> None:
        self._error = error

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise self._error


class _FullDisk(TrainerCallback):
    """Has the optimizer of one checkpoint written to the device that is always full."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._checkpoint.mkdir(parents=True)
        (self._checkpoint / "optimizer.pt").symlink_to("/dev/full")
