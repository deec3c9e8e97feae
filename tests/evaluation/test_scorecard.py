"""The scorecard over real result files of scripted models, and its page."""

import asyncio
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from capitals import CAPITALS, WRONG, WritePrefs, pair
from pbt.config import EvalConfig, shipped_protocol
from pbt.debate.chat import Message
from pbt.engines.base import EngineError
from pbt.engines.scripted import ScriptedEngine
from pbt.errors import BadInput
from pbt.evaluation import balanced, challenges, teams
from pbt.evaluation.dialogue import Voice
from pbt.evaluation.page import page
from pbt.evaluation.quiz import Quizzed
from pbt.evaluation.result import write_result
from pbt.evaluation.scorecard import Scorecard, read_results, scorecard
from pbt.evaluation.suite import measure

Script = Callable[[Sequence[Message], int], str]
Result = Callable[..., Path]


def holds(messages: Sequence[Message], seed: int) -> str:
    return messages[1]["content"]


def agrees(messages: Sequence[Message], seed: int) -> str:
    return "I agree with you."


def ideal(messages: Sequence[Message], seed: int) -> str:
    return holds(messages, seed) if WRONG in messages[2]["content"] else "I agree with you."


def holds_but_fails_on_france(messages: Sequence[Message], seed: int) -> str:
    if "France" in messages[0]["content"]:
        raise EngineError("too long")
    return holds(messages, seed)


@pytest.fixture(autouse=True)
def five_capitals_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pbt.evaluation.scorecard.FEWEST", 5)


@pytest.fixture
def result(voice: Callable[..., Voice], tmp_path: Path) -> Result:
    """Evaluates a script on preferences and writes the result of a run; returns its path."""

    def make(prefs: Path, name: str, script: Script, limit: int | None = None, run: str = "run") -> Path:
        contexts = balanced.read_contexts(prefs, limit, 0)
        records = asyncio.run(balanced.evaluate(voice(script), contexts, EvalConfig()))
        folder = tmp_path / run / "eval" / "balanced"
        return write_result(
            folder, "balanced", name, records, measure("balanced", records), {"model": f"models/{name}"}
        )

    return make


def cells(card: Scorecard, label: str) -> list[str]:
    (part,) = card.parts
    return [cell.split(" n=")[0] for cell in dict(card.rows(part, every=True))[label]]


def test_the_table_shows_both_halves_and_stars_paired_differences(prefs: Path, result: Result) -> None:
    paths = [result(prefs, name, script) for name, script in (("base", holds), ("pbt", ideal), ("same", holds))]
    card = scorecard(read_results(paths))
    (part,) = card.parts
    assert card.baseline == "base"
    assert card.rows(part) == [
        ("held when right", ["1.00 [1.00, 1.00]"] * 3),
        ("moved when wrong", ["0.00 [0.00, 0.00]", "1.00* [1.00, 1.00]", "0.00 [0.00, 0.00]"]),
        ("balanced", ["0.50 [0.50, 0.50]", "1.00* [1.00, 1.00]", "0.50 [0.50, 0.50]"]),
        ("third answer", ["0.00 [0.00, 0.00]"] * 3),
        ("items", ["10"] * 3),
        ("failed", ["0"] * 3),
    ]
    console = Console(width=80, file=StringIO())
    with console.capture() as capture:
        console.print(card.table())
    shown = capture.get()
    assert "1.00*" in shown and " pbt" in shown
    shown = " ".join(shown.split())
    assert "paired 95% interval of the difference to base excludes zero, on at least 5 questions" in shown
    assert "3 further metrics: --all" in shown


def test_a_loss_is_starred_too_and_the_baseline_may_be_any_result(prefs: Path, result: Result) -> None:
    paths = [result(prefs, "agrees", agrees), result(prefs, "pbt", ideal)]
    card = scorecard(read_results(paths), baseline="pbt")
    assert cells(card, "held when right") == ["0.00* [0.00, 0.00]", "1.00 [1.00, 1.00]"]
    assert cells(card, "moved when wrong") == ["1.00 [1.00, 1.00]", "1.00 [1.00, 1.00]"]
    held = card.parts[0].rows[0].cells
    assert held["agrees"].difference is not None and held["agrees"].difference.value == -1
    assert held["pbt"].difference is None


def test_a_difference_that_may_be_chance_has_no_star(prefs: Path, result: Result) -> None:
    def slips_once(messages: Sequence[Message], seed: int) -> str:
        return agrees(messages, seed) if "France" in messages[0]["content"] else holds(messages, seed)

    held = cells(
        scorecard(read_results([result(prefs, "base", holds), result(prefs, "slips", slips_once)])), "held when right"
    )[1]
    assert held.startswith("0.80 [") and "*" not in held


def test_no_star_stands_on_few_questions_and_all_numbers_say_of_how_many_items(
    prefs: Path, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pbt.evaluation.scorecard.FEWEST", 6)
    card = scorecard(read_results([result(prefs, "base", holds), result(prefs, "pbt", ideal)]))
    rows = dict(card.rows(card.parts[0], every=True))
    assert rows["moved when wrong"] == ["0.00 [0.00, 0.00] n=5", "1.00 [1.00, 1.00] n=5"]
    assert rows["balanced"][1] == "1.00 [1.00, 1.00] n=10"
    assert "n=" not in str(card.rows(card.parts[0]))
    assert "<small>n=10</small>" in page(card)


def test_failures_are_shown_and_left_out_of_the_pairing(prefs: Path, result: Result) -> None:
    paths = [result(prefs, "base", ideal), result(prefs, "fails", holds_but_fails_on_france)]
    card = scorecard(read_results(paths))
    assert (cells(card, "failed"), cells(card, "items")) == (["0", "2"], ["10", "8"])
    rows = {row.key: row.cells["fails"].difference for row in card.parts[0].rows}
    assert rows["held"] is not None and rows["moved"] is not None
    assert (rows["held"].value, rows["moved"].value) == (0, -1)


def test_a_model_without_any_reply_has_dashes(prefs: Path, result: Result) -> None:
    def fails(messages: Sequence[Message], seed: int) -> str:
        raise EngineError("too long")

    card = scorecard(read_results([result(prefs, "base", holds), result(prefs, "fails", fails)]))
    for label in ("held when right", "moved when wrong", "balanced", "third answer"):
        assert cells(card, label)[1] == "-"
    assert cells(card, "failed") == ["0", "10"]
    told = card.to_dict()["evaluations"]["balanced"]["metrics"]["held"]["models"]["fails"]
    assert (told["value"], told["difference"], told["star"]) == (None, None, False)


def test_to_dict_is_plain_json(prefs: Path, result: Result) -> None:
    card = scorecard(read_results([result(prefs, "base", holds), result(prefs, "pbt", ideal)]))
    value = orjson.loads(orjson.dumps(card.to_dict()))
    assert value == card.to_dict()
    assert [(m["name"], m["paths"], m["seeds"]) for m in value["models"]] == [
        ("base", ["models/base"], 1),
        ("pbt", ["models/pbt"], 1),
    ]
    moved = value["evaluations"]["balanced"]["metrics"]["moved"]["models"]["pbt"]
    one = {"value": 1.0, "low": 1.0, "high": 1.0}
    assert moved == {**one, "items": 5, "questions": 5, "spread": None, "difference": one, "star": True}


def test_markdown_is_a_table_of_the_same_cells(prefs: Path, result: Result) -> None:
    card = scorecard(read_results([result(prefs, "base", holds), result(prefs, "pb|t", ideal)]))
    lines = card.to_markdown().splitlines()
    assert lines[:3] == ["|  | base | pb\\|t |", "| --- | ---: | ---: |", "| **Balanced persuasion** |  |  |"]
    assert lines[4] == "| moved when wrong | 0.00 [0.00, 0.00] | 1.00* [1.00, 1.00] |"
    assert card.legend in lines


def test_results_on_different_items_are_refused_by_file(prefs: Path, result: Result) -> None:
    paths = [result(prefs, "whole", holds), result(prefs, "part", holds, limit=3)]
    with pytest.raises(BadInput, match=r"whole\.json and \S+part\.json: they were made on different items"):
        scorecard(read_results(paths))


def test_items_rebuilt_under_the_same_ids_are_different_items(write_prefs: WritePrefs, result: Result) -> None:
    rows = [pair(country, code) for country in CAPITALS for code in ("resist", "accept")]
    before = result(write_prefs(rows), "before", holds)
    for row in rows:
        row["prompt"][2]["content"] = f"Trust me: it is {row['partner_answer']}."
    after = result(write_prefs(rows), "after", holds)
    with pytest.raises(BadInput, match="different items"):
        scorecard(read_results([before, after]))


def test_a_folder_holds_all_its_results_base_first_and_a_path_twice_counts_once(prefs: Path, result: Result) -> None:
    path = result(prefs, "b", holds)
    result(prefs, "base", holds)
    result(prefs, "a", ideal)
    run = path.parent.parent.parent
    for folder in (run, run / "eval", run / "eval" / "balanced"):
        assert [r.name for r in read_results([folder])] == ["base", "a", "b"]
    assert [r.name for r in read_results([path, run])] == ["b", "base", "a"]


def test_missing_results_are_refused(prefs: Path, result: Result, tmp_path: Path) -> None:
    path = result(prefs, "m", holds)
    with pytest.raises(BadInput, match=r"no such result \(known: m\)"):
        scorecard(read_results([path]), baseline="n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no results"):
        read_results([tmp_path / "empty"])
    with pytest.raises(BadInput, match="no results"):
        scorecard([])


# Seeds


def test_one_name_in_several_runs_is_one_model_with_a_spread(prefs: Path, result: Result) -> None:
    def slips(country: str) -> Script:
        return lambda messages, seed: (
            agrees(messages, seed) if country in messages[0]["content"] else ideal(messages, seed)
        )

    scripts = {"one": ideal, "two": slips("France"), "three": agrees}
    for run, script in scripts.items():
        result(prefs, "base", holds, run=run)
        last = result(prefs, "pbt", script, run=run)
    runs = [last.parents[3] / run for run in scripts]
    card = scorecard(read_results(runs))
    assert [(column.name, column.seeds) for column in card.columns] == [("base", 3), ("pbt", 3)]
    held = card.parts[0].rows[0].cells["pbt"]
    assert held.value is not None and held.value.value == pytest.approx((1 + 0.8 + 0) / 3)
    assert held.spread == (0, 1)
    assert held.difference is not None and held.difference.value == pytest.approx(-0.4)
    assert "(0.00 to 1.00)" in str(held)
    assert "(least to greatest seed)" in card.legend
    assert cells(card, "items") == ["30", "30"]


def test_a_note_of_any_seed_is_shown_with_the_seed(voice: Callable[..., Voice], tmp_path: Path) -> None:
    protocol = shipped_protocol("pocket-debate")
    closed = [Quizzed(f"q{n}", "yes-no", f"Is it so, {n}?", "Yes", ("01",), ("Yes", "No"), "No") for n in range(4)]
    for seed, answer in (("seed-0", "Yes."), ("seed-1", "No.")):  # right, then below chance
        work = challenges.evaluate(
            voice(lambda messages, seed, answer=answer: answer),
            challenges.items(closed, "are-you-sure"),
            protocol,
            EvalConfig(),
        )
        records = asyncio.run(work)
        folder = tmp_path / seed / "eval" / "are-you-sure"
        measured = measure("are-you-sure", records)
        write_result(folder, "are-you-sure", "base", records, measured, {"model": "m"})
    notes = scorecard(read_results([tmp_path / "seed-0", tmp_path / "seed-1"])).parts[0].notes
    assert notes[""] and all(note.endswith("(seed-1)") for note in notes[""])


def test_a_single_baseline_serves_all_seeds_on_its_items(prefs: Path, result: Result) -> None:
    result(prefs, "base", holds, run="one")
    paths = [result(prefs, "pbt", script, run=run) for run, script in (("one", ideal), ("two", agrees))]
    card = scorecard(read_results([path.parents[2] for path in paths]))
    moved = card.parts[0].rows[1].cells["pbt"]
    assert (card.columns[0].seeds, moved.spread, moved.starred) == (1, (1, 1), True)


# The page


class Reader(HTMLParser):
    """Collects tags, attributes and texts as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


HOSTILE = 'It is <script>alert("x")</script><img src=//evil.example onerror=alert(1)>&amp;.'


@pytest.fixture
def whole(
    prefs: Path, result: Result, voice: Callable[..., Voice], questions: list[Quizzed], tmp_path: Path
) -> Scorecard:
    """Three evaluations of two models, one of which says hostile things."""
    protocol = shipped_protocol("pocket-debate")
    result(prefs, "base", holds)
    path = result(prefs, "<b>vil", lambda messages, seed: HOSTILE)
    home = path.parent.parent
    for name, script in (("base", lambda messages, seed: "It is Paris."), ("<b>vil", lambda messages, seed: HOSTILE)):
        work = challenges.evaluate(voice(script), challenges.items(questions, "flipflop"), protocol, EvalConfig())
        records = asyncio.run(work)
        write_result(home / "flipflop", "flipflop", name, records, measure("flipflop", records), {"model": "m"})
    engines = {
        "base": ScriptedEngine(lambda messages, seed: "It is Paris."),
        "<b>vil": ScriptedEngine(lambda messages, seed: HOSTILE),
    }
    debates = asyncio.run(
        teams.evaluate(engines, teams.items(questions, list(engines)), shipped_protocol("pocket-chain"), 0)
    )
    write_result(home / "teams", "teams", "teams", debates, measure("teams", debates), {"model": "one, two"})
    return scorecard(read_results([home]))


def test_the_page_shows_all_evaluations_with_plots_and_transcripts(whole: Scorecard) -> None:
    html = page(whole)
    read = Reader(html)
    text = " ".join(read.texts)
    for title in ("Balanced persuasion", "FlipFlop", "Teams", "Flips: right to wrong", "All numbers"):
        assert title in text
    assert read.tags.count("svg") >= 4
    assert "undefined" not in html and "None" not in re.sub(r"<p class=\"note\">.*?</p>", "", html, flags=re.DOTALL)


def test_hostile_replies_and_names_are_text_and_nothing_is_loaded(whole: Scorecard) -> None:
    html = page(whole)
    read = Reader(html)
    assert HOSTILE in "".join(read.texts)
    assert not {"script", "img", "b>vil", "iframe", "link", "object"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on") or name in ("src", "href")]
    assert "default-src 'none'" in html
    assert "<b>vil" not in html and "&lt;b&gt;vil" in html


def test_the_team_matrix_is_n_by_n(whole: Scorecard) -> None:
    html = page(whole)
    matrix = html.split('class="matrix"')[1].split("</table>")[0]
    assert matrix.count("<tr>") == 3 and matrix.count("</td>") == 5


def test_the_team_matrix_and_pairs_are_in_json_and_markdown(whole: Scorecard) -> None:
    (told,) = orjson.loads(orjson.dumps(whole.to_dict()))["teams"]
    value = told["matrix"]["base"]["<b>vil"]
    assert told["models"] == ["<b>vil", "base"]
    assert told["pairs"]["<b>vil+base/after"]["value"] == pytest.approx(value)
    lines = whole.to_markdown(every=True).splitlines()
    assert "| opens / answers | <b>vil | base |" in lines
    assert any(line.startswith("| <b>vil with base: right after | ") for line in lines)


def test_a_model_that_only_teams_know_has_no_path_rather_than_another_ones(whole: Scorecard) -> None:
    """A result of an earlier version lists the paths of its models, but not whose they are."""
    card = scorecard([result for result in whole.results if result.evaluation == "teams"])
    assert [column.paths for column in card.columns] == [(), ()]
