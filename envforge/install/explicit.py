"""Read explicit files (``@EXPLICIT``): one URL per line, followed by ``#md5`` or ``#sha256:…``.

conda-lock writes wheels as comments (``# pip NAME @ URL --hash=sha256:…``), which are read too.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import unquote

from envforge.errors import Hint
from envforge.install.variant_files import LOCK_NAME
from envforge.lockfile import LockedPackage, Lockfile, LockfileError, Manager, parse_lockfile
from envforge.revision import restore_hints
from envforge.spec import ENVIRONMENT_FILE

MARK = "@EXPLICIT"
_PIP = re.compile(
    r"#\s*pip\s+(?P<name>[A-Za-z0-9._-]+)\s*@\s*(?P<url>\S+?)(?:\s+--hash=|#)(?P<hash>sha256[:=][0-9a-fA-F]{64})"
)
_HASH = re.compile(r"(?:(?P<kind>sha256|md5)[:=])?(?P<hex>[0-9a-fA-F]+)")


def read_any_lock(path: Path, platform: str) -> Lockfile:
    """Read a conda-lock.yml or an explicit file, which is recognized by its line ``@EXPLICIT``."""
    try:
        text = path.read_text(encoding="utf-8")
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
    if path.exists() or path.name != LOCK_NAME:
        return Hint("check the path of the lockfile")
    if not environment.is_file():
        return Hint("change to a project directory; to create a project", "envforge new TEMPLATE DIR")
    words = [] if path == Path(LOCK_NAME) else ["--file", str(environment)]
    return Hint("to create it from environment.yml", shlex.join(["envforge", "lock", *words]))


def parse_any_lock(text: str, where: str, platform: str, path: Path | None = None) -> Lockfile:
    """Parse a conda-lock.yml or an explicit file; ``where`` names it in errors, and ``path`` in commands."""
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
    name = unquote(url.rsplit("/", 1)[-1])
    match = re.fullmatch(r"(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+)(?:\.conda|\.tar\.bz2)", name)
    if match is None or "://" not in url:
        raise _fault(where, number, "the URL of a `.conda` or `.tar.bz2` file", url)
    return match["name"], match["version"]


def _of_wheel(url: str, where: str, number: int) -> tuple[str, str]:
    parts = unquote(url.rsplit("/", 1)[-1]).split("-")
    if len(parts) not in {5, 6}:
        raise _fault(where, number, "the URL of a wheel", url)
    return parts[0].lower().replace("_", "-"), parts[1]


def _fault(where: str, number: int, wanted: str, found: str) -> LockfileError:
    return LockfileError(
        f"the explicit file `{where}` is invalid at line {number}: expected {wanted}, found `{found}`",
        hint=(
            *restore_hints(Path(where).parent, Path(where).name),
            Hint("to export the lockfile again", "envforge export explicit -o FILE"),
        ),
        code="lockfile-damaged",
    )
