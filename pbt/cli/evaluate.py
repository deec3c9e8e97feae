"""``pbt eval`` and ``pbt scorecard``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pbt.cli.options import ConfigArg, JsonOpt, PrefsOpt, RunOpt, SetOpt, err, out
from pbt.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="Evaluate models.")


@app.command("balanced")
def eval_balanced(
    config: ConfigArg,
    models: Annotated[
        list[str],
        typer.Option("--model", metavar="NAME=PATH", help="A model folder and its name; repeat for several."),
    ],
    prefs: PrefsOpt = None,
    folder: RunOpt = None,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Does it hold when right and move when wrong? Held, moved and balanced accuracy on held-out test pairs."""
    from pbt.config import load_config
    from pbt.evaluation.balanced import run_balanced

    run = load_config(config, overrides or ())
    home = folder or Path("runs") / run.name
    named = [_named(entry) for entry in models]
    from pbt.engines.load import load_engine

    paths = []
    for name, path in named:
        with err.status(f"evaluating {name}"):
            engine = load_engine(path, run.trained("dpo").engine)
            try:
                paths.append(run_balanced(run, name, path, engine, prefs or home / "prefs", home / "eval" / "balanced"))
            finally:
                engine.close()
    _print_scorecard(paths, None, as_json)


def scorecard(
    results: Annotated[list[Path], typer.Argument(help="Result files, or folders of them.", show_default=False)],
    baseline: Annotated[str | None, typer.Option(help="The model to compare with; default the first.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Put evaluated models side by side, with intervals."""
    _print_scorecard(results, baseline, as_json)


def _print_scorecard(paths: list[Path], baseline: str | None, as_json: bool) -> None:
    from pbt.evaluation.scorecard import read_results
    from pbt.evaluation.scorecard import scorecard as compare

    card = compare(read_results(paths), baseline)
    if as_json:
        print(json.dumps(card.to_dict()))
    else:
        out.print(card.table())


def _named(entry: str) -> tuple[str, str]:
    name, equals, path = entry.partition("=")
    if not (name and equals and path):
        raise BadInput(f"--model {entry}: expected NAME=PATH, such as base=data/pocket/llama")
    return name, path
