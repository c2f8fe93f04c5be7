"""Read the conda records that a lockfile of the catalogue may name, from `data/facts/conda-forge` or a channel."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import zstandard
from msgspec import Struct

from envforge.lock.lockfile import LockedPackage
from tools.catalogue.torch_index import CHANNEL
from tools.facts.read import FactError, read_file, to_row
from tools.facts.rows import CondaFile, CondaRecord
from tools.facts.write import write_rows

REPODATA = "repodata.json.zst"
_STATED = set(CondaRecord.__struct_fields__) - {"file", "source", "checked"}


class RecordError(Exception):
    """A conda package of a lockfile that differs from its record or has none."""


class CondaRecords(Struct, frozen=True):
    """Records by their URL on the public channel."""

    by_url: Mapping[str, CondaRecord]

    @classmethod
    def read(cls, folder: Path) -> CondaRecords:
        """Read `data/facts/conda-forge`."""
        paths = sorted(folder.glob("*.toml"))
        if not paths:
            raise FactError(f"{folder}: expected files such as `noarch.toml`, found none")
        files = {path.stem: read_file(path, CondaFile).record for path in paths}
        return cls({_url(subdir, row.file): row for subdir, rows in files.items() for row in rows})

    def of(self, package: LockedPackage) -> CondaRecord:
        """Return the record of a locked package; raise `RecordError` if there is none or a hash differs."""
        record = self.by_url.get(package.url)
        if record is None:
            raise RecordError(f"no record of {package.url}")
        if (package.sha256, package.md5) != (record.sha256, record.md5):
            raise RecordError(
                f"{package.url}: expected sha256 {record.sha256} and md5 {record.md5}, "
                f"found {package.sha256} and {package.md5}"
            )
        return record

    def write_channel(self, folder: Path) -> None:
        """Write `<subdir>/repodata.json.zst` files with these records."""
        subdirs: dict[str, dict[str, dict[str, Any]]] = {}
        for url, record in self.by_url.items():
            subdir = url.split("/")[-2]
            stated = {name: getattr(record, name) for name in _STATED}
            row = {name: value for name, value in stated.items() if value is not None} | {"subdir": subdir}
            section = "packages.conda" if record.file.endswith(".conda") else "packages"
            tables = subdirs.setdefault(subdir, {"packages": {}, "packages.conda": {}})
            tables[section][record.file] = row
        for subdir, tables in subdirs.items():
            text = json.dumps({"info": {"subdir": subdir}, **tables, "repodata_version": 1})
            (folder / subdir).mkdir(parents=True)
            (folder / subdir / REPODATA).write_bytes(zstandard.compress(text.encode()))

    def write(self, folder: Path) -> None:
        """Write these records as `data/facts/conda-forge` has them."""
        subdirs: dict[str, list[CondaRecord]] = {}
        for url, record in sorted(self.by_url.items()):
            subdirs.setdefault(url.split("/")[-2], []).append(record)
        for subdir, rows in subdirs.items():
            comment = (
                f"# The package files of conda-forge/{subdir} that the catalogue's lockfiles name, "
                "as `repodata.json` describes them."
            )
            write_rows(folder / f"{subdir}.toml", comment, {"record": rows})


class Channel(Struct, frozen=True, kw_only=True):
    """A copy of conda-forge: `<subdir>/repodata.json.zst` files below a directory, and where they come from."""

    folder: Path
    source: str
    checked: dt.date

    def records_of(self, packages: Iterable[LockedPackage], known: CondaRecords) -> CondaRecords:
        """Return the records of locked packages; a record that is known and has the same hash keeps its source."""
        urls = sorted({package.url for package in packages if package.manager == "conda"})
        tables = {subdir: self._read(subdir) for subdir in {url.split("/")[-2] for url in urls}}
        found = {}
        for url in urls:
            subdir, file = url.split("/")[-2:]
            record = self._record(file, tables[subdir][file])
            old = known.by_url.get(url)
            found[url] = old if old is not None and old.sha256 == record.sha256 else record
        return CondaRecords(found)

    def _read(self, subdir: str) -> dict[str, dict[str, Any]]:
        raw = (self.folder / subdir / REPODATA).read_bytes()
        document = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(raw))
        return {**document.get("packages", {}), **document.get("packages.conda", {})}

    def _record(self, file: str, row: Mapping[str, Any]) -> CondaRecord:
        stated = {key: value for key, value in row.items() if key in _STATED and value is not None}
        return to_row({"file": file, "source": self.source, "checked": self.checked, **stated}, CondaRecord, file)


def _url(subdir: str, file: str) -> str:
    return f"{CHANNEL}/{subdir}/{file}"
