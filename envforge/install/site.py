"""What lies in a prefix's site-packages, by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name


def installed(prefix: Path) -> frozenset[str]:
    """The normalised names of all distributions, whoever installed them."""
    return frozenset(name for folder in _folders(prefix) for name, _ in distributions(folder))


def pip_installed(prefix: Path) -> frozenset[str]:
    """The normalised names of what pip or uv installed: every distribution that conda did not.

    One that does not say who installed it is conda's where a record in ``conda-meta`` has its files.
    """
    found = [(folder, name, who) for folder in _folders(prefix) for name, who in distributions(folder)]
    named = {name for _, name, who in found if who not in {"", "conda"}}
    silent = [(folder, name) for folder, name, who in found if not who]
    return frozenset(named | {name for folder, name in silent if not _is_of_conda(name, folder, prefix)})


def _is_of_conda(name: str, site_packages: Path, prefix: Path) -> bool:
    """Whether a record in ``conda-meta`` lists the metadata of every folder of a distribution."""
    folders = [folder for folder in site_packages.glob("*.dist-info") if _name(folder) == name]
    wanted = [f'"{folder.relative_to(prefix).as_posix()}/'.encode() for folder in folders]
    records = [path.read_bytes() for path in (prefix / "conda-meta").glob("*.json")]
    return all(any(text in record for record in records) for text in wanted)


def _folders(prefix: Path) -> tuple[Path, ...]:
    return (*prefix.glob("lib/python*/site-packages"), *prefix.glob("Lib/site-packages"))


def distributions(site_packages: Path) -> Iterator[tuple[str, str]]:
    """Normalised name and installer of every distribution in a site-packages folder."""
    for folder in sorted(site_packages.glob("*.dist-info")):
        note = folder / "INSTALLER"
        installer = note.read_text(encoding="utf-8").strip() if note.is_file() else ""
        yield _name(folder), installer


def _name(folder: Path) -> str:
    return canonicalize_name(folder.name.removesuffix(".dist-info").rsplit("-", 1)[0])
