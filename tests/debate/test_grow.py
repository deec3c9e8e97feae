"""Growing: the shape of a tree, where its branches stop, what its seeds depend on, and how it runs at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from pbt.debate.answers import AGREE, NONE
from pbt.debate.chat import Message
from pbt.debate.grow import Speaker, Utterance, grow, turn_seed
from pbt.debate.protocol import Level, Protocol, Seat
from pbt.debate.tree import DebateTree, Turn

PROTOCOL = Protocol(
    name="four",
    opening="{instruction}|{question}",
    personas={name: name for name in ("standard", "resistant", "acceptant", "logical", "emotional", "credibility")},
    levels=(
        Level(seat="A", personas=("standard",)),
        Level(seat="B", personas=("resistant", "acceptant"), sees="question"),
        Level(seat="A", personas=("logical", "emotional", "credibility")),
        Level(seat="B", personas=("resistant", "acceptant")),
    ),
)


def persona_of(messages: Sequence[Message]) -> str:
    return messages[0]["content"].split("|", 1)[0]


def says(claim: str) -> Utterance:
    return Utterance(f"It is {claim}.", claim, False, 4)


def always(claim: str) -> Speaker:
    async def speak(messages: Sequence[Message], seed: int) -> Utterance:
        return says(claim)

    return speak


def grown(*speakers: Speaker, protocol: Protocol = PROTOCOL, seed: int = 1, tree_id: str = "t") -> tuple[Turn, ...]:
    return asyncio.run(grow(tree_id, "Which city?", protocol, speakers, seed))


def sizes(turns: Sequence[Turn]) -> list[int]:
    return [sum(turn.level == level for turn in turns) for level in range(len(PROTOCOL.levels))]


def test_a_debate_without_agreement_has_1_2_6_12_turns() -> None:
    turns = grown(always("Lyon"), always("Paris"))
    assert sizes(turns) == [1, 2, 6, 12]
    assert [t.id for t in turns] == list(range(21))
    assert all(t.seat == t.level % 2 for t in turns)
    tree = DebateTree("t", "q", "Which city?", "Paris", ("paris",), "four", ("a", "b"), 1, turns)
    for turn, children in zip(turns, tree.children, strict=True):
        below = PROTOCOL.levels[turn.level + 1].personas if turn.level < 3 else ()
        assert tuple(turns[child].persona for child in children) == below


def test_an_utterance_becomes_a_turn_whole() -> None:
    async def speak(messages: Sequence[Message], seed: int) -> Utterance:
        return Utterance("It is Lyon.", "Lyon", True, 17)

    assert grown(speak, always("Lyon"))[0] == Turn(0, None, 0, 0, "standard", "It is Lyon.", "Lyon", True, 17)


@pytest.mark.parametrize(
    ("first", "second", "shape"),
    [
        ("Lyon", "Lyon", [1, 2, 0, 0]),  # equal answers
        ("Lyon", "the lyon!", [1, 2, 0, 0]),  # equal in their normal form
        ("Tolstoy", "Leo Tolstoy", [1, 2, 0, 0]),  # contained
        ("Lyon", AGREE, [1, 2, 0, 0]),
        (AGREE, "Lyon", [1, 0, 0, 0]),  # said with nothing to agree to: it still stops
        (NONE, NONE, [1, 2, 6, 12]),  # no answer is no agreement
        ("", "", [1, 2, 6, 12]),
        ("Disagree", "Lyon", [1, 2, 6, 12]),
        ("Lyon", "Disagree", [1, 2, 6, 12]),
    ],
)
def test_a_branch_stops_where_the_seats_agree(first: str, second: str, shape: list[int]) -> None:
    assert sizes(grown(always(first), always(second))) == shape


def test_only_the_agreeing_branch_stops() -> None:
    async def second(messages: Sequence[Message], seed: int) -> Utterance:
        return says("Lyon" if persona_of(messages) == "acceptant" else "Paris")

    turns = grown(always("Lyon"), second)
    assert sizes(turns) == [1, 2, 3, 6]
    assert [t.persona for t in turns if t.level == 1] == ["resistant", "acceptant"]


def test_a_protocol_may_go_on_after_agreement() -> None:
    protocol = PROTOCOL.model_copy(update={"stop": "never"})
    assert sizes(grown(always("Lyon"), always("Lyon"), protocol=protocol)) == [1, 2, 6, 12]


def test_a_persona_drawn_by_chance_depends_on_seed_and_tree_alone() -> None:
    drawn = PROTOCOL.model_copy(
        update={"levels": (Level(seat="A", personas=("resistant", "logical"), draw="one"), *PROTOCOL.levels[1:])}
    )

    def opening(tree_id: str, seed: int) -> str:
        return grown(always("Lyon"), always("Paris"), protocol=drawn, tree_id=tree_id, seed=seed)[0].persona

    openings = [opening(f"t{i}", 1) for i in range(40)]
    assert openings == [opening(f"t{i}", 1) for i in range(40)]
    assert 8 < openings.count("resistant") < 32
    assert openings != [opening(f"t{i}", 2) for i in range(40)]


def test_the_released_rule_stops_by_spelling() -> None:
    released = PROTOCOL.model_copy(update={"stop": "released"})
    assert sizes(grown(always("Paris"), always("paris"), protocol=released)) == [1, 2, 6, 12]
    assert sizes(grown(always("Paris"), always("Paris"), protocol=released)) == [1, 2, 0, 0]
    assert sizes(grown(always(NONE), always(NONE), protocol=released)) == [1, 2, 6, 12]
    assert sizes(grown(always("Paris"), always(AGREE), protocol=released)) == [1, 2, 0, 0]


ROUND = Protocol(
    name="round",
    seats=tuple(Seat(name=name) for name in ("Ada", "Ben", "Cleo")),
    opening="{instruction}|{question}",
    personas={"standard": "standard"},
    levels=tuple(
        Level(seat=name, personas=("standard",), sees=sees)
        for sees in ("question", "path")
        for name in ("Ada", "Ben", "Cleo")
    ),
)


def test_three_seats_speak_in_a_round_until_all_hold_one_answer() -> None:
    assert [turn.seat for turn in grown(always("Lyon"), always("Paris"), always("Nice"), protocol=ROUND)] == [
        0,
        1,
        2,
    ] * 2
    # Two of three agree: that is no end.
    assert len(grown(always("Lyon"), always("Lyon"), always("Nice"), protocol=ROUND)) == 6
    assert len(grown(always("Lyon"), always("Lyon"), always("Lyon"), protocol=ROUND)) == 3
    # Cleo agrees with Ben, to whom it replies; Ada does not hold that answer.
    turns = grown(always("Lyon"), always("Paris"), always(AGREE), protocol=ROUND)
    tree = DebateTree("t", "q", "Which city?", "Paris", ("paris",), "round", ("a", "b", "c"), 1, turns)
    assert tree.states[2] == ("Lyon", "Paris", "Paris")
    assert len(turns) == 6


def test_in_a_round_partners_are_read_by_name() -> None:
    heard: list[Sequence[Message]] = []

    async def third(messages: Sequence[Message], seed: int) -> Utterance:
        heard.append(messages)
        return says("Nice")

    grown(always("Lyon"), always("Paris"), third, protocol=ROUND)
    assert [message["content"] for message in heard[1]] == [
        "standard|Which city?\n\nAda: It is Lyon.\n\nBen: It is Paris.",
        "It is Nice.",
        "Ada: It is Lyon.\n\nBen: It is Paris.",
    ]
    assert heard[1][1]["role"] == "assistant"


def test_each_speaker_gets_the_messages_of_its_seat() -> None:
    heard: dict[int, list[Sequence[Message]]] = {0: [], 1: []}

    def hears(seat: int, claim: str) -> Speaker:
        async def speak(messages: Sequence[Message], seed: int) -> Utterance:
            heard[seat].append(messages)
            return says(claim)

        return speak

    grown(hears(0, "Lyon"), hears(1, "Paris"))
    assert [len(heard[0]), len(heard[1])] == [7, 14]
    # B's first turns are asked without A's opening; its last ones hold the opening beside the question
    assert [m[0]["content"] for m in heard[1][:2]] == ["resistant|Which city?", "acceptant|Which city?"]
    assert {m[0]["content"] for m in heard[1][2:]} == {
        "resistant|Which city?\n\nIt is Lyon.",
        "acceptant|Which city?\n\nIt is Lyon.",
    }


def seeds_of(seed: int, tree_id: str) -> list[int]:
    found: list[int] = []

    async def speak(messages: Sequence[Message], seed: int) -> Utterance:
        found.append(seed)
        return says(NONE)

    grown(speak, speak, seed=seed, tree_id=tree_id)
    return sorted(found)


def test_a_turns_seed_depends_on_run_tree_and_path_only() -> None:
    paths = [(0,)] + [(0, i) for i in range(2)] + [(0, i, j) for i in range(2) for j in range(3)]
    paths += [(*path, k) for path in paths[3:] for k in range(2)]
    assert seeds_of(5, "t") == sorted(turn_seed(5, "t", path) for path in paths)
    everything = seeds_of(5, "t") + seeds_of(6, "t") + seeds_of(5, "u")
    assert len(set(everything)) == 63
    assert all(0 <= seed < 2**63 for seed in everything)


def test_seeds_stay_what_they_were() -> None:
    """Trees on disk name their seed: changing the derivation would make them unrepeatable."""
    assert turn_seed(0, "q1", (0,)) == 4803485596927661930
    assert turn_seed(0, "q1", (0, 1, 2)) != turn_seed(0, "q1", (0, 12))


def test_all_children_of_a_turn_are_asked_at_once() -> None:
    """No turn of a level is answered before all of that level are in flight; one by one would never end."""
    waiting: dict[int, int] = dict.fromkeys(range(4), 0)

    async def run() -> tuple[Turn, ...]:
        full = {level: asyncio.Event() for level in range(4)}
        expected = (1, 2, 6, 12)

        async def speak(messages: Sequence[Message], seed: int) -> Utterance:
            opening = "resistant" in messages[0]["content"] or "acceptant" in messages[0]["content"]
            level = (1 if len(messages) == 1 else 3) if opening else (0 if len(messages) == 1 else 2)
            waiting[level] += 1
            if waiting[level] == expected[level]:
                full[level].set()
            await asyncio.wait_for(full[level].wait(), timeout=5)
            return says(NONE)

        return await grow("t", "Which city?", PROTOCOL, (speak, speak), 1)

    assert sizes(asyncio.run(run())) == [1, 2, 6, 12]
    assert waiting == {0: 1, 1: 2, 2: 6, 3: 12}


def test_a_slow_branch_holds_up_no_fast_one() -> None:
    """The resistant branch answers only after the acceptant branch is grown to its leaves."""

    async def run() -> tuple[Turn, ...]:
        leaves = 0
        fast_done = asyncio.Event()

        async def first(messages: Sequence[Message], seed: int) -> Utterance:
            return says("Lyon")

        async def second(messages: Sequence[Message], seed: int) -> Utterance:
            nonlocal leaves
            if len(messages) == 1 and persona_of(messages) == "resistant":
                await asyncio.wait_for(fast_done.wait(), timeout=5)
            elif len(messages) > 1:
                leaves += 1
                if leaves == 6:
                    fast_done.set()
            return says("Paris")

        return await grow("t", "Which city?", PROTOCOL, (first, second), 1)

    assert sizes(asyncio.run(run())) == [1, 2, 6, 12]


@pytest.mark.parametrize("delays", range(8))
def test_delays_do_not_change_the_tree(delays: int) -> None:
    rng = random.Random(delays)

    def speaker(pause: bool) -> Speaker:
        async def speak(messages: Sequence[Message], seed: int) -> Utterance:
            for _ in range(rng.randrange(20) if pause else 0):
                await asyncio.sleep(0)
            return says(("Lyon", "Paris", "Nice", AGREE, NONE, "Brest")[seed % 6])

        return speak

    for tree_id in ("a", "b", "c", "d", "e"):
        assert grown(speaker(True), speaker(True), tree_id=tree_id) == grown(
            speaker(False), speaker(False), tree_id=tree_id
        )


def test_what_a_speaker_raises_ends_the_tree() -> None:
    async def breaks(messages: Sequence[Message], seed: int) -> Utterance:
        raise RuntimeError("prompt too long")

    with pytest.raises(RuntimeError, match="prompt too long"):
        grown(always("Lyon"), breaks)


def test_a_tree_that_failed_asks_for_nothing_more() -> None:
    """One turn of level 2 fails while its siblings and cousins still think: no leaf is asked for any more."""

    async def run() -> int:
        leaves = 0

        async def first(messages: Sequence[Message], seed: int) -> Utterance:
            if persona_of(messages) == "emotional":
                raise RuntimeError("prompt too long")
            for _ in range(0 if len(messages) == 1 else 10):
                await asyncio.sleep(0)
            return says("Lyon")

        async def second(messages: Sequence[Message], seed: int) -> Utterance:
            nonlocal leaves
            leaves += len(messages) > 1
            return says("Paris")

        with pytest.raises(RuntimeError):
            await grow("t", "Which city?", PROTOCOL, (first, second), 1)
        for _ in range(50):
            await asyncio.sleep(0)
        return leaves

    assert asyncio.run(run()) == 0
