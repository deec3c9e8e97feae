"""The trajectories that the PBT authors publish, read as debate trees.

A line is ``{data: [turn...], metadata, model_a, model_b}``, or that as a JSON text inside a JSON text. docs/formats.md
lists the fields that are read, what is assumed, and what the files do not hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from pbt.debate.answers import normalise, read_claim
from pbt.debate.tree import DebateTree, TreeError, Turn
from pbt.questions import Question
from pbt.store import parse_tree

PROTOCOL, CHAIN = "trivia-debate-released", "chain"
"""What the trees are said to be grown under: a tree with branches, and one without, as at test time."""
UNKNOWN = "unknown"
"""The persona of a turn for which the files do not tell it."""

_PERSONAS = {(1, 2): ("resistant", "acceptant"), (0, 3): ("logical", "emotional", "credibility")}
"""The personas of siblings by their seat and number: the files hold none, but the order of siblings is fixed."""


def parse_released(line: bytes, questions: Mapping[str, Question] | None = None) -> DebateTree:
    """The tree of one line.

    ``questions``, by id, tell the gold value where the line does not. ``metadata.node_idx`` of the tree holds the
    turns' ids in the file, ``metadata.odd_slots`` those whose partner's slot is not as in the turn above. Raises
    TreeError naming the field that was looked for.
    """
    try:
        return _tree(_record(line), questions or {})
    except TreeError as error:
        raise TreeError(f"not a released trajectory: {error}") from None


def parse_any(line: bytes) -> DebateTree:
    """The tree of a line that is ours or a released trajectory. Raises TreeError."""
    if line.startswith(b'{"format"'):
        return parse_tree(line)
    try:
        ours = "data" not in _record(line)
    except TreeError:
        ours = not line.lstrip().startswith((b'"', b'{"data"'))
    return parse_tree(line) if ours else parse_released(line)


class _Node(NamedTuple):
    """A turn of the file."""

    id: int
    seat: int
    """-1 for the prompt, which stands among the turns."""
    text: str
    slots: tuple[str | None, str | None]
    """By seat; stored the other way round."""
    confidence: float | None
    parent: int
    """-1, or the id of the prompt, for the first turn."""
    children: list[int]


def _record(line: bytes) -> dict[str, Any]:
    record: Any = line.strip()
    while isinstance(record, str | bytes):
        record = _json(record)
    if not isinstance(record, dict):
        raise TreeError(f"expected a record, found {_kind(record)}")
    return record


def _json(text: str | bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        # Python's own reader takes the NaN that a confidence in half precision may be, and that its writer wrote.
        found = json.loads(text.decode() if isinstance(text, bytes) else text)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise TreeError(f"not valid UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise TreeError("a text in it holds half of a surrogate pair") from None
    except (ValueError, RecursionError) as error:
        raise TreeError(f"not valid JSON: {error}") from None
    return found


def _tree(record: dict[str, Any], questions: Mapping[str, Question]) -> DebateTree:
    nodes = [_node(index, node) for index, node in enumerate(_field(record, "data", list))]
    asked = _question(_field(record, "metadata", dict), nodes, questions)
    models = (_field(record, "model_a", str), _field(record, "model_b", str))
    prompts = {node.id for node in nodes if node.seat < 0}
    order = _preorder(
        [node._replace(parent=-1) if node.parent in prompts else node for node in nodes if node.seat >= 0]
    )
    ids = {node.id: turn_id for turn_id, node in enumerate(order)}
    children: dict[int, list[int]] = {}
    for node in order:
        children.setdefault(node.parent, []).append(node.id)
    branches = any(len(siblings) > 1 for siblings in children.values())

    turns: list[Turn] = []
    odd: list[int] = []
    above: dict[int, _Node] = {node.id: node for node in order}
    for node in order:
        said = node.slots[node.seat] or ""
        claim = read_claim(said)
        first = node.parent == -1
        partner = 1 - node.seat
        if node.slots[partner] != (None if first else above[node.parent].slots[partner]):
            odd.append(node.id)
        turns.append(
            Turn(
                id=ids[node.id],
                parent=None if first else ids[node.parent],
                level=0 if first else turns[ids[node.parent]].level + 1,
                seat=node.seat,
                persona=_persona(node, children[node.parent], branches or len(order) == 1),
                text=node.text,
                claim=claim,
                raw_claim=said if said != claim else None,
                confidence=node.confidence,
            )
        )
    return DebateTree(
        tree_id=asked.id,
        question_id=asked.id,
        question=asked.text,
        gold=asked.gold,
        aliases=asked.aliases,
        protocol=PROTOCOL if branches or len(order) == 1 else CHAIN,
        models=models,
        seed=0,
        turns=tuple(turns),
        metadata={"source": "released", "node_idx": [node.id for node in order], **({"odd_slots": odd} if odd else {})},
    )


def _node(index: int, node: Any) -> _Node:
    where = f"data[{index}]."
    if not isinstance(node, dict):
        raise TreeError(f"data[{index}]: expected a turn, found {_kind(node)}")
    node_id = _field(node, "node_idx", int, where)
    seat = -1 if node_id == -1 else _field(node, "agent_idx", int, where)
    if seat not in (-1, 0, 1):
        raise TreeError(f"{where}agent_idx: expected 0 or 1 (-1 for the prompt), found {seat}")
    # A null parent would do for the first turn as well as the prompt's id, -1.
    parent = -1 if node.get("parent", 0) is None else _field(node, "parent", int, where)
    stored = _field(node, "extracted_ans", list, where) if seat >= 0 else [None, None]
    if len(stored) != 2 or not all(answer is None or isinstance(answer, str) for answer in stored):
        raise TreeError(f"{where}extracted_ans: expected two answers or nulls, found {stored!r:.60}")
    if seat >= 0 and parent == -1 and stored[1 - seat] is None and stored[seat] is not None:
        raise TreeError(
            f"{where}extracted_ans: the answer of agent {seat} was looked for at index "
            f"{1 - seat}, because released files store [agent 1, agent 0], and stands at index {seat}"
        )
    stated = node.get("extracted_conf")
    confidence = float(stated) if isinstance(stated, int | float) and 0 <= stated <= 1 else None
    children = node.get("children") or []
    if not isinstance(children, list) or not all(isinstance(child, int) for child in children):
        raise TreeError(f"{where}children: expected a list of ids, found {children!r:.60}")
    text = _field(node, "generation", str, where)
    return _Node(node_id, seat, text, (stored[1], stored[0]), confidence, parent, children)


def _preorder(nodes: list[_Node]) -> list[_Node]:
    """The turns in preorder. Siblings stand as their parent lists them; those that it leaves out follow."""
    by_id = {node.id: node for node in nodes}
    if len(by_id) < len(nodes):
        raise TreeError("data: two turns have the same node_idx")
    below: dict[int, list[int]] = {-1: []}
    for node in nodes:
        below[node.id] = [child for child in node.children if child in by_id and by_id[child].parent == node.id]
    for node in nodes:
        if node.parent not in below:
            raise TreeError(f"data: turn {node.id}: its parent {node.parent} is not among the turns")
        if node.id not in below[node.parent]:
            below[node.parent].append(node.id)
    if len(below[-1]) != 1:
        found = f"{len(below[-1])} of them" if below[-1] else "none, so there are no turns or they make a cycle"
        raise TreeError(f"data: expected one turn whose parent is -1, found {found}")
    order: list[_Node] = []
    waiting = list(below[-1])
    while waiting:
        node = by_id[waiting.pop()]
        order.append(node)
        waiting += reversed(below[node.id])
    if len(order) < len(nodes):
        lost = min(by_id.keys() - {node.id for node in order})
        raise TreeError(f"data: a cycle: turn {lost} does not hang from the first turn")
    return order


def _persona(node: _Node, siblings: list[int], branches: bool) -> str:
    if not branches:
        return "standard"
    names = _PERSONAS.get((node.seat, len(siblings)))
    return names[siblings.index(node.id)] if names else UNKNOWN


def _question(metadata: dict[str, Any], nodes: list[_Node], questions: Mapping[str, Question]) -> Question:
    """The question and what counts as right: the normalised aliases as they are stored, as the authors' code does."""
    question_id = str(_field(metadata, "question_id", str | int, "metadata."))
    # The authors number their attempts at a question, and the numbers pile up: tc_1_0, then tc_1_0_1, are both of tc_1.
    stem = question_id
    while stem and stem not in questions:
        stem = stem.rpartition("_")[0]
    known = questions.get(stem)
    text = metadata.get("question") or next((_asked(node.text) for node in nodes if node.seat < 0), None)
    text = text or (known.text if known else None)
    if not isinstance(text, str):
        raise TreeError("metadata.question: is missing, and no prompt with 'Question: ' stands in data")
    answer = metadata.get("answer")
    answer = answer if isinstance(answer, dict) else {}
    aliases = [str(alias) for alias in answer.get("normalized_aliases") or () if alias]
    gold = answer.get("value") or (aliases[0] if aliases else None)
    if not aliases:
        aliases = [normalise(str(alias)) for alias in (gold, *(answer.get("aliases") or ())) if alias]
    if known and not gold:
        gold, aliases = known.gold, list(known.aliases)
    if not isinstance(gold, str) or not any(aliases):
        raise TreeError(
            "metadata.answer.normalized_aliases and metadata.answer.value: neither is there for question "
            f"'{question_id}', so nothing counts as right; 'pbt trees import-released --questions FILE' can tell"
        )
    return Question(question_id, " ".join(text.split()), gold, tuple(dict.fromkeys(filter(None, aliases))))


def _asked(prompt: str) -> str | None:
    """The question at the end of a prompt."""
    return prompt.rsplit("Question:", 1)[1].strip() if "Question:" in prompt else None


def _field(record: dict[str, Any], name: str, kind: Any, where: str = "") -> Any:
    if name not in record:
        keys = ", ".join(map(str, record)) or "none"
        raise TreeError(f"{where}{name}: is missing; the keys there are {keys:.120}")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {list: "a list", dict: "a record", str: "a text", int: "a number"}.get(kind, "a text or number")
        raise TreeError(f"{where}{name}: expected {wanted}, found {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
