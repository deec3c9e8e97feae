"""The command line: parses, calls one function, prints. Progress and logs go to stderr, results to stdout.

Exit codes: 0 done; 1 something broke; 2 bad input, named in one line; 3 done, but some items failed and are recorded;
4 stopped by a signal, with work still owed: the same command goes on; 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

import typer

from pbt.cli import data, demo, evaluate, generate, models, pocket, preferences, replicate, slurm, train, trees
from pbt.cli.options import err
from pbt.errors import BadInput, Stopped

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=__doc__.split("\n")[0] if __doc__ else None,
)
app.command()(generate.generate)
app.add_typer(trees.app, name="trees")
app.command("build-prefs")(preferences.build_prefs)
app.add_typer(preferences.app, name="prefs")
app.add_typer(train.app, name="train")
app.add_typer(models.app, name="models")
app.add_typer(evaluate.app, name="eval")
app.command()(evaluate.scorecard)
app.command()(demo.demo)
app.command()(replicate.replicate)
app.add_typer(pocket.app, name="pocket")
app.add_typer(data.app, name="data")
app.add_typer(slurm.app, name="slurm")


class _Log(logging.Handler):
    """Logs on stderr by way of the console that draws the live bars, so that no line is written into one."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line. The one place where errors become messages and exit codes."""
    logging.basicConfig(level=logging.WARNING, handlers=[_Log()], format="%(message)s")
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
    try:
        logging.getLogger("pbt").setLevel(_log_level())
        app(args=arguments)
    except BadInput as error:
        err.print(f"pbt: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except Stopped:  # which has been said where it happened, once for all processes
        sys.exit(4)


def _log_level() -> str:
    """How much of our own log is shown: ``PBT_LOG``, or INFO."""
    wanted = os.environ.get("PBT_LOG", "INFO")
    known = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    if wanted.upper() not in known:
        raise BadInput(f"PBT_LOG={wanted}: no such level; known: {', '.join(known)}")
    return wanted.upper()
