"""The whole of it: one short replication from trees to claims, and what must hold of its files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pbt import replication
from pbt.config import REGIMES, load_config
from pbt.data import MANIFEST
from pbt.debate.answers import normalise
from pbt.errors import BadInput
from pbt.pipeline import Pipeline
from pbt.store import read_trees

OWN = """
name: own
questions: {source: own.jsonl}
protocol: trivia-debate
seats: [mistral, llama]
models: {llama: {path: my/llama}, mistral: {path: my/mistral}}
eval: {misinformation: {sources: [farm.jsonl]}}
"""
"""A run on one's own models and questions."""
ROOT = Path(__file__).resolve().parents[1]
SHORT = [
    part
    for override in ("seed=7", "eval.limit=60", "eval.adversary.arguments=2", "eval.predictors.samples=2")
    for part in ("--set", override)
]


def replicate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pbt.cli", "replicate", "--quick", "--seeds", "1", "--out", str(folder)]
    return subprocess.run([*command, *SHORT, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replication")
    done = replicate(folder, "--json")
    assert done.returncode in (0, 3), done.stderr
    (folder / "stdout.json").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "stdout.json").read_text())
    return found


def rows(folder: Path, regime: str, split: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "seed-7/prefs/data" / regime / f"{split}.parquet").to_pylist()
    return found


def test_the_effect_shows_in_its_directions(told: dict[str, Any]) -> None:
    """Sizes are for the full run; but if any stage breaks the method, these turn round."""
    metrics = told["scorecard"]["evaluations"]["balanced"]["metrics"]
    held, moved, both = (
        {m: c["value"] for m, c in metrics[key]["models"].items()} for key in ("held", "moved", "balanced")
    )
    assert held["accept"] < held["base"] < held["resist"]
    assert moved["resist"] < moved["base"] < moved["accept"]
    assert both["balanced"] > max(both["base"], both["accept"], both["resist"])


def test_every_part_of_every_claim_is_measured(told: dict[str, Any]) -> None:
    assert {part["claim"] for part in told["claims"]} == set("abcd")
    for part in told["claims"]:
        assert part["verdict"] in ("holds", "smaller than its target", "not shown", "fails"), part
        assert part["difference"]["low"] <= part["difference"]["value"] <= part["difference"]["high"]


def test_nothing_held_out_is_in_a_training_pair(folder: Path) -> None:
    """No question, no gold value, no context of an evaluation."""
    trained = [row for regime in REGIMES for row in rows(folder, regime, "train")]
    tested = [row for regime in REGIMES for row in rows(folder, regime, "test")]
    assert trained and tested
    for what in (
        lambda row: row["question_id"],
        lambda row: normalise(row["gold"]),
        lambda row: row["question"],
        lambda row: json.dumps(row["prompt"]),
    ):
        assert not {what(row) for row in trained} & {what(row) for row in tested}


@pytest.mark.parametrize("evaluation", ["are-you-sure", "flipflop", "misinformation", "pressure", "adversary", "teams"])
def test_no_evaluation_asks_what_a_pair_was_about(folder: Path, evaluation: str) -> None:
    golds = {normalise(row["gold"]) for regime in REGIMES for row in rows(folder, regime, "train")}
    questions = {row["question"] for regime in REGIMES for row in rows(folder, regime, "train")}
    name = "teams" if evaluation == "teams" else "balanced"
    lines = (folder / "seed-7/eval" / evaluation / f"{name}.items.jsonl").read_text().splitlines()
    assert lines
    for line in lines:
        item = json.loads(line)["item"]
        assert not set(item["aliases"]) & golds and item["question"] not in questions, item["id"]


def test_all_regimes_hold_as_many_pairs(folder: Path) -> None:
    for split in ("train", "valid", "test"):
        assert len({len(rows(folder, regime, split)) // 2 for regime in REGIMES}) == 1
    codes = [row["code"] for row in rows(folder, "balanced", "train")]
    assert codes.count("accept") == codes.count("resist")


def test_the_pages_say_what_made_them_and_need_no_network(folder: Path) -> None:
    markdown, html = ((folder / f"replication.{kind}").read_text() for kind in ("md", "html"))
    for text in ("pbt replicate", "best on balanced data", "held when right", "Misinformation"):
        assert text in markdown
    assert "The claims" in html and "default-src 'none'" in html


def test_started_again_it_has_nothing_left_to_do_and_says_the_same(folder: Path, told: dict[str, Any]) -> None:
    trees = len(list(read_trees([folder / "seed-7/trees"])))
    again = replicate(folder, "--json")
    assert again.returncode == (3 if told["failed"] else 0), again.stderr
    assert json.loads(again.stdout) == told
    assert "train sft" not in again.stderr and "eval all" not in again.stderr
    assert len(list(read_trees([folder / "seed-7/trees"]))) == trees


def test_told_to_stop_it_takes_the_command_that_it_runs_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pbt.cli", "replicate", "--quick", "--seeds", "1", "--out", str(tmp_path)]

    def running() -> list[Path]:
        return [path for path in Path("/proc").glob("[0-9]*") if str(tmp_path).encode() in cmdline(path)]

    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        for _ in range(600):
            if len(running()) > 1:
                break
            time.sleep(0.1)
        process.terminate()
    assert process.returncode == -signal.SIGTERM
    for _ in range(100):
        if not running():
            break
        time.sleep(0.1)
    assert not running()


def cmdline(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # gone since it was listed
        return b""


def test_a_folder_of_another_configuration_is_refused(folder: Path) -> None:
    other = replicate(folder, "--set", "dpo.pairs=200")
    assert other.returncode == 2
    assert "holds a replication of another configuration: dpo.pairs: 240 -> 200" in other.stderr


class Commands(list[tuple[str, ...]]):
    """The commands of a replication that are only written down."""

    together = 0
    most = 0

    def take(self, _: Pipeline, name: str, *arguments: str) -> None:
        self.together += 1
        self.most = max(self.most, self.together)
        time.sleep(0.01)
        self.append(arguments)
        self.together -= 1


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """A folder with a run of one's own, to be in."""
    commands = Commands()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pipeline, "run", lambda *arguments: commands.take(*arguments))
    asked = [{"context": f"What is number {n}?", "answer": f"number {n}", "aliases": []} for n in range(100)]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    appeals = {"target": "no", "control": "It is not."}
    appeals |= dict.fromkeys(("logical", "emotional", "credibility"), ["Oh no."] * 3)
    Path("farm.jsonl").write_text(json.dumps({"question": "Is 2 prime?", "answer": True, "adv": appeals}))
    Path("my.yaml").write_text(OWN)
    return commands


def refusal(**changes: Any) -> str:
    table = {"seeds": 1, "quick": False, "with_ablations": False, "jobs": None, "overrides": [], **changes}
    with pytest.raises(BadInput) as caught:
        replication.replicate(Path("my.yaml"), Path("out"), command="", console=Console(quiet=True), **table)
    return str(caught.value)


def test_with_a_gpu_one_command_runs_at_a_time(own: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "_gpus", lambda: 1)
    refusal(seeds=3)  # of the results, which nobody has written
    assert len(own) == 3 * 9 and own.most == 1


@pytest.mark.parametrize("student", [[], ["sft.model=llama", "dpo.model=llama"]])
def test_the_partner_is_the_other_model(own: Commands, student: list[str]) -> None:
    refusal(overrides=student)
    trainings = [command for command in own if command[0] == "train" and "out/seed-0/partner" in command]
    assert [command[1] for command in trainings] == ["sft", "dpo"]
    for command in trainings:
        run = load_config(Path("my.yaml"), [value for key, value in pairwise(command) if key == "--set"])
        assert run.trained("sft").path == run.trained("dpo").path == "my/mistral"


def test_another_student_than_that_of_the_second_seat_is_refused(own: Commands) -> None:
    said = refusal(overrides=["dpo.model=mistral"])
    assert said.startswith("dpo.model: 'mistral' is not the model of the second seat, 'llama'")
    assert not own and not Path("out").exists()


def test_what_one_process_cannot_train_is_refused_before_the_first_seed(
    own: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(overrides=["dpo.accelerate=fsdp2"]).startswith("dpo.accelerate: 'fsdp2' shares a training out")
    monkeypatch.setattr(replication, "_gpus", lambda: 4)
    assert refusal().startswith("a replication trains on one GPU, and 4 are seen")
    assert not own


def test_what_the_evaluations_read_is_missed_before_the_first_seed(own: Commands) -> None:
    assert "none.jsonl: no such file" in refusal(overrides=["eval.misinformation.sources=[none.jsonl]"])
    assert "chian" in refusal(overrides=["eval.teams.protocol=chian"])
    assert "calm" in refusal(overrides=["eval.adversary.personas=[calm]"])
    assert not own and not Path("out").exists()


def test_shipped_data_is_unpacked_for_an_evaluation_alone(own: Commands) -> None:
    refusal(overrides=["eval.misinformation.sources=[data/misinformation.jsonl]"])
    assert own and Path("data", MANIFEST).is_file()


def test_ablations_of_other_questions_are_refused_before_the_first_seed(own: Commands) -> None:
    said = refusal(with_ablations=True)
    assert said.startswith("own.jsonl: question '000000' is no fact of the pocket world")
    assert not own and not Path("out").exists()


def test_pairs_are_built_as_the_configuration_says_now(own: Commands) -> None:
    refusal(overrides=["preferences.min_gap=0.3"])
    built = [command for command in own if command[0] == "build-prefs"]
    assert len(built) == 2
    for command in built:
        assert "--config my.yaml" in " ".join(command) and "preferences.min_gap=0.3" in command
