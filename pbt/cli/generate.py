"""``pbt generate``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pbt.cli.options import ConfigArg, JsonOpt, SetOpt, err, out


def generate(
    config: ConfigArg,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Which shard of the questions to grow.")] = "0/1",
    folder: Annotated[Path | None, typer.Option("--out", help="Where the trees go; default trees/<name>.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try again what failed before.")] = False,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Grow debate trees; started again, it goes on where it stopped."""
    from pbt.config import RunConfig, load_config
    from pbt.engines.base import Engine
    from pbt.generate import generate as grow
    from pbt.progress import ProgressDisplay, growing
    from pbt.store import Shard

    run = load_config(config, overrides or ())
    target = folder or Path("trees") / run.name

    def engines(run: RunConfig) -> Mapping[str, Engine]:
        from pbt.engines.load import load_engines

        with err.status("loading " + ", ".join(run.speaking())):
            return load_engines(run.models, run.speaking())

    with ProgressDisplay(err, growing) as display:
        summary = grow(run, target, Shard.parse(shard), engines, display.watch, retry_failed)
    if as_json:
        print(json.dumps({"out": str(target), **summary.to_dict()}))
    else:
        for table in summary.tables(str(target)):
            out.print(table)
            out.print()
    raise typer.Exit(4 if summary.left else 3 if summary.failed or summary.failed_before else 0)
