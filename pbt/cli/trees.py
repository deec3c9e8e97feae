"""``pbt trees``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pbt.cli.options import JsonOpt, SetOpt, err, out

if TYPE_CHECKING:
    from pbt.store import BadLine

app = typer.Typer(no_args_is_help=True, help="Check, count, merge, show and import trees.")

TreesArg = Annotated[list[Path], typer.Argument(help="Folders or files of trees.", show_default=False)]

_SHOWN = 20
"""How many bad lines or ids are printed where the whole list is not the result; ``--json`` has all."""


@app.command("validate")
def trees_validate(trees: TreesArg, as_json: JsonOpt = False) -> None:
    """Check every line; exit code 3 when something is wrong."""
    from pbt.portrait import visible
    from pbt.trees import validate

    found = validate(trees)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        for bad in found.bad:
            _say(visible(str(bad)))
        wrong = _count(len(found.bad), "bad line") if found.bad else "nothing wrong"
        held = (_count(found.files, "file"), _count(found.trees, "tree"), _count(found.failures, "failure"))
        _say(f"{', '.join(held)}: {wrong}")
    raise typer.Exit(3 if found.bad else 0)


@app.command("stats")
def trees_stats(trees: TreesArg, as_json: JsonOpt = False) -> None:
    """Count turns, tokens and claims, and how often the speaker is right, by level and persona."""
    from pbt.trees import tree_stats

    found = tree_stats(trees)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        for table in found.tables():
            out.print(table)
            out.print()
        _warn(found.bad)
    raise typer.Exit(3 if found.bad else 0)


@app.command("merge")
def trees_merge(
    trees: TreesArg,
    target: Annotated[Path, typer.Option("--out", help="A new .jsonl file, or a new folder.", show_default=False)],
    questions: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="The run's YAML: compare with its questions.")
    ] = None,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Put trees of one configuration together, one a question; exit code 3 when some are missing or left out."""
    from pbt.config import load_config
    from pbt.questions import load_questions
    from pbt.trees import merge

    wanted = None
    if questions is not None:
        run = load_config(questions, overrides or ())
        wanted = load_questions(run.questions, run.seed)
    found = merge(trees, target, wanted)
    if as_json:
        print(json.dumps({"out": str(target), **found.to_dict()}))
    else:
        _say(f"{target}: {_count(found.trees, 'tree')}, {_count(found.duplicates, 'duplicate')} left out")
        _warn([*found.others, *found.strange, *found.bad])
        _name("failed", [f"{name}: {failure.type}: {failure.message}" for name, failure in found.failed.items()])
        _name("missing", found.missing)
    raise typer.Exit(0 if found.whole else 3)


@app.command("show")
def trees_show(
    trees: Annotated[Path, typer.Argument(help="A folder or file of trees.", show_default=False)],
    tree_id: Annotated[str, typer.Argument(help="Which tree.", show_default=False)],
    as_json: JsonOpt = False,
) -> None:
    """Show one tree: who says what, what both seats hold, and whether it is right."""
    from pbt.portrait import portrait
    from pbt.trees import find_tree

    tree = find_tree([trees], tree_id)
    if as_json:
        print(json.dumps(tree.to_dict()))
    else:
        out.print(portrait(tree))


@app.command("import-released")
def trees_import(
    files: Annotated[
        list[Path], typer.Argument(help="Trajectories as the PBT authors publish them.", show_default=False)
    ],
    target: Annotated[Path, typer.Option("--out", help="A new folder.", show_default=False)],
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions, for trajectories that do not hold the gold value.")
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Read released trajectories as trees; exit code 3 when some lines could not be read."""
    from pbt.questions import read_questions
    from pbt.trees import import_released

    found = import_released(files, target, list(read_questions(str(questions))) if questions else ())
    if as_json:
        print(json.dumps({"out": str(target), **found.to_dict()}))
    else:
        held = (_count(found.trees, "tree"), _count(found.turns, "turn"), _count(found.duplicates, "duplicate"))
        _say(f"{target}: {', '.join(held)} left out")
        if found.odd_slots:
            held_otherwise = "with a partner's answer that differs from the one in the turn above"
            err.print(f"{_count(found.odd_slots, 'tree')} {held_otherwise}", style="yellow")
        _warn(found.bad)
    raise typer.Exit(3 if found.bad else 0)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, markup=False, highlight=False)


def _warn(bad: Sequence[BadLine]) -> None:
    from pbt.portrait import visible

    for line in bad[:_SHOWN]:
        err.print(visible(str(line)), soft_wrap=True, markup=False, highlight=False)
    if bad:
        err.print(f"{_count(len(bad), 'line')} left out", style="yellow")


def _name(what: str, names: Sequence[str]) -> None:
    from pbt.portrait import visible

    for name in names[:_SHOWN]:
        err.print(f"{what}: {visible(name)}", soft_wrap=True, markup=False, highlight=False)
    if names:
        err.print(f"{_count(len(names), 'question')} {what}", style="yellow")
