"""The configuration: what is refused and how, overrides, digests, and every shipped file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pbt.config import RunConfig, differences, digest, load_config, read_yaml
from pbt.errors import BadInput

CONFIGS = sorted(Path(__file__).resolve().parent.parent.joinpath("configs").glob("**/*.yaml"))
PROTOCOLS = sorted(Path(str(resources.files("pbt").joinpath("protocols"))).glob("*.yaml"))

TABLE: dict[str, Any] = {
    "name": "small",
    "questions": {"source": "questions.json"},
    "protocol": "trivia-debate",
    "models": {"x": {"path": "models/x", "engine": {"seed": 1}}, "y": {"path": "models/y"}},
    "seats": ["x", "y"],
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "run.yaml"
    table = {key: value for key, value in {**TABLE, **changes}.items() if value is not ...}
    path.write_text(yaml.safe_dump(table, sort_keys=False), "utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(BadInput) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "FILE")


def test_reads_a_run(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, seed=3))
    assert (config.name, config.seed, config.seats) == ("small", 3, ("x", "y"))
    assert config.protocol.name == "trivia-debate"
    assert len(config.protocol.levels) == 4
    assert config.trained("sft") == config.models["y"]
    assert config.preferences.min_gap == 0.25
    assert config.preferences.split == (0.70, 0.15, 0.15)


def test_the_trained_model_may_be_named(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, sft={"model": "x"}))
    assert config.trained("sft").path == "models/x"
    assert config.trained("dpo").path == "models/y"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": 1}, "sede: unknown key; did you mean 'seed'?"),
        ({"zzz": 1}, "zzz: unknown key; known keys: name, seed, questions"),
        ({"questions": {"sourc": "a"}}, "questions.sourc: unknown key; did you mean 'source'?"),
        ({"models": {"x": {"path": "a", "egine": {}}}}, "models.x.egine: unknown key; did you mean 'engine'?"),
        ({"sft": {"lora": {"alhpa": 8}}}, "sft.lora.alhpa: unknown key; did you mean 'alpha'?"),
        ({"dpo": {"form_sft": True}}, "dpo.form_sft: unknown key; did you mean 'from_sft'?"),
        ({"generate": {"concurency": 1}}, "generate.concurency: unknown key; did you mean 'concurrency'?"),
        (
            {"protocol": {"name": "p", "personas": {}, "levels": [{"seat": "A", "persona": ["standard"]}]}},
            "protocol.levels.0.persona: unknown key; did you mean 'personas'?",
        ),
        ({"questions": ...}, "questions: is required and missing"),
        ({"models": ...}, "models: is required and missing"),
        ({"seats": ["x", "z"]}, "seats.1: no model 'z' under models (known: x, y)"),
        ({"dpo": {"model": "z"}}, "dpo.model: no model 'z' under models (known: x, y)"),
        ({"seats": ["x"]}, "seats: protocol 'trivia-debate' has 2 seats (A, B), found 1 models"),
        ({"name": "a/b"}, "name: String should match pattern"),
        ({"seed": "many"}, "seed: Input should be a valid integer"),
        ({"seed": "many"}, "found 'many'"),
        ({"preferences": {"split": [0.5, 0.2, 0.2]}}, "preferences.split: the shares of train, valid and test must"),
        ({"preferences": {"min_gap": 2}}, "preferences.min_gap: Input should be less than or equal to 1, found 2"),
        ({"eval": {"samples": 4}}, "eval: samples > 1 at temperature 0"),
        ({"slurm": {"evaluation": "balnced"}}, "slurm.evaluation: Input should be 'balanced', 'are-you-sure', "),
        ({"sft": {"from_sft": False}}, "sft.from_sft: is for dpo only; remove the key, found False"),
        ({"sft": {"method": "kto"}}, "sft.method: is for dpo only; remove the key, found 'kto'"),
        (
            {"protocol": "trivia"},
            "protocol: 'trivia' is neither a shipped protocol (chain, pocket-chain, pocket-debate, "
            "trivia-debate, trivia-debate-released, trivia-round) nor a file",
        ),
        (
            {
                "protocol": {
                    "name": "p",
                    "personas": {"standard": "A."},
                    "levels": [{"seat": "A", "personas": ["calm"]}],
                }
            },
            "protocol: levels.0.personas: there is no prompt for persona 'calm'; known: standard",
        ),
    ],
)
def test_a_wrong_key_is_named_with_its_cure(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    said = refusal(write(tmp_path, **changes))
    assert said.startswith("FILE: ")
    assert message in said


def test_all_wrong_keys_are_named_at_once(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, sede=1, sft={"lora": {"alhpa": 8}}))
    assert "'seed'" in said
    assert "'alpha'" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [1", "FILE line "),
        (b"- a\n- b\n", "FILE: expected a table of keys, found list"),
        (b"", "FILE: expected a table of keys, found NoneType"),
        (b"\xff\xfe\x00", "FILE: cannot be read"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    assert refusal(path).startswith(message)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "run.yaml") == "FILE: no such file"


def test_overrides_reach_any_key_and_are_read_as_yaml(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path),
        [
            "seed=9",
            "questions.limit=5",
            "sft.lora.r=4",
            "models.x.engine.dtype=float32",
            "preferences.split=[0.8, 0.1, 0.1]",
            "sft.trainer={max_steps: 3}",
            "models.y.path=a=b",
        ],
    )
    assert config.seed == 9
    assert config.questions.limit == 5
    assert config.sft.lora is not None
    assert config.sft.lora.r == 4
    assert config.models["x"].engine == {"seed": 1, "dtype": "float32"}
    assert config.preferences.split == (0.8, 0.1, 0.1)
    assert config.sft.trainer == {"max_steps": 3}
    assert config.models["y"].path == "a=b"


def test_an_override_reaches_into_a_protocol_that_is_given_by_name(tmp_path: Path) -> None:
    config = load_config(write(tmp_path), ["protocol=pocket-debate", "protocol.sampling.temperature=0"])
    assert config.protocol.name == "pocket-debate"
    assert config.protocol.sampling.temperature == 0
    assert config.protocol.sampling.max_tokens == 48


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set seed: expected KEY=VALUE"),
        ("=1", "--set =1: expected KEY=VALUE"),
        ("seed.x=1", "--set seed.x=1: 'seed' is not a table, so it has no 'x'"),
        ("seed=[1", "--set seed=[1: the value is not valid YAML"),
        ("sft.lora.alhpa=1", "sft.lora.alhpa: unknown key; did you mean 'alpha'?"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    assert message in refusal(write(tmp_path, seed=1), override)


def test_a_protocol_may_be_a_file_beside_the_run(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(PROTOCOLS[0].read_text("utf-8"), "utf-8")
    assert load_config(write(tmp_path, protocol="mine.yaml")).protocol.name == PROTOCOLS[0].stem


def test_the_resolved_configuration_reads_back_as_the_same(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, sft={"lora": {"r": 8}, "load": {"dtype": "bfloat16"}}))
    assert RunConfig.model_validate(config.resolved()) == config


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_a_digest_ignores_the_order_of_keys(table: dict[str, Any]) -> None:
    assert digest(dict(reversed(table.items()))) == digest(table)


def test_a_digest_stays_what_it_was() -> None:
    """Digests stand beside results on disk: another derivation would refuse to resume them."""
    assert digest({"b": [1, 2.5, None], "a": "é"}) == "d764fee2563da33e"
    assert digest({"a": 1}) != digest({"a": "1"})


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4), st.text(max_size=3), st.integers(), st.integers(1))
def test_one_changed_key_is_the_one_difference(table: dict[str, Any], key: str, old: int, by: int) -> None:
    one, other = {**table, key: old}, {**table, key: old + by}
    assert differences({"at": one}, {"at": other}) == [f"at.{key}: {old} -> {old + by}"]
    assert digest(one) != digest(other)


def test_differences_name_the_keys_and_both_values() -> None:
    old = {"seed": 1, "models": {"x": {"path": "a"}}, "same": [1]}
    new = {"seed": 2, "models": {"x": {"path": "a", "engine": {"seed": 1}}}, "same": [1]}
    assert differences(old, new) == ['models.x.engine: null -> {"seed": 1}', "seed: 1 -> 2"]
    assert differences(old, old) == []


def test_trees_depend_on_what_makes_them_only(tmp_path: Path) -> None:
    base = digest(load_config(write(tmp_path)).generation())

    def changed(*overrides: str) -> bool:
        return digest(load_config(write(tmp_path), overrides).generation()) != base

    assert changed("seed=1")
    assert changed("questions.limit=3")
    assert changed("models.x.engine.seed=2")
    assert changed("seats=[y, x]")
    assert changed("protocol=pocket-debate")
    assert changed("protocol.sampling.max_tokens=81")
    assert not changed("generate.concurrency=1")
    assert not changed("name=other")
    assert not changed("sft.lora.r=4", "preferences.min_gap=0.5", "eval.limit=3")
    assert not changed("models.z.path=unused")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_run_loads(path: Path) -> None:
    assert load_config(path).name


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.name)
def test_every_shipped_protocol_loads_by_its_name(tmp_path: Path, path: Path) -> None:
    table = read_yaml(path)
    seats = ["x"] * len(table["seats"])
    assert load_config(write(tmp_path, protocol=path.stem, seats=seats)).protocol.name == path.stem == table["name"]
