"""Read, write, and locate lockfiles (conda-lock.yml, format v1).

Nothing is repaired.

The same packages always produce the same bytes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from packaging.version import Version

from envforge.base.records import Document, Fields, WrongValue, one_of, read_digest, read_text
from envforge.base.terms import WheelTag
from envforge.errors import EnvforgeError, Hint

Manager = Literal["conda", "pip"]


class LockfileError(EnvforgeError):
    """A lockfile is unreadable or invalid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedPackage:
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
        """The last part of the URL, percent-encoded as in the lockfile."""
        return self.url.split("#", 1)[0].rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lockfile:
    """All packages of all platforms, in the order of the file."""

    platforms: tuple[str, ...]
    channels: tuple[str, ...]
    content_hash: tuple[tuple[str, str], ...]
    packages: tuple[LockedPackage, ...]
    custom_metadata: tuple[tuple[str, str], ...] = ()

    def for_platform(self, platform: str, manager: Manager | None = None) -> tuple[LockedPackage, ...]:
        """Return the packages of one conda subdir, optionally only those of one package manager."""
        return tuple(p for p in self.packages if p.platform == platform and manager in (None, p.manager))


def read_lockfile(path: Path) -> Lockfile:
    """Read a lockfile from disk; raise ``LockfileError`` if it is missing or invalid."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise LockfileError(
            f"cannot read the lockfile `{path}`: {why}", hint=_creation(path), code="lockfile-unreadable"
        ) from error
    return parse_lockfile(text, str(path))


def _creation(path: Path) -> tuple[Hint, ...]:
    """Return the command that creates a missing lockfile, if the files that it is solved from are there."""
    from envforge.lock.project import LOCKFILE, lock_command  # noqa: PLC0415 - only errors need it

    if path.exists():
        return ()
    command = lock_command(path) if path.name == LOCKFILE else ""
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
        return _lockfile(document.read_yaml(text))
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
    from envforge.lock.project import LOCKFILE, lock_command  # noqa: PLC0415 - only errors need it

    if not path.is_file():
        return ()
    again = lock_command(path) if path.name == LOCKFILE else ""
    remove = shlex.join(["rm", str(path)])
    replacement = (Hint("to replace it by a new lockfile", f"{remove} && {again}"),) if again else ()
    found = (*restore_hints(path.parent, path.name), *replacement)
    return found or (Hint(f"restore `{path}` from a copy"),)


def _instead(path: Path, text: str) -> tuple[Hint, ...]:
    """Return what to use instead of a file that is not a lockfile."""
    from envforge.lock.project import LOCKFILE  # noqa: PLC0415 - only errors need it

    lockfile = path.with_name(LOCKFILE)
    if re.search(r"^dependencies:", text, re.MULTILINE) is None or not path.is_file():
        return (Hint(f"check the path; lockfiles are named `{LOCKFILE}`"),)
    if lockfile.is_file():
        return (Hint(f"to use the lockfile of this environment file, pass `{lockfile}`"),)
    create = Hint(f"to create the lockfile `{lockfile}` from it", shlex.join(["envforge", "lock", "-f", str(path)]))
    return (create, Hint("then pass the lockfile"))


def _lockfile(top: Fields) -> Lockfile:
    if top.raw("version") != 1:
        raise top.fault("version", "1", top.raw("version"))
    metadata = top.inner("metadata")
    hashes = metadata.inner("content_hash")
    custom = metadata.inner("custom_metadata").value if metadata.raw("custom_metadata") else {}
    return Lockfile(
        platforms=metadata.list_of("platforms", read_text),
        channels=metadata.list_of("channels", _read_channel),
        content_hash=tuple((name, hashes.need(name, read_text)) for name in sorted(hashes.value)),
        packages=tuple(_package(entry) for entry in top.items("package")),
        custom_metadata=tuple((str(name), str(value)) for name, value in custom.items()),
    )


def _package(entry: Fields) -> LockedPackage:
    digests = entry.inner("hash")
    url = entry.need("url", read_text)
    is_git = url.startswith("git+")  # conda-lock records the commit in place of the SHA-256
    dependencies = entry.inner("dependencies").value if entry.raw("dependencies") else {}
    return LockedPackage(
        name=entry.need("name", read_text),
        version=entry.need("version", read_text),
        manager=entry.need("manager", _read_manager),
        platform=entry.need("platform", read_text),
        url=url,
        sha256=None if is_git else digests.get("sha256", _read_sha256),
        md5=digests.get("md5", _read_md5),
        category=str(entry.value.get("category", "main")),
        optional=bool(entry.value.get("optional", False)),
        dependencies=tuple((str(name), str(wanted)) for name, wanted in dependencies.items()),
    )


def _read_channel(value: object) -> str:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise WrongValue("a string, or a mapping with the string `url`")
    return url


_read_manager = one_of(get_args(Manager))


def _read_sha256(value: object) -> str | None:
    return _read_digest(value, 64)


def _read_md5(value: object) -> str | None:
    return _read_digest(value, 32)


def _read_digest(value: object, digits: int) -> str | None:
    # a digest may be in upper case; an empty string means that the lockfile has none
    return None if value == "" else read_digest(read_text(value).lower(), digits)


INPUT_SHA256 = "envforge_input_sha256"
EXCLUDE_NEWER = "envforge_exclude_newer"
_HEADER = """\
# Generated by envforge with conda-lock (https://github.com/conda/conda-lock).
# To change it, edit environment.yml, then run
#     envforge lock
# It contains the URL and the SHA-256 of every package. To create the environment NAME from it, run one of
#     micromamba create -n NAME -f {name}
#     conda-lock install -n NAME {name}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """The public URL and the checked SHA-256 of a wheel that conda-lock selected."""

    url: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The metadata of a lockfile."""

    content_hash: tuple[tuple[str, str], ...]
    channels: Sequence[Any]
    platforms: tuple[str, ...]
    source: str
    input_sha256: str
    exclude_newer: str | None = None


def load_documents(path: Path) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the channels and the packages that conda-lock wrote for one platform."""
    import yaml  # noqa: PLC0415 - slow to import

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - a safe loader in either case
    return document["metadata"]["channels"], list(document["package"])


def with_public_addresses(
    rows: Sequence[Mapping[str, Any]], resolve: Callable[[str], Resolved | None]
) -> list[dict[str, Any]]:
    """Replace each loopback URL with the public URL; ``resolve`` returns ``None`` for other URLs."""
    found = []
    for row in rows:
        resolved = resolve(row["url"])
        if resolved is None:
            found.append(dict(row))
        else:
            found.append({**row, "url": resolved.url, "hash": {"sha256": resolved.sha256}})
    return found


def render_lockfile(frame: Frame, rows: Sequence[Mapping[str, Any]], lockfile_name: str) -> str:
    """Return the text of the lockfile, in conda-lock's format v1 and order."""
    import yaml  # noqa: PLC0415 - slow to import

    custom = {INPUT_SHA256: frame.input_sha256}
    if frame.exclude_newer is not None:
        custom[EXCLUDE_NEWER] = frame.exclude_newer
    document = {
        "version": 1,
        "metadata": {
            "content_hash": dict(sorted(frame.content_hash)),
            "channels": list(frame.channels),
            "platforms": list(frame.platforms),
            "sources": [frame.source],
            "custom_metadata": custom,
        },
        "package": sorted(rows, key=lambda row: (row["manager"], row["name"], row["platform"])),
    }
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    # 4096: a line is never folded, so a diff shows each URL as one line
    body = yaml.dump(document, Dumper=dumper, sort_keys=False, width=4096, allow_unicode=True)
    return _HEADER.format(name=lockfile_name) + body


VARIANTS_DIRECTORY = "lockfiles"
LOCK_NAME = "conda-lock.yml"


def list_variants(project: Path) -> tuple[str, ...]:
    """Return the names in ``lockfiles/``: CUDA newest first, then other names, ``cpu`` last."""
    return tuple(
        sorted((path.parent.name for path in project.glob(f"{VARIANTS_DIRECTORY}/*/{LOCK_NAME}")), key=order_of)
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
