"""What a reviewer would ask of a replication, each answered by training or measuring otherwise, on one of its seeds.

Trained otherwise: without SFT, on half and twice the pairs, on pairs by the rules of the released code, on half of the
relations, and from the other model. Measured otherwise: in wordings that no model was raised on, on the relations that
training left out, and against the trained model as persuader. All are of the balanced regime, beside the same base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from rich.table import Table

from pbt.config import RunConfig
from pbt.errors import BadInput
from pbt.evaluation import balanced
from pbt.evaluation.claims import PARTNER, signed
from pbt.evaluation.result import read_result
from pbt.evaluation.stats import Interval, differences, intervals
from pbt.pipeline import Pipeline
from pbt.pocket.facts import unit_hash
from pbt.pocket.unseen import is_pocket_fact, reworded
from pbt.provenance import RUN_FILE, write_atomic
from pbt.questions import load_questions
from pbt.store import tree_files

BASE, TRAINED = "base", "balanced"
TEST = Path("data") / "balanced" / "test.parquet"


class Row(NamedTuple):
    """One ablation: the base and the trained model on the same contexts."""

    name: str
    base: dict[str, Interval | None]
    """held, moved and balanced."""
    trained: dict[str, Interval | None]
    difference: Interval | None
    """Of balanced, paired."""
    items: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = {key: {name: i and asdict(i) for name, i in getattr(self, key).items()} for key in ("base", "trained")}
        return {**self._asdict(), **values, "difference": self.difference and asdict(self.difference)}


def check_pocket(run: RunConfig) -> None:
    """Raise BadInput for a question that is about no pocket fact: it has no relation to leave out, no unseen words."""
    for question in load_questions(run.questions, run.seed):
        if not is_pocket_fact(question.id):
            raise BadInput(
                f"{run.questions.source}: question '{question.id}' is no fact of the pocket world, which the ablations "
                "are about; leave out --ablations"
            )


def ablate(pipeline: Pipeline, run: RunConfig, home: Path) -> list[Row]:
    """Run all ablations on the seed in ``home``, into ``home/ablations``. Raises BadInput when a command fails."""
    folder, prefs, base = home / "ablations", home / "prefs", run.trained("dpo").path
    folder.mkdir(exist_ok=True)
    whole = {TRAINED: str(home / "dpo-balanced")}
    pairs = {key: getattr(run, key).pairs for key in ("sft", "dpo")}
    half = [f"{key}.pairs={count // 2}" for key, count in pairs.items() if count]
    twice = [f"{key}.pairs={count * 2}" for key, count in pairs.items() if count]

    def trained(name: str, own_prefs: Path = prefs, *sets: str, **how: Any) -> str:
        pipeline.but(*sets).train(folder / name, ["balanced"], prefs=own_prefs, **how)
        return str(folder / name / "dpo-balanced")

    def built(name: str, *options: str, trees: Path = home / "trees") -> Path:
        pipeline.build(trees, folder / name / "prefs", *options)
        return folder / name / "prefs"

    some = _trees_of_half(home / "trees", folder / "half-of-relations" / "trees")
    models = {
        BASE: base,
        **whole,
        "without-sft": trained("without-sft", prefs, "dpo.from_sft=false", methods=("dpo",)),
        "half-the-pairs": trained("half-the-pairs", prefs, *half),
        "twice-the-pairs": trained(
            "twice-the-pairs", built("twice-the-pairs", "--set", "preferences.size=max"), *twice
        ),
        "released-rules": trained("released-rules", built("released-rules", "--rules", "released")),
        "half-of-relations": trained("half-of-relations", built("half-of-relations", trees=some)),
    }
    pipeline.evaluate("balanced", models, folder / "same-contexts", prefs=prefs)
    rows = [_row(name, folder / "same-contexts", name) for name in models if name != BASE]

    left_out = _contexts(prefs, folder / "relations-left-out" / "prefs", lambda row: None if _taken(row) else row)
    seen = {BASE: base, TRAINED: models["half-of-relations"]}
    pipeline.evaluate("balanced", seen, left_out.parent, prefs=left_out)
    rows.append(_row("half-of-relations, on the other half", left_out.parent))

    unseen = _contexts(prefs, folder / "unseen-wordings" / "prefs", reworded)
    pipeline.evaluate("balanced", {BASE: base, **whole}, unseen.parent, prefs=unseen)
    rows.append(_row("unseen-wordings", unseen.parent))

    persuaded = folder / "trained-persuader"
    persuader = pipeline.but(f"models.{run.seats[0]}.path={home / 'dpo-balanced'}")
    persuader.train(persuaded, methods=())
    persuader.evaluate("balanced", {BASE: base, **whole}, persuaded)
    rows.append(_row("trained-persuader", persuaded))

    other = home / PARTNER
    models = {BASE: run.models[run.seats[0]].path, TRAINED: str(other / "dpo-balanced")}
    pipeline.evaluate("balanced", models, folder / "other-family", prefs=other / "prefs")
    rows.append(_row("other-family", folder / "other-family"))
    return rows


TITLE = "Ablations, of the first seed"
HEAD = ("ablation", "items", "base: held / moved / balanced", "trained: held / moved / balanced", "difference")


def to_markdown(rows: Sequence[Row]) -> str:
    """The ablations as a table."""
    lines = [HEAD, ["---"] * len(HEAD), *map(cells, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def table(rows: Sequence[Row]) -> Table:
    """The ablations for a terminal."""
    shown = Table(*HEAD, title=TITLE, title_justify="left")
    for row in rows:
        shown.add_row(*cells(row))
    return shown


def cells(row: Row) -> list[str]:
    """What stands under HEAD."""
    return [row.name, str(row.items), _three(row.base), _three(row.trained), signed(row.difference)]


def _three(values: dict[str, Interval | None]) -> str:
    return " / ".join("-" if interval is None else f"{interval.value:.2f}" for interval in values.values())


def _row(name: str, home: Path, model: str = TRAINED) -> Row:
    """Compare a model with the base, from their results."""
    records = [read_result(home / "eval" / "balanced" / f"{each}.json").records for each in (BASE, model)]
    base, trained = (
        {key: metric for key, metric in balanced.measure(each).metrics.items() if key in ("held", "moved", "balanced")}
        for each in records
    )
    return Row(name, intervals(base), intervals(trained), differences(trained, base)["balanced"], len(records[1]))


def _taken(row: dict[str, Any]) -> bool:
    """Whether the question's relation is in the half that training takes. Of ``capital:peru`` it is ``capital``."""
    return unit_hash("ablation", row["question_id"].partition(":")[0]) < 0.5


def _trees_of_half(trees: Path, out: Path) -> Path:
    """The trees about half of the relations, as a folder of trees."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [line for file in tree_files(trees) for line in file.read_bytes().splitlines(keepends=True)]
    write_atomic(out / "half.jsonl", b"".join(line for line in lines if _taken(orjson.loads(line))))
    write_atomic(out / RUN_FILE, (trees / RUN_FILE).read_bytes())
    return out


def _contexts(prefs: Path, out: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Path:
    """Test pairs changed, or left out; returns the folder, which holds nothing else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(prefs / TEST)
    rows = [changed for row in table.to_pylist() if (changed := change(row)) is not None]
    (out / TEST).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), out / TEST)
    return out
