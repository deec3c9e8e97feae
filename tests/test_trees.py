"""Trees on disk, checked, counted, merged, shown and imported, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pbt.cli import app
from pbt.config import digest
from pbt.debate.tree import DebateTree, Turn
from pbt.errors import BadInput
from pbt.portrait import portrait, visible
from pbt.questions import Question
from pbt.store import Shard, TreeStore, read_trees
from pbt.trees import find_tree, import_released, merge, tree_stats, validate

RELEASED = Path(__file__).parent / "data" / "released.jsonl"
COVERS = {"seed": 1, "protocol": {"name": "p"}}


def turn(turn_id: int, parent: int | None, level: int, claim: str, **changes: Any) -> Turn:
    return Turn(
        **{
            "id": turn_id,
            "parent": parent,
            "level": level,
            "seat": level % 2,
            "persona": "standard",
            "text": f"It is {claim}.",
            "claim": claim,
            "tokens": 10,
            **changes,
        }
    )


def tree(question_id: str, *turns: Turn) -> DebateTree:
    said = turns or (turn(0, None, 0, "Paris"), turn(1, 0, 1, "Lyon"), turn(2, 0, 1, "Paris"))
    return DebateTree(question_id, question_id, "Which?", "Paris", ("paris",), "p", ("a", "b"), 1, said)


def fill(folder: Path, *trees: DebateTree, shard: str = "0/1", failed: str = "", covers: Any = COVERS) -> Path:
    """Write trees as a run does; returns the shard's file."""
    store = TreeStore(folder, Shard.parse(shard), {"config": {}, "digest": digest(covers)}, covers)
    for one in trees:
        store.write(one)
    if failed:
        store.fail(failed, ValueError("prompt too long"))
    store.close()
    return folder / f"{Shard.parse(shard).stem}.jsonl"


def pbt_trees(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app, ["trees", *map(str, arguments)])
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return done


# validate


def test_whole_trees_are_valid(tmp_path: Path) -> None:
    fill(tmp_path, tree("q1"), tree("q2"), failed="q3")
    assert pbt_trees("validate", tmp_path).stdout == "1 file, 2 trees, 1 failure: nothing wrong\n"


def damage(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the second of a file's lines."""
    lines = path.read_bytes().split(b"\n")
    record = json.loads(lines[1])
    changed = change(record)
    lines[1] = changed if isinstance(changed, bytes) else json.dumps(record).encode()
    path.write_bytes(b"\n".join(lines))


def set_turn(index: int, **fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda record: record["turns"][index].update(fields)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: [one.update(parent=3 - one["id"]) for one in record["turns"][1:]], "a cycle of turns: 1, 2"),
        (lambda record: record["turns"][1].pop("parent"), "Object missing required field 'parent' - at '$.turns[1]'"),
        (set_turn(2, parent=[0]), "Expected 'int | null', got 'array' - at '$.turns[2].parent'"),
        (set_turn(1, parent=1), "a cycle of turns: 1"),
        (set_turn(2, parent=None), "two roots, turns 0 and 2"),
        (set_turn(1, parent=99), "turn 1: its parent 99 is not among the turns"),
        (set_turn(1, id=2), "two of its turns have the same id"),
        (set_turn(1, level=3), "tree q2, turn 1: level 3 is not one below its parent's"),
        (set_turn(1, seat=2), "tree q2, turn 1: seat 2, but there are 2 seats"),
        (set_turn(1, tokens="ten"), "Expected 'int', got 'str' - at '$.turns[1].tokens'"),
        (set_turn(1, text=None), "Expected 'str', got 'null' - at '$.turns[1].text'"),
        (lambda record: record["turns"].clear(), "tree q2: it has no turns"),
        (lambda record: record["turns"].reverse(), "expected id 0; ids number the turns in order"),
        (lambda record: record.pop("gold"), "Object missing required field 'gold'"),
        (lambda record: record["turns"][1].pop("claim"), "Object missing required field 'claim' - at '$.turns[1]'"),
        (lambda record: record.update(format=2), "format 2 is newer than 1, the one this version reads; update pbt"),
        (lambda record: record.update(format=0), "format 0 is not 1"),
        (lambda record: record.pop("format"), "Object missing required field 'format'"),
        (lambda record: json.dumps(record).encode()[:-9], "not valid JSON: it is cut short"),
        (lambda record: json.dumps(record).encode()[:-200], "not valid JSON: it is cut short"),
        (lambda record: json.dumps(record).encode() + b"}", "not valid JSON: trailing characters"),
        (lambda record: json.dumps(record).encode().replace(b"Lyon", b"Ly\xffn"), "not valid UTF-8 at byte"),
        (lambda record: b"[" * 100_000, "Expected 'object', got 'array'"),
        (lambda record: b'{"format":1,"metadata":{"x":' + b"[" * 100_000, "nested too deeply"),
        (lambda record: b"17", "Expected 'object', got 'int'"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_with_file_line_and_reason(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    path = fill(tmp_path, tree("q1"), tree("q2"), tree("q3"))
    damage(path, change)
    told = json.loads(pbt_trees("validate", tmp_path, "--json", code=3).stdout)
    assert (told["files"], told["trees"]) == (1, 2)
    (bad,) = told["bad"]
    assert (bad["file"], bad["line"]) == (str(path), 2)
    assert reason in bad["reason"]
    shown = pbt_trees("validate", tmp_path, code=3).stdout
    assert shown.startswith(f"{path} line 2: not a tree: ")
    assert shown.endswith("1 file, 2 trees, 0 failures: 1 bad line\n")
    with pytest.raises(BadInput, match=r"jsonl line 2: not a tree: "):
        list(read_trees([tmp_path]))


def test_a_torn_last_line_is_bad_too(tmp_path: Path) -> None:
    path = fill(tmp_path, tree("q1"), tree("q2"))
    path.write_bytes(path.read_bytes()[:-20])
    (bad,) = validate([path]).bad
    assert bad.line == 2
    assert bad.reason.startswith("torn, so its tree is owed: not a tree: ")


def test_a_tree_or_question_that_stands_twice_is_bad(tmp_path: Path) -> None:
    first = fill(tmp_path, tree("q1"), tree("q2"), tree("q1"), shard="0/2")
    second = fill(tmp_path, replace(tree("q2"), tree_id="other"), shard="1/2")
    found = validate([tmp_path])
    assert found.trees == 2
    assert [str(bad) for bad in found.bad] == [
        f"{first} line 3: tree 'q1' stands a second time; first in {first} line 1",
        f"{second} line 1: question 'q2' has a second tree; the first is in {first} line 2",
    ]
    # A file named beside its folder is read once.
    assert validate([first, first]).trees == validate([first]).trees


def test_failures_and_the_record_are_checked_too(tmp_path: Path) -> None:
    fill(tmp_path, tree("q1"), failed="q2")
    failures = tmp_path / "shard-0000-of-0001.failures.jsonl"
    failures.write_bytes(failures.read_bytes() + b"{}\n")
    (tmp_path / "run.json").write_text("{")
    assert [(bad.file.name, bad.line) for bad in validate([tmp_path]).bad] == [(failures.name, 2), ("run.json", 1)]


def test_hostile_text_in_a_bad_line_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = fill(tmp_path, tree("q1"), replace(tree("q2"), tree_id="\x1b[2J[red]x[/red]"))
    damage(path, set_turn(1, level=3))
    shown = pbt_trees("validate", tmp_path, code=3).stdout
    assert "\x1b" not in shown
    assert r"tree \x1b[2J[red]x[/red], turn 1" in shown


@pytest.mark.parametrize("command", ["validate", "stats"])
def test_paths_without_trees_are_refused(tmp_path: Path, command: str) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadInput, match=r"no \*\.jsonl|no such file"):
            CliRunner().invoke(app, ["trees", command, str(path)], catch_exceptions=False)


# stats


def test_stats_count_turns_claims_and_right_answers(tmp_path: Path) -> None:
    mixed = tree(
        "q1",
        turn(0, None, 0, "Paris"),
        turn(1, 0, 1, "Lyon", persona="resistant", clipped=True),
        turn(2, 1, 2, "Agree", persona="logical"),  # takes Lyon: wrong, and both hold it
        turn(3, 1, 2, "Disagree", persona="emotional"),  # keeps Paris
        turn(4, 3, 3, "NONE", persona="resistant", text=""),
        turn(5, 0, 1, "Paris", persona="acceptant"),  # the same answer: both hold it
    )
    fill(tmp_path, mixed, tree("q2", turn(0, None, 0, "Nice")), failed="q3")
    told = json.loads(pbt_trees("stats", tmp_path, "--json").stdout)
    assert (told["trees"], told["failed"], told["turns"], told["tokens"]) == (2, 1, 7, 70)
    assert told["clipped"] == told["empty"] == round(1 / 7, 4)
    assert told["agreed"] == round(2 / 7, 4)
    assert told["claims"] == dict.fromkeys(("Agree", "Disagree", "NONE"), round(1 / 7, 4))
    assert [(at["level"], at["turns"], at["right"], at["ends"]) for at in told["levels"]] == [
        (0, 2, 0.5, 1),
        (1, 2, 0.5, 1),
        (2, 2, 0.5, 1),
        (3, 1, 0.0, 1),
    ]
    assert told["levels"][1]["personas"] == {
        "acceptant": {"turns": 1, "right": 1.0},
        "resistant": {"turns": 1, "right": 0.0},
    }
    assert told["bad"] == []


def test_stats_pass_over_bad_lines_and_say_so(tmp_path: Path) -> None:
    path = fill(tmp_path, tree("q1"), tree("q2"), tree("q3"))
    damage(path, lambda record: b"{broken")
    done = pbt_trees("stats", tmp_path, code=3)
    assert " trees " in done.stdout
    assert f"{path} line 2: not a tree: not valid JSON" in done.stderr.replace("\n", "")
    assert tree_stats([tmp_path]).trees == 2


# merge


def test_merging_shards_gives_every_question_once(tmp_path: Path) -> None:
    one = fill(tmp_path / "a", tree("q1"), tree("q2"), shard="0/2")
    two = fill(tmp_path / "b", tree("q3"), tree("q2"), shard="1/2", failed="q4")
    done = pbt_trees("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "whole", code=3)
    assert done.stdout == f"{tmp_path}/whole: 3 trees, 1 duplicate left out\n"
    assert "failed: q4: ValueError: prompt too long" in done.stderr
    merged = tmp_path / "whole" / "shard-0000-of-0001.jsonl"
    # Lines are copied as they are.
    assert merged.read_bytes() == one.read_bytes() + two.read_bytes().split(b"\n")[0] + b"\n"
    assert pbt_trees("validate", tmp_path / "whole").stdout == "1 file, 3 trees, 1 failure: nothing wrong\n"


def test_a_run_goes_on_in_a_merged_folder(tmp_path: Path) -> None:
    fill(tmp_path / "a", tree("q1"), failed="q2")
    merge([tmp_path / "a"], tmp_path / "whole")
    store = TreeStore(tmp_path / "whole", Shard(0, 1), {"config": {}, "digest": digest(COVERS)}, COVERS)
    assert (store.done(), store.failed()) == ({"q1"}, {"q2"})
    store.close()


def test_a_question_that_was_grown_after_a_failure_counts_as_grown(tmp_path: Path) -> None:
    fill(tmp_path / "a", tree("q1"), failed="q1")
    found = merge([tmp_path / "a"], tmp_path / "whole.jsonl")
    assert found.whole
    assert [one.question_id for one in read_trees([tmp_path / "whole.jsonl"])] == ["q1"]


def test_another_tree_of_a_question_is_left_out_and_named(tmp_path: Path) -> None:
    first = fill(tmp_path / "a", tree("q1"))
    second = fill(tmp_path / "b", tree("q1", turn(0, None, 0, "Lyon")))
    done = pbt_trees("merge", first, second, "--out", tmp_path / "whole.jsonl", code=3)
    assert f"{second} line 1: left out: question 'q1' has another tree in {first} line 1" in done.stderr
    assert (tmp_path / "whole.jsonl").read_bytes() == first.read_bytes()


def test_merging_says_which_questions_are_missing(tmp_path: Path) -> None:
    fill(tmp_path / "a", tree("q1"), failed="q3")
    wanted = [Question(name, "Which?", "Paris", ("paris",)) for name in ("q1", "q2", "q3")]
    found = merge([tmp_path / "a"], tmp_path / "whole.jsonl", wanted)
    assert (found.missing, list(found.failed)) == (["q2"], ["q3"])


def test_a_tree_that_was_grown_from_another_question_is_left_out_and_named(tmp_path: Path) -> None:
    path = fill(tmp_path / "a", *(tree(name) for name in ("q1", "q2", "q3", "q4", "q5")))
    wanted = [
        Question("q1", "Which?", "Paris", ("paris",)),
        Question("q2", "Which one?", "Paris", ("paris",)),
        Question("q3", "Which?", "Lyon", ("lyon",)),
        Question("q4", "Which?", "Paris", ("city of light", "paris")),
    ]  # and q5 is of no question that is asked about
    found = merge([tmp_path / "a"], tmp_path / "whole.jsonl", wanted)
    assert [str(line) for line in found.strange] == [
        f"{path} line 2: left out: grown from another question 'q2': text 'Which?', now 'Which one?'",
        f"{path} line 3: left out: grown from another question 'q3': gold value 'Paris', now 'Lyon'; "
        "aliases ['paris'], now ['lyon']",
        f"{path} line 4: left out: grown from another question 'q4': aliases ['paris'], now ['city of light', 'paris']",
    ]
    assert [one.question_id for one in read_trees([tmp_path / "whole.jsonl"])] == ["q1", "q5"]
    assert found.missing == ["q2", "q3", "q4"] and not found.whole


def test_missing_questions_are_told_from_the_run_s_configuration(tmp_path: Path, data: Path, checkout: Path) -> None:
    fill(tmp_path / "a", tree("capital:france"))
    source = f"questions.source={data}/questions.json"
    config = checkout / "configs" / "pocket.yaml"
    arguments = ("--questions", config, "--set", source, "--set", "questions.limit=5", "--json")
    told = json.loads(pbt_trees("merge", tmp_path / "a", "--out", tmp_path / "m.jsonl", *arguments, code=3).stdout)
    assert 4 <= len(told["missing"]) <= 5


def test_trees_of_different_configurations_are_not_merged(tmp_path: Path) -> None:
    fill(tmp_path / "a", tree("q1"))
    fill(tmp_path / "b", tree("q2"), covers={**COVERS, "seed": 2})
    with pytest.raises(BadInput, match=r"b: its trees are of another configuration than those of .*a \(seed: 1 -> 2\)"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "whole")
    (tmp_path / "b" / "run.json").unlink()
    with pytest.raises(BadInput, match=r"b: no run\.json, so nothing says"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_a_merge_leaves_out_bad_lines_and_names_them(tmp_path: Path) -> None:
    path = fill(tmp_path / "a", tree("q1"), tree("q2"), tree("q3"))
    damage(path, lambda record: b"{broken")
    found = merge([path], tmp_path / "whole.jsonl")
    assert (found.trees, len(found.bad), found.whole) == (2, 1, False)


def test_a_merge_writes_over_nothing_and_leaves_nothing_half(tmp_path: Path) -> None:
    path = fill(tmp_path / "a", tree("q1"))
    before = path.read_bytes()
    for taken in (path, tmp_path / "a"):
        with pytest.raises(BadInput, match="holds something already"):
            merge([path], taken)
    assert path.read_bytes() == before
    with pytest.raises(BadInput, match=r"under-a-file.*cannot be written"):
        merge([path], path / "under-a-file.jsonl")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a"]


# show


def drawn(one: DebateTree) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(portrait(one))
    return console.export_text()


def test_a_tree_is_shown_with_personas_claims_and_both_seats_answers(tmp_path: Path) -> None:
    fill(
        tmp_path,
        tree("q0"),
        tree(
            "q1",
            turn(0, None, 0, "Paris", confidence=0.25),
            turn(1, 0, 1, "Lyon", persona="resistant", raw_claim="lyon (France)"),
            turn(2, 1, 2, "Agree", persona="logical", text="You are right.", clipped=True),
        ),
    )
    shown = pbt_trees("show", tmp_path, "q1").stdout
    for told in (
        "Which?  (right: Paris)",
        "seat 1: b",
        "turn 0  seat 0  standard",
        "claims Paris, confidence 0.25  seat 0 holds Paris (right); seat 1 holds nothing",
        "turn 1  seat 1  resistant",
        "claims Lyon (as extracted: lyon (France))",
        "turn 2  seat 0  logical  clipped",
        "You are right.",
        "claims Agree  seat 0 holds Lyon (wrong); seat 1 holds Lyon (wrong)",
    ):
        assert " ".join(told.split()) in " ".join(shown.replace("│", " ").split()), told
    assert json.loads(pbt_trees("show", tmp_path, "q1", "--json").stdout)["tree_id"] == "q1"


def test_answers_that_are_one_by_containment_are_both_right() -> None:
    one = tree("q1", turn(0, None, 0, "Paris"), turn(1, 0, 1, "Paris city"))
    assert "seat 0 holds Paris (right); seat 1 holds Paris city (right)" in drawn(one)


def test_what_a_model_wrote_is_neither_markup_nor_control() -> None:
    hostile = "[bold red]x[/bold red] \x1b[2J\x07 \u202eabc \u2028 [link=http://x]y[/link] \r[/] end"
    one = replace(
        tree("q1", turn(0, None, 0, hostile, text=f"{hostile}\nsecond line", persona=hostile, raw_claim=hostile)),
        question=hostile,
        gold=hostile,
        protocol=hostile,
        models=(hostile, "b"),
    )
    shown = drawn(one)
    assert not {"\x1b", "\x07", "\u202e", "\u2028", "\r"} & set(shown)
    assert shown.count("[bold red]x[/bold red]") == 9
    assert shown.count(r"\x1b[2J\x07 \u202eabc \u2028 [link=http://x]y[/link] \r[/] end") == 9
    assert "second line" in shown


def test_visible_keeps_what_can_be_seen() -> None:
    assert visible("Zürich 東京 🙂 a\tb\nc") == "Zürich 東京 🙂 a\\tb\\nc"


def test_a_tree_that_is_not_there_is_refused_with_ids_like_it(tmp_path: Path) -> None:
    fill(tmp_path, tree("capital:france"), tree("capital:italy"))
    with pytest.raises(BadInput, match=r"no tree 'capital:frnce' among its 2 trees; did you mean 'capital:france'"):
        find_tree([tmp_path], "capital:frnce")


# import-released


def test_released_trajectories_are_imported_and_bad_lines_named(tmp_path: Path) -> None:
    done = pbt_trees("import-released", RELEASED, "--out", tmp_path / "trees", code=3)
    assert done.stdout == f"{tmp_path}/trees: 3 trees, 35 turns, 1 duplicate left out\n"
    assert f"{RELEASED} line 3: not a released trajectory: not valid JSON" in done.stderr
    assert f"{RELEASED} line 6: not a released trajectory: metadata.answer.normalized_aliases" in done.stderr
    report = json.loads((tmp_path / "trees" / "import.json").read_text())
    assert [bad["line"] for bad in report["bad"]] == [3, 6]
    trees = list(read_trees([tmp_path / "trees"]))
    assert [one.question_id for one in trees] == ["tc_1_0", "tc_2_0", "tc_4_0"]
    assert pbt_trees("validate", tmp_path / "trees").stdout == "1 file, 3 trees, 0 failures: nothing wrong\n"


def test_the_states_of_an_imported_tree_are_those_of_the_file(tmp_path: Path) -> None:
    """Where no token is in a slot, both readings of the file are the same, slot for slot."""
    import_released([RELEASED], tmp_path / "trees")
    stored = {}
    for line in RELEASED.read_bytes().split(b"\n")[:2]:
        record = json.loads(line)
        record = json.loads(record) if isinstance(record, str) else record
        stored[record["metadata"]["question_id"]] = {node["node_idx"]: node for node in record["data"]}
    compared = 0
    for one in read_trees([tmp_path / "trees"]):
        for told, node_idx in zip(one.turns, one.metadata["node_idx"], strict=True):
            node = stored.get(one.tree_id, {}).get(node_idx)
            if node is None:
                continue
            assert told.text == node["generation"]
            assert told.seat == node["agent_idx"]
            if not {"Agree", "Disagree"} & set(node["extracted_ans"]) and "(" not in str(node["extracted_ans"]):
                assert one.states[told.id] == tuple(reversed(node["extracted_ans"]))
                compared += 1
    assert compared > 10


def test_a_question_set_fills_in_the_gold_value(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    row = {"question_id": "tc_5", "question": "Which?", "answer": {"value": "Madrid", "aliases": ["Madrid"]}}
    questions.write_text(json.dumps(row))
    arguments = ("import-released", RELEASED, "--out", tmp_path / "trees", "--questions", questions, "--json")
    told = json.loads(pbt_trees(*arguments, code=3).stdout)
    assert (told["trees"], len(told["bad"])) == (4, 1)
    last = list(read_trees([tmp_path / "trees"]))[-1]
    assert (last.gold, last.aliases, last.question) == ("Madrid", ("madrid",), "What is the capital of Spain?")


def test_an_import_is_whole_or_not_there(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{}\n{\n")
    with pytest.raises(
        BadInput, match=r"no trajectory could be read, found 2 bad lines; the first: .*data: is missing"
    ):
        import_released([broken], tmp_path / "trees")
    assert not list((tmp_path / "trees").glob("*"))
    import_released([RELEASED], tmp_path / "trees")
    with pytest.raises(BadInput, match="holds something already"):
        import_released([RELEASED], tmp_path / "trees")


def test_trajectories_of_other_models_or_a_second_one_of_a_question_are_bad(tmp_path: Path) -> None:
    first = json.loads(RELEASED.read_bytes().split(b"\n")[0])
    other = {**first, "model_a": "third"}
    again = json.loads(json.dumps(first))
    again["data"][1]["generation"] = "Something else."
    path = tmp_path / "more.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in (first, other, again)))
    found = import_released([path], tmp_path / "trees")
    assert (found.trees, found.duplicates) == (1, 0)
    assert "its models are ('third', 'models/two-7B')" in found.bad[0].reason
    assert "question 'tc_1_0' has another tree in" in found.bad[1].reason
