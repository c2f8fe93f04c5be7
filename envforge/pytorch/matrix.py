"""Read the PyTorch builds that exist, and the driver that each CUDA requires, from ``envforge/data/*.toml``."""

from __future__ import annotations

import importlib.resources
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from packaging.version import Version

from envforge.base.data_files import read_tables
from envforge.base.records import Document, Fields, WrongValue, parsed, read_boolean, read_capability, read_text
from envforge.base.terms import ComputeCapability, WheelTag
from envforge.errors import EnvforgeError, Hint
from envforge.pytorch.selection import Build

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_DOTTED = re.compile(r"\d+(\.\d+)*")


class MatrixError(EnvforgeError):
    """A data file of the matrix is invalid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Minimum:
    """The oldest driver for one CUDA: a toolkit such as 12.6, or every toolkit of a major version."""

    cuda: Version
    linux: Version
    windows: Version

    def driver(self, *, windows: bool) -> Version:
        """Return the minimum in the version scheme of that system's driver; WSL uses the driver of Windows."""
        return self.windows if windows else self.linux


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonDefault:
    """The newest Python that a new environment gets by default; the tag ``None`` applies to every build."""

    tag: WheelTag | None
    at_most: Version
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """All builds, oldest torch first, and the facts that they are judged by."""

    builds: tuple[Build, ...]
    toolkits: tuple[Minimum, ...]
    families: tuple[Minimum, ...]
    python_defaults: tuple[PythonDefault, ...]
    known_capabilities: tuple[ComputeCapability, ...]
    tegra: tuple[ComputeCapability, ...]
    checked: str

    @classmethod
    def without_builds(cls) -> Matrix:
        """Return an empty matrix, which is enough without CUDA, and faster than reading the data files."""
        return cls(builds=(), toolkits=(), families=(), python_defaults=(), known_capabilities=(), tegra=(), checked="")

    @property
    def tags(self) -> tuple[WheelTag, ...]:
        """The tags of all builds: cpu, then CUDA from oldest to newest."""
        cuda = sorted({build.tag.cuda for build in self.builds if build.tag.cuda is not None})
        return (WheelTag(None), *map(WheelTag, cuda))

    @property
    def torches(self) -> tuple[Version, ...]:
        """The torch releases, oldest first."""
        return tuple(sorted({build.torch for build in self.builds}))

    @property
    def pythons(self) -> tuple[Version, ...]:
        """The Python versions that any build has, oldest first."""
        return tuple(sorted({python for build in self.builds for python in build.pythons}))

    @property
    def platforms(self) -> tuple[str, ...]:
        """The conda subdirs that any build has."""
        return tuple(sorted({build.platform for build in self.builds}))

    def direct_minimum(self, cuda: Version) -> Minimum | None:
        """Return the driver that ships with a toolkit; ``None`` if the toolkit is newer than the table."""
        return next((row for row in self.toolkits if row.cuda == cuda), None)

    def family_minimum(self, cuda: Version) -> Minimum | None:
        """Return the oldest driver that runs every toolkit of the same major version."""
        return next((row for row in self.families if row.cuda.major == cuda.major), None)

    def python_default(self, tag: WheelTag) -> PythonDefault:
        """Return the rule for the Python of a new environment with that tag."""
        return next(rule for rule in self.python_defaults if rule.tag in (None, tag))


def load_matrix(folder: Traversable | None = None) -> Matrix:
    """Read the built-in matrix, or the data files of another directory."""
    try:
        return _Loader(folder or importlib.resources.files("envforge") / "data").matrix()
    except MatrixError as error:
        from envforge.base.distribution import reinstall_command  # noqa: PLC0415 - slow to import, and only errors need it

        error.hints = (Hint("to repair the installation of envforge", reinstall_command()),)
        raise


def _rows(table: Fields, name: str) -> tuple[Fields, ...]:
    rows = table.items(name)
    if not rows:
        raise table.fault(name, "one or more tables", "[]")
    return rows


def _read_version(value: object) -> Version:
    version = _version(value) if isinstance(value, str) else None
    if version is None:
        raise WrongValue("a version such as `3.12`")
    return version


@lru_cache(maxsize=1000)
def _version(text: str) -> Version | None:
    return Version(text) if _DOTTED.fullmatch(text) else None


_read_tag = parsed(WheelTag.parse, "`cpu` or a tag such as `cu118`")


@dataclass(frozen=True, slots=True)
class _Loader:
    folder: Traversable

    def matrix(self) -> Matrix:
        releases = self.read("torch_releases.toml")
        drivers = self.read("drivers.toml")
        architectures, wheels = self.read("architectures.toml"), self.read("torch_wheels.toml")
        return Matrix(
            builds=_builds(releases, architectures, wheels),
            toolkits=tuple(_minimum(row, row.need("cuda", _read_version)) for row in _rows(drivers, "toolkit")),
            families=tuple(_minimum(row, row.need("major", _read_major)) for row in _rows(drivers, "family")),
            python_defaults=_python_defaults(releases),
            known_capabilities=architectures.list_of("known", read_capability),
            tegra=architectures.list_of("tegra", read_capability),
            checked=max(text for _, text in _evidence(wheels).values()),
        )

    def read(self, name: str) -> Fields:
        where = str(self.folder / name)
        document = Document(
            damaged=f"the data file `{where}` is invalid",
            error=MatrixError,
            code="matrix-damaged",
            mapping="a table",
        )
        try:
            text = (self.folder / name).read_text(encoding="utf-8")
            return Fields(document, "", read_tables(text))
        except (OSError, ValueError) as error:
            raise MatrixError(f"cannot read the data file `{where}`: {error}", code=document.code) from error


def _evidence(table: Fields) -> dict[str, tuple[bool, str]]:
    """Return the kinds of evidence in a file: whether each is confirmed, and the date when it was checked."""
    kinds = {}
    entries = table.inner("evidence")
    for name in entries.value:
        kind = entries.inner(name)
        kind.need("source", read_text)
        kinds[name] = (kind.need("confirmed", read_boolean), kind.need("checked", read_text))
    return kinds


def _builds(releases: Fields, architectures: Fields, wheels: Fields) -> tuple[Build, ...]:
    by_torch = {row.need("torch", _read_version): row for row in _rows(releases, "release")}
    kernels = {
        tuple(row.need(name, read_text) for name in ("torch", "tag", "platform")): row
        for row in _rows(architectures, "architecture")
    }
    stated, seen, builds = _evidence(architectures), _evidence(wheels), {}
    for row in _rows(wheels, "wheel"):
        torch, tag, platform = (
            row.need("torch", _read_version),
            row.need("tag", _read_tag),
            row.need("platform", read_text),
        )
        release = by_torch.get(torch)
        if release is None:
            raise row.fault("torch", "a release of torch_releases.toml", torch)
        kernel = kernels.get((f"{torch.major}.{torch.minor}", str(tag), platform))
        if kernel is None and not tag.is_cpu:
            raise row.fault("tag", "a build with a row in architectures.toml", tag)
        key = (torch, str(tag), platform)
        if key in builds:
            raise row.fault("torch", "each build once", " ".join(map(str, key)))
        builds[key] = _build(row, release, kernel, confirmed=_kind(row, seen)[0], stated=stated)
    return tuple(builds[key] for key in sorted(builds))


def _build(
    row: Fields, release: Fields, kernel: Fields | None, *, confirmed: bool, stated: dict[str, tuple[bool, str]]
) -> Build:
    plain = row.list_of("plain", read_text, optional=True)
    pythons = row.list_of("pythons", _read_version)
    if not pythons:
        raise row.fault("pythons", "one or more Python versions", "[]")
    return Build(
        torch=row.need("torch", _read_version),
        torchvision=release.get("torchvision", _read_version),
        torchaudio=None if row.get("torchaudio", read_boolean) is False else release.get("torchaudio", _read_version),
        tag=row.need("tag", _read_tag),
        platform=row.need("platform", read_text),
        pythons=pythons,
        glibc=row.get("glibc", _read_version),
        capabilities=kernel.list_of("capabilities", read_capability) if kernel else (),
        ptx=kernel.list_of("ptx", read_capability) if kernel else (),
        local_version="torch" not in plain,
        plain=plain,
        confirmed=confirmed,
        capabilities_stated=kernel is None or _kind(kernel, stated)[0],
    )


def _kind(row: Fields, kinds: dict[str, tuple[bool, str]]) -> tuple[bool, str]:
    name = row.need("evidence", read_text)
    if name not in kinds:
        raise row.fault("evidence", "a name under `evidence`", name)
    return kinds[name]


def _minimum(row: Fields, cuda: Version) -> Minimum:
    return Minimum(cuda=cuda, linux=row.need("linux", _read_version), windows=row.need("windows", _read_version))


def _read_major(value: object) -> Version:
    if not isinstance(value, int) or isinstance(value, bool):
        raise WrongValue("a number")
    return Version(str(value))


def _python_defaults(table: Fields) -> tuple[PythonDefault, ...]:
    rows = _rows(table, "python_default")
    if rows[-1].has("tag"):
        raise rows[-1].fault("tag", "no tag in the last rule, which applies to every build", rows[-1].raw("tag"))
    return tuple(
        PythonDefault(
            tag=row.get("tag", _read_tag),
            at_most=row.need("at_most", _read_version),
            reason=row.need("reason", read_text),
        )
        for row in rows
    )
