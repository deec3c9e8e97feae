"""How well the claims of replies are read: by rule, and by any model of a run.

Reads `tests/data/replies.jsonl` (text, claim and kind, labelled by hand) and prints the share of claims read right for
each kind of reply. A claim is right when its normal form is the label's; a token must be that token. The lines are
halved by a hash: the rules were mended by looking at the first half only, so the second says what they are worth.

    python benchmarks/extraction.py [--config configs/pocket.yaml --model llama ...] [--misses]
"""

import argparse
import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from pbt.config import ModelConfig, load_config, shipped_prompts
from pbt.debate.answers import AGREE, DISAGREE, NONE, normalise
from pbt.engines.base import EngineError
from pbt.engines.load import load_engine
from pbt.extraction import claim_by_rule
from pbt.speaker import read_by_model

REPLIES = Path(__file__).parent.parent / "tests" / "data" / "replies.jsonl"
Line = dict[str, str]


def held_out(text: str) -> bool:
    """Whether a reply is of the half that nobody looks at."""
    return hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 2 == 1


def is_right(found: str, claim: str) -> bool:
    if {found, claim} & {AGREE, DISAGREE, NONE}:
        return found == claim
    return normalise(found) == normalise(claim)


def by_model(model: ModelConfig, lines: Sequence[Line]) -> list[str]:
    """The claims as a model reads them; a failed request reads nothing."""
    engine = load_engine(model)
    read = read_by_model(engine, shipped_prompts())

    async def one(text: str) -> str:
        try:
            return (await read(text)).claim
        except EngineError as error:
            return f"failed: {error}"

    async def everything() -> list[str]:
        return await asyncio.gather(*(one(line["text"]) for line in lines))

    try:
        return asyncio.run(everything())
    finally:
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/pocket.yaml"), help="where the models are named")
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="a model of it; may be repeated")
    parser.add_argument("--misses", action="store_true", help="also show what the rules miss in the first half")
    options = parser.parse_args()
    lines: list[Line] = [orjson.loads(line) for line in REPLIES.read_bytes().splitlines()]
    found = {"by rule": [claim_by_rule(line["text"]) for line in lines]}
    models = load_config(options.config).models if options.model else {}
    for name in options.model:
        found[name] = by_model(models[name], lines)

    table = Table("kind", "replies", *found, title=f"{len(lines)} replies, share of claims read right")

    def row(name: str, chosen: Callable[[Line], bool]) -> None:
        places = [place for place, line in enumerate(lines) if chosen(line)]
        shares = (sum(is_right(said[p], lines[p]["claim"]) for p in places) / len(places) for said in found.values())
        table.add_row(name, str(len(places)), *(f"{share:.3f}" for share in shares))

    for kind in dict.fromkeys(line["kind"] for line in lines):
        row(kind, lambda line, kind=kind: line["kind"] == kind)
    table.add_section()
    row("first half", lambda line: not held_out(line["text"]))
    row("held-out half", lambda line: held_out(line["text"]))
    row("all", lambda line: True)
    console = Console()
    console.print(table)
    if options.misses:
        for line, claim in zip(lines, found["by rule"], strict=True):
            if not held_out(line["text"]) and not is_right(claim, line["claim"]):
                console.print(f"{line['kind']}: {line['text']}\n    {line['claim']!r}, read {claim!r}", markup=False)


if __name__ == "__main__":
    main()
