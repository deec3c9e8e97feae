"""The commands as a user calls them: build, compare, explain."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import ray
import yaml
from click.testing import Result
from typer.testing import CliRunner

from pbt.cli import app
from pbt.config import ModelConfig, RunConfig
from pbt.debate.tree import DebateTree
from pbt.engines.base import Engine
from pbt.errors import BadInput

Debate = Callable[..., DebateTree]
StoreTrees = Callable[[Path, Sequence[DebateTree]], Path]


@pytest.fixture(scope="module")
def folder(
    debate: Debate,
    both_codes: Callable[[int], DebateTree],
    store_trees: StoreTrees,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Twenty debates with a textbook pair of each code, and one that only the released rules take for a pair."""
    both_right = debate(("Lyon", ("Nice", ("Lyon", "Paris", "Agree"))), tree_id="found/alone")
    return store_trees(tmp_path_factory.mktemp("runs") / "trees", [*(both_codes(i) for i in range(20)), both_right])


def invoke(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if not isinstance(done.exception, BadInput):  # which main() turns into a message
        assert done.exit_code == code, done.output
    return done


@pytest.fixture(scope="module")
def prefs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "prefs"
    invoke("build-prefs", folder, "--out", out)
    return out


def test_a_build_prints_the_funnel_and_takes_the_configuration_of_the_trees(folder: Path, tmp_path: Path) -> None:
    done = invoke("build-prefs", folder, "--out", tmp_path / "prefs")
    assert "preference pairs" in done.stdout
    assert [line.split(",")[0] for line in done.stderr.splitlines()] == [
        "walking trees: 21 trees (100% of the bytes)",
        "settling pairs: 40/40 pairs",
        "writing tables: 84/84 rows",
    ]
    assert f"dataset: {tmp_path / 'prefs'}" in done.stdout
    record = orjson.loads((tmp_path / "prefs" / "run.json").read_bytes())
    assert (record["name"], record["stage"], record["trees"]) == ("few", "preferences", [str(folder)])


def test_rules_and_settings_can_be_named_on_the_command_line(folder: Path, run: RunConfig, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({**run.model_dump(mode="json"), "seed": 4}))
    done = invoke(
        *("build-prefs", folder, "--out", tmp_path / "prefs", "--config", config, "--json"),
        *("--rules", "released", "--set", "preferences.released_gap=0.4", "--workers", 2),
    )
    assert json.loads(done.stdout)["emitted"] == {"accept": 21, "resist": 20}
    pairs = [orjson.loads(line) for line in (tmp_path / "prefs" / "pairs.jsonl").read_bytes().splitlines()]
    assert {pair["rules"] for pair in pairs} == {"released"}
    assert orjson.loads((tmp_path / "prefs" / "run.json").read_bytes())["seed"] == 4


def test_a_filter_can_be_set_where_the_trees_configuration_has_none(folder: Path, tmp_path: Path) -> None:
    assert orjson.loads((folder / "run.json").read_bytes())["config"]["preferences"]["filter"] is None
    refused = invoke("build-prefs", folder, "--out", tmp_path / "p", "--set", "preferences.filter.model=nobody")
    assert "preferences.filter.model: no model 'nobody' under models" in str(refused.exception)


def test_workers_on_a_ray_cluster_write_the_same_bytes(
    folder: Path, prefs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.shutdown()  # a cluster of this process that other tests have left
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        done = invoke("build-prefs", folder, "--out", tmp_path / "prefs", "--workers", 2)
        assert "walking trees: 21 trees (100% of the bytes), 40 pairs, " in done.stderr
        for name in ("pairs.jsonl", "rejections.jsonl", "funnel.json", "data/balanced/train.parquet"):
            assert (tmp_path / "prefs" / name).read_bytes() == (prefs / name).read_bytes()

        (tmp_path / "odd").mkdir()
        tree = {**orjson.loads((folder / "shard-0000-of-0001.jsonl").read_bytes().splitlines()[0]), "protocol": "odd"}
        (tmp_path / "odd" / "trees.jsonl").write_bytes(orjson.dumps(tree) + b"\n")
        config = ("--config", tmp_path / "run.yaml")
        config[1].write_bytes(orjson.dumps(orjson.loads((folder / "run.json").read_bytes())["config"]))
        error = invoke("build-prefs", tmp_path / "odd", "--out", tmp_path / "no", "--workers", 2, *config).exception
        assert str(error).startswith("tree t000: it was grown under protocol 'odd'")
    finally:
        ray.shutdown()


def test_neither_out_nor_compare_is_refused(folder: Path) -> None:
    assert "--out: is missing" in str(invoke("build-prefs", folder).exception)


def test_compare_counts_what_only_one_rule_set_has_by_reason(folder: Path, tmp_path: Path) -> None:
    found = json.loads(invoke("build-prefs", folder, "--compare", "released", "--json").stdout)
    assert found == {
        "rules": ["intended", "released"],
        "trees": 21,
        "skipped": 0,
        "both": {"accept": 0, "resist": 20},
        "only": [
            {"rules": "intended", "code": "accept", "why": "gap", "pairs": 20},
            {"rules": "released", "code": "accept", "why": "code", "pairs": 1},
        ],
    }
    by_two = invoke("build-prefs", folder, "--compare", "released", "--json", "--workers", 2)
    assert json.loads(by_two.stdout) == found
    assert "walking trees: 21 trees (100% of the bytes), 41 pairs, " in by_two.stderr
    shown = invoke("build-prefs", folder, "--compare", "released").stdout
    assert "only intended" in shown and "released: scores too close" in shown
    assert "these are the rules in use" in str(invoke("build-prefs", folder, "--compare", "intended").exception)


def test_compare_names_a_line_that_is_no_tree_or_refuses_it(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = tmp_path / "noise.jsonl"
    noise.write_bytes(b"noise\n")
    found = invoke("build-prefs", folder, noise, "--compare", "released", "--json", code=3)
    assert (json.loads(found.stdout)["trees"], json.loads(found.stdout)["skipped"]) == (21, 1)
    assert f"skipped {noise} line 1: not" in caplog.text
    refused = invoke("build-prefs", folder, noise, "--compare", "released", "--strict")
    assert f"{noise} line 1: not" in str(refused.exception)


def test_compare_tells_when_the_two_choose_the_other_turn_or_have_the_other_code(
    debate: Debate, store_trees: StoreTrees, tmp_path: Path
) -> None:
    # "The Paris" is right only as intended; with its article among the aliases "The Lyon" only as released.
    other_turn = debate(("Rome", ("Paris", ("Rome", "The Paris", "The Lyon"))))
    other_code = debate(("Rome", ("The Lyon", ("Paris", "Paris", "Nice"))), tree_id="code")
    trees = [replace(tree, aliases=("paris", "the lyon")) for tree in (other_turn, other_code)]
    folder = store_trees(tmp_path / "trees", trees)
    set_gap = ("--set", "preferences.released_gap=0.4")
    found = json.loads(invoke("build-prefs", folder, "--compare", "released", "--json", *set_gap).stdout)
    assert found["both"] == {"accept": 0, "resist": 0}
    assert [tuple(only.values()) for only in found["only"]] == [
        ("intended", "accept", "the other code", 1),
        ("intended", "resist", "the other turn chosen", 1),
        ("released", "resist", "the other code", 1),
        ("released", "resist", "the other turn chosen", 1),
    ]


def test_explain_shows_a_pair_as_a_person_would_read_it(prefs: Path) -> None:
    shown = " ".join(invoke("prefs", "explain", "t000/8-7", "--prefs", prefs).stdout.split())
    for words in (
        "t000/8-7: accept",
        "Which gold has number 0?",
        "the speaker, turn 5, then holds “Lyon” I say Lyon.",
        "the partner, turn 6, standard, then holds “Gold 0” I say Gold 0.",
        "chosen: turn 8, standard, score 2, then holds “Gold 0” I say Agree.",
        "rejected: turn 7, standard, score 1, then holds “Lyon” I say Disagree.",
        "intended accept: speaker was wrong, partner right",
        "scores 2 against 1: a relative gap of 0.50",
    ):
        assert words in shown


def test_what_a_model_wrote_cannot_steer_the_terminal(
    both_codes: Callable[[int], DebateTree], store_trees: StoreTrees, tmp_path: Path
) -> None:
    trees = [both_codes(i) for i in range(20)]
    turns = tuple(replace(turn, text=f"{turn.text}\x1b[2J\nSo.") for turn in trees[0].turns)
    folder = store_trees(tmp_path / "trees", [replace(trees[0], turns=turns), *trees[1:]])
    invoke("build-prefs", folder, "--out", tmp_path / "prefs")
    shown = invoke("prefs", "explain", "t000/8-7", "--prefs", tmp_path / "prefs").stdout
    assert "\x1b[2J" not in shown
    assert "I say Agree.\\x1b[2J" in shown and "\n  So." in shown


def test_explain_says_why_two_siblings_are_no_pair(prefs: Path) -> None:
    for turns in ("1-5", "5-1"):
        shown = invoke("prefs", "explain", f"t000/{turns}", "--prefs", prefs).stdout
        assert "t000, turns 1 and 5: no pair: no earlier turn of speaker and partner" in " ".join(shown.split())
    # A slash in the id of a tree is no end of it.
    shown = invoke("prefs", "explain", "found/alone/3-4", "--prefs", prefs).stdout
    assert "found/alone, turns 3 and 4: no pair: neither resisting nor accepting" in " ".join(shown.split())


def test_explain_names_ids_that_are_like_an_unknown_one(prefs: Path, tmp_path: Path) -> None:
    def refusal(*arguments: object) -> str:
        return str(invoke("prefs", "explain", *arguments).exception)

    assert "those of its tree are t000/3-4, t000/8-7" in refusal("t000/3-8", "--prefs", prefs)
    assert "trees with pairs: 't001'" in refusal("t0001/3-4", "--prefs", prefs)
    assert "none like it" in refusal("nonsense", "--prefs", prefs)
    assert "name a folder that 'pbt build-prefs' wrote" in refusal("t000/3-4", "--prefs", tmp_path)


def test_a_real_model_filters_and_is_not_asked_again(
    data: Path, folder: Path, run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pocket model on vLLM: what it says is nothing to go by, that it is asked and heard is."""
    engine = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512}
    table = {
        **run.model_dump(mode="json"),
        "models": {"persuader": {"path": "one"}, "replier": {"path": str(data / "pocket" / "llama"), "engine": engine}},
        "preferences": {"filter": {"model": "replier"}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(table))
    out = tmp_path / "prefs"

    def build() -> tuple[dict[str, Any], bytes]:
        # It ends with BadInput where too little is confirmed, which this model may well do.
        invoke("build-prefs", folder, "--config", tmp_path / "run.yaml", "--out", out)
        return orjson.loads((out / "funnel.json").read_bytes()), (out / "verdicts.jsonl").read_bytes()

    funnel, verdicts = build()
    assert funnel["rejected"]["unanswered"] == 0
    assert funnel["rejected"]["unconfirmed"] + sum(funnel["emitted"].values()) == 40
    odds = [orjson.loads(line)["log_odds"] for line in verdicts.splitlines()]
    assert len(odds) >= 80
    assert len(set(odds)) > 10

    def refuse(model: ModelConfig) -> Engine:
        raise AssertionError("everything is known, so no model is loaded")

    monkeypatch.setattr("pbt.engines.load.load_engine", refuse)
    assert build() == (funnel, verdicts)
