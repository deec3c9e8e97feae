"""A real SLURM for the tests of a session."""

from collections.abc import Iterator

import pytest

from slurm_cluster import cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """It is up, and SLURM_CONF names it: every command talks to it."""
    with cluster():
        yield
