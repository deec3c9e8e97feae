"""``pbt build-prefs`` and ``pbt prefs``."""

from __future__ import annotations

import json
import os
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pbt.cli.options import JsonOpt, SetOpt, err, out
from pbt.errors import BadInput

if TYPE_CHECKING:
    from pbt.config import ModelConfig
    from pbt.engines.base import Engine

app = typer.Typer(no_args_is_help=True, help="Look at preference pairs.")


def build_prefs(
    trees: Annotated[
        list[Path], typer.Argument(help="Folders or files of trees, or released trajectories.", show_default=False)
    ],
    folder: Annotated[Path | None, typer.Option("--out", help="Where the dataset goes.", show_default=False)] = None,
    config: Annotated[
        Path | None, typer.Option(help="The run's YAML; default: the configuration that made the trees.")
    ] = None,
    rules: Annotated[
        Literal["intended", "released"] | None, typer.Option(help="The rule set; default: the configuration's.")
    ] = None,
    compare: Annotated[
        Literal["intended", "released"] | None,
        typer.Option(help="Show what another rule set makes of the trees; without --out nothing is written."),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes that walk trees; any number gives the same. On a Ray cluster if RAY_ADDRESS names one.",
        ),
    ] = 1,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a line that is no tree; else it is skipped.")
    ] = False,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Walk trees into balanced preference pairs."""
    from pbt.config import load_config
    from pbt.preferences.build import build_preferences, run_of
    from pbt.preferences.compare import compare_rules, comparison_table
    from pbt.preferences.funnel import funnel_table
    from pbt.progress import ProgressDisplay, building

    if folder is None and compare is None:
        raise BadInput("--out: is missing; say where the dataset goes, or what to --compare with")
    changes = [*(overrides or ()), *([f"preferences.rules={rules}"] if rules else [])]
    run = run_of(trees, changes) if config is None else load_config(config, changes)
    incomplete = False
    if compare is not None:
        with ProgressDisplay(err, building) as display:
            comparison = compare_rules(
                trees, run.preferences, compare, workers=workers, pool=_pool, strict=strict, progress=display.watch
            )
        incomplete = comparison.skipped > 0
        if as_json:
            print(json.dumps(comparison.to_dict()))
        else:
            out.print(comparison_table(comparison))
    if folder is not None:
        with ProgressDisplay(err, building) as display:
            funnel = build_preferences(
                run, trees, folder, _engine, workers=workers, pool=_pool, strict=strict, progress=display.watch
            )
        incomplete = incomplete or funnel.skipped > 0 or funnel.unanswered > 0
        if as_json:
            print(json.dumps(funnel.to_dict()))
        else:
            out.print(funnel_table(funnel))
            out.print(f"dataset: {folder}", soft_wrap=True)
    raise typer.Exit(3 if incomplete else 0)


@app.command("explain")
def prefs_explain(
    pair_id: Annotated[str, typer.Argument(metavar="PAIR_ID", help="As in pairs.jsonl: TREE/TURN-TURN.")],
    prefs: Annotated[
        Path, typer.Option(help="The dataset; default: the folder you are in.", show_default=False)
    ] = Path(),
) -> None:
    """Show one pair as a person would read it, or the rule at which two siblings fell."""
    from pbt.preferences.explain import explain

    out.print(explain(prefs, pair_id))


def _pool(workers: int) -> Executor:
    """Processes on the Ray cluster that RAY_ADDRESS names, else on this machine."""
    if "RAY_ADDRESS" in os.environ:
        from pbt.cluster.pool import RayPool

        return RayPool()
    from pbt.preferences.walk import processes

    return processes(workers)


def _engine(model: ModelConfig) -> Engine:
    from pbt.engines.load import load_engine

    with err.status(f"loading {model.path}"):
        return load_engine(model)
