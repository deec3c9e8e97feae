"""The stage itself: trees in, a dataset folder out.

``OUT/pairs.jsonl`` holds every pair, ``rejections.jsonl`` every pair of siblings that is none, ``funnel.json`` the
counts, ``data/<regime>/<split>.parquet`` the balanced regimes, ``README.md`` the card that makes the folder loadable
with ``datasets``, and ``run.json``, written last, what made it: a folder without it is unfinished.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from pbt.config import PreferencesConfig
from pbt.debate.answers import normalise
from pbt.debate.protocol import Protocol
from pbt.errors import BadInput
from pbt.preferences.balance import balance, check_leakage, crossing_questions, split_of
from pbt.preferences.card import dataset_card
from pbt.preferences.funnel import Funnel
from pbt.preferences.pairs import Pair, Rejection, judge_intended, make_pair, siblings
from pbt.preferences.score import score_tree
from pbt.provenance import RUN_FILE, write_atomic, write_run
from pbt.store import read_trees

FUNNEL_FILE = "funnel.json"


class Gathered(NamedTuple):
    """What all trees together gave, before balancing."""

    trees: int
    turns: int
    empty_turns: int
    models: set[tuple[str, ...]]
    """The models by seat that the trees name."""
    pairs: list[Pair]
    rejections: list[Rejection]


def build_preferences(
    paths: Sequence[Path],
    out: Path,
    config: PreferencesConfig,
    protocol: Protocol,
    seed: int,
    record: dict[str, Any],
) -> Funnel:
    """Build the dataset folder ``out`` from the trees of ``paths``; ``record`` is its provenance.

    Raises BadInput for a line that is no tree, a tree of another protocol, two different trees of one id, an ``out``
    that holds something else, and when train would miss one of the codes; only in this last case are the pairs,
    rejections and funnel written.
    """
    _refuse_foreign(out)
    gathered = gather(paths, config, protocol, seed)
    check_leakage(gathered.pairs)
    regimes = balance(gathered.pairs, config.size, seed)
    funnel = Funnel.count(
        gathered.trees, gathered.turns, gathered.empty_turns, gathered.pairs, gathered.rejections, regimes
    )

    _clear(out)
    # First of all, because it marks the folder as one that a build may replace.
    write_atomic(out / FUNNEL_FILE, orjson.dumps(funnel.to_dict(), option=orjson.OPT_INDENT_2) + b"\n")
    _write_lines(out / "pairs.jsonl", gathered.pairs)
    _write_lines(out / "rejections.jsonl", (rejection._asdict() for rejection in gathered.rejections))
    if not all(splits["train"] for splits in regimes.values()):
        raise BadInput(
            f"{out}: no dataset, because train needs at least {1 if config.size == 'max' else 2} pairs of each code, "
            f"found {funnel.splits['train']['accept']} accept and {funnel.splits['train']['resist']} resist "
            f"({funnel.line()}); grow more trees, or see rejections.jsonl for what was lost"
        )
    for regime, splits in regimes.items():
        (out / "data" / regime).mkdir(parents=True)
        for split, held in splits.items():
            _write_parquet(out / "data" / regime / f"{split}.parquet", held)
    card = dataset_card(gathered.pairs, funnel, gathered.models, config, seed, record)
    write_atomic(out / "README.md", card.encode())
    write_run(out, {**record, "trees": [str(path) for path in paths]})
    return funnel


def gather(paths: Sequence[Path], config: PreferencesConfig, protocol: Protocol, seed: int) -> Gathered:
    """Judge every pair of siblings of every tree. Raises BadInput as ``build_preferences`` does for its input."""
    trees = turns = empty_turns = 0
    models: set[tuple[str, ...]] = set()
    pairs: list[Pair] = []
    rejections: list[Rejection] = []
    seen: dict[tuple[str, ...], str] = {}
    taken: set[str] = set()
    for tree in read_trees(list(paths)):
        if tree.protocol != protocol.name:
            raise BadInput(
                f"tree {tree.tree_id}: it was grown under protocol '{tree.protocol}', but the configuration names "
                f"'{protocol.name}'; build with the protocol of the trees"
            )
        trees += 1
        turns += len(tree.turns)
        empty_turns += sum(not turn.text for turn in tree.turns)
        models.add(tree.models)
        split = split_of(tree.gold, config.split, seed)
        for found in siblings(tree, score_tree(tree)):
            low, high = sorted((found.chosen.id, found.rejected.id))
            code, reason = judge_intended(found, config.min_gap)
            if reason is not None:
                rejections.append(Rejection(tree.tree_id, (low, high), reason))
                continue
            assert code is not None  # a verdict has a reason or a code
            pair = make_pair(found, code, split, protocol)
            first = seen.get(pair.texts)
            if first is not None:
                rejections.append(Rejection(tree.tree_id, (low, high), "duplicate", first))
                continue
            if pair.pair_id in taken:
                raise BadInput(
                    f"tree {tree.tree_id}: another tree of this id, with other texts, was read before; "
                    "pair ids would stand twice, so build from one of the two"
                )
            seen[pair.texts] = pair.pair_id
            taken.add(pair.pair_id)
            pairs.append(pair)
    # One question text with two gold values may fall into two splits: such questions are left out, so nothing leaks.
    crossing = crossing_questions(pairs)
    kept = []
    for pair in pairs:
        if normalise(pair.question) in crossing:
            low, high = sorted((pair.chosen_turn, pair.rejected_turn))
            rejections.append(Rejection(pair.tree_id, (low, high), "crossing"))
        else:
            kept.append(pair)
    return Gathered(trees, turns, empty_turns, models, kept, rejections)


def _refuse_foreign(out: Path) -> None:
    """Refuse to write into a folder that holds anything but an earlier build, whole or unfinished."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out}: is a file; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / FUNNEL_FILE).is_file():
        raise BadInput(
            f"{out}: holds something that is no earlier build of preferences (no {FUNNEL_FILE}); "
            "empty it, or choose another --out"
        )


def _clear(out: Path) -> None:
    """Take away an earlier build, its marks of completeness first. Files that no build writes stay."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (RUN_FILE, "README.md"):
        (out / name).unlink(missing_ok=True)
    if (out / "data").is_dir():
        shutil.rmtree(out / "data")


def _write_lines(path: Path, records: Iterable[object]) -> None:
    with path.open("wb") as file:
        for record in records:
            file.write(orjson.dumps(record) + b"\n")


def _write_parquet(path: Path, pairs: Sequence[Pair]) -> None:
    """Write pairs under a fixed schema, so that an empty split has the same columns as a full one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    columns = {
        "aliases": pa.list_(pa.string()),
        **dict.fromkeys(("context_turn", "chosen_turn", "rejected_turn", "score_chosen", "score_rejected"), pa.int64()),
        **dict.fromkeys(("prompt", "chosen", "rejected"), messages),
    }
    schema = pa.schema([(name, columns.get(name, pa.string())) for name in Pair.__slots__])
    rows = [{name: getattr(pair, name) for name in Pair.__slots__} for pair in pairs]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
