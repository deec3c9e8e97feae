"""The stage end to end: trees on disk in, a dataset folder out."""

from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from pbt.config import REGIMES, PreferencesConfig
from pbt.debate.protocol import Protocol
from pbt.debate.tree import DebateTree
from pbt.errors import BadInput
from pbt.preferences.funnel import Funnel, funnel_table
from pbt.preferences.gather import Counts, gather
from pbt.preferences.pairs import CODES, REASONS, SPLITS
from pbt.preferences.progress import Phase
from pbt.preferences.walk import Walk
from pbt.provenance import read_run
from pbt.questions import split_of

Debate = Callable[..., DebateTree]
StoreTrees = Callable[[Path, Sequence[DebateTree]], Path]
Build = Callable[..., Funnel]

SHARES = PreferencesConfig().split


@pytest.fixture(scope="module")
def trees(both_codes: Callable[[int], DebateTree]) -> list[DebateTree]:
    return [both_codes(number) for number in range(60)]


@pytest.fixture
def gathered(tmp_path: Path, protocol: Protocol, store_trees: StoreTrees) -> Callable[..., Path]:
    """Pairs and rejections of trees before balancing, as files in a folder."""

    def walk(trees: Sequence[DebateTree], **preferences: Any) -> Path:
        folder = tmp_path / "gathered"
        folder.mkdir()
        config = PreferencesConfig(**preferences)
        with gather(
            Walk(config, {protocol.name: protocol}, seed=0), [store_trees(tmp_path / "trees", trees)], folder, Counts()
        ):
            return folder

    return walk


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

    train = [tree for tree in trees if split_of(tree.gold, SHARES, 0) == "train"]
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


def test_a_duplicate_is_left_out_and_names_the_pair_that_stays(gathered: Callable[..., Path], debate: Debate) -> None:
    once = ("Paris", ("Lyon", ("Paris", "Disagree", "Agree")))
    twice_below = ("Paris", ("Lyon", ("Paris", "Disagree", "Agree"), ("Paris", "Disagree", "Agree")))
    found = gathered([debate(twice_below, tree_id="a"), debate(once, tree_id="b")])

    assert [pair["pair_id"] for pair in lines(found / "pairs.jsonl")] == ["a/4-3"]
    duplicates = [fall for fall in lines(found / "rejections.jsonl") if fall["reason"] == "duplicate"]
    assert [(fall["tree_id"], fall["turns"], fall["duplicate_of"]) for fall in duplicates] == [
        ("a", [6, 7], "a/4-3"),
        ("b", [3, 4], "a/4-3"),
    ]


def test_the_same_words_on_another_question_are_no_duplicate(gathered: Callable[..., Path], debate: Debate) -> None:
    nested = ("Paris", ("Lyon", ("Paris", "Disagree", "Agree")))
    found = gathered([debate(nested, tree_id="a"), debate(nested, tree_id="b", question="Which city has the Louvre?")])
    assert [pair["pair_id"] for pair in lines(found / "pairs.jsonl")] == ["a/4-3", "b/4-3"]


def test_a_question_with_gold_values_of_two_splits_is_left_out(
    gathered: Callable[..., Path], trees: list[DebateTree]
) -> None:
    train = next(tree for tree in trees if split_of(tree.gold, SHARES, 0) == "train")
    test = next(tree for tree in trees if split_of(tree.gold, SHARES, 0) == "test")
    found = gathered([train, replace(test, question=train.question.upper()), trees[-1]])
    assert {pair["tree_id"] for pair in lines(found / "pairs.jsonl")} == {trees[-1].tree_id}
    crossing = [fall["tree_id"] for fall in lines(found / "rejections.jsonl") if fall["reason"] == "crossing"]
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
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    out = tmp_path / "prefs"
    funnel = build([store_trees(tmp_path / "trees", trees)], out, seed=7, licence="cc-by-4.0")
    card = (out / "README.md").read_text()
    counts = funnel.regimes["balanced"]["train"]
    assert f"| balanced | train | {counts['accept']} | {counts['resist']} |" in card
    assert f"- configuration digest: {read_run(out)['digest']}" in card
    assert "- seed: 7" in card
    assert "persuader, replier" in card
    # "I say Agree." and "I say Disagree." are three words each.
    assert "| accept | 60 | 3.00 | 3.00 | 0.50 |" in card
    assert "- source model replier: other" in card
    assert "- rule set: intended" in card
    assert yaml.safe_load(card.split("---")[1])["license"] == "cc-by-4.0"


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
    with pytest.raises(BadInput, match="tree t000: two trees of this id, with different texts"):
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


def dataset_bytes(out: Path) -> dict[str, bytes]:
    """All files that a build wrote, but for the two that say when."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(out)): path.read_bytes() for path in files if path.name not in ("run.json", "README.md")
    }


def test_two_workers_write_the_same_bytes_as_one(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    # Several files, and more lines than one batch: the copies are duplicates, each of an earlier line.
    one = store_trees(tmp_path / "trees", trees)
    many = tmp_path / "many.jsonl"
    many.write_bytes((one / "shard-0000-of-0001.jsonl").read_bytes() * 10 + b"{torn")
    for workers in (1, 2):
        build([one, many], tmp_path / f"by-{workers}", workers=workers)
    alone = dataset_bytes(tmp_path / "by-1")
    assert alone == dataset_bytes(tmp_path / "by-2")
    assert len(alone["rejections.jsonl"].splitlines()) == 11 * 60 + 10 * 120


@pytest.mark.parametrize("workers", [1, 2])
def test_each_phase_is_announced_and_ends_with_all_of_it_done(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build, workers: int
) -> None:
    folder = store_trees(tmp_path / "trees", trees)
    phases: list[Phase] = []
    begun: list[int] = []

    def progress(phase: Phase) -> None:
        phases.append(phase)
        begun.append(phase.done)

    funnel = build([folder], tmp_path / "prefs", workers=workers, progress=progress)
    size = (folder / "shard-0000-of-0001.jsonl").stat().st_size
    rows = sum(sum(counts.values()) for splits in funnel.regimes.values() for counts in splits.values())
    assert phases == [
        Phase("bytes", total=size, done=size, trees=60, pairs=120),
        Phase("pairs", total=120, done=120),
        Phase("rows", total=rows, done=rows),
    ]
    assert begun == [0, 0, 0]


def test_a_pipe_is_read_though_its_size_is_unknown(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    folder = store_trees(tmp_path / "trees", trees)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    feeding = threading.Thread(target=lambda: pipe.write_bytes((folder / "shard-0000-of-0001.jsonl").read_bytes()))
    feeding.start()
    phases: list[Phase] = []
    assert build([pipe], tmp_path / "prefs", progress=phases.append).trees == 60
    feeding.join()
    assert (phases[0].total, phases[0].trees) == (None, 60)


def test_rejections_can_be_left_out(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    folder = store_trees(tmp_path / "trees", trees)
    build([folder], tmp_path / "out")
    before = lines(tmp_path / "out" / "pairs.jsonl")
    funnel = build([folder], tmp_path / "out", rejections=False)
    assert not (tmp_path / "out" / "rejections.jsonl").exists()
    assert funnel.rejected["context"] == 60
    assert lines(tmp_path / "out" / "pairs.jsonl") == before


def test_a_build_leaves_no_passing_files(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    build([store_trees(tmp_path / "trees", trees)], tmp_path / "prefs")
    assert {path.name for path in (tmp_path / "prefs").iterdir()} == {
        *("README.md", "run.json", "funnel.json", "pairs.jsonl", "rejections.jsonl", "dataset_dict.json"),
        *("data", "jsonl", *REGIMES),
    }
    assert {path.name for path in tmp_path.iterdir()} == {"trees", "prefs"}


def test_the_thresholds_of_both_rule_sets_are_configuration(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    folder = store_trees(tmp_path / "trees", trees)
    # Accept pairs score 2 against 1: a gap of 0.5, which `released` wants exceeded.
    with pytest.raises(BadInput, match="found 0 accept"):
        build([folder], tmp_path / "out", rules="released")
    assert build([folder], tmp_path / "out", rules="released", released_gap=0.4).emitted["accept"] == 60
    with pytest.raises(BadInput, match="found 0 accept"):
        build([folder], tmp_path / "out", min_gap=0.6)


def test_lengths_are_reported_by_code(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    longer = [
        replace(
            tree,
            turns=tuple(
                replace(turn, text=f"{turn.text} So be it.") if turn.claim == "Agree" else turn for turn in tree.turns
            ),
        )
        for tree in trees
    ]
    funnel = build([store_trees(tmp_path / "trees", longer)], tmp_path / "prefs")
    assert funnel.lengths == {"accept": (6.0, 3.0, 1.0), "resist": (3.0, 6.0, 0.0)}
