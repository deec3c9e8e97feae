"""How fast trees become pairs, and in how much memory.

Makes full 21-turn trees with random answers, then measures on one core: scoring and pairing of parsed trees, under both
rule sets; from trees on disk to pairs on disk; the whole build; and the peak memory of builds of different
sizes, each in a process of its own. Prints a table; speeds are medians.

    python benchmarks/preferences.py [--trees 4000] [--rounds 5] [--turns 1000000]
"""

import argparse
import gc
import multiprocessing
import os
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import orjson
from rich.console import Console
from rich.table import Table

from pbt.config import PreferencesConfig, shipped_protocol
from pbt.debate.tree import DebateTree, Turn
from pbt.engines.load import load_engine
from pbt.preferences.build import build_preferences, run_of
from pbt.preferences.gather import Counts, gather
from pbt.preferences.pairs import judge_tree
from pbt.preferences.rules import rule_set
from pbt.preferences.walk import Walk
from pbt.store import parse_tree

PROTOCOL = shipped_protocol("trivia-debate")
TURNS = 21
T = TypeVar("T")


def make_tree(number: int, rng: random.Random) -> DebateTree:
    """A full tree of the shipped debate. Answers are right, one of two wrong ones, or a token, in likely proportion."""
    gold, wrong = f"Gold {number} City", [f"Wrong {number} Town", f"Other {number} Place"]
    turns: list[Turn] = []

    def visit(parent: int | None, at: int, persona: str) -> None:
        (kind,) = rng.choices(("gold", "wrong", "Agree", "Disagree", "NONE"), (40, 35, 10, 10, 5))
        claim = {"gold": gold, "wrong": rng.choice(wrong)}.get(kind, kind)
        text = (
            f"I have read about this more than once, and I am quite sure of what I say: the answer is {claim}. "
            f"Take it from somebody who has looked into matter {len(turns)} of {number} for years."
        )
        here = len(turns)
        turns.append(Turn(here, parent, at, PROTOCOL.seat_at(at), persona, text, claim, tokens=40))
        if at + 1 < PROTOCOL.depth:
            for below in PROTOCOL.level(at + 1).personas:
                visit(here, at + 1, below)

    visit(None, 0, "standard")
    aliases = (gold.lower(), *(f"alias {alias} of {number}" for alias in range(20)))
    question = f"Which city has the number {number}, and by what name was it known before?"
    models = ("one", "two")
    return DebateTree(f"t{number}", f"t{number}", question, gold, aliases, PROTOCOL.name, models, 0, tuple(turns))


def write_trees(path: Path, count: int) -> None:
    rng = random.Random(0)
    with path.open("wb") as file:
        for number in range(count):
            file.write(orjson.dumps(make_tree(number, rng).to_dict()) + b"\n")


class Pace(NamedTuple):
    """Trees a second, medians of the rounds."""

    of_core: float
    """By the processor time of this process, which others on the machine do not slow down."""
    of_clock: float


def pace(step: Callable[[T], object], prepare: Callable[[], T], trees: int, rounds: int) -> Pace:
    """Time a step, on something that is prepared anew before each round."""
    core, clock = [], []
    for _ in range(rounds):
        given = prepare()
        gc.collect()
        gc.freeze()  # that thousands of parsed trees are in memory at once is the benchmark's doing
        began, began_clock = time.process_time(), time.perf_counter()
        step(given)
        core.append(trees / (time.process_time() - began))
        clock.append(trees / (time.perf_counter() - began_clock))
        gc.unfreeze()
    return Pace(statistics.median(core), statistics.median(clock))


def score_and_pair(trees: list[DebateTree], config: PreferencesConfig) -> None:
    rules = rule_set(config)
    for tree in trees:
        judge_tree(tree, rules, PROTOCOL, "train")


def pairs_on_disk(trees: Path, rejections: bool, folder: Path) -> None:
    walk = Walk(PreferencesConfig(rejections=rejections), {PROTOCOL.name: PROTOCOL}, seed=0)
    with gather(walk, [trees], folder, Counts()):
        pass


def build(trees: Path, workers: int, out: Path) -> None:
    build_preferences(run_of([trees]), [trees], out, load_engine, workers=workers)


def build_alone(trees: Path, out: Path, workers: int, told: "multiprocessing.Queue[tuple[float, float]]") -> None:
    """For a process of its own: seconds, and the most memory it held, in MiB."""
    began = time.perf_counter()
    build(trees, workers, out)
    told.put((time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=1_000_000, help="in the largest build, for the memory")
    options = parser.parse_args()
    table = Table("", title=f"full {TURNS}-turn trees, medians of {options.rounds} rounds")
    for head in ("trees/s of a core", "trees/s by the clock", "seconds", "peak MiB"):
        table.add_column(head, justify="right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "trees.jsonl"
        write_trees(source, options.trees)
        lines = source.read_bytes().splitlines()

        def row(label: str, step: Callable[[T], object], prepare: Callable[[], T]) -> None:
            found = pace(step, prepare, options.trees, options.rounds)
            table.add_row(label, f"{found.of_core:,.0f}", f"{found.of_clock:,.0f}")

        for rules in ("intended", "released"):
            # Parsed anew each time, because a tree remembers what was derived from it.
            row(
                f"score and pair, parsed trees, {rules}",
                partial(score_and_pair, config=PreferencesConfig(rules=rules)),
                lambda: [parse_tree(line) for line in lines],
            )
        row("JSONL to pairs on disk, with rejections", partial(pairs_on_disk, source, True), lambda: folder)
        row("JSONL to pairs on disk, without", partial(pairs_on_disk, source, False), lambda: folder)
        row("JSONL to the whole dataset folder", partial(build, source, 1), lambda: folder / "out")
        table.add_section()
        spawn = multiprocessing.get_context("spawn")
        for turns, workers in ((options.turns // 4, 1), (options.turns, 1), (options.turns, os.cpu_count() or 1)):
            large = folder / f"{turns}.jsonl"
            if not large.exists():
                write_trees(large, turns // TURNS)
            told: multiprocessing.Queue[tuple[float, float]] = spawn.Queue()
            child = spawn.Process(target=build_alone, args=(large, folder / "large", workers, told))
            child.start()
            seconds, peak = told.get()
            child.join()
            label = f"whole build of {turns // TURNS * TURNS:,} turns, {workers} worker{'s' if workers > 1 else ''}"
            table.add_row(label, "", f"{turns / TURNS / seconds:,.0f}", f"{seconds:.1f}", f"{peak:.0f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
