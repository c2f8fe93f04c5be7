"""Compute what one platform of a lockfile requires of the machine, as values and in one sentence.

The rules are in ``install.needs``. Lockfiles made by other tools are supported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from envforge.catalogue import Requirements
from envforge.install.needs import read_needs
from envforge.install.plan import Plan
from envforge.install.values import Artifact, Digest
from envforge.lockfile import LockedPackage, Lockfile
from envforge.matrix import Matrix
from envforge.report import Json
from envforge.select.fit import driver_text


# the catalogue, `install`, and `diff` all use this function, so that they never disagree
def requirements_of(
    lockfile: Lockfile, platform: str, matrix: Matrix, sizes: Mapping[str, int] | None = None
) -> Requirements:
    """Return what ``platform`` of ``lockfile`` requires; ``sizes`` has the known file sizes in bytes, by SHA-256.

    No lockfile is rejected, even if ``install`` would reject it: git sources and wheels with an invalid name are
    ignored.
    """
    packages = lockfile.for_platform(platform)
    plan = _readable(platform, packages)
    needs = read_needs(plan, matrix)
    cuda = needs.cuda.version if needs.cuda else None
    direct = matrix.direct_minimum(cuda) if cuda else None
    family = matrix.family_minimum(cuda) if cuda else None
    is_windows = platform.startswith("win-")
    known = [size for package in packages if (size := (sizes or {}).get(package.sha256 or "")) is not None]
    found = Requirements(
        driver_direct=direct.driver(windows=is_windows) if direct else None,
        driver_minor_compatible=family.driver(windows=is_windows) if family else None,
        compute_capabilities=needs.build.capabilities if needs.build else (),
        ptx=needs.build.ptx if needs.build else (),
        glibc=needs.glibc.version if needs.glibc else None,
        macos=max(_macos(plan), default=None) if platform.startswith("osx-") else None,
        download_bytes=sum(known),
        files=len(packages),
        files_sized=len(known),
        words="",
    )
    return replace(found, words=machine_words(found, f"CUDA {cuda}" if cuda else "") + download_words(found))


def requirements_json(needs: Requirements) -> dict[str, Json]:
    """Return the requirements as stored in the index of a catalogue."""
    return {
        "driver_direct": _driver(needs.driver_direct),
        "driver_minor_compatible": _driver(needs.driver_minor_compatible),
        "compute_capabilities": [str(capability) for capability in needs.compute_capabilities],
        "ptx": [str(capability) for capability in needs.ptx],
        "glibc": _text(needs.glibc),
        "macos": _text(needs.macos),
        "download_bytes": needs.download_bytes,
        "files": needs.files,
        "files_sized": needs.files_sized,
        "words": needs.words,
    }


def _driver(version: Version | None) -> str | None:
    return driver_text(version) if version is not None else None


def _text(version: Version | None) -> str | None:
    return str(version) if version is not None else None


def machine_words(needs: Requirements, brings: str = "") -> str:
    """Return ``NVIDIA driver 520.61.05 or newer (…), GPUs of compute capability 3.7 to 9.0, glibc 2.28 or newer``.

    ``brings`` is the CUDA version in the lockfile, which is named if the table has no driver for it.
    """
    parts = []
    lowest = needs.driver_minor_compatible
    if needs.driver_direct is not None:
        other = f" ({driver_text(lowest)} with CUDA minor-version compatibility)" if lowest else ""
        parts.append(f"NVIDIA driver {driver_text(needs.driver_direct)} or newer{other}")
    elif lowest is not None:
        parts.append(f"NVIDIA driver {driver_text(lowest)} or newer, by CUDA minor-version compatibility")
    else:
        parts.append(
            f"an NVIDIA driver for {brings}, which the table does not have" if brings else "no NVIDIA GPU needed"
        )
    if needs.compute_capabilities:
        newer = ", newer ones through PTX" if needs.ptx else ""
        first, last = needs.compute_capabilities[0], needs.compute_capabilities[-1]
        parts.append(f"GPUs of compute capability {first} to {last}{newer}")
    if needs.glibc is not None:
        parts.append(f"glibc {needs.glibc} or newer")
    if needs.macos is not None:
        parts.append(f"macOS {needs.macos} or newer")
    return ", ".join(parts)


def download_words(needs: Requirements) -> str:
    """Return the known size of the download as text; empty if no size is known."""
    if needs.files_sized == 0:
        return ""
    amount = f"{needs.download_bytes / 1e9:.1f} GB"
    if needs.files_sized == needs.files:
        return f"; {amount} to download"
    return f"; more than {amount} to download ({needs.files_sized} of {needs.files} sizes known)"


def _readable(platform: str, packages: Iterable[LockedPackage]) -> Plan:
    artifacts = [Artifact(package=package, digest=Digest(algorithm="sha256", hex="")) for package in packages]
    return Plan(
        platform=platform,
        conda=tuple(a for a in artifacts if a.package.manager == "conda"),
        wheels=tuple(a for a in artifacts if a.package.manager == "pip" and _is_readable(a)),
        warnings=(),
    )


def _is_readable(artifact: Artifact) -> bool:
    if artifact.is_source:
        return True
    try:
        parse_wheel_filename(artifact.file_name)
    except InvalidWheelFilename:
        return False
    return True


def _macos(plan: Plan) -> Iterator[Version]:
    """Return the macOS version that each package requires: ``__osx`` of a conda package, the lowest tag of a wheel."""
    for artifact in plan.conda:
        for name, wanted in artifact.package.dependencies:
            match = re.search(r">=\s*(\d+(?:\.\d+)*)", wanted) if name == "__osx" else None
            if match:
                yield Version(match[1])
    for artifact in plan.wheels:
        tags: Iterable[Tag] = () if artifact.is_source else parse_wheel_filename(artifact.file_name)[3]
        # the tags of one wheel are alternatives, so the lowest one decides
        stated = [Version(f"{m[1]}.{m[2]}") for tag in tags if (m := re.match(r"macosx_(\d+)_(\d+)_", tag.platform))]
        if stated:
            yield min(stated)
