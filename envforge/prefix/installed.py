"""Read the records of a prefix: ``conda-meta`` of conda and the ``RECORD`` of every wheel.

A record that can't be read raises ``EnvforgeError`` that names its file.
"""

from __future__ import annotations

import binascii
import csv
import hashlib
import io
import json
import os
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace
from packaging.utils import canonicalize_name

from envforge.base.documents import Document
from envforge.base.files import regular, write_atomic
from envforge.errors import EnvforgeError, printable
from envforge.lock.project import is_environment
from envforge.prefix.journal import record_fault, recreate_command

ORIGIN = "direct_url.json"
_UNCHECKED_KINDS = {"directory", "pyc_file"}
_MOST_ROWS = 500_000  # of a RECORD; that of torch has 12,000


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


class CondaPackage(Struct, frozen=True, kw_only=True):
    """One file of ``conda-meta``. ``stem`` is its name without ``.json``."""

    name: str
    version: str
    stem: str
    url: str
    sha256: str | None
    md5: str | None
    site_packages: str | None
    is_noarch: bool
    claims: tuple[Claim, ...]


class WheelOrigin(Struct, frozen=True, kw_only=True):
    """``direct_url.json``: where a distribution came from, if not from an index."""

    url: str
    is_editable: bool
    sha256: str | None


class Distribution(Struct, frozen=True, kw_only=True):
    """A ``.dist-info`` that belongs to no conda package. ``folder`` is its path in the prefix."""

    name: str
    version: str
    folder: str
    installer: str
    origin: WheelOrigin | None
    has_record: bool
    claims: tuple[Claim, ...]


class _Path(Struct, frozen=True, kw_only=True):
    """One file in the record of a conda package."""

    _path: str
    path_type: str | None = None
    sha256: str | None = None
    sha256_in_prefix: str | None = None
    prefix_placeholder: str | None = None


class _PathsData(Struct, frozen=True, kw_only=True):
    paths: tuple[_Path, ...] | None = None


class _CondaRecord(Struct, frozen=True, kw_only=True):
    """The fields that envforge reads of ``conda-meta/NAME.json``."""

    name: str
    version: str
    url: str = ""
    sha256: str | None = None
    md5: str | None = None
    noarch: str | bool | None = None
    python_site_packages_path: str | None = None
    paths_data: _PathsData | None = None
    files: tuple[str, ...] = ()


class _DirInfo(Struct, frozen=True, kw_only=True):
    editable: bool = False


class _ArchiveInfo(Struct, frozen=True, kw_only=True):
    hash: str = ""
    hashes: dict[str, str] | None = None


class _DirectUrl(Struct, frozen=True, kw_only=True):
    """``direct_url.json``, https://packaging.python.org/en/latest/specifications/direct-url/."""

    url: str
    dir_info: _DirInfo | None = None
    archive_info: _ArchiveInfo | None = None


def _document(path: Path) -> Document:
    return Document(
        damaged=f"the record `{path}` is invalid",
        error=EnvforgeError,
        code="record-damaged",
        hint="to create the environment again",
        command=recreate_command(_prefix_of(path)),
    )


def conda_records(prefix: Path, name: str = "") -> list[Path]:
    """Return the records of conda packages; with ``name``, only those whose names start with it."""
    found = sorted((prefix / "conda-meta").glob(f"{name}*.json"))
    for path in found:
        if not path.is_file():  # reading a pipe would block
            raise record_fault(path, prefix, "it is not a regular file")
    return found


def load_record(path: Path) -> dict[str, Any]:
    """Return all fields of a record of a conda package, to change some of them."""
    document = _document(path)
    return document.read_json(document.read_bytes(path), dict[str, Any])


def save_record(path: Path, record: Mapping[str, Any]) -> None:
    """Replace the record of a conda package."""
    # on one line, because `json` indents in Python, which takes 0.1 s for the files of a Python
    write_atomic(path, json.dumps(record), synced=False, through_links=False)


def read_conda(prefix: Path) -> tuple[CondaPackage, ...]:
    """Return the conda packages of a prefix, by name."""
    found = [_conda_package(path) for path in conda_records(prefix)]
    site_packages = site_packages_of(found, prefix)
    return tuple(sorted((_placed(package, site_packages) for package in found), key=lambda package: package.name))


def _placed(package: CondaPackage, site_packages: str | None) -> CondaPackage:
    """Return a package with the paths of its files in the prefix: conda records those in the archive."""
    if not package.is_noarch or site_packages is None:
        return package
    return replace(package, claims=tuple(c._replace(path=noarch_place(c.path, site_packages)) for c in package.claims))


def noarch_place(path: str, site_packages: str) -> str:
    """Return where a file of a ``noarch: python`` package is linked."""
    scripts = "Scripts" if site_packages.startswith("Lib/") else "bin"
    for top, place in (("site-packages", site_packages), ("python-scripts", scripts)):
        if path == top or path.startswith(f"{top}/"):
            return f"{place}{path.removeprefix(top)}"
    return path


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


def conda_owners(conda: Iterable[CondaPackage], wheels: Iterable[Distribution]) -> dict[str, frozenset[str]]:
    """Return the conda packages that contain the library of each wheel, by its metadata, or one of its files."""
    by_path: dict[str, str] = {}
    by_name: dict[str, str] = {}
    for package in conda:
        for claim in package.claims:
            by_path[claim.path] = package.name
        by_name |= dict.fromkeys(_python_names(package), package.name)
    found = {}
    for wheel in wheels:
        owners = {by_path[claim.path] for claim in wheel.claims if claim.path in by_path}
        owners |= {by_name[wheel.name]} if wheel.name in by_name else set()
        if owners:
            found[wheel.name] = frozenset(owners)
    return found


def _python_names(package: CondaPackage) -> Iterator[str]:
    """Yield the distributions that a conda package contains, by their metadata."""
    for claim in package.claims:
        folder, _, name = claim.path.rpartition("/")
        if name in {"METADATA", "PKG-INFO"} and folder.endswith((".dist-info", ".egg-info")):
            stem = posixpath.basename(folder).rsplit(".", 1)[0]
            yield canonicalize_name(stem.split("-", 1)[0])


def _conda_package(path: Path) -> CondaPackage:
    document = _document(path)
    record = document.read_json(document.read_bytes(path), _CondaRecord)
    check_site_packages(path, record.python_site_packages_path)
    rows = record.paths_data.paths if record.paths_data is not None else None
    if rows is None:  # conda before 4.3 recorded only the paths
        rows = tuple(_Path(_path=name, path_type="unknown") for name in record.files)
    return CondaPackage(
        name=record.name,
        version=record.version,
        stem=path.stem,
        url=record.url,
        sha256=record.sha256,
        md5=record.md5,
        site_packages=record.python_site_packages_path,
        is_noarch=record.noarch == "python",
        claims=tuple(_claim(row) for row in rows if row.path_type not in _UNCHECKED_KINDS),
    )


def check_site_packages(path: Path, stated: str | None) -> None:
    """Raise ``EnvforgeError`` if the site-packages that a record of a conda package states isn't a path inside."""
    if stated is not None and ("\0" in stated or not {"", ".", ".."}.isdisjoint(re.split(r"[/\\]", stated))):
        raise record_fault(path, _prefix_of(path), f"its site-packages `{printable(stated)}` is not inside the prefix")


def _claim(row: _Path) -> Claim:
    return Claim(
        path=row._path,  # noqa: SLF001 - the name of the field in conda's record
        is_link=row.path_type == "softlink",
        sha256=row.sha256_in_prefix or row.sha256,
        archived=row.sha256,
        placeholder=row.prefix_placeholder or "",
        # other kinds are launchers, written when they were linked
        holds_prefix=row.path_type not in {"softlink", "hardlink", "unknown"},
    )


def _distribution(info: Path, folder: str, site_packages: str) -> Distribution:
    version = info.name.removesuffix(".dist-info").rpartition("-")[2]
    record = info / "RECORD"
    return Distribution(
        name=distribution_name(info),
        version=version,
        folder=folder,
        installer=_installer(info),
        origin=_origin(info),
        has_record=record.is_file(),
        claims=tuple(_rows(record, site_packages)) if record.is_file() else (),
    )


def distribution_name(info: Path) -> str:
    """Return the normalized name of a distribution from the name of its ``.dist-info`` directory."""
    name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
    return canonicalize_name(name or version)


def _installer(info: Path) -> str:
    note = info / "INSTALLER"
    return note.read_text(encoding="utf-8", errors="replace").strip() if note.is_file() else ""


def read_record(text: bytes) -> list[list[str]]:
    """Return the rows of a ``RECORD``, each with path, checksum, and size; raise ``ValueError`` if it is invalid."""
    if b"\0" in text:
        raise ValueError("it contains a NUL character")
    if text.count(b"\n") > _MOST_ROWS:
        raise ValueError(f"it has more than {_MOST_ROWS:,} rows")
    try:
        rows = csv.reader(io.StringIO(text.decode("utf-8")))
        return [row if len(row) == 3 else [*row, "", ""][:3] for row in rows if row]
    except csv.Error as error:
        raise ValueError(str(error)) from error


def sha256_of_row(digest: str) -> str | None:
    """Return the hexadecimal SHA-256 in a row of a ``RECORD``, or None if the row has none.

    Raises ``ValueError`` if it is invalid.
    """
    algorithm, _, value = digest.partition("=")
    if algorithm != "sha256":
        return None
    # a third of the time of `base64.urlsafe_b64decode`, for tens of thousands of files
    return binascii.a2b_base64(f"{value.replace('-', '+').replace('_', '/')}==").hex()


def _rows(record: Path, site_packages: str) -> Iterator[Claim]:
    try:
        for name, digest, _ in read_record(regular(record).read_bytes()):
            path = f"{site_packages}/{name}"
            if "/." in path or "//" in path:  # few are not normal, and the function is slow
                path = posixpath.normpath(path)
            if path.startswith("../") or name.startswith("/"):
                continue  # outside the prefix, so not part of its audit
            outside = not path.startswith(f"{site_packages}/")
            sha256 = sha256_of_row(digest)
            yield Claim(path, is_link=False, sha256=sha256, archived=None, placeholder="", holds_prefix=outside)
    except (OSError, ValueError) as error:
        raise record_fault(record, _prefix_of(record), str(error)) from error


def _origin(info: Path) -> WheelOrigin | None:
    path = info / ORIGIN
    if not path.is_file():
        return None
    document = _document(path)
    found = document.read_json(document.read_bytes(path), _DirectUrl)
    archive = found.archive_info or _ArchiveInfo()
    return WheelOrigin(
        url=found.url,
        is_editable=found.dir_info is not None and found.dir_info.editable,
        sha256=(archive.hashes or {}).get("sha256") or archive.hash.removeprefix("sha256=") or None,
    )


def _prefix_of(record: Path) -> Path:
    return next((folder for folder in record.parents if is_environment(folder)), record.parent)


def installed(prefix: Path) -> frozenset[str]:
    """Return the normalized names of all distributions, regardless of their installer."""
    return frozenset(map(distribution_name, _infos(prefix)))


def pip_installed(prefix: Path) -> frozenset[str]:
    """Return the normalized names of the distributions that pip or uv installed.

    A distribution without an installer belongs to conda if a record in ``conda-meta`` lists its files.
    """
    named = {info: _installer(info) for info in _infos(prefix)}
    silent = [info for info, who in named.items() if not who]
    records = [path.read_bytes() for path in conda_records(prefix)] if silent else []
    of_conda = {info for info in silent if _is_recorded(info, prefix, records)}
    return frozenset(distribution_name(info) for info, who in named.items() if who != "conda" and info not in of_conda)


def _is_recorded(info: Path, prefix: Path, records: Iterable[bytes]) -> bool:
    text = f'"{info.relative_to(prefix).as_posix()}/'.encode()
    return any(text in record for record in records)


def editable_installs(prefix: Path) -> dict[str, str]:
    """Return the URL of each distribution that is installed in editable mode, by its normalized name."""
    origins = {distribution_name(info): _origin(info) for info in _infos(prefix)}
    return {name: origin.url for name, origin in origins.items() if origin is not None and origin.is_editable}


def distributions(site_packages: Path) -> Iterator[tuple[str, str]]:
    """Yield the normalized name and the installer of every distribution in a site-packages directory."""
    for info in sorted(site_packages.glob("*.dist-info")):
        yield distribution_name(info), _installer(info)


def _infos(prefix: Path) -> list[Path]:
    places = ("lib/python*/site-packages", "Lib/site-packages")
    return [info for place in places for info in sorted(prefix.glob(f"{place}/*.dist-info"))]


def check_removable(prefix: Path, names: Collection[str]) -> None:
    """Raise ``EnvforgeError`` if a distribution to uninstall lists a file outside the prefix, which uv would delete."""
    for info in _infos(prefix):
        record = info / "RECORD"
        if distribution_name(info) in names and record.is_file():
            site_packages = info.parent.relative_to(prefix).as_posix()
            try:
                rows = read_record(regular(record).read_bytes())
            except (OSError, ValueError) as error:
                raise record_fault(record, prefix, str(error)) from error
            check_inside(prefix, (posixpath.join(site_packages, name) for name, _, _ in rows), f"`{record}`")


def check_inside(prefix: Path, paths: Iterable[str], listed: str) -> None:
    """Raise ``EnvforgeError`` if a path that ``listed`` contains leads outside the prefix."""
    root = os.path.realpath(prefix)
    known: set[str] = set()
    for path in paths:
        folder = posixpath.dirname(posixpath.join(root, path))
        if folder not in known:
            known.add(folder)
            if not f"{os.path.realpath(folder)}/".startswith(f"{root}/"):
                raise EnvforgeError(
                    f"{listed} contains `{printable(path)}`, which is outside the environment, so it is not removed",
                    hint="to create the environment again",
                    command=recreate_command(prefix),
                    code="record-damaged",
                )
