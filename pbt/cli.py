"""The command line: parses, calls one function, prints. Progress and logs go to stderr, results to stdout.

Exit codes: 0 done; 1 something broke; 2 bad input, named in one line; 3 done, but some items failed and are recorded;
130 interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from pbt.errors import BadInput

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=__doc__.split("\n")[0] if __doc__ else None,
)
train_app = typer.Typer(no_args_is_help=True, help="Train on preference pairs: SFT, then DPO.")
eval_app = typer.Typer(no_args_is_help=True, help="Evaluate models.")
pocket_app = typer.Typer(no_args_is_help=True, help="The pocket world: questions and models made by this project.")
data_app = typer.Typer(no_args_is_help=True, help="The data that ships with the project, data.tar.gz.")
app.add_typer(train_app, name="train")
app.add_typer(eval_app, name="eval")
app.add_typer(pocket_app, name="pocket")
app.add_typer(data_app, name="data")

err = Console(stderr=True)
out = Console()

ConfigArg = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.", show_default=False)]
SetOpt = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as seed=1.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def generate(
    config: ConfigArg,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Which shard of the questions to grow.")] = "0/1",
    folder: Annotated[Path | None, typer.Option("--out", help="Where the trees go; default trees/<name>.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try again what failed before.")] = False,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Grow debate trees; started again, it goes on where it stopped."""
    from pbt.config import RunConfig, load_config
    from pbt.engines.base import Engine
    from pbt.generate import generate as grow
    from pbt.progress import GenerationProgress
    from pbt.store import Shard

    run = load_config(config, overrides or ())
    target = folder or Path("trees") / run.name

    def engines(run: RunConfig) -> Sequence[Engine]:
        from pbt.engines.load import load_engines

        with err.status("loading " + ", ".join(dict.fromkeys(run.seats))):
            loaded = load_engines(run.models, run.seats)
        return [loaded[name] for name in run.seats]

    with GenerationProgress(err) as progress:
        summary = grow(run, target, Shard.parse(shard), engines, progress.update, retry_failed)
    if as_json:
        print(json.dumps({"trees": str(target), **summary.to_dict()}))
    else:
        out.print(summary.table(str(target)))
    raise typer.Exit(3 if summary.failed else 0)


@app.command("build-prefs")
def build_prefs(
    trees: Annotated[list[Path], typer.Argument(help="Folders or files of trees.", show_default=False)],
    folder: Annotated[Path, typer.Option("--out", help="Where the dataset goes.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option(help="The run's YAML; default: the configuration that made the trees.")
    ] = None,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Walk trees into balanced preference pairs."""
    from pbt.config import load_config, load_resolved
    from pbt.preferences.build import build_preferences
    from pbt.preferences.funnel import funnel_table
    from pbt.provenance import provenance, read_run

    if config is not None:
        run = load_config(config, overrides or ())
    else:
        if not trees[0].exists():
            raise BadInput(f"{trees[0]}: no such file or folder of trees")
        home = trees[0] if trees[0].is_dir() else trees[0].parent
        run = load_resolved(home, read_run(home)["config"], overrides or ())
    funnel = build_preferences(trees, folder, run.preferences, run.protocol, run.seed, provenance(run, "preferences"))
    if as_json:
        print(json.dumps(funnel.to_dict()))
    else:
        out.print(funnel_table(funnel))
        out.print(f"dataset: {folder}", soft_wrap=True)


PrefsOpt = Annotated[Path | None, typer.Option(help="The dataset; default runs/<name>/prefs.")]
RegimeOpt = Annotated[
    list[str] | None, typer.Option("--regime", help="accept, resist or balanced; repeat for several; default all.")
]
RunOpt = Annotated[Path | None, typer.Option("--out", help="The run's folder; default runs/<name>.")]


@train_app.command("sft")
def train_sft(
    config: ConfigArg,
    regime: RegimeOpt = None,
    prefs: PrefsOpt = None,
    folder: RunOpt = None,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Fine-tune on the chosen turns; writes OUT/sft-<regime>."""
    _train("sft", config, regime, prefs, folder, overrides, as_json)


@train_app.command("dpo")
def train_dpo(
    config: ConfigArg,
    regime: RegimeOpt = None,
    prefs: PrefsOpt = None,
    folder: RunOpt = None,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Preference training from OUT/sft-<regime>; writes OUT/dpo-<regime>."""
    _train("dpo", config, regime, prefs, folder, overrides, as_json)


def _train(
    stage: Literal["sft", "dpo"],
    config: Path,
    names: list[str] | None,
    prefs: Path | None,
    folder: Path | None,
    overrides: list[str] | None,
    as_json: bool,
) -> None:
    from pbt.config import REGIMES, load_config

    run = load_config(config, overrides or ())
    home = folder or Path("runs") / run.name
    regimes = [regime for regime in REGIMES if names is None or regime in names]
    for name in names or ():
        if name not in REGIMES:
            raise BadInput(f"--regime {name}: unknown regime; known: {', '.join(REGIMES)}")
    data = prefs or home / "prefs"
    if not (data / "run.json").is_file():
        raise BadInput(f"{data}: no preferences there; make them with 'pbt build-prefs TREES --out {data}'")
    from pbt.training.dpo import train_dpo
    from pbt.training.sft import train_sft

    results = []
    for regime in regimes:
        err.print(f"[bold]{stage} {regime}")
        target = home / f"{stage}-{regime}"
        if stage == "sft":
            result = train_sft(run, regime, data, target)
        else:
            start = home / f"sft-{regime}"
            result = train_dpo(run, regime, data, target, start if run.dpo.from_sft else None)
        results.append({"model": str(result.folder), "regime": regime, "pairs": result.pairs, **result.metrics})
    if as_json:
        print(json.dumps(results))
    else:
        for row in results:
            accuracy = row.get("eval_rewards/accuracies")
            told = f", held-out reward accuracy {accuracy:.2f}" if accuracy is not None else ""
            out.print(
                f"{row['model']}: {row['pairs']} pairs, {row['steps']} steps, {row['seconds']} s, "
                f"loss {row['train_loss_start']:.3f} -> {row['train_loss_end']:.3f}{told}",
                soft_wrap=True,
            )


@eval_app.command("balanced")
def eval_balanced(
    config: ConfigArg,
    models: Annotated[
        list[str],
        typer.Option("--model", metavar="NAME=PATH", help="A model folder and its name; repeat for several."),
    ],
    prefs: PrefsOpt = None,
    folder: RunOpt = None,
    overrides: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Does it hold when right and move when wrong? Held, moved and balanced accuracy on held-out test pairs."""
    from pbt.config import load_config
    from pbt.evaluation.balanced import run_balanced

    run = load_config(config, overrides or ())
    home = folder or Path("runs") / run.name
    named = [_named(entry) for entry in models]
    from pbt.engines.load import load_engine

    paths = []
    for name, path in named:
        with err.status(f"evaluating {name}"):
            engine = load_engine(path, run.trained("dpo").engine)
            try:
                paths.append(run_balanced(run, name, path, engine, prefs or home / "prefs", home / "eval" / "balanced"))
            finally:
                engine.close()
    _print_scorecard(paths, None, as_json)


@app.command()
def scorecard(
    results: Annotated[list[Path], typer.Argument(help="Result files, or folders of them.", show_default=False)],
    baseline: Annotated[str | None, typer.Option(help="The model to compare with; default the first.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Put evaluated models side by side, with intervals."""
    _print_scorecard(results, baseline, as_json)


def _print_scorecard(paths: list[Path], baseline: str | None, as_json: bool) -> None:
    from pbt.evaluation.scorecard import read_results
    from pbt.evaluation.scorecard import scorecard as compare

    card = compare(read_results(paths), baseline)
    if as_json:
        print(json.dumps(card.to_dict()))
    else:
        out.print(card.table())


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="The demo's folder.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer questions: under 3 minutes on 2 cores.")] = False,
) -> None:
    """The whole pipeline on the pocket models: trees, pairs, SFT and DPO in three regimes, a scorecard."""
    from pbt.demo import run_demo

    run_demo(folder, quick=quick, console=out)


@pocket_app.command("build")
def pocket_build(
    folder: Annotated[Path, typer.Option("--out", help="Where the model folders go.")] = Path("data/pocket"),
    seed: Annotated[int, typer.Option(help="Deals out who knows what, and starts all sampling.")] = 0,
    only: Annotated[str | None, typer.Option(help="llama or mistral; default both, side by side.")] = None,
    scale: Annotated[float, typer.Option(min=0.001, help="Share of the full upbringing.")] = 1.0,
) -> None:
    """Raise the pocket models from scratch (about an hour on 2 cores)."""
    from pbt.pocket.pretrain import FAMILIES, raise_models

    if only is not None and only not in FAMILIES:
        raise BadInput(f"--only {only}: no such pocket model; known: {', '.join(FAMILIES)}")
    raise_models([family for family in FAMILIES if only in (None, family)], folder, seed, scale)


@pocket_app.command("questions")
def pocket_questions(
    target: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("data/questions.json"),
) -> None:
    """Make the question set, in TriviaQA's official JSON, from the tables of facts."""
    from pbt.pocket.facts import write_questions

    count = write_questions(target)
    out.print(f"{target}: {count} questions", soft_wrap=True)


@data_app.command("unpack")
def data_unpack(
    archive: Annotated[Path | None, typer.Argument(help="Default: the project's data.tar.gz.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where to unpack.")] = Path("data"),
) -> None:
    """Unpack the shipped questions, pocket models and samples, and check them against the manifest."""
    from pbt.data import unpack

    out.print(f"{unpack(archive, folder)} files in {folder}, all as in the manifest", soft_wrap=True)


@data_app.command("pack")
def data_pack(
    archive: Annotated[Path, typer.Argument(help="The archive to write.")] = Path("data.tar.gz"),
    folder: Annotated[Path, typer.Option("--from", help="What to pack.")] = Path("data"),
) -> None:
    """Pack questions, pocket models and samples with a manifest of checksums."""
    from pbt.data import pack

    out.print(f"{pack(folder, archive)} files in {archive}", soft_wrap=True)


def _named(entry: str) -> tuple[str, str]:
    name, equals, path = entry.partition("=")
    if not (name and equals and path):
        raise BadInput(f"--model {entry}: expected NAME=PATH, such as base=data/pocket/llama")
    return name, path


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line. The one place where errors become messages and exit codes."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    # Before any library reads them: nothing reports home, and bars are for terminals.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Remarks of the libraries to each other (deprecations, NUMA, missing Triton) would bury what the user should see.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("pbt").setLevel(os.environ.get("PBT_LOG", "INFO").upper())
    try:
        app(args=arguments)
    except BadInput as error:
        err.print(f"pbt: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
