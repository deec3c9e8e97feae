"""``pbt train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from pbt.cli.options import ConfigArg, JsonOpt, PrefsOpt, RunOpt, SetOpt, err, out
from pbt.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="Train on preference pairs: SFT, then DPO.")

RegimeOpt = Annotated[
    list[str] | None, typer.Option("--regime", help="accept, resist or balanced; repeat for several; default all.")
]


@app.command("sft")
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


@app.command("dpo")
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
