"""The stage itself: trees in, a dataset folder out.

``OUT/pairs.jsonl`` holds every pair, ``rejections.jsonl`` every pair of siblings that is none, ``skipped.jsonl`` the
lines that were no trees, ``funnel.json`` the counts; then come the tables of ``pbt.preferences.tables``, ``README.md``,
the card that makes the folder loadable with ``datasets``, and ``run.json``, written last, what made it: a folder
without it is unfinished.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import resources
from pathlib import Path

import orjson

from pbt.config import ModelConfig, RunConfig, load_resolved, shipped_protocol
from pbt.debate.protocol import Protocol
from pbt.debate.tree import DebateTree
from pbt.engines.base import Engine
from pbt.errors import BadInput
from pbt.preferences.balance import balance, check_leakage
from pbt.preferences.card import dataset_card
from pbt.preferences.filter import VERDICTS_FILE, Filter
from pbt.preferences.funnel import Funnel
from pbt.preferences.gather import PAIRS_FILE, REJECTIONS_FILE, SKIPPED_FILE, Counts, gather
from pbt.preferences.progress import Announce, unwatched
from pbt.preferences.tables import FOLDERS, INDEX_FILE, write_tables
from pbt.preferences.trees import batches, trees_of
from pbt.preferences.walk import Walk, processes
from pbt.provenance import RUN_FILE, provenance, read_run, write_atomic, write_run

FUNNEL_FILE = "funnel.json"
_CARD_FILE = "README.md"
_SCRATCH = ".partial"


def build_preferences(
    run: RunConfig,
    paths: Sequence[Path],
    out: Path,
    engine: Callable[[ModelConfig], Engine],
    *,
    workers: int = 1,
    pool: Callable[[int], Executor] = processes,
    strict: bool = False,
    progress: Announce = unwatched,
) -> Funnel:
    """Build the dataset folder ``out`` from the trees of ``paths``; several ``workers`` walk them in a ``pool``.

    ``engine`` loads the filter's model; it is called only if there is a filter and it is asked something new. A line
    that is no tree is skipped, told and counted, or refused if ``strict``. ``progress`` is told of each phase when it
    begins.

    Raises BadInput as ``gather`` does, for an ``out`` that holds something else, and when train would miss one of the
    codes; only in this last case are the pairs, rejections and funnel written.
    """
    _refuse_foreign(out)
    config = run.preferences
    with _scratch(out) as scratch, _filter(run, out, engine) as model:
        counts = Counts()
        walk = Walk(config, {**shipped_protocols(), run.protocol.name: run.protocol}, run.seed)
        with gather(
            walk, paths, scratch, counts, model=model, workers=workers, pool=pool, strict=strict, progress=progress
        ) as pairs:
            check_leakage(pairs.index, pairs.read)
            regimes = balance(pairs.index, config.size)
            funnel = Funnel.count(counts, pairs.index, regimes)
            _clear(out)
            # First of all, because it marks the folder as one that a build may replace.
            write_atomic(out / FUNNEL_FILE, orjson.dumps(funnel.to_dict(), option=orjson.OPT_INDENT_2) + b"\n")
            for name, wanted in (
                (PAIRS_FILE, True),
                (REJECTIONS_FILE, config.rejections),
                (SKIPPED_FILE, funnel.skipped),
            ):
                if wanted:
                    (scratch / name).replace(out / name)
            if not all(len(splits["train"]) for splits in regimes.values()):
                raise BadInput(
                    f"{out}: no dataset, because train needs at least {1 if config.size == 'max' else 2} pairs of each "
                    f"code, found {funnel.splits['train']['accept']} accept and {funnel.splits['train']['resist']} "
                    f"resist ({funnel.line()}); grow more trees, or see {REJECTIONS_FILE} for what was lost"
                )
            write_tables(out, scratch, regimes, pairs.read, progress)
    record = provenance(run, "preferences")
    write_atomic(out / _CARD_FILE, dataset_card(funnel, counts.models, config, record).encode())
    write_run(out, {**record, "trees": [str(path) for path in paths]})
    return funnel


def run_of(paths: Sequence[Path], overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration that grew the trees; for trees without a record, one that says what they say themselves.

    Raises BadInput.
    """
    if not paths[0].exists():
        raise BadInput(f"{paths[0]}: no such file or folder of trees")
    home = paths[0] if paths[0].is_dir() else paths[0].parent
    if (home / RUN_FILE).exists():
        return load_resolved(home, read_run(home)["config"], overrides)
    read = (tree for batch in batches(paths) for tree in trees_of(batch))
    tree = next((tree for tree in read if isinstance(tree, DebateTree)), None)
    if tree is None:
        raise BadInput(f"{paths[0]}: no tree could be read; 'pbt trees validate' says why")
    shipped = shipped_protocols()
    if tree.protocol not in shipped:
        raise BadInput(
            f"{home}: no {RUN_FILE} tells how its trees were grown, and their protocol '{tree.protocol}' is no shipped "
            "one; name the run's YAML with --config"
        )
    table = {
        "name": "trees",
        "questions": {"source": str(paths[0])},
        "protocol": shipped[tree.protocol].model_dump(mode="json"),
        "models": {name: {"path": name} for name in tree.models},
        "seats": list(tree.models),
    }
    return load_resolved(home, table, overrides)


def shipped_protocols() -> dict[str, Protocol]:
    """The protocols of the package, by name."""
    files = sorted(Path(str(resources.files("pbt").joinpath("protocols"))).glob("*.yaml"))
    return {file.stem: shipped_protocol(file.stem) for file in files}


def _filter(
    run: RunConfig, out: Path, engine: Callable[[ModelConfig], Engine]
) -> AbstractContextManager[Filter | None]:
    config = run.preferences.filter
    if config is None:
        return nullcontext()
    assert config.prompts is not None  # they are resolved when the configuration is read
    model = run.models[config.model]
    return Filter(out / VERDICTS_FILE, config.prompts, model.identity(), lambda: engine(model))


def _refuse_foreign(out: Path) -> None:
    """Refuse to write into a folder that holds anything but an earlier build, whole or unfinished."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out}: is a file; choose another --out")
    ours = (FUNNEL_FILE, VERDICTS_FILE, _SCRATCH)
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in ours):
        raise BadInput(
            f"{out}: holds something that is no earlier build of preferences (no {FUNNEL_FILE}); "
            "empty it, or choose another --out"
        )


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder for unfinished files, on the disk that they will stay on. Leaves no empty ``out`` behind."""
    scratch = out / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)
        with suppress(OSError):  # it is not empty
            out.rmdir()


def _clear(out: Path) -> None:
    """Take away an earlier build, its marks of completeness first. Files that no build writes stay."""
    for name in (RUN_FILE, _CARD_FILE, INDEX_FILE, SKIPPED_FILE):
        (out / name).unlink(missing_ok=True)
    for name in FOLDERS:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
    (out / REJECTIONS_FILE).unlink(missing_ok=True)
