"""The dataset card: the README.md through which ``datasets`` finds the regimes and a reader learns what they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean
from typing import Any

import yaml

from pbt.config import REGIMES, PreferencesConfig
from pbt.debate.chat import Message
from pbt.preferences.funnel import Funnel
from pbt.preferences.pairs import CODES, REASONS, Pair

_BODY = """\
# {name}: preference pairs for persuasion-balanced training

Each row holds one point of a debate on a trivia question, right after the partner spoke, and two replies to it.
The better reply led to more correct answers. In **accept** pairs the speaker was wrong, its partner right, and the
chosen reply moves to the right answer; in **resist** pairs the speaker was right, its partner wrong, and the chosen
reply holds. The regimes `accept` and `resist` train on one kind, `balanced` on both in equal numbers; valid and test
are the same in all three.

```python
from datasets import load_dataset

balanced = load_dataset("path/to/this/folder", "balanced")
```

`prompt`, `chosen` and `rejected` are lists of chat messages; the other columns say where the pair comes from.

## Counts

{counts}

## How the pairs were made

{made}

{fell}

## Length of the replies

Mean number of words, over all pairs before balancing.

{lengths}

## Made by

{provenance}
"""


def dataset_card(
    pairs: Sequence[Pair],
    funnel: Funnel,
    models: Collection[tuple[str, ...]],
    config: PreferencesConfig,
    seed: int,
    record: dict[str, Any],
) -> str:
    """The text of README.md. ``models`` are the models by seat that the trees name; ``record`` is the provenance."""
    header = {
        "pretty_name": f"{record.get('name', 'unnamed')} preferences",
        "configs": [
            {
                "config_name": regime,
                **({"default": True} if regime == "balanced" else {}),
                # An empty split has a file but is not listed, because datasets refuses to load a split without rows.
                "data_files": [
                    {"split": split, "path": f"data/{regime}/{split}.parquet"}
                    for split, counts in funnel.regimes[regime].items()
                    if any(counts.values())
                ],
            }
            for regime in REGIMES
        ],
    }
    body = _BODY.format(
        name=record.get("name", "unnamed"),
        counts=_counts(funnel),
        made=_made(funnel, config),
        fell=_table(
            ("sibling pairs that were not taken", "number"),
            [(f"{words} (`{reason}`)", funnel.rejected[reason]) for reason, words in REASONS.items()],
        ),
        lengths=_table(("code", "pairs", "chosen", "rejected"), [_lengths(code, pairs) for code in CODES]),
        provenance="\n".join(
            (
                *(f"- models by seat: {', '.join(names)}" for names in sorted(models)),
                f"- seed: {seed}",
                f"- configuration digest: {record.get('digest', 'unknown')}",
                f"- pbt version: {record.get('version', 'unknown')}",
                f"- created: {record.get('created', 'unknown')}",
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
    return (
        f"From {funnel.trees} debate trees with {funnel.turns} turns ({funnel.empty_turns} of them without text) and "
        f"{funnel.candidates} pairs of siblings.\nA turn's score counts the right answers of both seats in the whole "
        f"debate below it. Of two siblings the higher score is\nchosen, under the rule set `{config.rules}` with a "
        f"relative gap of at least {config.min_gap:g}. Splits ({shares}, train / valid /\ntest) are a seeded hash of "
        f"the normalised gold value, so no question or answer stands in two. Regimes were trimmed\nby a seeded sample "
        f"(size: `{config.size}`). All pairs before trimming are in `pairs.jsonl`, and each pair of siblings that was\n"
        "not taken is in `rejections.jsonl` with the reason."
    )


def _lengths(code: str, pairs: Sequence[Pair]) -> tuple[str, int, str, str]:
    own = [pair for pair in pairs if pair.code == code]
    return (code, len(own), _mean_words([p.chosen for p in own]), _mean_words([p.rejected for p in own]))


def _mean_words(replies: Sequence[Sequence[Message]]) -> str:
    return f"{fmean(len(reply[0]['content'].split()) for reply in replies):.1f}" if replies else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
