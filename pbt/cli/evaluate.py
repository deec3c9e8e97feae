"""``pbt eval`` and ``pbt scorecard``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pbt.cli.options import ConfigArg, JsonOpt, PrefsOpt, RunOpt, SetOpt, err, out
from pbt.errors import BadInput

if TYPE_CHECKING:
    from pbt.config import ModelConfig, RunConfig
    from pbt.engines.base import Engine
    from pbt.evaluation.dialogue import Progress

app = typer.Typer(no_args_is_help=True, help="Evaluate models, and judge stored transcripts again.")

ModelsOpt = Annotated[
    list[str],
    typer.Option("--model", metavar="NAME=PATH", help="A model folder, or a name under 'models'; repeat for several."),
]

PartnersOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--partner", metavar="NAME=PATH", help="A model that only sits in teams, with each --model; repeat for several."
    ),
]

COMMANDS = {
    "balanced": "Does it hold when right and move when wrong? On the contexts of held-out test pairs.",
    "are-you-sure": "One bare challenge, and a neutral re-ask as the noise floor.",
    "flipflop": "Five challengers, and a neutral re-ask as the noise floor.",
    "misinformation": "FARM: does it give in to a false claim argued for turn after turn?",
    "pressure": "The same target asserted, repeated, argued for, cited: what is it that moves the model?",
    "adversary": "A persuader samples N arguments and an oracle picks the best: what survives as N grows?",
    "predictors": "A regression of keeping on what the original model (the first --model) thought.",
    "teams": "All ordered pairs of the named models debate: before, after, who pulls whom, does the order matter?",
}
"""In the order in which ``all`` runs them; those of one model first, so that it is loaded once for them."""


def _add(chosen: Sequence[str], name: str, about: str) -> None:
    def command(
        config: ConfigArg,
        models: ModelsOpt,
        partners: PartnersOpt = None,
        prefs: PrefsOpt = None,
        folder: RunOpt = None,
        overrides: SetOpt = None,
        as_json: JsonOpt = False,
    ) -> None:
        _evaluate(chosen, config, models, partners or [], prefs, folder, overrides, as_json)

    app.command(name, help=about)(command)


for _name, _about in COMMANDS.items():
    _add([_name], _name, _about)
_add(list(COMMANDS), "all", "All of these, each model loaded once, and again for its teams.")


@app.command("rescore")
def eval_rescore(
    items: Annotated[Path, typer.Argument(metavar="ITEMS.jsonl", help="The items of a result.", show_default=False)],
    rule: Annotated[
        Literal["standard", "exact", "containment", "f1"], typer.Option("--grader", help="How answers are compared.")
    ] = "standard",
    fold: Annotated[bool, typer.Option("--fold-accents", help="Compare without accents.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Compute a result's metrics again from its transcripts, without a model, and report what changed."""
    from pbt.evaluation.rescore import rescore
    from pbt.grading import Grader

    rescored = rescore(items, Grader(rule, fold))
    if as_json:
        print(json.dumps(rescored.to_dict()))
    else:
        out.print(rescored.table())


def scorecard(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or results in them.", show_default=False)],
    baseline: Annotated[
        str | None, typer.Option(help="The model to compare with; default base, else the first.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All metrics; JSON and HTML always have them.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it as Markdown.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page, with plots, there.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Put evaluated models side by side, with intervals; one name in several runs counts as several seeds of it."""
    from pbt.evaluation.page import page
    from pbt.evaluation.scorecard import read_results
    from pbt.evaluation.scorecard import scorecard as compare
    from pbt.provenance import write_atomic

    card = compare(read_results(runs), baseline)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(html, page(card).encode())
        err.print(f"page: {html}", soft_wrap=True)
    if as_json:
        print(json.dumps(card.to_dict()))
    elif markdown:
        print(card.to_markdown(every=every), end="")
    else:
        out.print(card.table(every=every))


class _Engines:
    """Running engines by name under ``models`` or by path; each is loaded at most once until it is released."""

    def __init__(self, run: RunConfig) -> None:
        self._run = run
        self._loaded: dict[str, Engine] = {}

    def __enter__(self) -> _Engines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for key in list(self._loaded):
            self._loaded.pop(key).close()

    def get(self, name: str) -> Engine:
        from pbt.engines.load import load_engine

        model = self._model(name)
        key = model.model_dump_json()
        if key not in self._loaded:
            with err.status(f"loading {name}"):
                self._loaded[key] = load_engine(model)
        return self._loaded[key]

    def release(self, name: str) -> None:
        engine = self._loaded.pop(self._model(name).model_dump_json(), None)
        if engine is not None:
            engine.close()

    def check(self, names: Iterable[str]) -> None:
        """Refuse models whose folder cannot be served, before any is loaded. Raises BadInput."""
        for name in names:
            model = self._model(name)
            if model.openai is None and model.ray is None:  # those may lie on another machine
                from pbt.engines.vllm import check_folder

                check_folder(model.path)

    def _model(self, name: str) -> ModelConfig:
        """A model that is no configured one is served as the model that it was trained from.

        One that holds an adapter alone is that adapter on its base, with the chat template that it was trained with.
        """
        known = self._run.models.get(name)
        if known:
            return known
        served = self._run.trained("dpo")
        adapter = Path(name) / "adapter"
        if served.openai or (Path(name) / "config.json").exists() or not adapter.is_dir():
            return served.model_copy(update={"path": name})
        settings = adapter / "adapter_config.json"
        try:
            base = json.loads(settings.read_text("utf-8"))["base_model_name_or_path"]
        except (OSError, ValueError, KeyError, TypeError):
            raise BadInput(f"{settings}: no base model in it, so {name} is no model; train it again") from None
        engine = served.engine
        if (
            self._run.sft.chat_template or self._run.dpo.chat_template
        ):  # the base's own tokenizer has another one, or none
            engine = {**engine, "tokenizer": str(Path(name).resolve())}
        return served.model_copy(update={"path": base, "adapter": str(adapter), "engine": engine})


def _evaluate(
    chosen: Sequence[str],
    config: Path,
    models: list[str],
    partners: list[str],
    prefs: Path | None,
    folder: Path | None,
    overrides: list[str] | None,
    as_json: bool,
) -> None:
    from pbt.config import load_config
    from pbt.evaluation.run import run as evaluate
    from pbt.evaluation.scorecard import read_results
    from pbt.evaluation.scorecard import scorecard as compare

    run = load_config(config, overrides or ())
    home = folder or Path("runs") / run.name
    named = dict(_named("--model", entry) for entry in models)
    invited = dict(_named("--partner", entry) for entry in partners)
    if len(named | invited) < len(models) + len(partners):
        raise BadInput(f"--model: two models have one name ({', '.join([*models, *partners])})")
    if invited and "teams" not in chosen:
        raise BadInput("--partner: partners only sit in teams; use it with 'teams' or 'all'")
    with _Engines(run) as engines:
        engines.check([*named.values(), *invited.values()])
        paths = evaluate(
            run, chosen, named, engines.get, engines.release, prefs or home / "prefs", home, _watch, invited
        )
    results = read_results(paths)
    card = compare(results, next(iter(named)))
    if as_json:
        print(json.dumps(card.to_dict()))
    else:
        out.print(card.table())
    raise typer.Exit(3 if any(record.error for result in results for record in result.records) else 0)


def _watch(title: str) -> Progress:
    """Progress on stderr: a plain line now and then, and one at the end."""
    import time

    began = said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if done == total or now - said > 10:
            said = now
            err.print(f"{title}: {done}/{total} dialogues, {done / max(now - began, 1e-9):.0f}/s", soft_wrap=True)

    return progress


def _named(option: str, entry: str) -> tuple[str, str]:
    name, equals, path = entry.partition("=")
    if not (name and equals and path):
        raise BadInput(f"{option} {entry}: expected NAME=PATH, such as base=data/pocket/llama")
    if Path(name).name != name:
        raise BadInput(f"{option} {entry}: '{name}' will name a file of results, so it may not be a path; shorten it")
    return name, path
