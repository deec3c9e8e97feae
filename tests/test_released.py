"""Released trajectories: what is read from a line, what is made of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pbt.debate.tree import DebateTree, TreeError
from pbt.questions import Question
from pbt.released import parse_any, parse_released
from pbt.store import read_trees, scan_trees

FILE = Path(__file__).parent / "data" / "released.jsonl"


def turn(node: int, agent: int, parent: int, slots: tuple[str | None, str | None], **changes: Any) -> dict[str, Any]:
    """A turn as the files hold it; ``slots`` as stored, [agent 1, agent 0]."""
    return {
        "node_idx": node,
        "agent_idx": agent,
        "generation": f"words of turn {node}",
        "extracted_ans": list(slots),
        "extracted_conf": 0.5,
        "parent": parent,
        "children": [],
        **changes,
    }


def debate() -> list[dict[str, Any]]:
    """The prompt, one opening, two replies, and three answers to the first of them."""
    return [
        turn(
            -1, -1, -1, (None, None), generation="Answer.\n\nQuestion: Which city?", extracted_conf=-1.0, children=[1]
        ),
        turn(1, 0, -1, (None, "Paris (France)"), children=[2, 6]),
        turn(2, 1, 1, ("Lyon", "Paris (France)"), children=[3, 4, 5]),
        turn(3, 0, 2, ("Lyon", "Disagree")),
        turn(4, 0, 2, ("Lyon", "agree")),
        turn(5, 0, 2, ("Lyon", "NONE"), extracted_conf=-1),
        turn(6, 1, 1, ("Paris (France)", "Paris (France)")),
    ]


def trajectory(data: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    answer = {"value": "Paris", "normalized_aliases": ["paris", "city of light"], "aliases": ["Paris", "!"]}
    metadata = {"question_id": "tc_1_0", "question": "Which  city?", "answer": answer}
    return {"data": data or debate(), "metadata": metadata, "model_a": "one", "model_b": "two", **changes}


def line(record: Any) -> bytes:
    return json.dumps(record).encode() + b"\n"


def read(record: Any) -> DebateTree:
    return parse_released(line(record))


def test_the_question_is_the_metadata_s() -> None:
    tree = read(trajectory())
    assert (tree.tree_id, tree.question_id) == ("tc_1_0", "tc_1_0")
    assert tree.question == "Which city?"
    assert tree.gold == "Paris"
    assert tree.aliases == ("paris", "city of light")
    assert tree.models == ("one", "two")
    assert tree.protocol == "trivia-debate-released"


def test_the_prompt_is_no_turn_and_ids_of_the_file_are_kept_beside_ours() -> None:
    tree = read(trajectory())
    assert [one.parent for one in tree.turns] == [None, 0, 1, 1, 1, 0]
    assert [one.level for one in tree.turns] == [0, 1, 2, 2, 2, 1]
    assert [one.seat for one in tree.turns] == [0, 1, 0, 0, 0, 1]
    assert [one.text for one in tree.turns] == [f"words of turn {i}" for i in (1, 2, 3, 4, 5, 6)]
    assert tree.metadata == {"source": "released", "node_idx": [1, 2, 3, 4, 5, 6]}


def test_a_claim_is_the_speaker_s_slot_and_its_own_words_stay_where_they_differ() -> None:
    tree = read(trajectory())
    assert [one.claim for one in tree.turns] == ["Paris", "Lyon", "Disagree", "Agree", "NONE", "Paris"]
    assert [one.raw_claim for one in tree.turns] == ["Paris (France)", None, None, "agree", None, "Paris (France)"]


def test_slots_are_stored_by_seat_the_other_way_round() -> None:
    """So the states that follow from the claims are the file's, reversed."""
    tree = read(trajectory())
    assert tree.states[1] == ("Paris", "Lyon")
    assert tree.states[3] == ("Lyon", "Lyon")
    with pytest.raises(TreeError, match=r"data\[0\]\.extracted_ans: the answer of agent 0 was looked for at index 1"):
        read(trajectory([turn(1, 0, -1, ("Paris", None))]))


def test_confidence_is_kept_where_it_is_a_probability() -> None:
    assert [one.confidence for one in read(trajectory()).turns] == [0.5, 0.5, 0.5, 0.5, None, 0.5]
    data = debate()
    data[1]["extracted_conf"] = float("nan")  # half precision: 0 / 0
    assert read(trajectory(data)).turns[0].confidence is None


def test_personas_follow_from_the_order_of_siblings() -> None:
    """The opening's is drawn at random in the authors' code and stored nowhere."""
    names = [one.persona for one in read(trajectory()).turns]
    assert names == ["unknown", "resistant", "logical", "emotional", "credibility", "acceptant"]


def test_a_tree_without_branches_is_a_chain_of_test_time() -> None:
    data = [turn(1, 0, -1, (None, "Paris")), turn(2, 1, 1, ("Lyon", "Paris")), turn(3, 0, 2, ("Lyon", "Lyon"))]
    tree = read(trajectory(data))
    assert {one.persona for one in tree.turns} == {"standard"}
    assert tree.protocol == "chain"


def test_the_parent_s_list_orders_siblings_and_those_it_leaves_out_follow() -> None:
    data = debate()
    data[2]["children"] = [5, 3]
    assert read(trajectory(data)).metadata["node_idx"] == [1, 2, 5, 3, 4, 6]
    for node in data:
        del node["children"]
    assert read(trajectory(data[::-1])).metadata["node_idx"] == [1, 6, 2, 5, 4, 3]


def test_a_line_may_be_encoded_twice() -> None:
    assert read(json.dumps(trajectory())) == read(trajectory())


def test_without_question_in_the_metadata_the_prompt_tells_it() -> None:
    record = trajectory()
    del record["metadata"]["question"]
    assert read(record).question == "Which city?"


def test_without_normalised_aliases_the_others_are_normalised() -> None:
    record = trajectory()
    del record["metadata"]["answer"]["normalized_aliases"]
    assert read(record).aliases == ("paris",)


@pytest.mark.parametrize("known", ["tc_1", "tc_1_0"])
def test_a_question_set_tells_the_gold_value_where_the_line_does_not(known: str) -> None:
    record = trajectory()
    del record["metadata"]["answer"]
    with pytest.raises(TreeError, match=r"metadata\.answer\.normalized_aliases and metadata\.answer\.value"):
        read(record)
    tree = parse_released(line(record), {known: Question(known, "Which city?", "Paris", ("paris", "paname"))})
    assert (tree.gold, tree.aliases, tree.question_id) == ("Paris", ("paris", "paname"), "tc_1_0")


def test_partners_slots_that_do_not_follow_are_noted() -> None:
    data = debate()
    data[4]["extracted_ans"] = ["Nice", "Paris"]
    assert read(trajectory(data)).metadata["odd_slots"] == [4]


def without(name: str, *path: Any) -> dict[str, Any]:
    record: Any = trajectory()
    at = record
    for part in path:
        at = at[part]
    del at[name]
    return record  # type: ignore[no-any-return]


def changed(index: int, **fields: Any) -> dict[str, Any]:
    data = debate()
    data[index].update(fields)
    return trajectory(data)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (without("data"), "data: is missing; the keys there are metadata, model_a, model_b"),
        (without("metadata"), "metadata: is missing"),
        (without("question_id", "metadata"), r"metadata\.question_id: is missing; the keys there are question, answer"),
        (without("model_b"), "model_b: is missing"),
        (without("generation", "data", 2), r"data\[2\]\.generation: is missing; the keys there are node_idx"),
        (without("extracted_ans", "data", 1), r"data\[1\]\.extracted_ans: is missing"),
        (without("parent", "data", 1), r"data\[1\]\.parent: is missing"),
        (changed(1, generation=None), r"data\[1\]\.generation: expected a text, found null"),
        (changed(1, agent_idx=7), r"data\[1\]\.agent_idx: expected 0 or 1 \(-1 for the prompt\), found 7"),
        (changed(1, extracted_ans=["Paris"]), r"extracted_ans: expected two answers or nulls, found \['Paris'\]"),
        (changed(3, parent=99), "turn 3: its parent 99 is not among the turns"),
        (changed(2, node_idx=3), "two turns have the same node_idx"),
        (changed(2, parent=-1), "expected one turn whose parent is -1, found 2 of them"),
        (changed(2, parent=4), "a cycle: turn 2 does not hang from the first turn"),
        (trajectory(debate()[:1]), "expected one turn whose parent is -1, found none"),
        (trajectory(metadata=[]), "metadata: expected a record, found list"),
        ([1, 2], "expected a record, found list"),
        ("neither JSON nor a record", "not valid JSON"),
        (changed(1, generation="\ud83d"), "half of a surrogate pair"),
    ],
)
def test_what_cannot_be_read_names_the_field_that_was_looked_for(record: Any, message: str) -> None:
    with pytest.raises(TreeError, match=f"not a released trajectory: .*{message}"):
        read(record)


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (line(trajectory())[:80], "not valid JSON"),
        (line(trajectory()).replace(b"words", b"w\xffrds"), "not valid UTF-8"),
    ],
)
def test_a_line_that_cannot_be_decoded_says_so(damaged: bytes, message: str) -> None:
    for parse in (parse_released, parse_any):
        with pytest.raises(TreeError, match=f"not a released trajectory: {message}"):
            parse(damaged)


def test_one_reader_takes_both_forms() -> None:
    tree = read(trajectory())
    ours = json.dumps(dict(reversed(tree.to_dict().items()))).encode()
    for form in (line(tree.to_dict()), ours, line(trajectory()), line(json.dumps(trajectory()))):
        assert parse_any(form) == tree
    for neither in (b"{}", b"[1]", b"torn{", b'{"format":2}'):
        with pytest.raises(TreeError, match="not a tree"):
            parse_any(neither)


def test_what_reads_only_ours_points_to_the_import() -> None:
    bad: list[str] = []
    assert list(scan_trees([FILE], lambda found: bad.append(found.reason))) == []
    assert (
        bad[0]
        == bad[1]
        == "not a tree: it looks like a released trajectory; read those with 'pbt trees import-released'"
    )


def test_a_read_tree_is_written_and_read_again(tmp_path: Path) -> None:
    tree = read(trajectory())
    (tmp_path / "trees.jsonl").write_bytes(line(tree.to_dict()))
    assert list(read_trees([tmp_path])) == [tree]
