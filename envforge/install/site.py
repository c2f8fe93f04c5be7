"""List the distributions in the site-packages of a prefix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name


def installed(prefix: Path) -> frozenset[str]:
    """Return the normalized names of all distributions, regardless of their installer."""
    return frozenset(name for folder in _folders(prefix) for name, _ in distributions(folder))


def pip_installed(prefix: Path) -> frozenset[str]:
    """Return the normalized names of the distributions that pip or uv installed.

    A distribution without an installer belongs to conda if a record in ``conda-meta`` lists its files.
    """
    found = [(folder, name, who) for folder in _folders(prefix) for name, who in distributions(folder)]
    named = {name for _, name, who in found if who not in {"", "conda"}}
    silent = [(folder, name) for folder, name, who in found if not who]
    return frozenset(named | {name for folder, name in silent if not _is_of_conda(name, folder, prefix)})


def _is_of_conda(name: str, site_packages: Path, prefix: Path) -> bool:
    """Return whether the records in ``conda-meta`` list the metadata of every directory of a distribution."""
    folders = [folder for folder in site_packages.glob("*.dist-info") if _name(folder) == name]
    wanted = [f'"{folder.relative_to(prefix).as_posix()}/'.encode() for folder in folders]
    records = [path.read_bytes() for path in (prefix / "conda-meta").glob("*.json")]
    return all(any(text in record for record in records) for text in wanted)


def _folders(prefix: Path) -> tuple[Path, ...]:
    return (*prefix.glob("lib/python*/site-packages"), *prefix.glob("Lib/site-packages"))


def distributions(site_packages: Path) -> Iterator[tuple[str, str]]:
    """Yield the normalized name and the installer of every distribution in a site-packages directory."""
    for folder in sorted(site_packages.glob("*.dist-info")):
        note = folder / "INSTALLER"
        installer = note.read_text(encoding="utf-8").strip() if note.is_file() else ""
        yield _name(folder), installer


def _name(folder: Path) -> str:
    return canonicalize_name(folder.name.removesuffix(".dist-info").rsplit("-", 1)[0])
