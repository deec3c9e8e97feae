"""``pbt data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pbt.cli.options import out

app = typer.Typer(no_args_is_help=True, help="The data that ships with the project, data.tar.gz.")


@app.command("unpack")
def data_unpack(
    archive: Annotated[Path | None, typer.Argument(help="Default: the project's data.tar.gz.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where to unpack.")] = Path("data"),
) -> None:
    """Unpack the shipped questions, pocket models and samples, and check them against the manifest."""
    from pbt.data import unpack

    out.print(f"{unpack(archive, folder)} files in {folder}, all as in the manifest", soft_wrap=True)


@app.command("pack")
def data_pack(
    archive: Annotated[Path, typer.Argument(help="The archive to write.")] = Path("data.tar.gz"),
    folder: Annotated[Path, typer.Option("--from", help="What to pack.")] = Path("data"),
) -> None:
    """Pack questions, pocket models and samples with a manifest of checksums."""
    from pbt.data import pack

    out.print(f"{pack(folder, archive)} files in {archive}", soft_wrap=True)


@app.command("verify")
def data_verify(
    folder: Annotated[Path, typer.Option("--in", help="Where the data was unpacked.")] = Path("data"),
) -> None:
    """Check the unpacked files against the manifest; exit code 2 names the first that is missing or differs."""
    from pbt.data import verify

    out.print(f"{verify(folder)} files in {folder}, all as in the manifest", soft_wrap=True)
