"""``pbt demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pbt.cli.options import out


def demo(
    folder: Annotated[Path, typer.Option("--out", help="The demo's folder.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer questions: under 3 minutes on 2 cores.")] = False,
) -> None:
    """The whole pipeline on the pocket models: trees, pairs, SFT and DPO in three regimes, a scorecard."""
    from pbt.demo import run_demo
    from pbt.pipeline import ending_together

    with ending_together():
        run_demo(folder, quick=quick, console=out)
