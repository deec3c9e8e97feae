"""The dataset card: the README.md through which ``datasets`` finds the tables and a reader learns what they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from textwrap import fill
from typing import Any

import yaml

from pbt.config import REGIMES, PreferencesConfig
from pbt.preferences.funnel import Funnel
from pbt.preferences.pairs import CODES, REASONS
from pbt.preferences.tables import VIEWS

_BODY = """\
# {name}: preference pairs for persuasion-balanced training

Each row holds one point of a debate on a trivia question, right after the partner spoke, and two replies to it.
The better reply led to more correct answers. In **accept** pairs the speaker was wrong, its partner right, and the
chosen reply moves to the right answer; in **resist** pairs the speaker was right, its partner wrong, and the chosen
reply holds. The regimes `accept` and `resist` train on one kind, `balanced` on both in equal numbers; valid and test
are the same in all three.

```python
from datasets import load_dataset, load_from_disk

balanced = load_dataset("path/to/this/folder", "balanced")
balanced = load_from_disk("path/to/this/folder/balanced")
```

`prompt`, `chosen` and `rejected` are lists of chat messages, to which no chat template has been applied; the other
columns say where the pair comes from. `sft-<regime>` holds the chosen replies alone (`prompt`, `completion`),
`kto-<regime>` both replies apart, with a `label`.

## Counts

{counts}

## How the pairs were made

{made}

{fell}

## Length of the replies

Mean number of words over all pairs before balancing, and in how many pairs the chosen reply is the longer one.

{lengths}

## Made by

{provenance}
"""


def dataset_card(
    funnel: Funnel, models: Collection[tuple[str, ...]], config: PreferencesConfig, record: dict[str, Any]
) -> str:
    """The text of README.md. ``models`` are the models by seat that the trees name; ``record`` is the provenance."""
    header = {
        "pretty_name": f"{record['name']} preferences",
        "license": config.licence,
        "configs": [
            {
                "config_name": f"{view}{regime}",
                **({"default": True} if (view, regime) == ("", "balanced") else {}),
                # An empty split has a file but is not listed, because datasets refuses to load a split without rows.
                "data_files": [
                    {"split": split, "path": f"data/{view}{regime}/{split}.parquet"}
                    for split, counts in funnel.regimes[regime].items()
                    if any(counts.values())
                ],
            }
            for view in VIEWS
            for regime in REGIMES
        ],
    }
    body = _BODY.format(
        name=record["name"],
        counts=_counts(funnel),
        made=_made(funnel, config),
        fell=_table(
            ("sibling pairs that were not taken", "number"),
            [(f"{words} (`{reason}`)", funnel.rejected[reason]) for reason, words in REASONS.items()],
        ),
        lengths=_table(
            ("code", "pairs", "chosen", "rejected", "chosen longer"),
            [(code, funnel.emitted[code], *map(_shown, funnel.lengths[code])) for code in CODES],
        ),
        provenance="\n".join(
            (
                *(f"- models by seat: {', '.join(names)}" for names in sorted(models)),
                *(f"- source model {name}: {path}" for name, path in record["models"].items()),
                f"- licence: {config.licence}",
                f"- rule set: {config.rules}",
                f"- filter: {config.filter.model if config.filter else 'none'}",
                f"- seed: {record['seed']}",
                f"- configuration digest: {record['digest']}",
                f"- pbt version: {record['version']}",
                f"- created: {record['created']}",
            )
        ),
    )
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n{body}"


def _counts(funnel: Funnel) -> str:
    rows = [
        (regime, split, *(counts[code] for code in CODES))
        for regime, splits in funnel.regimes.items()
        for split, counts in splits.items()
    ]
    return _table(("regime", "split", *CODES), rows)


def _made(funnel: Funnel, config: PreferencesConfig) -> str:
    shares = " / ".join(f"{100 * share:g}" for share in config.split)
    gap = f"at least {config.min_gap:g}" if config.rules == "intended" else f"more than {config.released_gap:g}"
    rejections = ", and each pair of siblings that was not taken is in `rejections.jsonl` with the reason"
    text = (
        f"From {funnel.trees} debate trees with {funnel.turns} turns ({funnel.empty_turns} of them without text; "
        f"{funnel.skipped} lines were no trees) and {funnel.candidates} pairs of siblings. "
        "A turn's score counts the right answers of both seats in the whole debate below it. Of two siblings the "
        f"higher score is chosen, under the rule set `{config.rules}` with a relative gap of {gap}. "
        f"Splits ({shares}, train / valid / test) are a seeded hash of the normalised gold value, so no question or "
        f"answer stands in two. Regimes were trimmed by a seeded sample (size: `{config.size}`). "
        f"All pairs before trimming are in `pairs.jsonl`{rejections if config.rejections else ''}."
    )
    return fill(text, 118, break_long_words=False, break_on_hyphens=False)


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
