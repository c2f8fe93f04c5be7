"""Represent one package of a channel or a prefix as a frozen value, independent of rattler."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rattler import PackageRecord, RepoDataRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One package file. Fields that the repodata doesn't state are ``None``, as in records copied from lockfiles."""

    name: str
    version: str
    build: str
    build_number: int
    subdir: str
    fn: str
    url: str
    channel: str
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    timestamp: int | None = None
    indexed_timestamp: int | None = None
    license: str | None = None
    noarch: str | None = None

    @property
    def dist_name(self) -> str:
        """The name of the file without its suffix."""
        return f"{self.name}-{self.version}-{self.build}"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Record:
        """Parse a repodata or conda-meta entry; raise ``KeyError`` or ``ValueError`` if it is invalid."""
        return cls(
            name=values["name"],
            version=values["version"],
            build=values["build"],
            build_number=int(values.get("build_number", 0)),
            subdir=values["subdir"],
            fn=values["fn"],
            url=values["url"],
            # conda-meta entries may name the channel with its subdir
            channel=values["channel"].rstrip("/").removesuffix(f"/{values['subdir']}"),
            depends=tuple(values.get("depends") or ()),
            constrains=tuple(values.get("constrains") or ()),
            md5=values.get("md5") or None,
            sha256=values.get("sha256") or None,
            size=values.get("size"),
            timestamp=values.get("timestamp"),
            indexed_timestamp=values.get("indexed_timestamp"),
            license=values.get("license"),
            noarch=values.get("noarch") or None,
        )

    @classmethod
    def from_rattler(cls, record: PackageRecord) -> Record:
        """Convert a solved record of rattler."""
        return cls.from_mapping(json.loads(record.to_json()))

    def to_rattler(self) -> RepoDataRecord:
        """Convert to a record of rattler."""
        from rattler import PackageRecord, RepoDataRecord  # noqa: PLC0415 - 0.1 s, which `--version` doesn't need
        from rattler.package import BuildString  # noqa: PLC0415

        record = PackageRecord(
            self.name,
            self.version,
            BuildString(self.build),
            self.build_number,
            self.subdir,
            depends=list(self.depends),
            constrains=list(self.constrains),
            sha256=bytes.fromhex(self.sha256) if self.sha256 else None,
            md5=bytes.fromhex(self.md5) if self.md5 else None,
            size=self.size,
        )
        return RepoDataRecord(record, self.fn, self.url, self.channel)
