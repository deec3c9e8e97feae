"""``pbt replicate``."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from pbt.cli.options import JsonOpt, SetOpt, err, out


def replicate(
    config: Annotated[Path, typer.Argument(metavar="[CONFIG]", help="The run's YAML file.")] = Path(
        "configs/pocket.yaml"
    ),
    folder: Annotated[Path, typer.Option("--out", help="Where all seeds and the pages go.")] = Path("runs/replicate"),
    seeds: Annotated[
        int, typer.Option(min=1, help="How many, from the run's own seed on: trees, split, training, all anew.")
    ] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer questions and pairs.")] = False,
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Also train and measure otherwise, on the first seed (twice its time).")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Commands side by side, on a share of the cores each; default one a core, and with a GPU one in all.",
        ),
    ] = None,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Does the method do what it claims? The pipeline under several seeds, all evaluations, the four claims."""
    from pbt import replication
    from pbt.ablations import table as ablation_table
    from pbt.pipeline import ending_together

    with ending_together():
        done = replication.replicate(
            config,
            folder,
            seeds=seeds,
            quick=quick,
            with_ablations=ablations,
            jobs=jobs,
            overrides=overrides or (),
            command=shlex.join(["pbt", *sys.argv[1:]]),
            console=err,
        )
    if as_json:
        print(json.dumps(replication.to_dict(done)))
    else:
        out.print(done.card.table())
        out.print(replication.table(done.findings))
        if done.ablations:
            out.print(ablation_table(done.ablations))
    err.print(f"pages: {done.markdown}, {done.html}; {done.failed} items failed", soft_wrap=True)
    raise typer.Exit(3 if done.failed else 0)
