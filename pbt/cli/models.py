"""``pbt models``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pbt.cli.options import JsonOpt, out

app = typer.Typer(no_args_is_help=True, help="Trained models: merge an adapter, write the card, send to the hub.")

FolderArg = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A model that 'pbt train' wrote.", show_default=False)
]


@app.command("merge")
def models_merge(
    folder: FolderArg,
    target: Annotated[Path, typer.Option("--out", help="The folder to write.", show_default=False)],
) -> None:
    """Merge the adapter into its base model: a complete model folder."""
    from pbt.training.publish import merge_model

    out.print(str(merge_model(folder, target)), soft_wrap=True)


@app.command("card")
def models_card(folder: FolderArg) -> None:
    """Write FOLDER/README.md again from what is recorded there, and print it."""
    from pbt.training.card import write_card

    print(write_card(folder).read_text("utf-8"), end="")


@app.command("push")
def models_push(
    folder: FolderArg,
    repository: Annotated[str, typer.Argument(metavar="REPOSITORY", help="NAME or OWNER/NAME.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be sent.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Send a model to the Hugging Face hub."""
    from pbt.training.publish import push_model, uploads

    files = uploads(folder)
    address = None if dry_run else push_model(folder, repository, private)
    if as_json:
        print(json.dumps({"repository": address or repository, "sent": not dry_run, "files": dict(files)}))
        return
    for file in files:
        out.print(f"{file.bytes:>14,}  {file.path}", highlight=False, soft_wrap=True)
    told = "would be sent to" if dry_run else "sent to"
    total = sum(file.bytes for file in files)
    out.print(f"{total:>14,}  bytes in {len(files)} files {told} {address or repository}", highlight=False)
