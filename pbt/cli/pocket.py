"""``pbt pocket``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pbt.cli.options import out
from pbt.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="The pocket world: questions and models made by this project.")


@app.command("build")
def pocket_build(
    folder: Annotated[Path, typer.Option("--out", help="Where the model folders go.")] = Path("data/pocket"),
    seed: Annotated[int, typer.Option(help="Deals out who knows what, and starts all sampling.")] = 0,
    only: Annotated[str | None, typer.Option(help="llama or mistral; default both, side by side.")] = None,
    scale: Annotated[float, typer.Option(min=0.001, help="Share of the full upbringing.")] = 1.0,
) -> None:
    """Raise the pocket models from scratch (about an hour on 2 cores)."""
    from pbt.pocket.pretrain import FAMILIES, raise_models

    if only is not None and only not in FAMILIES:
        raise BadInput(f"--only {only}: no such pocket model; known: {', '.join(FAMILIES)}")
    raise_models([family for family in FAMILIES if only in (None, family)], folder, seed, scale)


@app.command("questions")
def pocket_questions(
    target: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("data/questions.json"),
) -> None:
    """Make the question set, in TriviaQA's official JSON, from the tables of facts."""
    from pbt.pocket.facts import write_questions

    count = write_questions(target)
    out.print(f"{target}: {count} questions", soft_wrap=True)


@app.command("misinformation")
def pocket_misinformation(
    target: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("data/misinformation.jsonl"),
) -> None:
    """Make false claims about the same facts, in FARM's schema, for 'pbt eval misinformation'."""
    from pbt.pocket.misinformation import write_claims

    count = write_claims(target)
    out.print(f"{target}: {count} claims", soft_wrap=True)
