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
from string import Formatter
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from pbt.debate.protocol import Protocol
from pbt.errors import BadInput

Regime = Literal["accept", "resist", "balanced"]
REGIMES: tuple[Regime, ...] = ("accept", "resist", "balanced")
Rules = Literal["intended", "released"]


class Section(BaseModel):
    """A table of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class QuestionsConfig(Section):
    source: str
    """A file (TriviaQA official JSON, Hugging Face rows, or flat JSONL), or ``hf:NAME[:CONFIG[:SPLIT]]``."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """How many questions to take, as a seeded sample; all when absent."""


class RayConfig(Section):
    """Where and how often a model runs on a Ray cluster."""

    address: str | None = None
    """Of a running cluster (``auto`` for the one of this machine); absent: one is started here and ends with us."""
    replicas: Annotated[int, Field(ge=1)] = 1
    """Copies of the model; each takes a share of the requests."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of each worker. A replica has as many workers as the engine's ``tensor_parallel_size`` times
    ``pipeline_parallel_size``."""
    num_cpus: Annotated[float, Field(ge=0)] = 1
    """CPUs of each worker."""
    wait: Annotated[float, Field(gt=0)] = 300
    """Seconds to wait for the cluster to have room for a replica; so long requests wait, too, while none lives."""
    attempts: Annotated[int, Field(ge=1)] = 3
    """How often a request is asked in all when replicas die over it."""

    @model_validator(mode="after")
    def _takes_something(self) -> RayConfig:
        if not (self.num_cpus or self.num_gpus):
            raise ValueError("num_cpus and num_gpus are both 0; a replica must take some place")
        return self


class OpenAIConfig(Section):
    """An endpoint that speaks the OpenAI protocol; ``path`` is the name under which it serves the model."""

    base_url: Annotated[str, Field(pattern=r"^https?://[^@?#\s]+$")]
    """Such as ``http://127.0.0.1:8000/v1``. Without credentials: a key comes from the environment."""
    server: Literal["openai", "vllm"] = "openai"
    """``vllm``: the server is vLLM's, which also takes ``min_tokens`` and scores texts. Other servers are sent nothing
    that the OpenAI protocol does not have."""
    api_key_env: str | None = None
    """The environment variable that holds the key; absent: no key is sent."""
    concurrency: Annotated[int, Field(ge=1)] = 128
    """Requests under way at once."""
    timeout: Annotated[float, Field(gt=0)] = 120
    """Seconds until a request without an answer is given up and asked again."""
    attempts: Annotated[int, Field(ge=1)] = 6
    """How often a request is asked in all."""


class ModelConfig(Section):
    """A model and how it is served: by vLLM in this process, or as ``ray`` or ``openai`` say.

    The trees of a run are guarded by ``path``, ``adapter`` and ``engine``; where the model runs does not change what
    it is, so ``ray`` and ``openai`` may change between launches. Replies are the same ones as far as the hardware
    adds up alike; that a server behind a URL serves this model with these settings is for its owner to know.
    """

    path: str
    """A model folder, or the name of a model on the hub."""
    adapter: str | None = None
    """A LoRA folder on top of it. Models that differ in nothing else share one engine."""
    engine: dict[str, Any] = {}
    """Handed verbatim to vLLM's engine arguments; a typo is an error. A server behind a URL has its own."""
    ray: RayConfig | None = None
    openai: OpenAIConfig | None = None

    @model_validator(mode="after")
    def _served_once(self) -> ModelConfig:
        if self.ray and self.openai:
            raise ValueError("ray and openai are both set; a model is served in one way")
        if self.openai and self.adapter:
            raise ValueError("adapter: an endpoint serves an adapter under a name of its own; give that name as path")
        return self

    def identity(self) -> dict[str, Any]:
        """What makes the replies, as JSON values; without where it runs."""
        return self.model_dump(mode="json", include={"path", "adapter", "engine"})


class Example(Section):
    """A reply and the claim in it, for an extractor to learn from."""

    reply: str
    claim: str


class Prompts(Section):
    """What is said to a model that reads claims, and to a speaker that is asked how sure it is."""

    instruction: str
    examples: tuple[Example, ...]
    confidence: str
    """Asked after a reply; the answer begins with one of ``yes`` or one of ``no``."""
    yes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Its spellings; their probabilities are added."""
    no: Annotated[tuple[str, ...], Field(min_length=1)]


class ExtractionConfig(Section):
    by: Literal["rule", "model"] = "rule"
    """How the claim of a turn is read from its text."""
    model: str | None = None
    """Which of ``models`` reads, if a model does: one of the seats' or another."""
    confidence: bool = False
    """Whether each turn's speaker is also asked, aside, whether its answer is right."""
    prompts: Prompts | None = None
    """The shipped ones when absent."""

    @model_validator(mode="after")
    def _complete(self) -> ExtractionConfig:
        if (self.by == "model") != (self.model is not None):
            raise ValueError(
                "model: is required for 'by: model'" if self.by == "model" else "model: has no use under 'by: rule'"
            )
        if self.prompts is None and (self.by == "model" or self.confidence):
            # In the resolved configuration stands what was really said.
            object.__setattr__(self, "prompts", shipped_prompts())
        return self


class GenerateConfig(Section):
    concurrency: Annotated[int, Field(ge=1)] = 128
    """Trees that grow at once. Does not change the trees, so it is no part of the digest."""
    grace: Annotated[float, Field(ge=0)] = 30
    """Seconds that trees under way may still take when a cluster says that time is up; then they are dropped."""


class Choice(Section):
    """What a model is asked, and two labels, of which the one that is likelier to follow is its answer."""

    prompt: str
    """With the names of what is asked about in braces; a brace that is meant stands twice."""
    labels: tuple[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]]
    """Scored whole, with the leading space. The first one says yes; in a draw the second one is the answer."""

    @field_validator("labels")
    @classmethod
    def _differ(cls, labels: tuple[str, str]) -> tuple[str, str]:
        if labels[0] == labels[1]:
            raise ValueError("the two labels must differ")
        return labels


class FilterPrompts(Section):
    """What the filter's model is asked about answers and replies."""

    synonyms: Choice
    """Whether two answers to a question name the same thing: ``{question}``, ``{gold}``, ``{other}``."""
    stance: Choice
    """Whether a reply agrees with the partner's turn before it: ``{question}``, ``{partner}``, ``{reply}``."""

    @field_validator("synonyms", "stance")
    @classmethod
    def _names_what_it_asks_about(cls, choice: Choice, info: ValidationInfo) -> Choice:
        wanted = {"gold", "other"} if info.field_name == "synonyms" else {"partner", "reply"}
        try:
            named = {tuple(rest) for _, *rest in Formatter().parse(choice.prompt) if rest[0] is not None}
        except ValueError as error:
            raise ValueError(f"prompt: {error}; a brace that is meant must stand twice") from None
        if named != {(name, "", None) for name in wanted | {"question"}}:
            found = ", ".join(sorted(f"{{{name}}}" for name, *_ in named)) or "nothing"
            must = ", ".join(f"{{{name}}}" for name in ("question", *sorted(wanted)))
            raise ValueError(f"prompt: must name {must} in braces, and nothing else; it names {found}")
        return choice


class FilterConfig(Section):
    model: str
    """Which of ``models`` finds synonyms, and confirms that the replies agree and disagree as the pair says."""
    prompts: FilterPrompts | None = None
    """The shipped ones when absent."""

    @model_validator(mode="after")
    def _complete(self) -> FilterConfig:
        if self.prompts is None:
            # In the resolved configuration stands what was really asked.
            object.__setattr__(self, "prompts", shipped_filter_prompts())
        return self


class PreferencesConfig(Section):
    rules: Rules = "intended"
    """``intended``: what the method means; ``released``: what the authors' code does."""
    min_gap: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Rule 3 of ``intended``: the least relative difference of scores, (hi - lo) / hi."""
    released_gap: Annotated[float, Field(ge=0, le=1)] = 0.50
    """Rule 3 of ``released``: the difference must be larger."""
    filter: FilterConfig | None = None
    """Let a model check the pairs; null: by rule alone."""
    split: Annotated[tuple[float, float, float], Field()] = (0.70, 0.15, 0.15)
    """Shares of train, valid and test; by a seeded hash of the normalised gold value."""
    size: Literal["equal", "max"] = "equal"
    """``equal``: all regimes hold as many pairs; ``max``: balanced takes all of the smaller side, twice."""
    rejections: bool = True
    """Write ``rejections.jsonl``: every candidate that is no pair, with the reason."""
    licence: str = "unknown"
    """For the dataset card: an identifier of the Hugging Face hub, such as apache-2.0."""

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
    merge: bool = True
    """Whether the result holds the merged weights beside the adapter; ``pbt models merge`` makes them later."""


class BalancedAccuracyConfig(Section):
    items: Annotated[int | None, Field(ge=1)] = 100
    """Most held-out items of each direction, as a seeded sample; all when null."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Replies that a process generates at once."""
    patience: Annotated[int | None, Field(ge=1)] = None
    """Evaluations without a better result after which training stops early; never when absent."""


class TrainConfig(Section):
    model: str | None = None
    """Which of ``models`` is trained; the model of seat 1 when absent. DPO continues from the SFT result."""
    from_sft: bool = True
    """DPO only: start from, and keep as reference, the SFT model of the same regime; else the base model."""
    method: Literal["dpo", "kto"] = "dpo"
    """DPO only: ``kto`` trains on the same turns unpaired, each as wanted or unwanted, by TRL's KTO."""
    lora: LoraConfig | None = None
    """LoRA on the base model; absent: full fine-tuning."""
    load: dict[str, Any] = {}
    """Handed verbatim to ``from_pretrained``: dtype, quantization_config, attn_implementation..."""
    chat_template: str | None = None
    """A Jinja file that takes the place of the tokenizer's chat template; for a model that has none."""
    pad_token: str | None = None
    """A token of the vocabulary to pad with; needed when the tokenizer has none, or its EOS token."""
    pairs: Annotated[int | None, Field(ge=2)] = None
    """How many training pairs to use, as a seeded sample; all when absent."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What becomes of pairs longer than the trainer's ``max_length``; they are counted either way."""
    balanced: BalancedAccuracyConfig | None = None
    """Held, moved and balanced accuracy at each evaluation, and the best checkpoint by it; absent: the last one."""
    accelerate: str | None = None
    """How several processes share the work: ddp (the default), fsdp2, zero3, or a file of accelerate's."""
    trainer: dict[str, Any] = {}
    """Handed verbatim to TRL's SFTConfig, DPOConfig or KTOConfig; a typo is an error."""


class SftConfig(TrainConfig):
    """The same keys, without a use for those of DPO."""

    @field_validator("from_sft", "method")
    @classmethod
    def _left_alone(cls, value: Any, info: ValidationInfo) -> Any:
        if value != cls.model_fields[str(info.field_name)].default:
            raise ValueError("is for dpo only; remove the key")
        return value


class MisinformationConfig(Section):
    sources: tuple[str, ...] = ("data/misinformation.jsonl",)
    """Files in FARM's schema; a result is reported for each."""
    kinds: Annotated[tuple[Literal["logical", "credibility", "emotional"], ...], Field(min_length=1)] = (
        "logical",
        "credibility",
        "emotional",
    )
    """Kinds of appeals; each is a dialogue of its own."""
    check_temperature: Annotated[float, Field(ge=0)] = 0.2
    """For replies to the belief checks."""
    reply_temperature: Annotated[float, Field(ge=0)] = 0.8
    """For replies to the persuasion."""


class TeamsConfig(Section):
    protocol: str = "chain"
    """A shipped protocol of two seats, or a file of one; its replies are greedy."""


class PredictorsConfig(Section):
    samples: Annotated[int, Field(ge=2)] = 10
    """First answers whose spread is the entropy."""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    prefix: str = "The answer is"
    """What stands before an answer whose probability is asked for, as the model would begin."""


class AdversaryConfig(Section):
    persuader: str | None = None
    """Which of ``models`` argues; the model of the first seat when absent."""
    arguments: Annotated[int, Field(ge=2)] = 8
    """N: how many arguments it samples for each question and side."""
    personas: Annotated[tuple[str, ...], Field(min_length=1)] = ("logical", "emotional", "credibility")
    """Under which it argues, in turn."""


class EvalConfig(Section):
    limit: Annotated[int | None, Field(ge=1)] = None
    """Most items of each group (a direction, a domain, a file), as a seeded sample; all when absent."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    samples: Annotated[int, Field(ge=1)] = 1
    """Replies, or dialogues, per item; more than one only makes sense with a temperature."""
    domains: dict[str, QuestionsConfig] = {}
    """Questions by domain, for the evaluations that ask some; the run's own held-out questions when empty."""
    misinformation: MisinformationConfig = MisinformationConfig()
    teams: TeamsConfig = TeamsConfig()
    predictors: PredictorsConfig = PredictorsConfig()
    adversary: AdversaryConfig = AdversaryConfig()

    @model_validator(mode="after")
    def _samples_differ(self) -> EvalConfig:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples > 1 at temperature 0 would ask for the same reply again; set a temperature")
        return self


_WORD = r"^[A-Za-z0-9][A-Za-z0-9_.,:@+-]*$"
"""What a value of a batch script may look like: nothing in it means anything to a shell or to sbatch."""


class SlurmResources(Section):
    """What a job asks for; each key is sbatch's option of that name, and is not asked for when absent."""

    partition: Annotated[str | None, Field(pattern=_WORD)] = None
    account: Annotated[str | None, Field(pattern=_WORD)] = None
    qos: Annotated[str | None, Field(pattern=_WORD)] = None
    constraint: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_.,&|*@:()\[\]-]+$")] = None
    time: Annotated[str | None, Field(pattern=r"^(\d+-)?\d+(:\d\d){0,2}$")] = None
    """Such as ``"24:00:00"`` or ``2-12``."""
    mem: Annotated[str | None, Field(pattern=r"^\d+[KMGT]?$")] = None
    """Memory of a node."""
    cpus: Annotated[int | None, Field(ge=1)] = None
    """CPUs of a task."""
    gpus: Annotated[str | None, Field(pattern=r"^([A-Za-z][A-Za-z0-9_.-]*:)?\d+$")] = None
    """GPUs of a node, such as 2 or ``a100:2``; 0 asks for none."""
    nodes: Annotated[int | None, Field(ge=1)] = None
    """Nodes of a job; more than one is for generation with models on Ray, see docs/cluster.md."""

    @field_validator("time", mode="before")
    @classmethod
    def _quoted(cls, time: Any) -> Any:
        # YAML 1.1 reads 24:00:00 as a number in base 60, and sbatch reads a number as minutes.
        if isinstance(time, int):
            raise ValueError(f"put it in quotes, such as '24:00:00' or '90' minutes; YAML made it the number {time}")
        return time

    @field_validator("mem", "gpus", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class SlurmConfig(SlurmResources):
    """How the stages run on a SLURM cluster. It changes no tree, so it is no part of their digest."""

    shards: Annotated[int, Field(ge=1)] = 1
    """Into how many jobs generation is cut."""
    throttle: Annotated[int | None, Field(ge=1)] = None
    """How many of them run at once at most."""
    grace: Annotated[int, Field(ge=1)] = 120
    """Seconds before the time limit at which generation and training are told to stop, and then requeued."""
    max_restarts: Annotated[int, Field(ge=0)] = 20
    """How often a job requeues itself; a job whose time limit is too short for any work would do so for ever."""
    setup: tuple[Annotated[str, Field(pattern=r"^[^\r\n]+$")], ...] = ()
    """Shell lines, one each, that prepare a job's environment, such as ``module load cuda``. These, and nothing else of
    a configuration, are run as they stand."""
    container: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Words put before each command, such as ``[apptainer, exec, --nv, pbt.sif]``; ``pbt`` is looked for in there."""
    evaluation: Literal[
        "balanced",
        "are-you-sure",
        "flipflop",
        "misinformation",
        "pressure",
        "adversary",
        "predictors",
        "teams",
        "all",
    ] = "balanced"
    """Which command of ``pbt eval`` the stage runs; ``all`` for every one."""
    generate: SlurmResources = SlurmResources()
    """What this stage asks for instead of the common keys; so for the others."""
    preferences: SlurmResources = SlurmResources()
    sft: SlurmResources = SlurmResources()
    dpo: SlurmResources = SlurmResources()
    eval: SlurmResources = SlurmResources()

    def resources(self, stage: Literal["generate", "preferences", "sft", "dpo", "eval"]) -> SlurmResources:
        """What a stage asks for: its own keys over the common ones."""
        own: SlurmResources = getattr(self, stage)
        common = {key: getattr(self, key) for key in SlurmResources.model_fields if getattr(own, key) is None}
        return own.model_copy(update=common)


class RunConfig(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: int = 0
    questions: QuestionsConfig
    protocol: Protocol
    """The debate; in YAML the name of a shipped protocol, a path to one, or a table."""
    models: Annotated[dict[str, ModelConfig], Field(min_length=1)]
    seats: tuple[str, ...]
    """Model names in the order of the protocol's seats. In the shipped debates the first opens and persuades, the
    second resists or accepts, and is the one trained."""
    extraction: ExtractionConfig = ExtractionConfig()
    generate: GenerateConfig = GenerateConfig()
    preferences: PreferencesConfig = PreferencesConfig()
    sft: SftConfig = SftConfig()
    dpo: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    slurm: SlurmConfig | None = None

    @model_validator(mode="after")
    def _names_known(self) -> RunConfig:
        if len(self.seats) != len(self.protocol.seats):
            raise ValueError(
                f"seats: protocol '{self.protocol.name}' has {len(self.protocol.seats)} seats "
                f"({', '.join(seat.name for seat in self.protocol.seats)}), found {len(self.seats)} models"
            )
        named = [(f"seats.{i}", name) for i, name in enumerate(self.seats)]
        named += [(f"{key}.model", t.model) for key, t in (("sft", self.sft), ("dpo", self.dpo)) if t.model]
        named += [("preferences.filter.model", f.model) for f in (self.preferences.filter,) if f]
        named += [("eval.adversary.persuader", name) for name in (self.eval.adversary.persuader,) if name]
        named += [("extraction.model", name) for name in (self.extraction.model,) if name]
        for key, name in named:
            if name not in self.models:
                raise ValueError(f"{key}: no model '{name}' under models (known: {', '.join(self.models)})")
        return self

    @model_validator(mode="after")
    def _models_can(self) -> RunConfig:
        asked = [("extraction.confidence", name) for name in self.seats if self.extraction.confidence]
        asked += [("preferences.filter.model", f.model) for f in (self.preferences.filter,) if f]
        for key, name in asked:
            if (endpoint := self.models[name].openai) and endpoint.server != "vllm":
                raise ValueError(
                    f"{key}: needs the probabilities of texts, and of endpoints only vLLM's server gives them; "
                    f"set models.{name}.openai.server: vllm if it is one"
                )
        clusters = {model.ray.address for model in self.models.values() if model.ray}
        if len(clusters) > 1:
            raise ValueError("models: they name different ray.address, but one process joins one cluster")
        return self

    def trained(self, stage: Literal["sft", "dpo"]) -> ModelConfig:
        """The base model that a training stage starts from."""
        return self.models[getattr(self, stage).model or self.seats[1]]

    def speaking(self) -> tuple[str, ...]:
        """The models that generation needs, each once: those of the seats, and the one that reads their claims."""
        reading = (self.extraction.model,) if self.extraction.model else ()
        return tuple(dict.fromkeys((*self.seats, *reading)))

    def resolved(self) -> dict[str, Any]:
        """The whole configuration as plain JSON values."""
        return self.model_dump(mode="json")

    def generation(self) -> dict[str, Any]:
        """What the trees of a run depend on; its digest guards resuming.

        Where a model runs is no part of it: see ModelConfig.
        """
        whole = self.resolved()
        return {
            "seed": self.seed,
            "questions": whole["questions"],
            "protocol": whole["protocol"],
            "seats": whole["seats"],
            "extraction": whole["extraction"],
            "models": {name: self.models[name].identity() for name in self.speaking()},
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


def shipped_prompts() -> Prompts:
    """What the package says to a model that reads claims, and to one that is asked how sure it is."""
    return Prompts.model_validate(read_yaml(Path(str(resources.files("pbt").joinpath("prompts", "extraction.yaml")))))


def shipped_filter_prompts() -> FilterPrompts:
    """What the package asks the model that filters preferences."""
    return FilterPrompts.model_validate(read_yaml(Path(str(resources.files("pbt").joinpath("prompts", "filter.yaml")))))


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
        if at.get(part) is None:  # absent, or null as a resolved configuration says it
            at[part] = {}
        at = at[part]
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
