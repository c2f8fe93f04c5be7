"""Compute the wheel tags and the marker values of one locked platform.

They come from the platform, its Python, and its virtual packages, not from the machine that locks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

_LEGACY_MANYLINUX = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_SYSTEMS = {
    "linux": ("posix", "linux", "Linux"),
    "osx": ("posix", "darwin", "Darwin"),
    "win": ("nt", "win32", "Windows"),
}
_MACHINES = {
    "linux-64": "x86_64",
    "linux-aarch64": "aarch64",
    "linux-ppc64le": "ppc64le",
    "osx-64": "x86_64",
    "osx-arm64": "arm64",
    "win-64": "AMD64",
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """One platform (conda subdir) with its Python; ``virtual`` has the versions of its virtual packages."""

    platform: str
    python: Version
    virtual: Mapping[str, str]

    @cached_property
    def ranks(self) -> Mapping[Tag, int]:
        """The rank of each supported wheel tag; 0 is the best."""
        python = (self.python.major, self.python.minor)
        platforms = self._platform_tags()
        interpreter = f"cp{python[0]}{python[1]}"
        tags = [*cpython_tags(python, abis=[interpreter], platforms=platforms)]
        tags += compatible_tags(python, interpreter=interpreter, platforms=platforms)
        return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}

    def rank(self, wheel: str) -> int | None:
        """Return the rank of a wheel, lower is better; ``None`` if the platform doesn't support it."""
        try:
            tags = parse_wheel_filename(wheel)[3]
        except InvalidWheelFilename:
            return None
        return min((self.ranks[tag] for tag in tags if tag in self.ranks), default=None)

    def counts(self, marker: Marker | None, extra: str = "") -> bool:
        """Return whether a requirement with this marker applies on the platform."""
        return marker is None or marker.evaluate({**self._markers(), "extra": extra})

    def _platform_tags(self) -> list[str]:
        machine = _MACHINES[self.platform]
        system = self.platform.split("-")[0]
        if system == "win":
            return ["win_amd64"]
        if system == "osx":
            major, minor = (*Version(self.virtual.get("__osx", "11.0")).release, 0)[:2]
            return list(mac_platforms((major, minor), machine))
        # manylinux starts at glibc 2.5 on x86_64, and at 2.17 on other machines, as in `packaging.tags`
        oldest = 16 if machine != "x86_64" else 4
        tags = []
        for minor in range(Version(self.virtual.get("__glibc", "2.28")).minor, oldest, -1):
            tags.append(f"manylinux_2_{minor}_{machine}")
            if minor in _LEGACY_MANYLINUX:
                tags.append(f"{_LEGACY_MANYLINUX[minor]}_{machine}")
        return [*tags, f"linux_{machine}"]

    def _markers(self) -> dict[str, str]:
        os_name, sys_platform, platform_system = _SYSTEMS[self.platform.split("-")[0]]
        return {
            "implementation_name": "cpython",
            "implementation_version": str(self.python),
            "os_name": os_name,
            "platform_machine": _MACHINES[self.platform],
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": platform_system,
            "platform_version": "",
            "python_full_version": str(self.python),
            "python_version": f"{self.python.major}.{self.python.minor}",
            "sys_platform": sys_platform,
        }
