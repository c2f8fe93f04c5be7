"""Read the virtual packages of a solve from the directory that conda-lock passes as its last channel.

conda-lock 4 writes them as a separate channel with ``package_type: virtual_system`` (its ``virtual_package.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envforge.errors import EnvforgeError, RequestError
from envforge.solver.channels import Channel

if TYPE_CHECKING:
    from rattler import GenericVirtualPackage

_KIND = "virtual_system"


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class VirtualPackage:
    """One property of the target machine, such as ``__cuda 12.4``."""

    name: str
    version: str
    build: str

    def to_rattler(self) -> GenericVirtualPackage:
        """Convert for rattler; raise ``RequestError`` if the name or the version is invalid."""
        from rattler import GenericVirtualPackage, PackageName, Version  # noqa: PLC0415 - `--version` doesn't need it
        from rattler.exceptions import InvalidPackageNameError, InvalidVersionError  # noqa: PLC0415
        from rattler.package import BuildString  # noqa: PLC0415

        try:
            return GenericVirtualPackage(PackageName(self.name), Version(self.version), BuildString(self.build))
        except (InvalidPackageNameError, InvalidVersionError, ValueError) as error:
            raise RequestError(
                f"virtual package `{self.name} {self.version} {self.build}` is invalid: {error}",
                hint='write it as in `__cuda: "12.4"` in `virtual-packages.yml`',
                code="bad-virtual-package",
            ) from error


def split(
    channels: tuple[Channel, ...], platform: str
) -> tuple[tuple[Channel, ...], tuple[VirtualPackage, ...] | None]:
    """Return the real channels, and the virtual packages if the last channel is a directory of them, else ``None``."""
    folder = channels[-1].folder if channels else None
    if folder is None:
        return channels, None
    found = [package for subdir in (platform, "noarch") for package in _virtual_in(folder / subdir / "repodata.json")]
    if not found and not _is_empty(folder):
        return channels, None
    return channels[:-1], tuple(sorted(found))


def _virtual_in(path: Path) -> Iterator[VirtualPackage]:
    for entry in _packages(path):
        if entry.get("package_type") != _KIND:
            continue
        try:
            yield VirtualPackage(name=entry["name"], version=entry["version"], build=entry["build"])
        except KeyError as error:
            raise EnvforgeError(
                f"`{path}` is not valid repodata: an entry has no {error}", code="bad-repodata"
            ) from error


def _is_empty(folder: Path) -> bool:
    """Return whether a channel has no real package, as conda-lock's channel if no virtual package is stated."""
    paths = list(folder.glob("*/repodata.json"))
    return bool(paths) and all(entry.get("package_type") == _KIND for path in paths for entry in _packages(path))


def _packages(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        repodata = json.loads(path.read_text(encoding="utf-8"))
        return [*repodata.get("packages", {}).values(), *repodata.get("packages.conda", {}).values()]
    except (ValueError, AttributeError) as error:
        raise EnvforgeError(f"`{path}` is not valid repodata: {error}", code="bad-repodata") from error
