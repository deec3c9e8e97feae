"""``pbt build-prefs``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pbt.cli.options import JsonOpt, SetOpt, out
from pbt.errors import BadInput


def build_prefs(
    trees: Annotated[list[Path], typer.Argument(help="Folders or files of trees.", show_default=False)],
    folder: Annotated[Path, typer.Option("--out", help="Where the dataset goes.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option(help="The run's YAML; default: the configuration that made the trees.")
    ] = None,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Walk trees into balanced preference pairs."""
    from pbt.config import load_config, load_resolved
    from pbt.preferences.build import build_preferences
    from pbt.preferences.funnel import funnel_table
    from pbt.provenance import provenance, read_run

    if config is not None:
        run = load_config(config, overrides or ())
    else:
        if not trees[0].exists():
            raise BadInput(f"{trees[0]}: no such file or folder of trees")
        home = trees[0] if trees[0].is_dir() else trees[0].parent
        run = load_resolved(home, read_run(home)["config"], overrides or ())
    funnel = build_preferences(trees, folder, run.preferences, run.protocol, run.seed, provenance(run, "preferences"))
    if as_json:
        print(json.dumps(funnel.to_dict()))
    else:
        out.print(funnel_table(funnel))
        out.print(f"dataset: {folder}", soft_wrap=True)
