"""What the commands share: where they print, and the options that several of them take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

err = Console(stderr=True)
"""Progress and logs."""
out = Console()
"""Results."""

ConfigArg = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.", show_default=False)]
SetOpt = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as seed=1.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
PrefsOpt = Annotated[Path | None, typer.Option(help="The dataset; default runs/<name>/prefs.")]
RunOpt = Annotated[Path | None, typer.Option("--out", help="The run's folder; default runs/<name>.")]
