"""The shipped data, unpacked once for all tests, and the command line as a user calls it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pbt.data import shipped_archive, unpack


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions and pocket models, unpacked from data.tar.gz."""
    folder = tmp_path_factory.mktemp("shipped") / "data"
    unpack(None, folder)
    return folder


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The top of the project."""
    return shipped_archive().parent


@pytest.fixture
def pbt(data: Path, checkout: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``pbt ARGUMENTS`` in a folder that holds the shipped data and configurations, as a process of its own."""
    home = data.parent
    if not (home / "configs").exists():
        (home / "configs").symlink_to(checkout / "configs")

    def run(*arguments: object, check: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pbt.cli", *map(str, arguments)],
            cwd=home,
            env={**os.environ, "COLUMNS": "160"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == check, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
