"""The whole pipeline as a user runs it: the commands, on the shipped pocket models, with real vLLM and real TRL."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pbt.config import load_config
from pbt.questions import load_questions
from pbt.store import read_trees

Pbt = Callable[..., subprocess.CompletedProcess[str]]
CONFIG = "configs/pocket.yaml"
FEW = ("--set", "questions.limit=60")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def test_trees_pairs_models_and_a_scorecard(pbt: Pbt, run: Path) -> None:
    grown = json.loads(pbt("generate", CONFIG, "--out", run / "trees", *FEW, "--json").stdout)
    assert grown["failed"] == 0
    trees = list(read_trees([run / "trees"]))
    assert len({tree.question_id for tree in trees}) == 60
    for tree in trees:
        assert 1 <= len(tree.turns) <= 21
        assert [turn.seat for turn in tree.path(tree.turns[-1].id)] == [0, 1, 0, 1][: tree.turns[-1].level + 1]

    again = json.loads(pbt("generate", CONFIG, "--out", run / "trees", *FEW, "--json").stdout)
    assert (again["owed"], again["done_before"]) == (0, 60)

    funnel = json.loads(pbt("build-prefs", run / "trees", "--out", run / "prefs", "--json").stdout)
    assert funnel["trees"] == 60
    for method in ("sft", "dpo"):
        told = json.loads(
            pbt(
                "train", method, CONFIG, "--regime", "balanced", "--out", run,
                "--set", f"{method}.trainer.max_steps=3", "--json",
            ).stdout
        )  # fmt: skip
        assert told[0]["steps"] == 3
    card = json.loads(
        pbt(
            "eval", "balanced", CONFIG, "--out", run, "--set", "eval.limit=10", "--json",
            "--model", "base=data/pocket/llama", "--model", f"balanced={run}/dpo-balanced",
        ).stdout
    )  # fmt: skip
    assert [model["name"] for model in card["models"]] == ["base", "balanced"]
    shown = pbt("scorecard", run / "eval" / "balanced").stdout
    assert "held" in shown
    assert "moved" in shown
    assert "balanced" in shown
    for record in (run / "trees", run / "prefs", run / "sft-balanced", run / "dpo-balanced"):
        made = json.loads((record / "run.json").read_text())
        assert made["digest"]
        assert made["version"]
        assert made["seed"] == 0
        assert made["models"] == {"llama": "data/pocket/llama", "mistral": "data/pocket/mistral"}


def test_other_settings_are_refused_for_the_same_trees(pbt: Pbt, run: Path) -> None:
    done = pbt("generate", CONFIG, "--out", run / "trees", *FEW, "--set", "protocol.sampling.temperature=1", check=2)
    assert "protocol.sampling.temperature: 0.7 -> 1" in done.stderr
    assert done.stderr.count("\n") == 1


def test_killed_in_the_middle_it_goes_on_where_it_stopped(pbt: Pbt, data: Path, run: Path) -> None:
    """Kill -9 while trees are written, then resume: every question once, no torn line, the trees of a run in one go."""
    out = run / "killed"
    command = [sys.executable, "-m", "pbt.cli", "generate", CONFIG, "--out", str(out), *FEW]
    command += ["--set", "generate.concurrency=4"]
    process = subprocess.Popen(command, cwd=data.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shard = out / "shard-0000-of-0001.jsonl"
    deadline = time.monotonic() + 300
    while not shard.exists() or shard.read_bytes().count(b"\n") < 10:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with shard.open("ab") as file:
        file.write(b'{"format": 1, "tree_id": "torn')  # as a kill in the middle of a write leaves it
    before = shard.read_bytes().count(b"\n")
    assert before < 60

    told = json.loads(pbt("generate", CONFIG, "--out", out, *FEW, "--json").stdout)
    assert (told["done_before"], told["owed"]) == (before, 60 - before)
    resumed = {tree.question_id: tree for tree in read_trees([out])}
    whole = {tree.question_id: tree for tree in read_trees([run / "trees"])}
    assert resumed.keys() == whole.keys()
    # The batch a request shares moves its logits in the last bits, so now and then a sampled token differs.
    same = sum(resumed[name].turns[0].text == whole[name].turns[0].text for name in whole)
    assert same >= 55


def test_shards_grow_the_trees_of_the_whole(pbt: Pbt, data: Path, run: Path) -> None:
    out = run / "sharded"
    few = ("--set", "questions.limit=12")
    for index in range(2):
        pbt("generate", CONFIG, "--out", out, "--shard", f"{index}/2", *few)
    config = load_config(data.parent / CONFIG, ["questions.limit=12", f"questions.source={data}/questions.json"])
    wanted = {question.id for question in load_questions(config.questions, config.seed)}
    grown = [tree.question_id for tree in read_trees([out])]
    assert sorted(grown) == sorted(wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "configs/nowhere.yaml"], "configs/nowhere.yaml: no such file"),
        (["generate", CONFIG, "--set", "sedd=1"], "sedd: unknown key; did you mean 'seed'?"),
        (["generate", CONFIG, "--shard", "4/4"], "expected I/N with 0 <= I < N"),
        (["generate", CONFIG, "--set", "questions.source=nowhere.json"], "nowhere.json: no such file of questions"),
        (["generate", CONFIG, "--set", "questions.source=data/no.json"], "are there after 'pbt data unpack'"),
        (["build-prefs", "nowhere", "--out", "x"], "nowhere"),
        (["train", "dpo", CONFIG, "--regime", "blanced"], "unknown regime; known: accept, resist, balanced"),
        (["train", "sft", CONFIG, "--out", "nowhere"], "nowhere"),
        (["eval", "balanced", CONFIG, "--model", "data/pocket/llama"], "expected NAME=PATH"),
        (["scorecard", "nowhere.json"], "nowhere.json: no such"),
        (["data", "unpack", "nowhere.tar.gz"], "nowhere.tar.gz: no such archive"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(pbt: Pbt, arguments: list[str], message: str) -> None:
    done = pbt(*arguments, check=2)
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr
    assert done.stdout == ""


def test_a_level_of_the_log_that_there_is_none_of_is_one_line(pbt: Pbt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PBT_LOG", "loud")
    done = pbt("data", "verify", check=2)
    assert done.stderr == "pbt: PBT_LOG=loud: no such level; known: DEBUG, INFO, WARNING, ERROR, CRITICAL\n"
