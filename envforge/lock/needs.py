"""Determine what a lockfile requires of a machine, and choose the lockfile of a project for a machine.

The rules are those of ``envforge.pytorch.fit``, so that ``install`` and ``explain`` always agree. Lockfiles made by
other tools are supported.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from envforge.base.envelope import Json, fields_to_json
from envforge.base.terms import WheelTag
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.lock.lockfile import LockedPackage, Lockfile, Requirements, list_variants, order_of
from envforge.lock.plan import Artifact, Digest, Plan, make_plan, read_any_lock
from envforge.lock.project import LOCK_FILE, VARIANTS_DIRECTORY
from envforge.machine.values import Machine, driver_text

if TYPE_CHECKING:
    from envforge.pytorch.matrix import Build, Matrix

# source: PEP 600, "Legacy manylinux tags"
_LEGACY_GLIBC = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}
_CUDA_RUNTIMES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime-cu11")
_CUDA_PACKAGES = ("pytorch-cuda", "cuda-cudart", "cudatoolkit")
_CONDA_TORCH = ("pytorch", "libtorch")
_CUDA_BUILD = re.compile(r"cuda_?(\d{2})(\d)|cuda(\d+)\.(\d+)")
_ARCHITECTURES = {"64": ("x86_64", "amd64", "intel", "universal2"), "aarch64": ("aarch64",), "ppc64le": ("ppc64le",)}
_ARM_ARCHITECTURES = ("arm64", "universal2")


class Needed(Struct, frozen=True, kw_only=True):
    """A minimum version that the machine must provide, and the package that requires it."""

    version: Version
    package: str


class PlatformNeeds(Struct, frozen=True, kw_only=True):
    """Requirements of one platform of a lockfile. ``build`` is the PyTorch build of the matrix, if torch is a wheel."""

    platform: str
    glibc: Needed | None
    cuda: Needed | None
    build: Build | None
    misplaced: tuple[str, ...]


def read_needs(plan: Plan, matrix: Matrix | None) -> PlatformNeeds:
    """Return what the packages of a plan require of the machine; a plan without CUDA needs no matrix."""
    return PlatformNeeds(
        platform=plan.platform,
        glibc=_glibc(plan),
        cuda=_cuda(plan),
        build=_build(plan, matrix),
        misplaced=tuple(_misplaced(plan)),
    )


def locked_cuda(lockfile: Lockfile, platform: str) -> Needed | None:
    """Return the CUDA version that the locked torch was built for; None for a CPU build."""
    return _cuda(_readable(platform, lockfile.for_platform(platform)))


def asks_driver(plan: Plan) -> bool:
    """Return whether a plan contains CUDA, so that the driver, the GPUs, and the matrix matter."""
    return _cuda(plan) is not None


def describe(needs: PlatformNeeds, matrix: Matrix | None) -> str:
    """Return the requirements on one line, such as ``linux-64, glibc 2.28, NVIDIA driver 450.80.02 (CUDA 11.8)``."""
    parts = [needs.platform]
    if needs.glibc is not None:
        parts.append(f"glibc {needs.glibc.version}")
    if needs.cuda is not None and matrix is not None:
        cuda = needs.cuda.version
        minimum = matrix.family_minimum(cuda) or matrix.direct_minimum(cuda)
        driver = minimum.driver(windows=needs.platform.startswith("win-")) if minimum else None
        parts.append(f"NVIDIA driver {driver_text(driver)} (CUDA {cuda})" if driver else f"CUDA {cuda}")
    if needs.build is not None and needs.build.capabilities:
        parts.append("compute capability " + ", ".join(map(str, needs.build.capabilities)))
    return ", ".join(parts)


def unmet(needs: PlatformNeeds, machine: Machine, matrix: Matrix | None) -> tuple[str, ...]:
    """Return a reason for each requirement that the machine doesn't meet."""
    if needs.platform != machine.platform:
        return (f"the lockfile is for `{needs.platform}`, but this machine is `{machine.platform}`",)
    reasons = list(needs.misplaced)
    if needs.glibc is not None and machine.glibc is not None and machine.glibc < needs.glibc.version:
        found = f"this machine has glibc {machine.glibc}"
        reasons.append(f"`{needs.glibc.package}` requires glibc {needs.glibc.version} or later, but {found}")
    reasons += _no_driver(needs, machine, matrix)
    return tuple(reasons)


def concerns(needs: PlatformNeeds, machine: Machine) -> tuple[str, ...]:
    """Return what doesn't prevent an install but limits its use: a CUDA build on a machine without an NVIDIA driver."""
    if needs.cuda is None or machine.driver is not None:
        return ()
    brings = f"`{needs.cuda.package}` is built for CUDA {needs.cuda.version}"
    return (f"no NVIDIA driver found; {brings}, so programs will run on the CPU",)


def _no_driver(needs: PlatformNeeds, machine: Machine, matrix: Matrix | None) -> list[str]:
    if needs.cuda is None or matrix is None or not machine.has_nvidia:
        return []
    from envforge.pytorch.fit import Misfit, driver_grade, fit, read_limits  # noqa: PLC0415 - only CUDA needs it

    facts = read_limits(machine, needs.platform)
    if needs.build is not None:
        misfit = fit(needs.build, facts, matrix)
        return [misfit.reason] if isinstance(misfit, Misfit) and misfit.code != "glibc" else []
    grade = driver_grade(needs.cuda.version, facts, matrix)
    return [f"`{needs.cuda.package}`: {grade.reason}"] if isinstance(grade, Misfit) else []


def _build(plan: Plan, matrix: Matrix | None) -> Build | None:
    torch = next((a for a in plan.wheels if a.package.name == "torch" and not a.is_source), None)
    if torch is None or matrix is None:
        return None
    version = parse_wheel_filename(torch.file_name)[1]
    tag = _tag(version) or WheelTag(_cuda_of_runtime(plan))
    return next(
        (
            build
            for build in matrix.builds
            if build.torch == Version(version.public) and build.tag == tag and build.platform == plan.platform
        ),
        None,
    )


def _tag(version: Version) -> WheelTag | None:
    try:
        return WheelTag.parse(version.local or "")
    except ValueError:
        return None


def _cuda(plan: Plan) -> Needed | None:
    """Return the CUDA version that torch was built for, or else the version of the locked CUDA runtime."""
    for artifact in plan.wheels:
        if artifact.package.name == "torch" and not artifact.is_source:
            tag = _tag(parse_wheel_filename(artifact.file_name)[1])
            if tag is not None:
                return None if tag.cuda is None else Needed(version=tag.cuda, package=artifact.label)
    conda = {artifact.package.name: artifact for artifact in plan.conda}
    for torch in (conda[name] for name in _CONDA_TORCH if name in conda):
        # a CPU build can be next to a CUDA runtime, and a build for CUDA 12.0 next to the runtime of 12.5
        built_for = cuda_of_build(torch.file_name)
        if built_for is not None:
            return Needed(version=built_for, package=torch.label)
        if "cuda" not in torch.file_name and "pytorch-cuda" not in conda:
            return None
    wheels = {artifact.package.name: artifact for artifact in plan.wheels}
    for names, found in ((_CUDA_RUNTIMES, wheels), (_CUDA_PACKAGES, conda)):
        for artifact in (found[name] for name in names if name in found):
            if version := _minor(artifact.package.version):
                return Needed(version=version, package=artifact.label)
    return None


def cuda_of_build(file_name: str) -> Version | None:
    """Return the CUDA version in the build of a conda package, such as ``cuda126_mkl_py312_h1234567_0``."""
    match = _CUDA_BUILD.search(file_name)
    return Version(f"{match[1] or match[3]}.{match[2] or match[4]}") if match else None


def _cuda_of_runtime(plan: Plan) -> Version | None:
    found = next((a for a in plan.wheels if a.package.name in _CUDA_RUNTIMES), None)
    return _minor(found.package.version) if found else None


def _minor(text: str) -> Version | None:
    match = re.match(r"(\d+)\.(\d+)", text)
    return Version(match[0]) if match else None


def _glibc(plan: Plan) -> Needed | None:
    found = [*_conda_glibc(plan.conda), *_wheel_glibc(plan.wheels)]
    return max(found, key=lambda needed: needed.version, default=None)


def _conda_glibc(artifacts: Iterable[Artifact]) -> Iterator[Needed]:
    for artifact in artifacts:
        for name, wanted in artifact.package.dependencies:
            match = re.search(r">=\s*(\d+(?:\.\d+)+)", wanted) if name == "__glibc" else None
            if match:
                yield Needed(version=Version(match[1]), package=artifact.label)


def _wheel_glibc(artifacts: Iterable[Artifact]) -> Iterator[Needed]:
    for artifact in artifacts:
        if artifact.is_source:
            continue
        versions = [_tag_glibc(tag.platform) for tag in parse_wheel_filename(artifact.file_name)[3]]
        known = [version for version in versions if version is not None]
        # a wheel with a tag that needs no glibc, such as musllinux, may be installed without it
        if known and len(known) == len(versions):
            # one fitting tag is enough
            yield Needed(version=min(known), package=artifact.label)


def _tag_glibc(platform: str) -> Version | None:
    match = re.match(r"manylinux_(\d+)_(\d+)_", platform)
    if match:
        return Version(f"{match[1]}.{match[2]}")
    legacy = _LEGACY_GLIBC.get(platform.split("_", 1)[0])
    return Version(legacy) if legacy else None


def _misplaced(plan: Plan) -> Iterator[str]:
    """Yield the wheels that don't support the locked Python or the platform."""
    python = next((_minor(a.package.version) for a in plan.conda if a.package.name == "python"), None)
    for artifact in plan.wheels:
        if artifact.is_source:
            continue
        tags = parse_wheel_filename(artifact.file_name)[3]
        if python is not None and not any(_serves_python(tag, python) for tag in tags):
            yield f"`{artifact.file_name}` doesn't support Python {python}, the locked version"
        if not any(_serves_platform(tag.platform, plan.platform) for tag in tags):
            yield f"`{artifact.file_name}` doesn't support `{plan.platform}`"


def _serves_python(tag: Tag, python: Version) -> bool:
    match = re.fullmatch(r"(py|cp)(\d)(\d*)", tag.interpreter)
    if match is None:
        return False
    try:
        stated = Version(f"{match[2]}.{match[3] or 0}")
    except ValueError:
        return False
    # built for a Python and every newer one
    if match[1] == "py" or tag.abi in {"abi3", "none"}:
        return stated.major == python.major and stated <= python
    return stated == python


def _serves_platform(tag: str, platform: str) -> bool:
    if tag == "any":
        return True
    system, _, architecture = platform.partition("-")
    beginnings = {"linux": ("manylinux", "linux"), "osx": ("macosx",), "win": ("win",)}
    if not tag.startswith(beginnings.get(system, ("",))):
        return False
    known = _ARM_ARCHITECTURES if architecture == "arm64" else _ARCHITECTURES.get(architecture, (architecture,))
    return tag.endswith(known)


class Choice(Struct, frozen=True, kw_only=True):
    """The variant for a machine. ``reason`` includes why others were skipped."""

    name: str
    lockfile: Path
    reason: str


class _LockCandidate(Struct, frozen=True, kw_only=True):
    """A lockfile that may be chosen; ``needs`` is a message if the lockfile can't be read for this platform."""

    name: str
    lockfile: Path
    needs: PlatformNeeds | str

    @property
    def label(self) -> str:
        """Name of the variant, followed by the file name for the project's own lockfile."""
        own = self.lockfile.parent.parent.name != VARIANTS_DIRECTORY and self.name != LOCK_FILE
        return f"{self.name} ({LOCK_FILE})" if own else self.name


def _load_matrix() -> Matrix:
    from envforge.pytorch.matrix import load_matrix  # noqa: PLC0415 - only a choice, and CUDA, need it

    return load_matrix()


def list_locks(project: Path, platform: str) -> tuple[str, ...]:
    """Return the names of all lockfiles that ``choose_variant`` considers, in its order."""
    return tuple(one.label for one in _candidates(project, platform))


def variant_lock(project: Path, name: str, platform: str) -> Path:
    """Return the lockfile of a variant; raise ``RequestError`` if there is none of that name."""
    names = list_variants(project)
    if name in names:
        return project / VARIANTS_DIRECTORY / name / LOCK_FILE
    own = [_candidate(None, project / LOCK_FILE, platform)] if (project / LOCK_FILE).exists() else []
    if own and own[0].name == name:
        return own[0].lockfile
    known = ", ".join(f"`{other}`" for other in (*(one.label for one in own), *names)) or "none"
    raise RequestError(
        f"unknown variant `{name}` of `{project.absolute()}`; expected one of: {known}",
        hint="to create it",
        command=f"envforge lock --variant {shlex.quote(name)}",
        code="no-such-variant",
    )


def choose_variant(project: Path, machine: Machine) -> Choice:
    """Return the first lockfile that fits the machine without concerns, or else the first one that fits.

    Raises ``EnvforgeError`` with the reasons if there is none.
    """
    reasons, usable = [], []
    matrix = _load_matrix()
    for one in _candidates(project, machine.platform):
        if isinstance(one.needs, str):
            reasons.append(f"{one.label}: {one.needs}")
            continue
        against, but = unmet(one.needs, machine, matrix), concerns(one.needs, machine)
        if not against and not but:
            reason = "; ".join([f"requires {describe(one.needs, matrix)}", *(f"not {reason}" for reason in reasons)])
            return Choice(name=one.label, lockfile=one.lockfile, reason=reason)
        reasons.append(f"{one.label}: {'; '.join(against or but)}")
        if not against:
            usable.append(Choice(name=one.label, lockfile=one.lockfile, reason="; ".join(but)))
    if usable:
        return usable[0]
    lines = "".join(f"\n  {reason}" for reason in reasons)
    raise EnvforgeError(
        f"no lockfile of `{project.absolute()}` supports this machine:{lines}",
        hint=(
            Hint("to see which builds this machine supports", "envforge explain"),
            Hint("to install one anyway", "envforge install --variant NAME --ignore-machine"),
        ),
        code="no-variant-fits",
    )


def _candidates(project: Path, platform: str) -> Iterator[_LockCandidate]:
    """Yield the lockfiles in order of preference, each read on demand; the project's own is first of its name."""
    own = project / LOCK_FILE
    known = [_candidate(None, own, platform)] if own.exists() else []
    names = [*((one.name, one) for one in known), *((name, None) for name in list_variants(project))]
    for name, read in sorted(names, key=lambda each: order_of(each[0])):
        yield read or _candidate(name, project / VARIANTS_DIRECTORY / name / LOCK_FILE, platform)


def _candidate(name: str | None, lockfile: Path, platform: str) -> _LockCandidate:
    """Read a lockfile; without ``name``, it is named after its PyTorch build, or its file if it has none."""
    try:
        plan = make_plan(read_any_lock(lockfile, platform), platform, lockfile, allow_builds=True)
    except EnvforgeError as error:
        return _LockCandidate(name=name or LOCK_FILE, lockfile=lockfile, needs=error.message)
    needs = read_needs(plan, _load_matrix())
    return _LockCandidate(name=name or _build_name(needs) or LOCK_FILE, lockfile=lockfile, needs=needs)


def _build_name(needs: PlatformNeeds) -> str | None:
    if needs.build is not None:
        return str(needs.build.tag)
    return str(WheelTag(needs.cuda.version)) if needs.cuda is not None else None


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
    drivers = {"driver_direct": needs.driver_direct, "driver_minor_compatible": needs.driver_minor_compatible}
    texts = {name: driver_text(version) if version else None for name, version in drivers.items()}
    return {**fields_to_json(needs), **texts}


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
    except ValueError:
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
