"""The data that ships with the project: one archive, a manifest of checksums inside it."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from pathlib import Path, PurePosixPath

import orjson

import pbt
from pbt.errors import BadInput

MANIFEST = "manifest.json"


def pack(folder: Path, archive: Path) -> int:
    """Pack every file of ``folder`` with a manifest; the same files give the same bytes. Returns how many files."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    if not files:
        raise BadInput(f"{folder}: nothing to pack")
    sums = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    manifest = folder / MANIFEST
    manifest.write_bytes(orjson.dumps({"version": pbt.__version__, "sha256": sums}, option=orjson.OPT_INDENT_2))

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o644
        return entry

    # The header of a gzip file would hold the time and the archive's name.
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for path in [manifest, *files]:
            tar.add(path, path.relative_to(folder).as_posix(), filter=plain)
    return len(files)


def unpack(archive: Path | None, folder: Path) -> int:
    """Unpack into ``folder`` and check every file against the manifest. Returns how many files.

    Raises BadInput for an archive that is missing, damaged, or holds anything but plain files below the folder.
    """
    source = archive or shipped_archive()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(source, "r:gz") as tar:
            tar.extractall(folder, filter="data")
    except FileNotFoundError:
        raise BadInput(f"{source}: no such archive; it lies at the top of the project's checkout") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadInput(f"{source}: cannot be unpacked: {error}") from None
    return verify(folder)


def verify(folder: Path) -> int:
    """Check the unpacked files against the manifest. Returns how many; BadInput names the first that differs."""
    try:
        manifest = orjson.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{folder}: no {MANIFEST}; unpack the data first with 'pbt data unpack'") from None
    for name, wanted in manifest["sha256"].items():
        path = folder / PurePosixPath(name)
        if not path.is_file():
            raise BadInput(f"{path}: named in the manifest and missing; run 'pbt data unpack' again")
        if _sha256(path) != wanted:
            raise BadInput(f"{path}: differs from the manifest; run 'pbt data unpack' again")
    return len(manifest["sha256"])


def shipped_archive() -> Path:
    """The archive at the top of the checkout."""
    return Path(pbt.__file__).resolve().parent.parent / "data.tar.gz"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
