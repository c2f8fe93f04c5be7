"""Read, write, and locate lockfiles (conda-lock.yml, format v1).

Nothing is repaired. The same packages always produce the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from msgspec import Struct
from packaging.utils import canonicalize_name
from packaging.version import Version

from envforge.base.documents import Document, Natural, NonEmpty, Printable, load_yaml, matching
from envforge.base.files import regular
from envforge.base.terms import ComputeCapability, WheelTag
from envforge.base.urls import Url, show_url
from envforge.errors import EnvforgeError, Hint
from envforge.lock.project import (
    LOCK_FILE,
    VARIANTS_DIRECTORY,
    environment_in,
    find_environment,
    lock_command,
    project_command,
)

Manager = Literal["conda", "pip"]
# what activation sets itself, or what replaces the environment's own Python
_RESERVED = (
    r"PATH|PYTHONHOME|VIRTUAL_ENV(?:_PROMPT)?|(?:__)?CONDA_(?:SHLVL|PREFIX)\w*|CONDA_(?:DEFAULT_ENV|PROMPT_MODIFIER)"
)
is_reserved_variable = re.compile(_RESERVED, re.IGNORECASE).fullmatch  # names on Windows have no case
_NAME = rf"(?!(?i:{_RESERVED})\Z)[A-Za-z_][A-Za-z0-9_]*"
VariableName = Annotated[str, matching(_NAME, "the name of a variable that activation does not set")]
VariableValue = Annotated[str, matching(r"[^\0]*", "a string without a NUL character")]


class LockfileError(EnvforgeError):
    """A lockfile is unreadable or invalid."""


def file_name_of(url: str) -> str:
    """Return the last part of the path of a URL, without its query, which may contain a secret."""
    return re.split("[?#]", url, maxsplit=1)[0].rpartition("/")[2]


class LockedPackage(Struct, frozen=True, kw_only=True):
    """One package of one platform. ``sha256`` is lowercase hex, or ``None`` if the lockfile has none."""

    name: str
    version: str
    manager: Manager
    platform: str
    url: str
    sha256: str | None
    md5: str | None
    category: str
    optional: bool
    dependencies: tuple[tuple[str, str], ...]

    @property
    def file_name(self) -> str:
        """The last part of the path of the URL, percent-encoded as in the lockfile."""
        return file_name_of(self.url)

    @property
    def build(self) -> str:
        """The build of a conda package, such as ``py310hb13e2d6_0``, which only its file name states."""
        return unquote(self.file_name).removesuffix(".conda").removesuffix(".tar.bz2").rpartition("-")[2]


class Lockfile(Struct, frozen=True, kw_only=True):
    """All packages of all platforms, in the order of the file.

    ``access_variables`` are the environment variables that its channels list for users and passwords. ``was_edited`` is
    set if the content isn't the one whose SHA-256 the file records.
    """

    platforms: tuple[str, ...]
    channels: tuple[str, ...]
    content_hash: tuple[tuple[str, str], ...]
    packages: tuple[LockedPackage, ...]
    custom_metadata: tuple[tuple[str, str], ...] = ()
    sources: tuple[str, ...] = ()
    access_variables: tuple[str, ...] = ()
    python: Version | None = None  # of a pylock.toml, which has no package `python`: its minor version
    was_edited: bool = False

    @property
    def is_as_written(self) -> bool:
        """Whether the file records the SHA-256 of its content, and still has this content."""
        return LOCKFILE_SHA256 in dict(self.custom_metadata) and not self.was_edited

    @property
    def variables(self) -> tuple[tuple[str, str], ...]:
        """The environment variables that ``variables:`` of environment.yml sets, sorted by name."""
        return self._recorded(VARIABLES)

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories to which ``--category`` limited the lock; empty for all."""
        return tuple(filter(None, dict(self.custom_metadata).get(CATEGORIES, "").split(",")))

    def source_files(self, lockfile: Path) -> tuple[Path, ...]:
        """Return the environment files that the lockfile at ``lockfile`` was made from, relative as that path is.

        Empty if conda-lock made it from other kinds of files, such as pyproject.toml.
        """
        # conda-lock also locks pyproject.toml and meta.yaml, which envforge doesn't read
        if not all(source.endswith((".yml", ".yaml")) for source in self.sources):
            return ()
        return tuple(Path(os.path.normpath(lockfile.parent / source)) for source in self.sources)

    def _recorded(self, key: str) -> tuple[tuple[str, str], ...]:
        text = dict(self.custom_metadata).get(key, "{}")
        document = Document(
            damaged=f"the lockfile is invalid at `metadata.custom_metadata.{key}`",
            error=LockfileError,
            code="lockfile-damaged",
        )
        return tuple(sorted(document.read_json(text, dict[VariableName, VariableValue]).items()))

    def for_platform(self, platform: str, manager: Manager | None = None) -> tuple[LockedPackage, ...]:
        """Return the packages of one conda subdir, optionally only those of one package manager."""
        return tuple(p for p in self.packages if p.platform == platform and manager in (None, p.manager))


def read_lockfile(path: Path) -> Lockfile:
    """Read a lockfile from disk; raise ``LockfileError`` if it is missing or invalid."""
    try:
        text = regular(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise LockfileError(
            f"cannot read the lockfile `{path}`: {why}", hint=_creation(path), code="lockfile-unreadable"
        ) from error
    return parse_lockfile(text, str(path))


def find_sources(here: Path) -> tuple[Path, ...]:
    """Return the environment files of the project around ``here``: several if its lockfile was made from several.

    Raises ``EnvforgeError`` if one of those is missing: without it, its packages would leave the lockfile.
    """
    default = find_environment(here)
    lockfile = default.with_name(LOCK_FILE)
    recorded = sources_in(lockfile)
    if not recorded or (len(recorded) == 1 and default.is_file()):
        return (default,)
    missing = [path for path in recorded if not path.is_file()]
    if missing:
        raise _source_missing(lockfile, missing[0], recorded)
    return recorded


def sources_in(lockfile: Path) -> tuple[Path, ...]:
    """Return the environment files that a lockfile records, which may not exist; empty if it is missing or invalid."""
    try:
        return read_lockfile(lockfile).source_files(lockfile) if lockfile.is_file() else ()
    except EnvforgeError:  # an explicit file, or an error that the command reports with its own hints
        return ()


def _source_missing(lockfile: Path, path: Path, recorded: Sequence[Path]) -> EnvforgeError:
    from envforge.base.git import restore_hints  # noqa: PLC0415 - only errors need it

    def lock_from(*files: Path) -> str:
        return project_command("lock", files[0], lockfile, others=files[1:])

    left = [one for one in recorded if one.is_file()]
    renamed = _unrecorded(path.parent, recorded)
    hints = restore_hints(path.parent, path.name) or (Hint(f"if it was removed by mistake, restore `{path}`"),)
    hints += tuple(
        Hint(f"if its name is now `{new}`", lock_from(*(new if one == path else one for one in recorded)))
        for new in renamed
    )
    if not renamed:
        hints += (Hint("if it was renamed, pass each file with `--file`"),)
    if left:
        hints += (Hint("to lock without it, which removes its packages from the lockfile", lock_from(*left)),)
    return EnvforgeError(
        f"`{path}` does not exist, but `{lockfile}` was created from " + ", ".join(f"`{one}`" for one in recorded),
        hint=hints,
        code="source-missing",
    )


def _unrecorded(folder: Path, recorded: Sequence[Path]) -> tuple[Path, ...]:
    """Return the other environment files of a directory, which may be a recorded one under a new name."""
    found = (path for end in ("*.yml", "*.yaml") for path in sorted(folder.glob(end)) if path not in recorded)
    return tuple(path for path in found if re.search(r"^dependencies:", text_of(path), re.MULTILINE))


def text_of(path: Path) -> str:
    """Return the text of a file; empty if it can't be read."""
    try:
        return regular(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def recorded_sources(lockfile: Path) -> tuple[Path, ...]:
    """Return the environment files that a lockfile records; if one doesn't exist, the one next to the lockfile."""
    return recorded_input(lockfile)[0]


def recorded_input(lockfile: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return ``recorded_sources``, and the categories to which a lockfile is limited."""
    found: tuple[Path, ...] = ()
    categories: tuple[str, ...] = ()
    try:
        if lockfile.is_file():
            lock = read_lockfile(lockfile)
            found, categories = lock.source_files(lockfile), lock.categories
    except EnvforgeError:  # an explicit file, or an error that the command reports with its own hints
        pass
    sources = found if found and all(path.is_file() for path in found) else (environment_in(lockfile.parent),)
    return sources, categories


def _creation(path: Path) -> tuple[Hint, ...]:
    """Return the command that creates a missing lockfile, if the files that it is solved from are there."""
    if path.exists():
        return ()
    command = lock_command(path) if path.name == LOCK_FILE else ""
    return (Hint("to create it", command),) if command else (Hint("check the path of the lockfile"),)


def parse_lockfile(text: str, where: str, path: Path | None = None) -> Lockfile:
    """Parse the YAML text of a lockfile; ``where`` names it in errors, and ``path`` in commands if it differs."""
    path = path or Path(where)
    document = Document(
        damaged=f"the lockfile `{where}` is invalid",
        error=LockfileError,
        code="lockfile-damaged",
        hints=lambda: repair_hints(path),
    )
    try:
        return _lockfile(document, text)
    except LockfileError as error:
        if _resembles_lockfile(text):
            raise
        raise LockfileError(f"`{where}` is not a lockfile", hint=_instead(path, text), code=error.code) from error


def _resembles_lockfile(text: str) -> bool:
    """Return whether a file has a top-level key of a lockfile, even if it is not valid YAML."""
    return re.search(r"^(version|metadata|package):", text, re.MULTILINE) is not None


def repair_hints(path: Path) -> tuple[Hint, ...]:
    """Return how to replace an invalid lockfile: by the one in git, or by a new one if its environment.yml is there.

    Only a file that has the name of a lockfile is ever removed.
    """
    from envforge.base.git import restore_hints  # noqa: PLC0415 - as above

    if not path.is_file():
        return ()
    again = lock_command(path, is_valid=False) if path.name == LOCK_FILE else ""
    remove = shlex.join(["rm", str(path)])
    replacement = (Hint("to replace it by a new lockfile", f"{remove} && {again}"),) if again else ()
    found = (*restore_hints(path.parent, path.name), *replacement)
    return found or (Hint(f"restore `{path}` from a copy"),)


def _instead(path: Path, text: str) -> tuple[Hint, ...]:
    """Return what to use instead of a file that is not a lockfile."""
    lockfile = path.with_name(LOCK_FILE)
    if re.search(r"^dependencies:", text, re.MULTILINE) is None or not path.is_file():
        return (Hint(f"check the path; lockfiles are named `{LOCK_FILE}`"),)
    if lockfile.is_file():
        return (Hint(f"to use the lockfile of this environment file, pass `{lockfile}`"),)
    create = Hint(f"to create the lockfile `{lockfile}` from it", shlex.join(["envforge", "lock", "-f", str(path)]))
    return (create, Hint("then pass the lockfile"))


_AnySha256 = Annotated[str, matching(r"[0-9a-fA-F]{64}|", "64 hexadecimal digits")]
_Md5 = Annotated[str, matching(r"[0-9a-fA-F]{32}|", "32 hexadecimal digits")]


# these classes are the format of the file, which has more fields than envforge reads
class _LockedHashes(Struct, frozen=True):
    sha256: _AnySha256 | None = None
    md5: _Md5 | None = None


class _GitHashes(Struct, frozen=True):
    sha256: str | None = None  # conda-lock records the commit in place of the SHA-256
    md5: str | None = None


class _LockPackage(Struct, frozen=True):
    name: NonEmpty
    version: NonEmpty
    manager: Manager
    platform: NonEmpty
    url: NonEmpty
    hash: dict[str, Any]
    category: str = "main"
    optional: bool = False
    dependencies: dict[str, Any] | None = None


class _LockedChannel(Struct, frozen=True):
    url: str
    used_env_vars: tuple[VariableName, ...] = ()


class _LockMetadata(Struct, frozen=True):
    content_hash: dict[str, str]
    channels: tuple[str | _LockedChannel, ...]
    platforms: tuple[str, ...]
    sources: tuple[str, ...] = ()
    custom_metadata: dict[str, Any] | None = None


class _LockDocument(Struct, frozen=True):
    version: Literal[1]
    metadata: _LockMetadata
    package: tuple[_LockPackage, ...]


def _lockfile(document: Document, text: str) -> Lockfile:
    values = document.read_yaml(text, dict[str, Any])
    read = document.convert(values, _LockDocument)
    metadata = read.metadata
    if len(metadata.platforms) > _MOST_PLATFORMS:
        raise document.fault("metadata.platforms", f"at most {_MOST_PLATFORMS} platforms", str(len(metadata.platforms)))
    recorded = (metadata.custom_metadata or {}).get(LOCKFILE_SHA256)
    return Lockfile(
        platforms=metadata.platforms,
        channels=tuple(channel if isinstance(channel, str) else channel.url for channel in metadata.channels),
        content_hash=tuple(sorted(metadata.content_hash.items())),
        packages=tuple(_package(document, number, package) for number, package in enumerate(read.package)),
        custom_metadata=tuple((name, str(value)) for name, value in (metadata.custom_metadata or {}).items()),
        sources=metadata.sources,
        access_variables=tuple(
            name
            for channel in metadata.channels
            if isinstance(channel, _LockedChannel)
            for name in channel.used_env_vars
        ),
        # earlier versions recorded no checksum of the lockfile
        was_edited=LOCKFILE_SHA256 in (metadata.custom_metadata or {}) and recorded != _content_sha256(values),
    )


def _content_sha256(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything in a lockfile except itself, whatever the order of its keys and packages."""
    metadata = document["metadata"]
    custom = {name: value for name, value in metadata["custom_metadata"].items() if name != LOCKFILE_SHA256}
    try:
        # sorted, because other tools may write the packages in another order
        rows = sorted(json.dumps(row, sort_keys=True, default=str) for row in document["package"])
        content = {**document, "metadata": {**metadata, "custom_metadata": custom}, "package": rows}
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    except TypeError:  # keys that are not strings, which envforge never writes
        return ""


def update_sha256(text: str) -> str:
    """Return the text of a lockfile in which envforge has replaced values, with the SHA-256 of its new content."""
    document = load_yaml(text)
    recorded = (document["metadata"].get("custom_metadata") or {}).get(LOCKFILE_SHA256)
    return text.replace(recorded, _content_sha256(document)) if recorded else text


_MOST_PLATFORMS = 100  # conda has 20
_MOST_TAGS = 1000  # of a wheel; real ones have up to 20


def count_tags(file_name: str) -> int:
    """Return the number of tags in the file name of a wheel: each combination of three lists, separated by dots."""
    return math.prod(part.count(".") + 1 for part in file_name.removesuffix(".whl").split("-")[-3:])


def check_package_url(url: str) -> None:
    """Raise ``ValueError`` if ``url`` isn't a URL, or is the one of a wheel whose tags would take long to parse."""
    Url.parse(url)
    name = unquote(file_name_of(url))
    if name.endswith(".whl") and count_tags(name) > _MOST_TAGS:
        raise ValueError(f"its file name has more than {_MOST_TAGS:,} tags")


def _package(document: Document, number: int, entry: _LockPackage) -> LockedPackage:
    is_git = entry.url.startswith("git+")
    kind: type[_GitHashes | _LockedHashes] = _GitHashes if is_git else _LockedHashes
    digests = document.convert(entry.hash, kind, f"package[{number}].hash")
    try:
        check_package_url(entry.url)
    except ValueError as error:
        raise document.fault(f"package[{number}].url", f"a URL ({error})", show_url(entry.url)) from error
    return LockedPackage(
        name=entry.name,
        version=entry.version,
        manager=entry.manager,
        platform=entry.platform,
        url=entry.url,
        # a digest may be in upper case; an empty string means that the lockfile has none
        sha256=None if is_git else (digests.sha256 or "").lower() or None,
        md5=(digests.md5 or "").lower() or None,
        category=entry.category,
        optional=entry.optional,
        dependencies=tuple((name, str(wanted)) for name, wanted in (entry.dependencies or {}).items()),
    )


CREATED_BY = "created_by"  # conda's reader of lockfiles requires this field if there is custom metadata
INPUT_SHA256 = "envforge_input_sha256"
LOCKFILE_SHA256 = "envforge_lockfile_sha256"
EXCLUDE_NEWER = "envforge_exclude_newer"
VARIABLES = "envforge_variables"
CATEGORIES = "envforge_categories"
_HEADER = """\
# Generated by envforge with conda-lock (https://github.com/conda/conda-lock).
# To change it, edit environment.yml, then run
#     envforge lock
# It contains the URL and the SHA-256 of every package. To create the environment NAME from it, run one of
#     micromamba create -n NAME -f {name}
#     conda-lock install -n NAME {name}
"""


class Frame(Struct, frozen=True, kw_only=True):
    """The metadata of a lockfile; ``custom`` are the fields of envforge, of which empty ones are left out."""

    content_hash: tuple[tuple[str, str], ...]
    channels: Sequence[Any]
    platforms: tuple[str, ...]
    sources: tuple[str, ...]
    custom: Mapping[str, str]


def load_documents(path: Path) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the channels and the packages that conda-lock wrote for one platform."""
    document = load_yaml(path.read_bytes())
    return document["metadata"]["channels"], list(document["package"])


def variables_text(variables: Sequence[tuple[str, str]]) -> str:
    """Return the text in which a lockfile records environment variables; empty if there are none."""
    return json.dumps(dict(variables), sort_keys=True) if variables else ""


def render_lockfile(frame: Frame, rows: Sequence[Mapping[str, Any]], lockfile_name: str) -> str:
    """Return the text of the lockfile, in conda-lock's format v1 and order."""
    import yaml  # noqa: PLC0415 - slow to import

    document: dict[str, Any] = {
        "version": 1,
        "metadata": {
            "content_hash": dict(sorted(frame.content_hash)),
            "channels": list(frame.channels),
            "platforms": list(frame.platforms),
            "sources": list(frame.sources),
            "custom_metadata": {name: value for name, value in frame.custom.items() if value},
        },
        "package": sorted(rows, key=lambda row: (row["manager"], row["name"], row["platform"], row["category"])),
    }
    document["metadata"]["custom_metadata"][LOCKFILE_SHA256] = _content_sha256(document)
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    # 4096: a line is never folded, so a diff shows each URL as one line
    body = yaml.dump(document, Dumper=dumper, sort_keys=False, width=4096, allow_unicode=True)
    return _HEADER.format(name=lockfile_name) + body


def list_variants(project: Path) -> tuple[str, ...]:
    """Return the names in ``lockfiles/``: CUDA newest first, then other names, ``cpu`` last."""
    return tuple(
        sorted((path.parent.name for path in project.glob(f"{VARIANTS_DIRECTORY}/*/{LOCK_FILE}")), key=order_of)
    )


def order_of(name: str) -> tuple[int, Version, str]:
    """Return the sort key of a variant: CUDA newest first, then names that are no tag, ``cpu`` last."""
    try:
        tag = WheelTag.parse(name)
    except ValueError:
        return (1, Version("0"), name)
    if tag.cuda is None:
        return (2, Version("0"), name)
    return (0, Version(f"{1000 - tag.cuda.major}.{1000 - tag.cuda.minor}"), name)


class Requirements(Struct, frozen=True, kw_only=True):
    """What a lockfile requires of a machine, as values and in one sentence.

    The driver versions are the oldest on Linux for direct use and for CUDA minor-version compatibility.
    ``download_bytes`` is the size of the ``files_sized`` files whose size is known, out of ``files``.
    """

    driver_direct: Version | None = None
    driver_minor_compatible: Version | None = None
    compute_capabilities: tuple[ComputeCapability, ...]
    ptx: tuple[ComputeCapability, ...]
    glibc: Version | None = None
    macos: Version | None = None
    download_bytes: Natural
    files: Natural
    files_sized: Natural
    words: Printable


def python_of(packages: Iterable[LockedPackage]) -> Version | None:
    """Return the locked version of Python, for which markers are evaluated."""
    for package in packages:
        if package.manager == "conda" and package.name == "python":
            try:
                return Version(package.version)
            except ValueError:
                return None
    return None


def key_of(manager: Manager, name: str) -> str:
    """Return a name as its package manager compares it."""
    return name.lower() if manager == "conda" else canonicalize_name(name)


def reached(packages: Iterable[LockedPackage], names: Iterable[str]) -> list[LockedPackage]:
    """Return the packages that have these names, and their dependencies, through any number of steps."""
    from envforge.lock.names import NameMapping  # noqa: PLC0415 - few commands follow dependencies

    mapping = NameMapping.bundled()
    by_name: dict[str, list[LockedPackage]] = {}
    for package in packages:
        # the name of a wheel's dependency is a Python name, whoever provides it
        is_conda = package.manager == "conda"
        for name in {package.name, mapping.to_python(package.name)} if is_conda else {canonicalize_name(package.name)}:
            by_name.setdefault(name, []).append(package)
    left = list(names)
    seen: set[str] = set()
    found: dict[int, LockedPackage] = {}
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for package in by_name.get(name, ()):
            found[id(package)] = package
            left += [one if package.manager == "conda" else canonicalize_name(one) for one, _ in package.dependencies]
    return list(found.values())
