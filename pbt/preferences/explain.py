"""One pair as a person would read it: the debate, the two replies, and why the one was chosen."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pbt.errors import BadInput
from pbt.portrait import visible
from pbt.preferences.gather import PAIRS_FILE, REJECTIONS_FILE
from pbt.preferences.pairs import REASONS


def explain(prefs: Path, pair_id: str) -> RenderableType:
    """For a terminal: the pair, or, of two siblings that are none, the rule at which they fell.

    What a model wrote cannot steer the terminal.

    ``pair_id`` is ``<tree_id>/<turn>-<turn>``; the order of the turns does not matter. Raises BadInput with ids like it
    when ``prefs`` holds neither.
    """
    path = prefs / PAIRS_FILE
    if not path.is_file():
        raise BadInput(f"{path}: no such file; name a folder that 'pbt build-prefs' wrote with --prefs")
    tree_id, _, turns = pair_id.rpartition("/")
    wanted = {int(turn) for turn in turns.split("-") if turn.isdigit()}
    near = []
    for pair in _records(path, tree_id):
        if wanted == {pair["chosen_turn"], pair["rejected_turn"]}:
            return _portrait(pair)
        near.append(pair["pair_id"])
    for rejection in _records(prefs / REJECTIONS_FILE, tree_id):
        if wanted == set(rejection["turns"]):
            return _fall(rejection)
    if near:
        raise BadInput(f"{prefs}: no pair '{pair_id}'; those of its tree are {', '.join(near)}")
    known = [orjson.loads(line)["tree_id"] for line in path.open("rb")]
    close = ", ".join(repr(name) for name in difflib.get_close_matches(tree_id, known, n=3)) or "none like it"
    raise BadInput(f"{prefs}: no pair '{pair_id}', and none of a tree '{tree_id}'; trees with pairs: {close}")


def _records(path: Path, tree_id: str) -> Iterator[dict[str, Any]]:
    """The lines about one tree; few are parsed, because the id must stand in the line as it is written."""
    if not path.is_file():
        return
    mark = orjson.dumps({"tree_id": tree_id})[1:-1]
    with path.open("rb") as lines:
        for line in lines:
            if mark in line:
                record = orjson.loads(line)
                if record["tree_id"] == tree_id:
                    yield record


def _portrait(pair: dict[str, Any]) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    facts.add_row("question", Text(visible(pair["question"])))
    facts.add_row("right", Text(visible(", ".join(dict.fromkeys((pair["gold"], *pair["aliases"]))))))
    facts.add_row("split", pair["split"])

    messages = pair["prompt"]
    debate = [
        _said("the speaker is told and asked" if place == 0 else who, message["content"])
        for place, (who, message) in enumerate(zip(_names(pair, len(messages)), messages, strict=True))
    ]
    replies = [
        _said(
            f"{side}: turn {pair[f'{side}_turn']}, {pair[f'{side}_persona']}, score {pair[f'score_{side}']}, "
            f"then holds {_answer(pair[f'{side}_answer'])}",
            pair[side][0]["content"],
            style="green" if side == "chosen" else "red",
        )
        for side in ("chosen", "rejected")
    ]
    return Group(
        Text(f"{pair['pair_id']}: {pair['code']}", style="bold"),
        facts,
        Text(),
        *debate,
        *replies,
        Text("why", style="bold"),
        *(Padding(Text(line), (0, 0, 0, 2)) for line in _why(pair)),
    )


def _names(pair: dict[str, Any], messages: int) -> list[str]:
    """Who said each message after the first; speaker and partner take turns."""
    names = ["the speaker" if place % 2 else "the partner" for place in range(messages)]
    names[-2] = f"the speaker, turn {pair['own_turn']}, then holds {_answer(pair['own_answer'])}"
    names[-1] = (
        f"the partner, turn {pair['context_turn']}, {pair['context_persona']}, "
        f"then holds {_answer(pair['partner_answer'])}"
    )
    return names


def _said(who: str, text: str, style: str = "") -> RenderableType:
    shown = "\n".join(visible(line) for line in text.split("\n")) or "(no text)"
    return Group(Text(who, style=f"bold {style}".strip()), Padding(Text(shown), (0, 0, 1, 2)))


def _answer(answer: str) -> str:
    return "no answer" if answer == "NONE" else f"“{visible(answer)}”"


def _why(pair: dict[str, Any]) -> Iterator[str]:
    yield pair["rule"]
    high, low = pair["score_chosen"], pair["score_rejected"]
    yield f"scores {high} against {low}: a relative gap of {(high - low) / high:.2f}"
    if pair["copied_turns"]:
        turns = ", ".join(map(str, pair["copied_turns"]))
        yield f"a model found other words for the right answer at turns {turns}, which count as it"
    if pair["chosen_stance"]:
        yield (
            f"a model reads chosen as “{pair['chosen_stance']}” (log-odds {pair['chosen_log_odds']:+.2f}) "
            f"and rejected as “{pair['rejected_stance']}” ({pair['rejected_log_odds']:+.2f})"
        )


def _fall(rejection: dict[str, Any]) -> RenderableType:
    low, high = rejection["turns"]
    of = f" ({rejection['duplicate_of']})" if rejection["duplicate_of"] else ""
    return Text(f"{rejection['tree_id']}, turns {low} and {high}: no pair: {REASONS[rejection['reason']]}{of}")
