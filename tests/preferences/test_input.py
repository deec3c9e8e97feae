"""What a build reads: our trees, released trajectories, and lines that are neither."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from pbt.cli import app
from pbt.debate.tree import DebateTree
from pbt.errors import BadInput
from pbt.preferences.build import run_of
from pbt.preferences.funnel import Funnel

Debate = Callable[..., DebateTree]
StoreTrees = Callable[[Path, Sequence[DebateTree]], Path]
Build = Callable[..., Funnel]


@pytest.fixture(scope="module")
def trees(both_codes: Callable[[int], DebateTree]) -> list[DebateTree]:
    return [both_codes(number) for number in range(12)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def odd(tree: DebateTree, **turn: Any) -> bytes:
    """The line of a tree whose second turn is changed."""
    record = tree.to_dict()
    record["turns"][1].update(turn)
    return orjson.dumps(record)


BAD = {
    "a cycle": lambda tree: odd(tree, parent=4),
    "two roots": lambda tree: odd(tree, parent=None),
    "an unknown parent": lambda tree: odd(tree, parent=77),
    "a missing field": lambda tree: orjson.dumps({k: v for k, v in tree.to_dict().items() if k != "gold"}),
    "a field of another type": lambda tree: odd(tree, text=None),
    "invalid UTF-8": lambda tree: orjson.dumps(tree.to_dict()).replace(b"Nice", b"\xff\xfe"),
    "a truncated line": lambda tree: orjson.dumps(tree.to_dict())[:200],
    "a newer format": lambda tree: orjson.dumps({**tree.to_dict(), "format": 99}),
    "three seats": lambda tree: orjson.dumps({**tree.to_dict(), "models": ["a", "b", "c"]}),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_reported_and_skipped_and_the_rest_is_built(
    tmp_path: Path,
    trees: list[DebateTree],
    store_trees: StoreTrees,
    build: Build,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    shard = store_trees(tmp_path / "trees", trees) / "shard-0000-of-0001.jsonl"
    good = shard.read_bytes().splitlines()
    shard.write_bytes(b"\n".join([*good[:3], BAD[kind](trees[0]), *good[3:]]) + b"\n")
    with caplog.at_level(logging.WARNING):
        funnel = build([shard.parent], tmp_path / "out")
    assert (funnel.trees, funnel.skipped, funnel.emitted) == (12, 1, {"accept": 12, "resist": 12})
    (skipped,) = lines(tmp_path / "out" / "skipped.jsonl")
    assert (skipped["file"], skipped["line"]) == (str(shard), 4)
    assert len(skipped["reason"]) > 10 and "\n" not in skipped["reason"]
    assert f"{shard} line 4: {skipped['reason']}" in caplog.text

    with pytest.raises(BadInput, match=r"line 4: .*without --strict"):
        build([shard.parent], tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()


def test_many_bad_lines_are_told_in_a_few(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    folder = store_trees(tmp_path / "trees", trees)
    (folder / "noise.jsonl").write_bytes(b"noise\n" * 500)
    with caplog.at_level(logging.WARNING):
        funnel = build([folder], tmp_path / "out")
    assert funnel.skipped == len(lines(tmp_path / "out" / "skipped.jsonl")) == 500
    assert len(caplog.records) < 20
    assert "skipped 490 lines more" in caplog.text


def test_three_seats_are_named_in_one_line(
    tmp_path: Path, trees: list[DebateTree], build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "round.jsonl").write_bytes(BAD["three seats"](trees[0]) + b"\n")
    with caplog.at_level(logging.WARNING), pytest.raises(BadInput, match=r"0 trees \(1 lines skipped\)"):
        build([tmp_path / "round.jsonl"], tmp_path / "out")
    assert "tree t000: 3 seats; pairs are made of debates between two" in caplog.text


def test_blank_lines_are_nothing(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    shard = store_trees(tmp_path / "trees", trees) / "shard-0000-of-0001.jsonl"
    shard.write_bytes(b"\n" + shard.read_bytes().replace(b"\n", b"\n \n"))
    assert build([shard], tmp_path / "out").skipped == 0


def test_paths_without_trees_are_named(tmp_path: Path, build: Build) -> None:
    with pytest.raises(BadInput, match="nowhere: no such file or folder of trees"):
        build([tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"empty: no \*.jsonl in it"):
        build([tmp_path / "empty"], tmp_path / "out")


def released(tree: DebateTree, ids: dict[int, int], twice: bool = False) -> bytes:
    """A tree as the authors publish it: answers in the order [seat 1, seat 0], perhaps as JSON in JSON."""
    data: list[dict[str, Any]] = [
        {
            "node_idx": -1, "agent_idx": -1, "parent": -2, "children": [0], "generation": f"Question: {tree.question}",
            "extracted_ans": [None, None], "extracted_conf": None,
        }
    ]  # fmt: skip
    slots: list[tuple[str | None, str | None]] = []
    for turn in tree.turns:
        above = (None, None) if turn.parent is None else slots[turn.parent]
        slots.append((turn.claim, above[1]) if turn.seat == 0 else (above[0], turn.claim))
        data.append(
            {
                "node_idx": ids[turn.id], "agent_idx": turn.seat,
                "parent": -1 if turn.parent is None else ids[turn.parent],
                "children": [ids[child] for child in tree.children[turn.id]], "generation": turn.text,
                "extracted_ans": list(reversed(slots[-1])), "extracted_conf": 0.5,
            }
        )  # fmt: skip
    answer = {"value": tree.gold, "aliases": [tree.gold], "normalized_aliases": list(tree.aliases)}
    metadata = {"question_id": tree.question_id, "question": tree.question, "answer": answer}
    line = json.dumps({"data": data, "metadata": metadata, "model_a": "A-7B", "model_b": "B-8B"})
    return (json.dumps(line) if twice else line).encode()


def test_released_trajectories_go_through_the_same_command_and_keep_their_ids(
    tmp_path: Path, trees: list[DebateTree]
) -> None:
    ids = {turn.id: turn.id for turn in trees[0].turns} | {3: 40, 4: 30}
    path = tmp_path / "published.jsonl"
    path.write_bytes(
        b"\n".join(
            [*(released(tree, ids, twice=place % 2 == 1) for place, tree in enumerate(trees)), b'{"data": [1', b""]
        )
    )
    done = CliRunner().invoke(app, ["build-prefs", str(path), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 3, done.output
    found = {pair["pair_id"]: pair for pair in lines(tmp_path / "out" / "pairs.jsonl")}
    assert found.keys() == {f"t{number:03d}/{turns}" for number in range(12) for turns in ("40-30", "8-7")}
    pair = found["t003/40-30"]
    assert (pair["question_id"], pair["code"], pair["chosen_turn"], pair["rejected_turn"]) == ("t003", "resist", 40, 30)
    assert pair["prompt"][0]["content"].endswith("Question: Which gold has number 3?\n\nI say Nice.")
    (skipped,) = lines(tmp_path / "out" / "skipped.jsonl")
    assert skipped["line"] == 13
    assert "- models by seat: A-7B, B-8B" in (tmp_path / "out" / "README.md").read_text()


def test_ours_and_released_ones_may_be_mixed(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees, build: Build
) -> None:
    published = tmp_path / "published.jsonl"
    others = [replace(tree, tree_id=f"r{tree.tree_id}", question_id=f"r{tree.tree_id}") for tree in trees[:6]]
    published.write_bytes(b"".join(released(tree, {i: i for i in range(9)}) + b"\n" for tree in others))
    funnel = build([store_trees(tmp_path / "trees", trees[6:]), published], tmp_path / "out")
    assert (funnel.trees, funnel.emitted) == (12, {"accept": 12, "resist": 12})


def test_trees_without_a_record_are_built_under_the_protocol_that_they_name(
    tmp_path: Path, trees: list[DebateTree], store_trees: StoreTrees
) -> None:
    folder = store_trees(tmp_path / "trees", trees)
    (folder / "run.json").unlink()
    run = run_of([folder], ["preferences.size=max"])
    assert (run.protocol.name, run.seats, run.preferences.size) == ("trivia-debate", ("persuader", "replier"), "max")

    (folder / "shard-0000-of-0001.jsonl").write_bytes(
        orjson.dumps(replace(trees[0], protocol="home-made").to_dict()) + b"\n"
    )
    with pytest.raises(BadInput, match="their protocol 'home-made' is no shipped one; name the run's YAML"):
        run_of([folder])
    (folder / "shard-0000-of-0001.jsonl").write_bytes(b"noise\n")
    with pytest.raises(BadInput, match="no tree could be read"):
        run_of([folder])
