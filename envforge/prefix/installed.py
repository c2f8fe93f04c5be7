"""Read the records of a prefix: ``conda-meta`` of conda and the ``RECORD`` of every wheel.

A record that can't be read raises ``EnvforgeError``.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from packaging.utils import canonicalize_name

from envforge.errors import EnvforgeError
from envforge.prefix.journal import recreate_command

_T = TypeVar("_T")
_UNCHECKED_KINDS = {"directory", "pyc_file"}


class Claim(NamedTuple):
    """A file that a package lists. A tuple, because a prefix has tens of thousands of files.

    ``sha256`` is the expected hash in this prefix and ``archived`` the hash in the archive. They differ if the prefix
    was written into the file. Both are None if the package doesn't state them. ``placeholder`` is the text that the
    prefix replaced.
    """

    path: str
    is_link: bool
    sha256: str | None
    archived: str | None
    placeholder: str
    holds_prefix: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class CondaPackage:
    """One file of ``conda-meta``. ``stem`` is its name without ``.json``."""

    name: str
    version: str
    stem: str
    url: str
    sha256: str | None
    md5: str | None
    site_packages: str | None
    claims: tuple[Claim, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """``direct_url.json``: where a distribution came from, if not from an index."""

    url: str
    is_editable: bool
    sha256: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """A ``.dist-info`` that belongs to no conda package. ``folder`` is its path in the prefix."""

    name: str
    version: str
    folder: str
    installer: str
    origin: Origin | None
    has_record: bool
    claims: tuple[Claim, ...]


def read_conda(prefix: Path) -> tuple[CondaPackage, ...]:
    """Return the conda packages of a prefix, by name."""
    found = [_read(path, _conda_package) for path in (prefix / "conda-meta").glob("*.json")]
    return tuple(sorted(found, key=lambda package: package.name))


def site_packages_of(conda: Collection[CondaPackage], prefix: Path) -> str | None:
    """Return the site-packages of the prefix's Python, relative to the prefix; None if it has no Python."""
    python = next((package for package in conda if package.name == "python"), None)
    if python is None:
        return None
    if python.site_packages is not None:
        return python.site_packages
    if (prefix / "python.exe").exists():
        return "Lib/site-packages"
    return f"lib/python{'.'.join(python.version.split('.')[:2])}/site-packages"


def read_distributions(prefix: Path, site_packages: str, conda: Iterable[CondaPackage]) -> tuple[Distribution, ...]:
    """Return the distributions in site-packages that belong to no conda package, by name."""
    of_conda = {claim.path: claim.sha256 for package in conda for claim in package.claims}
    found = []
    for info in (prefix / site_packages).glob("*.dist-info"):
        folder = f"{site_packages}/{info.name}"
        if info.is_dir() and not _is_of_conda(info, folder, of_conda):
            found.append(_distribution(info, folder, site_packages))
    return tuple(sorted(found, key=lambda distribution: (distribution.name, distribution.folder)))


def _is_of_conda(info: Path, folder: str, of_conda: Mapping[str, str | None]) -> bool:
    """Return whether a ``.dist-info`` belongs to conda: conda lists it, and its ``INSTALLER`` is unchanged.

    pip and uv replace a library of the same version in the same directory, and write another ``INSTALLER``.
    """
    if f"{folder}/METADATA" not in of_conda and f"{folder}/RECORD" not in of_conda:
        return False
    note = info / "INSTALLER"
    if not note.is_file():
        return True
    return of_conda.get(f"{folder}/INSTALLER", "") in {hashlib.sha256(note.read_bytes()).hexdigest(), None}


def _conda_package(path: Path) -> CondaPackage:
    document = json.loads(path.read_bytes())
    rows = (document.get("paths_data") or {}).get("paths")
    if rows is None:  # conda before 4.3 recorded only the paths
        rows = [{"_path": name, "path_type": "unknown"} for name in document.get("files", ())]
    return CondaPackage(
        name=str(document["name"]),
        version=str(document["version"]),
        stem=path.stem,
        url=str(document.get("url", "")),
        sha256=document.get("sha256"),
        md5=document.get("md5"),
        site_packages=document.get("python_site_packages_path"),
        claims=tuple(_claim(row) for row in rows if row.get("path_type") not in _UNCHECKED_KINDS),
    )


def _claim(row: dict[str, Any]) -> Claim:
    kind, archived = row.get("path_type"), row.get("sha256")
    return Claim(
        path=row["_path"],
        is_link=kind == "softlink",
        sha256=row.get("sha256_in_prefix") or archived,
        archived=archived,
        placeholder=row.get("prefix_placeholder") or "",
        holds_prefix=kind not in {"softlink", "hardlink", "unknown"},  # a launcher, written when it was linked
    )


def _distribution(info: Path, folder: str, site_packages: str) -> Distribution:
    name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
    record, installer, origin = info / "RECORD", info / "INSTALLER", info / "direct_url.json"
    return Distribution(
        name=canonicalize_name(name or version),
        version=version,
        folder=folder,
        installer=installer.read_text(encoding="utf-8").strip() if installer.is_file() else "",
        origin=_read(origin, _origin) if origin.is_file() else None,
        has_record=record.is_file(),
        claims=_read(record, lambda path: tuple(_rows(path, site_packages))) if record.is_file() else (),
    )


def _rows(record: Path, site_packages: str) -> Iterator[Claim]:
    for row in csv.reader(io.StringIO(record.read_text(encoding="utf-8"))):
        path = posixpath.normpath(f"{site_packages}/{row[0]}")
        if path.startswith("../") or posixpath.isabs(row[0]):
            continue  # outside the prefix, so not part of its audit
        algorithm, _, digest = row[1].partition("=")
        sha256 = base64.urlsafe_b64decode(digest + "==").hex() if algorithm == "sha256" else None
        outside = not path.startswith(f"{site_packages}/")
        yield Claim(path, is_link=False, sha256=sha256, archived=None, placeholder="", holds_prefix=outside)


def _origin(path: Path) -> Origin:
    document = json.loads(path.read_bytes())
    archive = document.get("archive_info") or {}
    stated = (archive.get("hashes") or {}).get("sha256") or str(archive.get("hash", "")).removeprefix("sha256=")
    return Origin(
        url=str(document["url"]),
        is_editable=bool((document.get("dir_info") or {}).get("editable", False)),
        sha256=stated or None,
    )


def _prefix_of(record: Path) -> Path:
    return next((folder for folder in record.parents if (folder / "conda-meta").is_dir()), record.parent)


def _read(path: Path, reader: Callable[[Path], _T]) -> _T:
    try:
        return reader(path)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise EnvforgeError(
            f"the record `{path}` is invalid: {error!r}",
            hint="to create the environment again",
            command=recreate_command(_prefix_of(path)),
            code="record-damaged",
        ) from error
