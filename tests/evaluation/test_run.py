"""All evaluations together: inputs first, each model loaded once, results in one form; and the real thing."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import pytest

from capitals import CAPITALS, WritePrefs, pair
from pbt.cli.evaluate import COMMANDS, _Engines
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
    return with_eval(config, misinformation=told, limit=4)


def with_eval(config: RunConfig, **settings: object) -> RunConfig:
    return config.model_copy(update={"eval": config.eval.model_copy(update=settings)})


MODELS = {"base": "models/base", "agrees": "models/agrees"}


def evaluate(config: RunConfig, chosen: Sequence[str], prefs: Path, home: Path, house: House) -> list[Path]:
    return run(config, chosen, MODELS, house.get, house.release, prefs, home, lambda title: lambda done, total: None)


def test_all_evaluations_write_results_of_one_form(ready: RunConfig, prefs: Path, tmp_path: Path) -> None:
    house = House()
    paths = evaluate(ready, list(COMMANDS), prefs, tmp_path / "run", house)
    assert len(paths) == 2 * 7 + 1
    alone = [f"{what} {name}" for name in ("mistral", "models/base") for what in ("load", "release")]
    assert house.log[:6] == [*alone, "load models/agrees", "load models/base"]
    assert house.loaded == {}
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


def test_teams_have_no_more_than_two_models_loaded_and_first_answers_are_asked_once(
    ready: RunConfig, tmp_path: Path
) -> None:
    asked: list[tuple[str, str]] = []

    class Street(House):
        def get(self, name: str) -> Engine:
            if name not in self.loaded:
                assert len(self.loaded) < 2

                def script(messages: Sequence[Message], seed: int) -> str:
                    if len(messages) == 1:
                        asked.append((name, messages[0]["content"]))
                    return capitals(messages, seed)

                self.loaded[name] = ScriptedEngine(script)
            return self.loaded[name]

    house = Street()
    (path,) = run(
        ready, ["teams"], {"a": "models/a", "b": "models/b"}, house.get, house.release, tmp_path, tmp_path,
        lambda title: lambda done, total: None, {"p": "models/p", "q": "models/q"},
    )  # fmt: skip
    assert house.loaded == {}
    assert len(asked) == len(set(asked)) == 4 * 4  # four models, four questions
    result = read_result(path)
    assert [r.item["models"] for r in result.records[:4]] == [["a", "p"], ["p", "a"], ["a", "q"], ["q", "a"]]
    columns = {column.name: column.paths for column in scorecard([result]).columns}
    assert columns == {name: (f"models/{name}",) for name in "apqb"}


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
    told = ready.eval.teams.model_copy(update={"protocol": "chian"})
    with pytest.raises(BadInput, match=r"eval\.teams\.protocol: 'chian'"):
        evaluate(with_eval(ready, teams=told), ["flipflop", "teams"], tmp_path, tmp_path / "run", house)
    rude = ready.eval.adversary.model_copy(update={"personas": ("rude",)})
    with pytest.raises(BadInput, match=r"no persona 'rude'"):
        evaluate(with_eval(ready, adversary=rude), ["adversary"], tmp_path, tmp_path / "run", house)
    assert house.log == []


def test_the_folders_and_names_of_all_models_are_checked_first(
    pbt: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    def refused(*models: str) -> str:
        return " ".join(
            pbt("eval", "flipflop", "configs/pocket.yaml", "--out", tmp_path, *models, check=2).stderr.split()
        )

    base = ("--model", "base=data/pocket/llama")
    assert "data/typo: no such model folder" in refused(*base, "--model", "dpo=data/typo")
    assert "--model org/dpo=x: 'org/dpo' will name a file" in refused(*base, "--model", "org/dpo=x")
    assert "--partner dpo=: expected NAME=PATH" in refused(*base, "--partner", "dpo=")


def test_an_adapter_alone_is_served_on_the_base_that_it_was_trained_on(ready: RunConfig, tmp_path: Path) -> None:
    adapter = tmp_path / "dpo" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "models/base"}')
    model = _Engines(ready)._model(str(tmp_path / "dpo"))
    assert (model.path, model.adapter, model.engine) == ("models/base", str(adapter), {})
    own_template = ready.model_copy(update={"dpo": ready.dpo.model_copy(update={"chat_template": "own.jinja"})})
    model = _Engines(own_template)._model(str(tmp_path / "dpo"))
    assert model.engine == {"tokenizer": str(tmp_path / "dpo")}
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match=r"adapter_config\.json: no base model in it"):
        _Engines(ready)._model(str(tmp_path / "dpo"))


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
