"""The data that ships with the project: one archive, a manifest of checksums inside it."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import orjson

import pbt
from pbt.errors import BadInput

HOME = Path("data")
"""Where the shipped configurations look for it."""
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

    The manifest gets there last, so where it is, all is. Raises BadInput for an archive that is missing, damaged, or
    holds anything but plain files below the folder.
    """
    source = archive or shipped_archive()
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".unpack-", dir=folder.resolve().parent) as scratch:
        fresh = Path(scratch)
        try:
            with tarfile.open(source, "r:gz") as tar:
                tar.extractall(fresh, filter="data")
        except FileNotFoundError:
            raise BadInput(f"{source}: no such archive; it lies at the top of the project's checkout") from None
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise BadInput(f"{source}: cannot be unpacked: {error}") from None
        count = verify(fresh)
        (folder / MANIFEST).unlink(missing_ok=True)
        files = [path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()]
        for name in sorted(files, key=lambda name: name == Path(MANIFEST)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(fresh / name, folder / name)
    return count


def unpack_once() -> None:
    """Unpack the shipped archive into ``HOME``, unless that has been done."""
    if not (HOME / MANIFEST).is_file():
        unpack(None, HOME)


def verify(folder: Path) -> int:
    """Check the unpacked files against the manifest. Returns how many; BadInput names the first that differs."""
    try:
        sums: dict[str, str] = orjson.loads((folder / MANIFEST).read_bytes())["sha256"]
    except FileNotFoundError:
        raise BadInput(f"{folder}: no {MANIFEST}; unpack the data first with 'pbt data unpack'") from None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise BadInput(f"{folder / MANIFEST}: is no manifest of checksums; run 'pbt data unpack' again") from None
    for name, wanted in sums.items():
        path = folder / PurePosixPath(name)
        if not path.is_file():
            raise BadInput(f"{path}: named in the manifest and missing; run 'pbt data unpack' again")
        if _sha256(path) != wanted:
            raise BadInput(f"{path}: differs from the manifest; run 'pbt data unpack' again")
    return len(sums)


def shipped_archive() -> Path:
    """The archive at the top of the checkout."""
    return Path(pbt.__file__).resolve().parent.parent / "data.tar.gz"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
