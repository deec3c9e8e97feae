"""All evaluations together: inputs first, each model loaded once, results in one form; and the real thing."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import pytest

from capitals import CAPITALS, WritePrefs, pair
from pbt.cli.evaluate import COMMANDS
from pbt.config import RunConfig
from pbt.debate.chat import Message
from pbt.engines.base import Engine
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput
from pbt.evaluation.result import read_result
from pbt.evaluation.run import run
from pbt.evaluation.scorecard import read_results, scorecard
from pbt.evaluation.suite import EVALUATIONS
from pbt.pocket.misinformation import write_claims


def capitals(messages: Sequence[Message], seed: int) -> str:
    """Knows the five capitals and nothing else; never changes its mind."""
    known = [gold for country, gold in CAPITALS.items() if country in messages[0]["content"]]
    return f"It is {known[0]}." if known else "I have no idea."


def agrees(messages: Sequence[Message], seed: int) -> str:
    return capitals(messages, seed) if len(messages) == 1 else "I agree with you."


class House:
    """Engines by name, with a log of what was loaded and released."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.loaded: dict[str, Engine] = {}

    def get(self, name: str) -> Engine:
        if name not in self.loaded:
            self.log.append(f"load {name}")
            self.loaded[name] = ScriptedEngine(agrees if name == "models/agrees" else capitals)
        return self.loaded[name]

    def release(self, name: str) -> None:
        self.log.append(f"release {name}")
        self.loaded.pop(name, None)


@pytest.fixture
def ready(config: RunConfig, tmp_path: Path) -> RunConfig:
    """The run about capitals, with claims to be misled by."""
    write_claims(tmp_path / "misinformation.jsonl")
    told = config.eval.misinformation.model_copy(update={"sources": (str(tmp_path / "misinformation.jsonl"),)})
    return config.model_copy(update={"eval": config.eval.model_copy(update={"misinformation": told, "limit": 4})})


MODELS = {"base": "models/base", "agrees": "models/agrees"}


def evaluate(config: RunConfig, chosen: Sequence[str], prefs: Path, home: Path, house: House) -> list[Path]:
    return run(config, chosen, MODELS, house.get, house.release, prefs, home, lambda title: lambda done, total: None)


def test_all_evaluations_write_results_of_one_form(ready: RunConfig, prefs: Path, tmp_path: Path) -> None:
    house = House()
    paths = evaluate(ready, list(COMMANDS), prefs, tmp_path / "run", house)
    assert len(paths) == 2 * 7 + 1
    assert house.log == ["load mistral", "load models/base", "load models/agrees"]
    for path in paths:
        result = read_result(path)
        assert path.parent.name == result.evaluation
        record = result.written["record"]
        assert record["stage"] == f"eval {result.evaluation}" and record["config"]["name"] == "capitals"
        assert result.written["counts"]["failed"] == 0 and result.written["metrics"]
    card = scorecard(read_results([tmp_path / "run"]))
    assert [part.evaluation for part in card.parts] == list(EVALUATIONS)
    assert [column.name for column in card.columns] == ["base", "agrees"]
    held = {part.evaluation: part.rows for part in card.parts}["balanced"][0].cells
    assert held["base"].value is not None and held["base"].value.value == 1
    assert held["agrees"].value is not None and held["agrees"].value.value == 0


def test_without_teams_a_model_is_released_before_the_next_is_loaded(
    ready: RunConfig, prefs: Path, tmp_path: Path
) -> None:
    house = House()
    evaluate(ready, ["balanced", "flipflop", "pressure"], prefs, tmp_path / "run", house)
    names = ("models/base", "models/agrees")
    assert house.log == [f"{what} {name}" for name in names for what in ("load", "release")]


def test_nothing_is_loaded_for_inputs_that_are_missing(ready: RunConfig, tmp_path: Path) -> None:
    house = House()
    with pytest.raises(BadInput, match=r"test\.parquet: no such file"):
        evaluate(ready, ["flipflop", "balanced"], tmp_path, tmp_path / "run", house)
    with pytest.raises(BadInput, match="a team is of two models"):
        run(
            ready,
            ["teams"],
            {"base": "m"},
            house.get,
            house.release,
            tmp_path,
            tmp_path,
            lambda title: lambda d, t: None,
        )
    assert house.log == []


def test_arguments_and_predictors_of_an_earlier_run_are_heard_again(
    ready: RunConfig, prefs: Path, tmp_path: Path
) -> None:
    chosen = ["adversary", "predictors"]
    first, second = House(), House()
    paths = evaluate(ready, chosen, prefs, tmp_path / "run", first)
    before = [read_result(path).items_sha256 for path in paths]
    paths = evaluate(ready, chosen, prefs, tmp_path / "run", second)
    assert [read_result(path).items_sha256 for path in paths] == before
    assert "load mistral" in first.log and "load mistral" not in second.log


def test_skipped_records_are_in_the_counts(ready: RunConfig, prefs: Path, tmp_path: Path) -> None:
    with (tmp_path / "capitals.jsonl").open("a") as file:
        file.write('{"context": "No answer?", "answer": ""}\nnot json\n')
    (path, _) = evaluate(ready, ["are-you-sure"], prefs, tmp_path / "run", House())
    assert orjson.loads(path.read_bytes())["counts"]["skipped records"] == 2


def test_all_evaluations_on_the_pocket_models_by_one_command(
    pbt: Callable[..., "subprocess.CompletedProcess[str]"], write_prefs: WritePrefs, data: Path, tmp_path: Path
) -> None:
    prefs = write_prefs([pair(country, code) for country in CAPITALS for code in ("resist", "accept")])
    claims = tmp_path / "claims.jsonl"
    pbt("pocket", "misinformation", "--out", claims)
    home = tmp_path / "run"
    done = pbt(
        "eval", "all", "configs/pocket.yaml", "--prefs", prefs, "--out", home, "--json",
        "--model", "base=data/pocket/llama", "--model", "other=data/pocket/mistral",
        "--set", "eval.limit=6", "--set", f"eval.misinformation.sources=[{claims}]",
        "--set", "eval.adversary.arguments=2", "--set", "eval.predictors.samples=3",
    )  # fmt: skip
    card = orjson.loads(done.stdout)
    assert list(card["evaluations"]) == list(EVALUATIONS)
    for evaluation in card["evaluations"].values():
        for counts in evaluation["counts"].values():
            assert counts["failed"] == 0 and counts["items"] > 0
    html = tmp_path / "card.html"
    shown = pbt("scorecard", home, "--html", html).stdout
    assert "Misinformation (FARM)" in shown and "<svg" in html.read_text()
    items = home / "eval" / "balanced" / "base.items.jsonl"
    assert orjson.loads(pbt("eval", "rescore", items, "--json").stdout)["changed"] == []
    assert "all metrics" in pbt("eval", "rescore", items).stdout
