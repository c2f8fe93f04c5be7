"""Find the torch builds that a PyTorch wheel index has, from the names of its files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct, field
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from envforge.lock.pages import IndexFile
from envforge.pytorch.facts_file import RELEASE

_RELEASE = re.compile(RELEASE)
_TAG = re.compile(r"cpu|cu\d{2,3}")
_PYTHON = re.compile(r"cp(3)(\d{1,2})")
_MANYLINUX = re.compile(r"manylinux_(\d{1,3})_(\d{1,3})_(x86_64|aarch64)")
# PEP 600 gives the old names; `linux_…` files are built in these images (data/facts/README.md)
_OLD_NAMES = {
    "manylinux1_x86_64": "manylinux_2_5_x86_64",
    "manylinux2014_x86_64": "manylinux_2_17_x86_64",
    "manylinux2014_aarch64": "manylinux_2_17_aarch64",
    "linux_x86_64": "manylinux_2_17_x86_64",
    "linux_aarch64": "manylinux_2_28_aarch64",
}
_SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}


class ReleasedWheel(Struct, frozen=True, kw_only=True):
    """One wheel of the torch family; ``tag`` is None if neither its version nor its URL states one."""

    file: IndexFile
    version: Version
    tag: str | None
    is_plain: bool
    platform: str
    python: Version | None
    glibc: Version | None


class ReleasedBuild(Struct, kw_only=True):
    """A build and its wheels, one for each Python."""

    torch: Version
    tag: str
    platform: str
    wheels: list[ReleasedWheel] = field(default_factory=list)

    @property
    def key(self) -> tuple[Version, str, str]:
        """What identifies the build."""
        return self.torch, self.tag, self.platform

    @property
    def pythons(self) -> tuple[Version, ...]:
        """The Python versions, oldest first."""
        return tuple(sorted({wheel.python for wheel in self.wheels if wheel.python is not None}))

    @property
    def glibc(self) -> Version | None:
        """The newest glibc that any wheel requires."""
        return max((wheel.glibc for wheel in self.wheels if wheel.glibc is not None), default=None)

    @property
    def is_plain(self) -> bool:
        """Whether no wheel has the tag in its version."""
        return all(wheel.is_plain for wheel in self.wheels)

    @property
    def sample(self) -> ReleasedWheel:
        """The wheel to read what all have in common: that for the newest Python."""
        return max(self.wheels, key=lambda wheel: wheel.python or Version("0"))


def find_builds(files: Iterable[IndexFile], platforms: Sequence[str]) -> tuple[ReleasedBuild, ...]:
    """Return the released builds for these platforms, oldest first."""
    found: dict[tuple[Version, str, str], ReleasedBuild] = {}
    for wheel in wheels_of(files, "torch", platforms):
        if wheel.tag is None or wheel.python is None:
            continue
        torch = Version(wheel.version.public)
        build = ReleasedBuild(torch=torch, tag=wheel.tag, platform=wheel.platform)
        found.setdefault(build.key, build).wheels.append(wheel)
    return tuple(sorted(found.values(), key=lambda build: (build.torch, build.tag, build.platform)))


def wheels_of(files: Iterable[IndexFile], name: str, platforms: Sequence[str]) -> Iterator[ReleasedWheel]:
    """Yield the wheels of releases for these platforms: no previews, no yanked files, no free-threaded Python.

    Nor those with a version that no row can have: see ``odd_releases``.
    """
    return (wheel for wheel in _wheels_of(files, name, platforms) if _RELEASE.fullmatch(wheel.version.public))


def odd_releases(files: Iterable[IndexFile], name: str, platforms: Sequence[str]) -> tuple[Version, ...]:
    """Return the releases with a version that no row can have, such as a post release, oldest first."""
    there = {Version(wheel.version.public) for wheel in _wheels_of(files, name, platforms) if wheel.tag is not None}
    return tuple(sorted(each for each in there if not _RELEASE.fullmatch(str(each))))


def _wheels_of(files: Iterable[IndexFile], name: str, platforms: Sequence[str]) -> Iterator[ReleasedWheel]:
    for file in files:
        try:
            found, version, _, tags = parse_wheel_filename(file.file_name)
        except (InvalidWheelFilename, ValueError):  # ValueError: an invalid version
            continue
        if found != name or version.is_prerelease or version.is_devrelease or file.is_yanked:
            continue
        for tag in _best(tags):
            subdir, glibc = _platform(tag.platform)
            if subdir in platforms and tag.interpreter.startswith(("cp", "py")) and not tag.abi.endswith("t"):
                yield ReleasedWheel(
                    file=file,
                    version=version,
                    tag=_wheel_tag(version, file),
                    is_plain=version.local is None,
                    platform=subdir,
                    python=_python(tag),
                    glibc=glibc,
                )


def _best(tags: Iterable[Tag]) -> tuple[Tag, ...]:
    """Return one tag for each platform of a file; of several manylinux tags, the one with the newest glibc."""
    best: dict[str, Tag] = {}
    for tag in sorted(tags, key=lambda tag: _platform(tag.platform)[1] or Version("0")):
        best[_platform(tag.platform)[0]] = tag
    return tuple(best.values())


def _platform(tag: str) -> tuple[str, Version | None]:
    """Return the conda subdir of a platform tag, and its glibc; an empty subdir if there is none."""
    match = _MANYLINUX.fullmatch(_OLD_NAMES.get(tag, tag))
    if match is not None:
        return _SUBDIRS[match[3]], Version(f"{match[1]}.{match[2]}")
    if tag == "win_amd64":
        return "win-64", None
    if tag.startswith("macosx_"):
        return ("osx-arm64" if tag.endswith(("_arm64", "_universal2")) else "osx-64"), None
    return "", None


def _python(tag: Tag) -> Version | None:
    match = _PYTHON.fullmatch(tag.interpreter)
    return Version(f"{match[1]}.{match[2]}") if match else None


def _wheel_tag(version: Version, file: IndexFile) -> str | None:
    """Return the CUDA tag in the version, or for a plain version, the one in the directory of its URL."""
    if version.local is not None:
        return version.local if _TAG.fullmatch(version.local) else None  # not `rocm7.1`, `xpu`, or `cpu.cxx11.abi`
    folder = file.url.rsplit("/", 2)[-2] if file.url.count("/") > 2 else ""
    return folder if _TAG.fullmatch(folder) else None
