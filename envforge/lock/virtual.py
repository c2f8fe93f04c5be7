"""Read the virtual packages from virtual-packages.yml, or derive them from the torch version.

conda-lock's own default, CUDA 11.4 for every project, is never used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envforge.cuda import WheelTag
from envforge.errors import EnvforgeError
from envforge.lock.inputs import Inputs

_LINUX = {"__unix": "0", "__linux": "5.10", "__glibc": "2.28"}
_MAC = {"__unix": "0", "__osx": "11.0"}
_BASE: Mapping[str, Mapping[str, str]] = {
    "linux-64": {**_LINUX, "__archspec": "1 x86_64"},
    "linux-aarch64": {**_LINUX, "__archspec": "1 aarch64"},
    "linux-ppc64le": {**_LINUX, "__archspec": "1 ppc64le"},
    "osx-64": {**_MAC, "__archspec": "1 x86_64"},
    "osx-arm64": {**_MAC, "__archspec": "1 arm64"},
    "win-64": {"__win": "0", "__archspec": "1 x86_64"},
}
_LOCAL = re.compile(r"\+(cpu|cu\d{2,3})\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtualPackages:
    """Pairs of (name, version) for each platform, as in conda-lock's file; ``source`` is where they come from."""

    subdirs: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    source: str

    def of(self, platform: str) -> dict[str, str]:
        """Return the virtual packages of one platform."""
        return dict(dict(self.subdirs)[platform])

    def words(self) -> tuple[str, ...]:
        """Return one line of text per platform."""
        return tuple(f"{platform}: {' '.join(f'{n}={v}' for n, v in pairs)}" for platform, pairs in self.subdirs)

    def text(self) -> str:
        """Return the text of the file for conda-lock's ``--virtual-package-spec``."""
        lines = ["subdirs:"]
        for platform, pairs in self.subdirs:
            lines += [f"  {platform}:", "    packages:", *(f'      {name}: "{version}"' for name, version in pairs)]
        return "\n".join(lines) + "\n"


def virtual_packages_of(inputs: Inputs, pip: Mapping[str, tuple[Requirement, ...]]) -> VirtualPackages:
    """Return what virtual-packages.yml states; for platforms that it lacks, what their torch version requires."""
    stated = _read(inputs)
    missing = [name for name in inputs.platforms if stated is None or name not in dict(stated.subdirs)]
    derived = _derive(missing, pip)
    if stated is None:
        return derived
    if not missing:
        return stated
    source = f"{stated.source}, and from {derived.source} for {', '.join(missing)}"
    return VirtualPackages(subdirs=(*stated.subdirs, *derived.subdirs), source=source)


def _read(inputs: Inputs) -> VirtualPackages | None:
    if inputs.virtual_packages is None:
        return None
    import yaml  # noqa: PLC0415 - slow to import

    path = str(inputs.virtual_packages_path)
    try:
        document = yaml.safe_load(inputs.virtual_packages)
    except yaml.YAMLError as error:
        raise EnvforgeError(
            f"`{path}` is not valid YAML: {' '.join(str(error).split())}", code="bad-virtual-packages"
        ) from error
    subdirs = _mapping(_mapping(document, path, "").get("subdirs"), path, "subdirs")
    found = []
    for platform, entry in subdirs.items():
        at = f"subdirs.{platform}.packages"
        packages = _mapping(_mapping(entry, path, f"subdirs.{platform}").get("packages") or {}, path, at)
        found.append((str(platform), tuple((str(name), str(version)) for name, version in packages.items())))
    return VirtualPackages(subdirs=tuple(found), source=path)


def _derive(platforms: Iterable[str], pip: Mapping[str, tuple[Requirement, ...]]) -> VirtualPackages:
    """Return the virtual packages for the torch pin of each platform; ``__cuda`` is absent for a CPU build."""
    subdirs = []
    for platform in platforms:
        packages = dict(_BASE[platform])
        tag = _torch_tag(pip.get(platform, ()))
        if tag is not None and tag.cuda is not None:
            packages["__cuda"] = str(tag.cuda)
        subdirs.append((platform, tuple(sorted(packages.items()))))
    return VirtualPackages(subdirs=tuple(subdirs), source="the torch version")


def _torch_tag(requirements: Iterable[Requirement]) -> WheelTag | None:
    for requirement in requirements:
        match = _LOCAL.search(str(requirement.specifier))
        if canonicalize_name(requirement.name) == "torch" and match is not None:
            return WheelTag.parse(match[1])
    return None


def _mapping(value: object, path: str, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        where = f" at `{at}`" if at else ""
        raise EnvforgeError(
            f"`{path}` is invalid{where}: expected a mapping, found `{value}`", code="bad-virtual-packages"
        )
    return value
