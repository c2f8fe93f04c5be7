"""Select the files that an install of a lockfile needs, each with its checksum.

conda-lock writes wheels as comments (``# pip NAME @ URL --hash=sha256:…``), which are read too.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from msgspec import Struct
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from envforge.base.files import regular
from envforge.base.urls import hide_secrets, show_url
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.lock.lockfile import (
    LockedPackage,
    Lockfile,
    LockfileError,
    Manager,
    check_package_url,
    file_name_of,
    parse_lockfile,
    reached,
)
from envforge.lock.project import ENVIRONMENT_FILE, LOCK_FILE, is_pylock, lock_command

LARGEST_METADATA = 2_000_000  # bytes of METADATA and WHEEL, whose parser needs forty times as many


class Digest(Struct, frozen=True, kw_only=True):
    """The checksum that a file must have."""

    algorithm: Literal["sha256", "md5"]
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @property
    def key(self) -> str:
        """Name of the directory of a file with this checksum."""
        return self.hex if self.algorithm == "sha256" else f"md5-{self.hex}"


class Artifact(Struct, frozen=True, kw_only=True):
    """A locked package and its file: a conda archive or a wheel."""

    package: LockedPackage
    digest: Digest

    @property
    def file_name(self) -> str:
        """File name, decoded, so that it can be compared with archive and wheel names."""
        return unquote(self.package.file_name)

    @property
    def is_source(self) -> bool:
        """Whether this is a source distribution, which must be built."""
        return self.package.manager == "pip" and not self.file_name.endswith(".whl")

    @property
    def label(self) -> str:
        """Name for messages, such as ``torch 2.7.1+cu118``."""
        return f"{self.package.name} {self.package.version}"


class Wheel(Struct, frozen=True, kw_only=True):
    """A wheel of the prefix: its normalized name, its version, and the SHA-256 of its file."""

    name: str
    version: str
    sha256: str


DEFAULT_CATEGORIES = frozenset({"main", "dev"})  # those of `conda-lock install`
_ARCHIVES = (".conda", ".tar.bz2")
_SOURCES = (".tar.gz", ".zip", ".tgz")


class Plan(Struct, frozen=True, kw_only=True):
    """The packages of one platform, by package manager, in the order of the lockfile."""

    platform: str
    conda: tuple[Artifact, ...]
    wheels: tuple[Artifact, ...]
    warnings: tuple[str, ...]
    python: Version | None = None  # the minor version of a virtual environment, for a lockfile without conda packages

    @property
    def fingerprint(self) -> str:
        """SHA-256 that identifies the packages; the same packages have the same fingerprint on every machine."""
        rows = sorted([a.package.manager, a.file_name, str(a.digest)] for a in (*self.conda, *self.wheels))
        rows += [["python", str(self.python)]] if self.python else []
        return hashlib.sha256(json.dumps([self.platform, rows]).encode()).hexdigest()

    @property
    def records(self) -> tuple[str, ...]:
        """The file names of the conda packages in conda-meta, without ``.json``."""
        return tuple(sorted(record_name(artifact) for artifact in self.conda))

    @property
    def wheel_names(self) -> tuple[Wheel, ...]:
        """The wheels as the journal records them."""
        return tuple(sorted((wheel_of(artifact) for artifact in self.wheels), key=lambda wheel: wheel.name))


def make_plan(
    lockfile: Lockfile,
    platform: str,
    where: Path,
    *,
    allow_builds: bool = False,
    categories: Collection[str] = (),
) -> Plan:
    """Select the packages of ``platform`` in ``categories`` (default: ``DEFAULT_CATEGORIES``), and those they need.

    ``warnings`` name what is left out. Raises ``EnvforgeError`` that lists each package that can't be installed and
    verified, and for categories that the lockfile doesn't have.
    """
    if platform not in lockfile.platforms:
        from envforge.lock.project import platform_hints  # noqa: PLC0415 - only errors need it

        raise EnvforgeError(
            f"the lockfile `{where}` has no packages for `{platform}`; it has packages for "
            + (", ".join(f"`{name}`" for name in lockfile.platforms) or "no platform"),
            hint=platform_hints(where, lockfile.platforms, platform),
            code="platform-not-locked",
        )
    packages = lockfile.for_platform(platform)
    _refuse_unknown({*lockfile.categories, *(package.category for package in packages)}, categories, where)
    chosen = _chosen(packages, categories or DEFAULT_CATEGORIES)
    _refuse(chosen, allow_builds=allow_builds)
    artifacts = [Artifact(package=package, digest=_digest(package)) for package in chosen]
    _refuse_equal_records(artifacts, where)
    names = {artifact.package.name for artifact in artifacts if artifact.package.manager == "conda"}
    if "python" not in names and len(names) < len(artifacts) and lockfile.python is None:
        raise EnvforgeError(
            f"the lockfile `{where}` has wheels, but no conda package `python` to install them for",
            hint="to add Python to environment.yml and lock again",
            command="envforge add python",
            code="no-python",
        )
    return Plan(
        platform=platform,
        conda=tuple(a for a in artifacts if a.package.manager == "conda"),
        wheels=tuple(a for a in artifacts if a.package.manager == "pip"),
        warnings=(*_left_out(packages, chosen), *_warnings(artifacts)),
        python=lockfile.python,
    )


def _chosen(packages: Sequence[LockedPackage], categories: Collection[str]) -> tuple[LockedPackage, ...]:
    """Return the packages of ``main`` and of the categories, and their dependencies, each name once."""
    own = [package for package in packages if package.category in {"main", *categories}]  # as `conda-lock install`
    known = {(package.manager, package.name) for package in own}
    ids = {id(package) for package in own}
    if len(own) < len(packages):  # another tool or an editor can list a dependency only in another category
        names = [canonicalize_name(p.name) if p.manager == "pip" else p.name for p in own]
        ids |= {id(package) for package in reached(packages, names) if (package.manager, package.name) not in known}
    chosen: dict[tuple[str, str], LockedPackage] = {}
    for package in packages:
        if id(package) in ids:
            chosen.setdefault((package.manager, package.name), package)
    return tuple(chosen.values())


def _refuse_equal_records(artifacts: Iterable[Artifact], where: Path) -> None:
    """Raise ``EnvforgeError`` if two conda packages would have the same record in ``conda-meta``."""
    owners: dict[str, str] = {}
    for artifact in artifacts:
        if artifact.package.manager == "conda":
            other = owners.setdefault(record_name(artifact), artifact.label)
            if other != artifact.label:
                raise EnvforgeError(
                    f"the lockfile `{where}` has two packages, `{other}` and `{artifact.label}`, with the same file "
                    f"name `{record_name(artifact)}`",
                    hint="to create the lockfile again",
                    command="envforge lock",
                    code="lockfile-damaged",
                )


def _refuse_unknown(known: Collection[str], categories: Collection[str], where: Path) -> None:
    unknown = [name for name in categories if name not in known]
    if unknown:
        words = [word for name in sorted({*known, *categories}) for word in ("--category", name)]
        add = f"{lock_command(where)} {shlex.join(words)}" if is_pylock(where) and lock_command(where) else ""
        raise RequestError(
            f"the lockfile `{where}` has no category `{unknown[0]}`; it has "
            + ", ".join(f"`{name}`" for name in sorted(known)),
            hint="to lock it with this category" if add else "pass a category of the lockfile",
            command=add,
            code="no-such-category",
        )


def _left_out(packages: Iterable[LockedPackage], chosen: Iterable[LockedPackage]) -> Iterator[str]:
    """Yield a warning for each category of which packages are not installed."""
    installed = {(package.manager, package.name) for package in chosen}
    names: dict[str, list[str]] = {}
    for package in packages:
        if (package.manager, package.name) not in installed:
            names.setdefault(package.category, []).append(package.name)
    for category, found in sorted(names.items()):
        yield f"category `{category}` is left out: {', '.join(sorted(found))}"


def _refuse(packages: Iterable[LockedPackage], *, allow_builds: bool) -> None:
    faults = {package: reason for package in packages if (reason := _fault(package, allow_builds=allow_builds))}
    if faults:
        lines = [f"  `{package.name} {package.version}`: {reason}" for package, reason in faults.items()]
        others = any(_fault(package, allow_builds=True) for package in faults)
        ways = (
            Hint("once environment.yml requires only packages published as archives or wheels", "envforge lock")
            if others
            else Hint("if you trust these source distributions, pass `--allow-builds` to build them on this machine")
        )
        raise EnvforgeError(
            "the lockfile contains packages that can't be installed reproducibly:\n" + "\n".join(lines),
            hint=(ways,),
            code="not-installable",
        )


def _fault(package: LockedPackage, *, allow_builds: bool) -> str | None:
    name = Artifact(package=package, digest=Digest(algorithm="sha256", hex="")).file_name
    if package.url.startswith("git+"):
        return f"it comes from a git repository, `{show_url(package.url)}`, which has no checksum"
    if package.sha256 is None and package.md5 is None:
        return "the lockfile has no checksum for it"
    if package.manager == "conda":
        found = show_url(package.url)
        return None if name.endswith(_ARCHIVES) else f"expected a `.conda` or `.tar.bz2` file, found `{found}`"
    if name.endswith(_SOURCES):
        source = f"expected a wheel, found the source distribution `{name}`, which runs its own code when it is built"
        return None if allow_builds else source
    try:
        found = parse_wheel_filename(name)[0]
    except ValueError as error:
        return str(error)
    wanted = canonicalize_name(package.name)
    return None if found == wanted else f"expected a wheel of `{wanted}`, found `{name}`"


def _digest(package: LockedPackage) -> Digest:
    if package.sha256 is not None:
        return Digest(algorithm="sha256", hex=package.sha256)
    return Digest(algorithm="md5", hex=package.md5 or "")


def _warnings(artifacts: Sequence[Artifact]) -> tuple[str, ...]:
    found = []
    weak = sorted(artifact.label for artifact in artifacts if artifact.digest.algorithm == "md5")
    if weak:
        names = ", ".join(weak)
        found.append(f"verified only by MD5, which can be forged, because the lockfile has no SHA-256: {names}")
    built = sorted(artifact.label for artifact in artifacts if artifact.is_source)
    if built:
        found.append(
            f"built from source on this machine, so the result can differ between machines: {', '.join(built)}"
        )
    return tuple(found)


def record_name(artifact: Artifact) -> str:
    """Return the name of a conda archive without its extension: ``jinja2-3.1.6-pyhd8ed1ab_0``."""
    name = artifact.file_name
    return name.removesuffix(".conda").removesuffix(".tar.bz2")


def wheel_of(artifact: Artifact) -> Wheel:
    """Return the name, version, and checksum of a wheel or source distribution.

    The version of a wheel is the one in its file name.
    """
    if artifact.is_source:
        return Wheel(
            name=canonicalize_name(artifact.package.name), version=artifact.package.version, sha256=artifact.digest.hex
        )
    name, version, _, _ = parse_wheel_filename(artifact.file_name)
    return Wheel(name=canonicalize_name(name), version=str(version), sha256=artifact.digest.hex)


MARK = "@EXPLICIT"
_PIP = re.compile(
    r"#\s*pip\s+(?P<name>[A-Za-z0-9._-]+)\s*@\s*(?P<url>\S+?)(?:\s+--hash=|#)(?P<hash>sha256[:=][0-9a-fA-F]{64})"
)
_HASH = re.compile(r"(?:(?P<kind>sha256|md5)[:=])?(?P<hex>[0-9a-fA-F]+)")


def read_any_lock(path: Path, platform: str) -> Lockfile:
    """Read a conda-lock.yml, a pylock.toml, or an explicit file, which is recognized by its line ``@EXPLICIT``."""
    try:
        text = regular(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LockfileError(
            f"cannot read the lockfile `{path}`: {getattr(error, 'strerror', None) or error}",
            hint=(_unread(path),),
            code="lockfile-unreadable",
        ) from error
    return parse_any_lock(text, str(path), platform)


def _unread(path: Path) -> Hint:
    """Return the hint for a lockfile that can't be read: it may not exist yet, and neither may its project."""
    environment = path.with_name(ENVIRONMENT_FILE)
    if path.exists() or path.name != LOCK_FILE:
        return Hint("check the path of the lockfile")
    if not environment.is_file():
        return Hint("change to a project directory; to create a project", "envforge new TEMPLATE DIR")
    words = [] if path == Path(LOCK_FILE) else ["--file", str(environment)]
    return Hint("to create it from environment.yml", shlex.join(["envforge", "lock", *words]))


def parse_any_lock(text: str, where: str, platform: str, path: Path | None = None) -> Lockfile:
    """Parse a lockfile as ``read_any_lock``; ``where`` names it in errors, and ``path`` in commands."""
    if is_pylock(path or Path(where)):
        from envforge.lock.pylock import parse_pylock  # noqa: PLC0415 - few projects have one

        return parse_pylock(text, where)
    if any(line.strip() == MARK for line in text.splitlines()):
        return parse_explicit(text, where, platform)
    return parse_lockfile(text, where, path)


def parse_explicit(text: str, where: str, platform: str) -> Lockfile:
    """Parse an explicit file; ``platform`` is used if the file doesn't state its own."""
    stated = re.search(r"^#\s*platform:\s*(\S+)", text, re.MULTILINE)
    subdir = stated[1] if stated else platform
    packages = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if match := _PIP.match(line):
            name, version = _of_wheel(match["url"], where, number)
            packages.append(_package(name, version, "pip", (match["url"], match["hash"]), subdir))
        elif line and not line.startswith("#") and line != MARK:
            url, _, digest = line.partition("#")
            name, version = _of_archive(url, where, number)
            packages.append(_package(name, version, "conda", (url, digest), subdir))
    return Lockfile(platforms=(subdir,), channels=(), content_hash=(), packages=tuple(packages))


def _package(name: str, version: str, manager: Manager, origin: tuple[str, str], platform: str) -> LockedPackage:
    url, digest = origin
    match = _HASH.fullmatch(digest.strip())
    value = match["hex"].lower() if match else ""
    return LockedPackage(
        name=name,
        version=version,
        manager=manager,
        platform=platform,
        url=url,
        sha256=value if len(value) == 64 else None,
        md5=value if len(value) == 32 else None,
        category="main",
        optional=False,
        dependencies=(),
    )


def _of_archive(url: str, where: str, number: int) -> tuple[str, str]:
    name = unquote(file_name_of(url))
    match = re.fullmatch(r"(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+)(?:\.conda|\.tar\.bz2)", name)
    if match is None or "://" not in url:
        raise _explicit_fault(where, number, "the URL of a `.conda` or `.tar.bz2` file", url)
    return match["name"], match["version"]


def _of_wheel(url: str, where: str, number: int) -> tuple[str, str]:
    parts = unquote(file_name_of(url)).split("-")
    try:
        check_package_url(url)
    except ValueError as error:
        raise _explicit_fault(where, number, f"the URL of a wheel ({error})", url) from error
    if len(parts) not in {5, 6}:
        raise _explicit_fault(where, number, "the URL of a wheel", url)
    return parts[0].lower().replace("_", "-"), parts[1]


def _explicit_fault(where: str, number: int, wanted: str, found: str) -> LockfileError:
    from envforge.base.git import restore_hints  # noqa: PLC0415 - only errors need it

    return LockfileError(
        f"the explicit file `{where}` is invalid at line {number}: expected {wanted}, found `{hide_secrets(found)}`",
        hint=(
            *restore_hints(Path(where).parent, Path(where).name),
            Hint("to export the lockfile again", "envforge export explicit -o FILE"),
        ),
        code="lockfile-damaged",
    )
