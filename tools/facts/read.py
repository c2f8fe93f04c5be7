"""Read `data/facts/`; raise `FactError` with path and key for a file that differs from its description in `rows`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct
from packaging.version import Version

from envforge.base.documents import Document
from envforge.errors import EnvforgeError, Hint
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
    OpenModules,
    OtherGpuFile,
    PythonDefault,
    PythonFile,
    ReleaseFile,
    Row,
    Tegra,
    Toolkit,
    Vendor,
)

FACTS = Path(__file__).resolve().parents[2] / "data" / "facts"

_File = TypeVar("_File", bound=Row)


class FactError(EnvforgeError):
    """A file of `data/facts/` that is invalid or contradicts another."""

    def __init__(
        self, message: str, *, hint: str | Iterable[Hint] = "", command: str = "", code: str = "invalid-fact"
    ) -> None:
        super().__init__(message, hint=hint, command=command, code=code)


class Facts(Struct, frozen=True, kw_only=True):
    """The facts that `envforge/data` is built from; releases, toolkits, families, and branches are in order."""

    evidence: tuple[Evidence, ...]
    releases: tuple[ReleaseFile, ...]
    toolkits: tuple[Toolkit, ...]
    families: tuple[Family, ...]
    branches: tuple[Branch, ...]
    capabilities: tuple[Capability, ...]
    tegra: tuple[Tegra, ...]
    open_modules: OpenModules
    vendors: tuple[Vendor, ...]
    python_defaults: tuple[PythonDefault, ...]
    names: tuple[Name, ...]


def read_facts(folder: Path = FACTS) -> Facts:
    """Read every file but the catalogue's; raise `FactError` for the first one that is invalid."""
    releases = read_releases(folder)
    cuda = [*_read_cuda(folder), *releases]
    gpus = read_file(folder / "gpus.toml", GpuFile)
    return Facts(
        evidence=read_file(folder / "evidence.toml", EvidenceFile).evidence,
        releases=releases,
        toolkits=tuple(sorted((row for file in cuda for row in file.toolkit), key=lambda row: Version(row.cuda))),
        families=tuple(sorted((row for file in cuda for row in file.family), key=lambda row: row.major)),
        branches=tuple(sorted((row for file in cuda for row in file.branch), key=lambda row: row.driver)),
        capabilities=gpus.capability,
        tegra=gpus.tegra,
        open_modules=gpus.open_modules,
        vendors=read_file(folder / "other-gpus.toml", OtherGpuFile).vendor,
        python_defaults=read_file(folder / "pythons.toml", PythonFile).python_default,
        names=read_file(folder / "names.toml", NameFile).package,
    )


def read_releases(folder: Path) -> tuple[ReleaseFile, ...]:
    """Read the torch releases, oldest first."""
    files = []
    for path in _files(folder / "torch"):
        file = read_file(path, ReleaseFile)
        if file.release.torch != path.stem:
            raise _document(path).fault("release.torch", f"`{path.stem}`", file.release.torch)
        files.append(file)
    return tuple(sorted(files, key=lambda file: Version(file.release.torch)))


def read_file(path: Path, kind: type[_File]) -> _File:
    """Read one file as the given kind; raise `FactError` with the path and the first invalid key."""
    document = _document(path)
    return document.read_toml(document.read_bytes(path).decode("utf-8", "replace"), kind)


def to_row(values: Mapping[str, Any], kind: type[_File], where: str) -> _File:
    """Return values that a tool has read as a row; `where` names their place in the `FactError` for an invalid one."""
    return _document(where).convert(dict(values), kind)


def _document(where: Path | str) -> Document:
    return Document(damaged=f"{where} is invalid", error=FactError, code="invalid-fact", closed=True)


def _read_cuda(folder: Path) -> Iterable[CudaFile]:
    for path in _files(folder / "cuda"):
        yield read_file(path, CudaFile)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.toml"))
