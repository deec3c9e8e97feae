"""The walk: a batch of trees in, lines of pairs and rejections out. Pure but for its input, so processes can share it.

The outcome of a batch depends on nothing but the batch, and outcomes are taken in the order of the batches: however
many processes walk, the bytes are the same.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import NamedTuple, TypeVar

import numpy as np
import orjson

from pbt.config import PreferencesConfig
from pbt.debate.protocol import Protocol
from pbt.debate.tree import DebateTree
from pbt.errors import BadInput
from pbt.preferences.balance import INDEX, Index, entry
from pbt.preferences.pairs import Reason, judge_tree
from pbt.preferences.rules import rule_set
from pbt.preferences.score import NO_SYNONYMS, Synonyms
from pbt.preferences.trees import Batch, trees_of
from pbt.questions import split_of
from pbt.store import BadLine

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Walk:
    """What a walk needs besides trees."""

    config: PreferencesConfig
    protocols: Mapping[str, Protocol]
    """Those that trees may have been grown under, by name."""
    seed: int


class Task(NamedTuple):
    """One step of a walk."""

    batch: Batch
    synonyms: Synonyms = NO_SYNONYMS


class Walked(NamedTuple):
    """What one batch of trees gave."""

    size: int
    """Bytes read."""
    trees: int
    turns: int
    empty_turns: int
    models: set[tuple[str, ...]]
    """The models by seat that the trees name."""
    pairs: bytes
    """A line each."""
    records: Index
    """A record for each line of ``pairs``."""
    rejections: bytes
    """A line each; nothing when the configuration does not ask for them."""
    fell: Counter[Reason]
    skipped: list[BadLine]


def processes(workers: int) -> Executor:
    """So many processes of this machine."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def in_order(
    step: Callable[[Given], Made], given: Iterable[Given], workers: int, pool: Callable[[int], Executor]
) -> Iterator[Made]:
    """Take a step for each of ``given``, in this process or in a pool of several ``workers``; outcomes in order."""
    return map(step, given) if workers == 1 else _in_pool(step, given, workers, pool(workers))


def _in_pool(step: Callable[[Given], Made], given: Iterable[Given], workers: int, pool: Executor) -> Iterator[Made]:
    """At most a few steps for each worker are under way, so that memory stays where it is."""
    waiting: deque[Future[Made]] = deque()
    try:
        for one in given:
            waiting.append(pool.submit(step, one))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def walk_batch(walk: Walk, task: Task) -> Walked:
    """Judge every pair of siblings of every tree of a batch. Raises BadInput for a tree of another protocol."""
    rules = rule_set(walk.config)
    turns = empty_turns = 0
    models: Counter[tuple[str, ...]] = Counter()
    pairs: list[bytes] = []
    records: list[tuple[int, ...]] = []
    rejections: list[bytes] = []
    fell: Counter[Reason] = Counter()
    skipped: list[BadLine] = []
    for tree in trees_of(task.batch):
        if isinstance(tree, BadLine):
            skipped.append(tree)
            continue
        turns += len(tree.turns)
        empty_turns += sum(not turn.text for turn in tree.turns)
        models[tree.models] += 1
        split = split_of(tree.gold, walk.config.split, walk.seed)
        judged = judge_tree(tree, rules, protocol_of(tree, walk.protocols), split, task.synonyms)
        for pair in judged.pairs:
            line = orjson.dumps(pair, option=orjson.OPT_APPEND_NEWLINE)
            pairs.append(line)
            records.append(entry(pair, len(line), walk.seed))
        fell.update(rejection.reason for rejection in judged.rejections)
        if walk.config.rejections:
            rejections += [
                orjson.dumps(rejection._asdict(), option=orjson.OPT_APPEND_NEWLINE) for rejection in judged.rejections
            ]
    return Walked(
        size=sum(map(len, task.batch.lines)),
        trees=models.total(),
        turns=turns,
        empty_turns=empty_turns,
        models=set(models),
        pairs=b"".join(pairs),
        records=np.array(records, dtype=INDEX),
        rejections=b"".join(rejections),
        fell=fell,
        skipped=skipped,
    )


def protocol_of(tree: DebateTree, protocols: Mapping[str, Protocol]) -> Protocol:
    """The protocol that a tree was grown under. Raises BadInput when it is not among the known ones."""
    try:
        return protocols[tree.protocol]
    except KeyError:
        raise BadInput(
            f"tree {tree.tree_id}: it was grown under protocol '{tree.protocol}', which is neither the "
            f"configuration's nor a shipped one ({', '.join(sorted(protocols))}); build with the protocol of the trees"
        ) from None
