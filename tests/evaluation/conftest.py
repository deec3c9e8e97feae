"""Test pairs as the preferences stage writes them, made by hand."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capitals import CAPITALS, WritePrefs, pair


@pytest.fixture
def write_prefs(tmp_path: Path) -> WritePrefs:
    """Writes rows as the balanced test split of a preferences folder; returns the folder."""

    def write(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / "prefs" / "data" / "balanced" / "test.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        return tmp_path / "prefs"

    return write


@pytest.fixture
def prefs(write_prefs: WritePrefs) -> Path:
    """Five questions, each with one resist and one accept pair."""
    return write_prefs([pair(country, code) for country in CAPITALS for code in ("resist", "accept")])
