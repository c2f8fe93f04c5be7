"""The wheels that a catalogue lock may name: address, sha256, requirements, and where each fact was read.

Enters: ../shared/data/pytorch, ``torch_wheels.toml`` and ``registry_wheels.json``. Leaves: ``Wheel`` values for one
build of torch. A wheel whose sha256 is not known is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from envforge import toml
from envforge.catalogue import PLACEHOLDER
from tools.catalogue.requirements import Requires, report_metadata, torch_requires

HERE = Path(__file__).parent
INDEX = "https://download.pytorch.org/whl"


class UnknownFactError(Exception):
    """A wheel that the catalogue may not name, because something of it is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """One wheel file with the sources of its address, its sha256 and its requirements."""

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
        """METADATA of the wheel: what a solver reads of it, from the recorded requirements."""
        lines = ["Metadata-Version: 2.1", f"Name: {self.package}", f"Version: {self.version}"]
        lines += [f"Requires-Python: {self.requires.python}"] if self.requires.python else []
        extras = sorted({extra for line in self.requires.lines for extra in _extras_in(line)})
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        lines += [f"Requires-Dist: {line}" for line in self.requires.lines]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of wheels, read once."""

    shared: Path
    stated: Mapping[str, Any]
    registry: Mapping[str, Any]
    recorded: tuple[Mapping[str, Any], ...]
    cu118: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, shared: Path) -> Facts:
        """Read the stored facts; ``shared`` is the folder ../shared/data/pytorch."""
        return cls(
            shared=shared,
            stated=toml.loads((HERE / "torch_wheels.toml").read_text(encoding="utf-8")),
            registry=_json(HERE / "registry_wheels.json"),
            recorded=tuple(_json(shared / "torch_wheels.json")["wheels"]),
            cu118=tuple(_json(shared / "cu118_torch-2.7.1_cp310_linux-64.json")),
        )

    def wheels(self, torch: str, torchvision: str, python: str, platform: str) -> tuple[Wheel, ...]:
        """Every wheel of one build: ``torch`` and ``torchvision`` with their local versions, ``python`` as cp312."""
        family = (
            self._family("torch", torch, python, platform),
            self._family("torchvision", torchvision, python, platform),
        )
        if torch.endswith("+cu118"):
            return family + tuple(self._cuda_11(row) for row in self.cu118 if not row["package"].startswith("torch"))
        if "+cu" in torch:
            return family + tuple(self._registry_wheel(row) for row in self.registry["wheels"])
        return family

    def _family(self, package: str, version: str, python: str, platform: str) -> Wheel:
        row = self._address(package, version, python, platform)
        return Wheel(
            package=package,
            version=version,
            url=row["url"],
            sha256=row["sha256"],
            address_source=row["address_source"],
            sha256_source=row["sha256_source"],
            requires=self._torch(version) if package == "torch" else self._vision(version),
            size=row.get("size"),
        )

    def _address(self, package: str, version: str, python: str, platform: str) -> Mapping[str, Any]:
        for row in self.stated["wheel"]:
            if (row["package"], row["version"]) == (package, version) and _is_for(row["url"], python, platform):
                stated: Mapping[str, Any] = row
                return stated
        for row in self.recorded:
            same = (row["package"], row["version"]) == (package, version)
            if same and isinstance(row["sha256"], str) and _is_for(row["url"], python, platform):
                evidence = "; ".join(e for e in row["evidence"] if "without hash" not in e)
                source = f"shared/data/pytorch/torch_wheels.json: {evidence}"
                return {**row, "address_source": source, "sha256_source": source}
        raise UnknownFactError(f"no sha256 and address are known of {package} {version} for {python} on {platform}")

    def _torch(self, version: str) -> Requires:
        for row in self.stated["requires"]:
            if row["version"] == version:
                return torch_requires(row, self.shared / "pip_reports")
        raise UnknownFactError(f"the requirements of torch {version} are not known")

    def _vision(self, version: str) -> Requires:
        release = version.partition("+")[0]
        if any(row["package"] == "torchvision" and row["version"] == release for row in self.registry["metadata"]):
            return self._read_metadata("torchvision", release)
        lines, python = report_metadata(self.shared / "pip_reports", f"torchvision-{release}")
        return Requires(lines=lines, python=python, source=f"shared/data/pytorch/pip_reports: torchvision {release}")

    def _read_metadata(self, package: str, version: str) -> Requires:
        for row in self.registry["metadata"]:
            if (row["package"], row["version"]) == (package, version):
                source = f"metadata of the file on the Python package registry, {self.registry['checked']}"
                return Requires(lines=tuple(row["requires"]), python=row["requires_python"] or "", source=source)
        raise UnknownFactError(f"the requirements of {package} {version} are not known")

    def _cuda_11(self, row: Mapping[str, Any]) -> Wheel:
        found = f"shared/data/pytorch/cu118_torch-2.7.1_cp310_linux-64.json: {'; '.join(row['evidence'])}"
        return Wheel(
            package=row["package"],
            version=row["version"],
            url=row["url"],
            sha256=_known(row),
            address_source=found,
            sha256_source=found,
            requires=self._read_metadata(row["package"], row["version"]),
            size=row.get("size"),
        )

    def _registry_wheel(self, row: Mapping[str, Any]) -> Wheel:
        found = f"{self.registry['source']}, {self.registry['checked']}"
        return Wheel(
            package=row["package"],
            version=row["version"],
            url=PLACEHOLDER + row["path"],
            sha256=_known(row),
            address_source=found,
            sha256_source=found,
            requires=Requires(lines=tuple(row["requires"]), python=row["requires_python"] or "", source=found),
            size=row["size"],
        )


def by_directory(wheels: Iterable[Wheel], directory: str) -> dict[str, tuple[Wheel, ...]]:
    """The projects of one index directory, for example ``cu118``, with their wheels, in order of their names."""
    projects: dict[str, list[Wheel]] = {}
    for wheel in sorted(wheels, key=lambda w: (w.package, w.file_name)):
        projects.setdefault(wheel.package, []).append(wheel)
    return {f"{directory}/{name}": tuple(rows) for name, rows in projects.items()}


def _known(row: Mapping[str, Any]) -> str:
    if not isinstance(row.get("sha256"), str):
        raise UnknownFactError(f"the sha256 of {row['package']} {row['version']} is not known")
    return str(row["sha256"])


def _is_for(url: str, python: str, platform: str) -> bool:
    name = unquote(url.rsplit("/", 1)[-1]).removesuffix(".whl")
    wheel_python, _, wheel_platform = name.split("-")[-3:]
    fits = {"linux-64": "x86_64", "osx-arm64": "arm64", "win-64": "win_amd64"}[platform]
    is_platform = fits in wheel_platform and ("macos" in wheel_platform) == (platform == "osx-arm64")
    return wheel_python == python and is_platform


def _extras_in(line: str) -> Iterable[str]:
    _, _, marker = line.partition(";")
    for part in marker.replace('"', "'").split("extra == '")[1:]:
        yield part.split("'", 1)[0]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
