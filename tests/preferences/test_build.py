"""The stage end to end: trees on disk in, a dataset folder out."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pbt.config import REGIMES, PreferencesConfig
from pbt.debate.protocol import Protocol
from pbt.debate.tree import DebateTree
from pbt.errors import BadInput
from pbt.preferences.balance import split_of
from pbt.preferences.build import build_preferences, gather
from pbt.preferences.funnel import Funnel, funnel_table
from pbt.preferences.pairs import CODES, REASONS, SPLITS
from pbt.provenance import read_run

Debate = Callable[..., DebateTree]
StoreTrees = Callable[[Path, Sequence[DebateTree]], Path]
Build = Callable[..., Funnel]

CONFIG = PreferencesConfig()


def both_codes(debate: Debate, number: int) -> DebateTree:
    """A debate with one resist pair (3 over 4) and one accept pair (8 over 7), on a question of its own."""
    gold = f"Gold {number}"
    nested = (
        "Nice",
        (gold, ("Nice", "Disagree", "Agree")),
        ("Lyon", (gold, "Disagree", "Agree")),
    )
    return debate(nested, gold=gold, question=f"Which gold has number {number}?", tree_id=f"t{number:03d}")


@pytest.fixture(scope="module")
def trees(debate: Debate) -> list[DebateTree]:
    return [both_codes(debate, number) for number in range(60)]


@pytest.fixture(scope="module")
def build(protocol: Protocol, record: dict[str, Any]) -> Build:
    def call(paths: Sequence[Path], out: Path, config: PreferencesConfig = CONFIG, seed: int = 0) -> Funnel:
        return build_preferences(paths, out, config, protocol, seed, record)

    return call


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_from_trees_to_a_dataset_that_datasets_loads(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build, protocol: Protocol
) -> None:
    from datasets import load_dataset

    out = tmp_path / "prefs"
    funnel = build([store_trees(tmp_path / "trees", trees)], out)

    assert (funnel.trees, funnel.turns, funnel.candidates) == (60, 540, 180)
    # The two turns of level 1 score 3 and 4, which is gap enough, but their speaker has not spoken before.
    assert {reason: count for reason, count in funnel.rejected.items() if count} == {"context": 60}
    assert funnel.emitted == {"accept": 60, "resist": 60}
    assert funnel.to_dict() == orjson.loads((out / "funnel.json").read_bytes())

    pairs = {pair["pair_id"]: pair for pair in lines(out / "pairs.jsonl")}
    assert len(pairs) == 120
    for regime in REGIMES:
        loaded = load_dataset(str(out), regime, cache_dir=str(tmp_path / "cache"))
        assert set(loaded) == set(SPLITS)
        for split in SPLITS:
            rows = list(loaded[split])
            assert rows == [pairs[row["pair_id"]] for row in rows]
            assert {code: sum(row["code"] == code for row in rows) for code in CODES} == funnel.regimes[regime][split]
            assert {row["split"] for row in rows} == {split}

    one = pairs["t000/8-7"]
    assert one["code"] == "accept"
    assert [message["role"] for message in one["prompt"]] == ["user", "assistant", "user"]
    assert one["prompt"][0]["content"].startswith(protocol.personas[protocol.trained_persona])
    assert one["chosen"] == [{"role": "assistant", "content": "I say Agree."}]


def test_a_split_without_pairs_is_an_empty_file_and_does_not_stop_the_others_from_loading(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    from datasets import load_dataset

    train = [tree for tree in trees if split_of(tree.gold, CONFIG.split, 0) == "train"]
    build([store_trees(tmp_path / "trees", train[:4])], tmp_path / "prefs")
    loaded = load_dataset(str(tmp_path / "prefs"), "balanced", cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 4}
    empty, full = (pq.read_table(tmp_path / "prefs" / f"data/balanced/{name}.parquet") for name in ("valid", "train"))
    assert empty.num_rows == 0
    assert empty.schema == full.schema


def test_what_was_not_taken_is_reported_line_by_line(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    build([store_trees(tmp_path / "trees", trees)], tmp_path / "prefs")
    rejections = lines(tmp_path / "prefs" / "rejections.jsonl")
    assert rejections[0] == {"tree_id": "t000", "turns": [1, 5], "reason": "context", "duplicate_of": None}
    assert len(rejections) == 60


def test_a_duplicate_is_left_out_and_names_the_pair_that_stays(
    tmp_path: Path, debate: Debate, store_trees: StoreTrees, protocol: Protocol
) -> None:
    once = ("Paris", ("Lyon", ("Paris", "Disagree", "Agree")))
    twice_below = ("Paris", ("Lyon", ("Paris", "Disagree", "Agree"), ("Paris", "Disagree", "Agree")))
    trees = [debate(twice_below, tree_id="a"), debate(once, tree_id="b")]
    gathered = gather([store_trees(tmp_path / "trees", trees)], CONFIG, protocol, seed=0)

    assert [pair.pair_id for pair in gathered.pairs] == ["a/4-3"]
    duplicates = [rejection for rejection in gathered.rejections if rejection.reason == "duplicate"]
    assert [(found.tree_id, found.turns, found.duplicate_of) for found in duplicates] == [
        ("a", (6, 7), "a/4-3"),
        ("b", (3, 4), "a/4-3"),
    ]


def test_the_same_words_on_another_question_are_no_duplicate(
    tmp_path: Path, debate: Debate, store_trees: StoreTrees, protocol: Protocol
) -> None:
    nested = ("Paris", ("Lyon", ("Paris", "Disagree", "Agree")))
    trees = [debate(nested, tree_id="a"), debate(nested, tree_id="b", question="Which city has the Louvre?")]
    gathered = gather([store_trees(tmp_path / "trees", trees)], CONFIG, protocol, seed=0)
    assert [pair.pair_id for pair in gathered.pairs] == ["a/4-3", "b/4-3"]


def test_a_question_with_gold_values_of_two_splits_is_left_out(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, protocol: Protocol
) -> None:
    train = next(tree for tree in trees if split_of(tree.gold, CONFIG.split, 0) == "train")
    test = next(tree for tree in trees if split_of(tree.gold, CONFIG.split, 0) == "test")
    stored = [train, replace(test, question=train.question.upper()), trees[-1]]
    gathered = gather([store_trees(tmp_path / "trees", stored)], CONFIG, protocol, seed=0)
    assert {pair.tree_id for pair in gathered.pairs} == {trees[-1].tree_id}
    crossing = [rejection.tree_id for rejection in gathered.rejections if rejection.reason == "crossing"]
    assert crossing == [train.tree_id, train.tree_id, test.tree_id, test.tree_id]


def test_neither_the_order_of_files_nor_more_trees_move_a_question(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    one, other = store_trees(tmp_path / "one", trees[:30]), store_trees(tmp_path / "other", trees[30:])
    build([one], tmp_path / "half")
    build([one, other], tmp_path / "whole")
    build([other, one], tmp_path / "turned")

    def homes(folder: str) -> dict[str, str]:
        return {pair["pair_id"]: pair["split"] for pair in lines(tmp_path / folder / "pairs.jsonl")}

    assert homes("turned") == homes("whole")
    assert homes("half").items() < homes("whole").items()
    for regime in REGIMES:
        for split in SPLITS:
            file = f"data/{regime}/{split}.parquet"
            assert (tmp_path / "turned" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_the_card_tells_counts_origin_and_lengths(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build, record: dict[str, Any]
) -> None:
    out = tmp_path / "prefs"
    funnel = build([store_trees(tmp_path / "trees", trees)], out, seed=7)
    card = (out / "README.md").read_text()
    counts = funnel.regimes["balanced"]["train"]
    assert f"| balanced | train | {counts['accept']} | {counts['resist']} |" in card
    assert f"- configuration digest: {record['digest']}" in card
    assert "- seed: 7" in card
    assert "persuader, replier" in card
    # "I say Agree." and "I say Disagree." are three words each.
    assert "| accept | 60 | 3.0 | 3.0 |" in card
    assert read_run(out)["digest"] == record["digest"]


def test_the_funnel_table_shows_every_stage(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    funnel = build([store_trees(tmp_path / "trees", trees)], tmp_path / "prefs")
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(funnel_table(funnel))
    shown = console.export_text()
    for words in (*REASONS.values(), "sibling pairs", "preference pairs", "balanced: train"):
        assert words in shown
    (line,) = [line for line in shown.splitlines() if "preference pairs" in line]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == ["preference pairs", "60", "60", "120"]


def test_without_pairs_of_one_code_the_error_shows_the_funnel_and_the_counts_are_kept(
    tmp_path: Path, debate: Debate, store_trees: StoreTrees, build: Build
) -> None:
    only_accept = debate(("Paris", ("Lyon", ("Paris", "Disagree", "Agree"))))
    out = tmp_path / "prefs"
    with pytest.raises(BadInput) as raised:
        build([store_trees(tmp_path / "trees", [only_accept])], out)
    message = str(raised.value)
    assert "\n" not in message
    assert "found 1 accept and 0 resist (1 trees, 5 turns, 1 sibling pairs;" in message
    assert [pair["code"] for pair in lines(out / "pairs.jsonl")] == ["accept"]
    assert orjson.loads((out / "funnel.json").read_bytes())["emitted"] == {"accept": 1, "resist": 0}
    assert not (out / "run.json").exists()
    assert not (out / "README.md").exists()


def test_an_unfinished_build_is_built_anew(
    tmp_path: Path, trees: list[DebateTree], debate: Debate, store_trees: StoreTrees, build: Build
) -> None:
    out = tmp_path / "prefs"
    with pytest.raises(BadInput, match="no dataset"):
        build([store_trees(tmp_path / "few", [debate("Paris")])], out)
    build([store_trees(tmp_path / "many", trees)], out)
    assert len(lines(out / "pairs.jsonl")) == 120


def test_a_build_that_dies_leaves_nothing_that_looks_complete(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    out = tmp_path / "prefs"
    folder = store_trees(tmp_path / "trees", trees)
    build([folder], out)
    (out / "rejections.jsonl").unlink()
    (out / "rejections.jsonl").mkdir()  # so that writing fails half-way
    with pytest.raises(IsADirectoryError):
        build([folder], out)
    assert not (out / "run.json").exists()
    assert not (out / "README.md").exists()
    assert not (out / "data").exists()

    (out / "rejections.jsonl").rmdir()
    build([folder], out)
    assert (out / "run.json").exists()


def test_a_second_build_replaces_the_first_and_keeps_what_others_put_there(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    out = tmp_path / "prefs"
    build([store_trees(tmp_path / "all", trees)], out)
    (out / "notes.txt").write_text("mine")
    build([store_trees(tmp_path / "fewer", trees[:40])], out)
    assert len(lines(out / "pairs.jsonl")) == 80
    assert (out / "notes.txt").read_text() == "mine"


def test_a_folder_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    folder = store_trees(tmp_path / "trees", trees)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    # A folder of trees has a run.json too; it must not be taken for an earlier build.
    with pytest.raises(BadInput, match=r"holds something that is no earlier build of preferences"):
        build([folder], folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_trees_of_another_protocol_are_refused(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    folder = store_trees(tmp_path / "trees", [replace(trees[0], protocol="another")])
    with pytest.raises(BadInput, match="tree t000: it was grown under protocol 'another'"):
        build([folder], tmp_path / "prefs")
    assert not (tmp_path / "prefs").exists()


def test_two_different_trees_of_one_id_are_refused(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    folder = store_trees(tmp_path / "trees", [trees[0], replace(trees[1], tree_id="t000")])
    with pytest.raises(BadInput, match="tree t000: another tree of this id"):
        build([folder], tmp_path / "prefs")


def test_the_same_trees_twice_give_the_same_dataset_as_once(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    once = store_trees(tmp_path / "once", trees)
    shutil.copytree(once, tmp_path / "copy")
    build([once], tmp_path / "one")
    funnel = build([once, tmp_path / "copy"], tmp_path / "two")
    assert funnel.rejected["duplicate"] == 120
    assert lines(tmp_path / "one" / "pairs.jsonl") == lines(tmp_path / "two" / "pairs.jsonl")
