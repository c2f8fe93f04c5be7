"""Look up the wheels that a lockfile of the catalogue may name: URL, SHA-256, requirements, and the source of each.

A wheel whose SHA-256 isn't known can't be named.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from envforge.catalogue.index import PLACEHOLDER
from tools.catalogue.requirements import Requires, metadata_requires, torch_requires
from tools.facts.read import FACTS, read_file
from tools.facts.rows import (
    Build,
    Metadata,
    MetadataFile,
    RegistryFile,
    RegistryWheel,
    TorchWheel,
    TorchWheelFile,
)

INDEX = "https://download.pytorch.org/whl"
_MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64", "osx-arm64": "arm64", "win-64": "win_amd64"}


class UnknownFactError(Exception):
    """A wheel that the catalogue may not name, because one of its facts is unknown."""


class Wheel(Struct, frozen=True, kw_only=True):
    """One wheel file, with the sources of its URL, SHA-256, and requirements."""

    package: str
    version: str
    url: str
    sha256: str
    requires: Requires
    address_source: str
    sha256_source: str
    size: int | None = None

    @property
    def file_name(self) -> str:
        """The name of the file, not percent-encoded."""
        return unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])

    @property
    def metadata(self) -> str:
        """METADATA as a solver reads it, from the recorded requirements."""
        lines = ["Metadata-Version: 2.1", f"Name: {self.package}", f"Version: {self.version}"]
        lines += [f"Requires-Python: {self.requires.python}"] if self.requires.python else []
        extras = sorted({extra for line in self.requires.lines for extra in _extras_in(line)})
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        lines += [f"Requires-Dist: {line}" for line in self.requires.lines]
        return "\n".join(lines) + "\n"


class WheelFacts(Struct, frozen=True, kw_only=True):
    """The facts of `data/facts/wheels`."""

    stated: tuple[TorchWheel, ...]
    builds: tuple[Build, ...]
    metadata: tuple[Metadata, ...]
    registry: tuple[RegistryWheel, ...]

    @classmethod
    def read(cls, folder: Path = FACTS / "wheels") -> WheelFacts:
        """Read the three files."""
        torch = read_file(folder / "torch.toml", TorchWheelFile)
        return cls(
            stated=tuple(torch.wheel),
            builds=tuple(torch.build),
            metadata=tuple(read_file(folder / "metadata.toml", MetadataFile).metadata),
            registry=tuple(read_file(folder / "registry.toml", RegistryFile).wheel),
        )

    def wheels(self, torch: str, torchvision: str, python: str, platform: str) -> tuple[Wheel, ...]:
        """Return every wheel of one build: `torch` and `torchvision` with local versions, `python` as in `cp312`."""
        family = (
            self._family("torch", torch, python, platform),
            self._family("torchvision", torchvision, python, platform),
        )
        tag = torch.partition("+")[2]
        if not tag.startswith("cu"):
            return family
        of_index = tuple(self._library(row) for row in self.libraries if row.index == tag and _is_of(row.url, platform))
        return family + (of_index or tuple(map(_registry_wheel, self.registry)))

    @property
    def libraries(self) -> tuple[TorchWheel, ...]:
        """The CUDA libraries that the PyTorch index itself has."""
        return tuple(row for row in self.stated if row.index is not None)

    def metadata_of(self, package: str, version: str) -> Metadata:
        """Return the metadata of a release; raise `UnknownFactError` if there is none."""
        for row in self.metadata:
            if (row.package, row.version) == (package, version):
                return row
        raise UnknownFactError(f"the requirements of {package} {version} are not known")

    def _family(self, package: str, version: str, python: str, platform: str) -> Wheel:
        for row in self.stated:
            if (row.package, row.version) == (package, version) and _is_for(row.url, python, platform):
                return _wheel(row, self._requires(package, version))
        raise UnknownFactError(f"no sha256 and address are known of {package} {version} for {python} on {platform}")

    def _requires(self, package: str, version: str) -> Requires:
        if package != "torch":
            return metadata_requires(self.metadata_of(package, version.partition("+")[0]))
        for build in self.builds:
            if build.version == version:
                return torch_requires(build, self.metadata_of("torch", build.like))
        raise UnknownFactError(f"the requirements of torch {version} are not known")

    def _library(self, row: TorchWheel) -> Wheel:
        return _wheel(row, metadata_requires(self.metadata_of(row.package, row.version)))


def _wheel(row: TorchWheel, requires: Requires) -> Wheel:
    return Wheel(
        package=row.package,
        version=row.version,
        url=row.url,
        sha256=row.sha256,
        requires=requires,
        address_source=row.address_source,
        sha256_source=row.sha256_source,
        size=row.size,
    )


def _registry_wheel(row: RegistryWheel) -> Wheel:
    source = f"{row.source}, {row.checked.isoformat()}"
    return Wheel(
        package=row.package,
        version=row.version,
        url=PLACEHOLDER + row.path,
        sha256=row.sha256,
        requires=Requires(lines=tuple(row.requires), python=row.requires_python or "", source=source),
        address_source=source,
        sha256_source=source,
        size=row.size,
    )


def by_directory(wheels: Iterable[Wheel], directory: str) -> dict[str, tuple[Wheel, ...]]:
    """Return the projects of one index directory, for example ``cu118``, with their wheels, sorted by name."""
    projects: dict[str, list[Wheel]] = {}
    for wheel in sorted(wheels, key=lambda w: (w.package, w.file_name)):
        projects.setdefault(wheel.package, []).append(wheel)
    return {f"{directory}/{name}": tuple(rows) for name, rows in projects.items()}


def _is_for(url: str, python: str, platform: str) -> bool:
    return _tags(url)[0] == python and _is_of(url, platform)


def _is_of(url: str, platform: str) -> bool:
    wheel_platform = _tags(url)[-1]
    return _MACHINES[platform] in wheel_platform and ("macos" in wheel_platform) == (platform == "osx-arm64")


def _tags(url: str) -> list[str]:
    """Return the Python, ABI, and platform of a wheel file."""
    return unquote(url.rsplit("/", 1)[-1]).removesuffix(".whl").split("-")[-3:]


def _extras_in(line: str) -> Iterable[str]:
    _, _, marker = line.partition(";")
    for part in marker.replace('"', "'").split("extra == '")[1:]:
        yield part.split("'", 1)[0]
