"""The shipped archive: what goes in comes out, and nothing else gets in."""

import io
import random
import tarfile
from pathlib import Path

import pytest

from pbt.data import pack, shipped_archive, unpack, verify
from pbt.errors import BadInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "data"
    (home / "pocket").mkdir(parents=True)
    (home / "questions.json").write_text("[]")
    (home / "pocket" / "model").write_bytes(b"\x00" * 1000)
    return home


def test_pack_and_unpack_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    assert pack(folder, tmp_path / "a.tar.gz") == 2
    assert unpack(tmp_path / "a.tar.gz", tmp_path / "copy") == 2
    assert (tmp_path / "copy" / "pocket" / "model").read_bytes() == b"\x00" * 1000


def test_packing_again_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("a.tar.gz", "b.tar.gz"):
        pack(folder, tmp_path / name)
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


def test_a_changed_file_is_noticed(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "a.tar.gz")
    (folder / "questions.json").write_text("[1]")
    with pytest.raises(BadInput, match=r"questions.json: differs from the manifest"):
        verify(folder)
    (folder / "questions.json").unlink()
    with pytest.raises(BadInput, match=r"questions.json: named in the manifest and missing"):
        verify(folder)


def test_a_truncated_archive_is_bad_input(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "a.tar.gz")
    whole = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "copy")


def test_a_path_outside_the_folder_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("../escaped")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(BadInput, match="cannot be unpacked"):
        unpack(tmp_path / "evil.tar.gz", tmp_path / "inside")
    assert not (tmp_path / "escaped").exists()


def test_the_shipped_archive_is_small_and_whole(data: Path) -> None:
    assert shipped_archive().stat().st_size < 25e6
    assert verify(data) >= 10
    for name in ("questions.json", "pocket/llama/model.safetensors", "pocket/mistral/model.safetensors"):
        assert (data / name).is_file()


def test_what_was_cut_short_is_not_taken_for_unpacked(folder: Path, tmp_path: Path) -> None:
    (folder / "pocket" / "model").write_bytes(random.Random(0).randbytes(100_000))
    pack(folder, tmp_path / "a.tar.gz")
    whole = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "copy")
    assert not (tmp_path / "copy" / "manifest.json").exists()
    assert not list(tmp_path.glob(".unpack-*"))


def test_unpacking_again_mends_what_differs_and_leaves_other_files(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "a.tar.gz")
    unpack(tmp_path / "a.tar.gz", tmp_path / "copy")
    (tmp_path / "copy" / "questions.json").write_text("[1]")
    (tmp_path / "copy" / "my.jsonl").write_text("{}")
    assert unpack(tmp_path / "a.tar.gz", tmp_path / "copy") == verify(tmp_path / "copy") == 2
    assert (tmp_path / "copy" / "my.jsonl").read_text() == "{}"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_broken_manifest_is_bad_input(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(BadInput, match=r"manifest.json: is no manifest of checksums; run 'pbt data unpack' again"):
        verify(folder)
