"""The configuration of a run: one YAML file, checked by pydantic, with ``--set a.b=c`` overrides.

A run's stages read their own section. The resolved configuration is saved beside every result, and a stage's
*digest* says under which part of it the result was made: resuming under another digest is refused.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pbt.debate.protocol import Protocol
from pbt.errors import BadInput

Regime = Literal["accept", "resist", "balanced"]
REGIMES: tuple[Regime, ...] = ("accept", "resist", "balanced")


class Section(BaseModel):
    """A table of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class QuestionsConfig(Section):
    source: str
    """A file (TriviaQA official JSON, Hugging Face rows, or flat JSONL), or ``hf:NAME[:CONFIG[:SPLIT]]``."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """How many questions to take, as a seeded sample; all when absent."""


class ModelConfig(Section):
    path: str
    """A model folder, or the name of a model on the hub."""
    engine: dict[str, Any] = {}
    """Handed verbatim to vLLM's engine arguments; a typo is an error."""


class GenerateConfig(Section):
    concurrency: Annotated[int, Field(ge=1)] = 128
    """Trees that grow at once. Does not change the trees, so it is no part of the digest."""


class PreferencesConfig(Section):
    rules: Literal["intended"] = "intended"
    min_gap: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Rule 3: the least relative difference of scores, (hi - lo) / hi."""
    split: Annotated[tuple[float, float, float], Field()] = (0.70, 0.15, 0.15)
    """Shares of train, valid and test; by a seeded hash of the normalised gold value."""
    size: Literal["equal", "max"] = "equal"
    """``equal``: all regimes hold as many pairs; ``max``: balanced takes all of the smaller side, twice."""

    @field_validator("split")
    @classmethod
    def _sums_to_one(cls, split: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(split) <= 0 or abs(sum(split) - 1) > 1e-9:
            raise ValueError(f"the shares of train, valid and test must be positive and sum to 1, found {split}")
        return split


class LoraConfig(Section):
    r: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[int, Field(ge=1)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: str | tuple[str, ...] = "all-linear"


class TrainConfig(Section):
    model: str | None = None
    """Which of ``models`` is trained; the model of seat 1 when absent. DPO continues from the SFT result."""
    from_sft: bool = True
    """DPO only: start from, and keep as reference, the SFT model of the same regime; else the base model."""
    lora: LoraConfig | None = None
    """LoRA on the base model; absent: full fine-tuning."""
    load: dict[str, Any] = {}
    """Handed verbatim to ``from_pretrained``: dtype, quantization_config, attn_implementation..."""
    pairs: Annotated[int | None, Field(ge=2)] = None
    """How many training pairs to use, as a seeded sample; all when absent."""
    trainer: dict[str, Any] = {}
    """Handed verbatim to TRL's SFTConfig or DPOConfig; a typo is an error."""


class EvalConfig(Section):
    limit: Annotated[int | None, Field(ge=1)] = None
    """Most items of each direction, as a seeded sample; all when absent."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    samples: Annotated[int, Field(ge=1)] = 1
    """Replies per item; more than one only makes sense with a temperature."""

    @model_validator(mode="after")
    def _samples_differ(self) -> EvalConfig:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples > 1 at temperature 0 would ask for the same reply again; set a temperature")
        return self


class RunConfig(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: int = 0
    questions: QuestionsConfig
    protocol: Protocol
    """The debate; in YAML the name of a shipped protocol, a path to one, or a table."""
    models: Annotated[dict[str, ModelConfig], Field(min_length=1)]
    seats: tuple[str, str]
    """Model names by seat: seat 0 opens and persuades, seat 1 resists or accepts, and is the one trained."""
    generate: GenerateConfig = GenerateConfig()
    preferences: PreferencesConfig = PreferencesConfig()
    sft: TrainConfig = TrainConfig()
    dpo: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _names_known(self) -> RunConfig:
        named = [(f"seats.{i}", name) for i, name in enumerate(self.seats)]
        named += [(f"{key}.model", t.model) for key, t in (("sft", self.sft), ("dpo", self.dpo)) if t.model]
        for key, name in named:
            if name not in self.models:
                raise ValueError(f"{key}: no model '{name}' under models (known: {', '.join(self.models)})")
        return self

    def trained(self, stage: Literal["sft", "dpo"]) -> ModelConfig:
        """The base model that a training stage starts from."""
        return self.models[getattr(self, stage).model or self.seats[1]]

    def resolved(self) -> dict[str, Any]:
        """The whole configuration as plain JSON values."""
        return self.model_dump(mode="json")

    def generation(self) -> dict[str, Any]:
        """What the trees of a run depend on; its digest guards resuming."""
        whole = self.resolved()
        return {
            "seed": self.seed,
            "questions": whole["questions"],
            "protocol": whole["protocol"],
            "seats": whole["seats"],
            "models": {name: whole["models"][name] for name in dict.fromkeys(self.seats)},
        }


def digest(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a JSON value with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """The keys in which two JSON values differ, each as ``key: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted(old.keys() | new.keys()):
            found += differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if old == new else [f"{key}: {json.dumps(old)} -> {json.dumps(new)}"]


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a run's YAML. Raises BadInput with the key, what was found, and the nearest known key."""
    table = read_yaml(path)
    for override in overrides:
        if override.startswith("protocol."):
            _unfold_protocol(table, path)
        _apply(table, override)
    _unfold_protocol(table, path)
    return _check(path, table)


def load_resolved(path: Path, table: dict[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Check a resolved configuration, as it was saved beside a result at ``path``. Raises BadInput."""
    for override in overrides:
        _apply(table, override)
    return _check(path, table)


def _check(path: Path, table: dict[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(table)
    except ValidationError as error:
        raise BadInput(_explain(path, error)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that must hold a table. Raises BadInput."""
    try:
        table = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" line {mark.line + 1}" if mark else ""
        raise BadInput(f"{path}{at}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(table, dict):
        raise BadInput(f"{path}: expected a table of keys, found {type(table).__name__}")
    return table


def shipped_protocol(name: str) -> Protocol:
    """A protocol of the package."""
    return Protocol.model_validate(read_yaml(Path(str(resources.files("pbt").joinpath("protocols", f"{name}.yaml")))))


def _unfold_protocol(table: dict[str, Any], path: Path) -> None:
    """Put the table of a protocol in the place of its name."""
    protocol = table.get("protocol")
    if isinstance(protocol, str):
        table["protocol"] = read_yaml(_protocol_path(protocol, path))


def _protocol_path(name: str, config: Path) -> Path:
    shipped = Path(str(resources.files("pbt").joinpath("protocols")))
    if (shipped / f"{name}.yaml").is_file():
        return shipped / f"{name}.yaml"
    for candidate in (Path(name), config.parent / name):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(file.stem for file in shipped.glob("*.yaml")))
    raise BadInput(f"{config}: protocol: '{name}' is neither a shipped protocol ({known}) nor a file")


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise BadInput(f"--set {override}: expected KEY=VALUE, such as --set seed=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise BadInput(f"--set {override}: the value is not valid YAML") from None
    *parents, last = key.split(".")
    at = table
    for part in parents:
        at = at.setdefault(part, {})
        if not isinstance(at, dict):
            raise BadInput(f"--set {override}: '{part}' is not a table, so it has no '{last}'")
    at[last] = value


def _explain(path: Path, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _known_keys(problem["loc"][:-1])
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(known)}"
            lines.append(f"{key}: unknown key{hint}")
        elif problem["type"] == "missing":
            lines.append(f"{key}: is required and missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            found = "" if isinstance(problem["input"], dict) else f", found {problem['input']!r}"
            lines.append(f"{key + ': ' if key else ''}{message}{found if key else ''}")
    return f"{path}: " + "; ".join(lines)


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """The field names of the configuration model at a location of the table."""
    model: Any = RunConfig
    for part in location:
        fields = getattr(model, "model_fields", {})
        model = fields[part].annotation if part in fields else model
        while not hasattr(model, "model_fields") and get_args(model):
            inner = [arg for arg in get_args(model) if hasattr(arg, "model_fields") or get_args(arg)]
            if not inner:
                break
            model = inner[-1]
    return list(getattr(model, "model_fields", {}))
