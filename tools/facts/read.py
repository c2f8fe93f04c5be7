"""Read `data/facts/`; raise `FactError` with path and key for a file that differs from its description in `rows`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from packaging.version import Version
from pydantic import ValidationError

from envforge.base import toml
from tools.facts.rows import (
    Branch,
    Capability,
    CudaFile,
    Evidence,
    EvidenceFile,
    Family,
    GpuFile,
    Name,
    NameFile,
    PythonDefault,
    PythonFile,
    ReleaseFile,
    Row,
    Tegra,
    Toolkit,
)

FACTS = Path(__file__).resolve().parents[2] / "data" / "facts"

_File = TypeVar("_File", bound=Row)


class FactError(Exception):
    """A file of `data/facts/` that is invalid or contradicts another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The facts that `envforge/data` is built from; releases, toolkits, families, and branches are in order."""

    evidence: tuple[Evidence, ...]
    releases: tuple[ReleaseFile, ...]
    toolkits: tuple[Toolkit, ...]
    families: tuple[Family, ...]
    branches: tuple[Branch, ...]
    capabilities: tuple[Capability, ...]
    tegra: tuple[Tegra, ...]
    python_defaults: tuple[PythonDefault, ...]
    names: tuple[Name, ...]


def read_facts(folder: Path = FACTS) -> Facts:
    """Read every file but the catalogue's; raise `FactError` for the first one that is invalid."""
    releases = read_releases(folder)
    cuda = [*_read_cuda(folder), *releases]
    gpus = read_file(folder / "gpus.toml", GpuFile)
    return Facts(
        evidence=tuple(read_file(folder / "evidence.toml", EvidenceFile).evidence),
        releases=releases,
        toolkits=tuple(sorted((row for file in cuda for row in file.toolkit), key=lambda row: Version(row.cuda))),
        families=tuple(sorted((row for file in cuda for row in file.family), key=lambda row: row.major)),
        branches=tuple(sorted((row for file in cuda for row in file.branch), key=lambda row: row.driver)),
        capabilities=tuple(gpus.capability),
        tegra=tuple(gpus.tegra),
        python_defaults=tuple(read_file(folder / "pythons.toml", PythonFile).python_default),
        names=tuple(read_file(folder / "names.toml", NameFile).package),
    )


def read_releases(folder: Path) -> tuple[ReleaseFile, ...]:
    """Read the torch releases, oldest first."""
    files = []
    for path in _files(folder / "torch"):
        file = read_file(path, ReleaseFile)
        if file.release.torch != path.stem:
            raise FactError(f"{path}: release.torch: expected `{path.stem}`, found `{file.release.torch}`")
        files.append(file)
    return tuple(sorted(files, key=lambda file: Version(file.release.torch)))


def read_file(path: Path, kind: type[_File]) -> _File:
    """Read one file as the given kind; raise `FactError` with the path and the first invalid key."""
    try:
        return kind.model_validate(toml.loads(path.read_text(encoding="utf-8")))
    except (OSError, toml.TOMLDecodeError) as error:
        raise FactError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise FactError(f"{path}: {where}: {first['msg']}, found `{first['input']}`") from error


def _read_cuda(folder: Path) -> Iterable[CudaFile]:
    for path in _files(folder / "cuda"):
        yield read_file(path, CudaFile)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.toml"))
