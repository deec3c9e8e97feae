"""The data release: the shipped trees and pairs are what the code makes, and the sample in trees/ comes from them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from pbt.config import REGIMES

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_released_trees_are_whole(pbt: Run, data: Path) -> None:
    found = json.loads(pbt("trees", "validate", data / "run/trees", "--json").stdout)
    assert found["trees"] > 1000 and not found["bad"]


def test_the_released_pairs_are_what_the_released_trees_give(pbt: Run, data: Path, tmp_path: Path) -> None:
    pbt("build-prefs", data / "run/trees", "--out", tmp_path / "prefs")
    released = data / "run/prefs"
    for name in ("pairs.jsonl", "funnel.json"):
        assert (tmp_path / "prefs" / name).read_bytes() == (released / name).read_bytes()
    for regime in REGIMES:
        for split in ("train", "valid", "test"):
            table = f"data/{regime}/{split}.parquet"
            assert pq.read_table(tmp_path / "prefs" / table).equals(pq.read_table(released / table))


def test_the_sample_is_every_fortieth_released_tree(data: Path, checkout: Path) -> None:
    lines = (data / "run/trees/shard-0000-of-0001.jsonl").read_bytes().splitlines()
    sample = (checkout / "trees/sample/shard-0000-of-0001.jsonl").read_bytes().splitlines()
    assert sample == lines[::40]


def test_the_release_says_what_made_it(data: Path) -> None:
    for part, stage in (("trees", "generate"), ("prefs", "preferences")):
        made = json.loads((data / "run" / part / "run.json").read_text())
        assert made["stage"] == stage and made["version"]
