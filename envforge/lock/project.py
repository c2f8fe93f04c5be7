"""Find the project around a directory, read its environment files, and change several files in one transaction.

A transaction writes the new files under temporary names, then a journal that lists them, then renames each, then
removes the journal. Without a journal the old state is valid; with one, the next run completes the new state.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from envforge.base.documents import Document
from envforge.base.envelope import to_json
from envforge.base.files import regular, sync_folder, write_synced
from envforge.errors import EnvforgeError, Hint, OutsideError

ENVIRONMENT_FILE = "environment.yml"
VIRTUAL_PACKAGES_FILE = "virtual-packages.yml"
LOCK_FILE = "conda-lock.yml"
PYLOCK = "pylock.toml"
VARIANTS_DIRECTORY = "lockfiles"
ENVFORGE_DIRECTORY = ".envforge"
# editors find an environment in the workspace, and deleting the project deletes it, too
IN_PROJECT = ".conda"
VENV_IN_PROJECT = ".venv"  # the environment of a pylock.toml, where editors and uv look for one
_PROJECT_FILES = ("envforge.toml", LOCK_FILE)


def find_environment(here: Path) -> Path:
    """Return the ``environment.yml`` of ``here`` or of the project around it, relative to ``here``.

    If there is none, return the path where it would be: in the project, or else in ``here``.
    """
    start = here.absolute()
    project = project_folder(start)
    for folder in (start, *start.parents):
        found = environment_in(folder)
        if found.is_file() or folder == project:
            return _from(start, found)
    return Path(ENVIRONMENT_FILE)


def environment_in(folder: Path) -> Path:
    """Return the environment file of a directory: ``environment.yml``, or ``environment.yaml`` if only that exists."""
    other = (folder / ENVIRONMENT_FILE).with_suffix(".yaml")
    return other if other.is_file() and not (folder / ENVIRONMENT_FILE).is_file() else folder / ENVIRONMENT_FILE


def find_lockfile(here: Path) -> Path:
    """Return ``conda-lock.yml`` of the project around ``here``, relative to ``here``; it may not exist."""
    if (here / LOCK_FILE).is_file():
        return Path(LOCK_FILE)
    return find_environment(here).with_name(LOCK_FILE)


def _from(start: Path, path: Path) -> Path:
    return Path(path.name) if path.parent == start else Path(os.path.relpath(path, start))


def project_command(
    name: str, environment: Path, lockfile: Path | None, words: Sequence[str] = (), others: Sequence[Path] = ()
) -> str:
    """Return ``envforge NAME`` with the options that select these files, if the command doesn't find them itself."""
    is_default = not others and _is_same(environment, find_environment(Path()))
    files = [] if is_default else [word for path in (environment, *others) for word in ("-f", str(path))]
    if lockfile is not None and not _is_same(lockfile, environment.with_name(LOCK_FILE)):
        files += ["--lockfile", str(lockfile)]
    return shlex.join(["envforge", name, *files, *words])


def is_pylock(path: Path) -> bool:
    """Return whether a file has a name that PEP 751 reserves: ``pylock.toml`` or ``pylock.NAME.toml``."""
    return re.fullmatch(r"pylock\.(?:[^.]+\.)?toml", path.name) is not None


def lock_command(lockfile: Path, *, is_valid: bool = True) -> str:
    """Return the command that creates or updates a lockfile; empty without its environment files.

    The command has the files and the categories that a valid lockfile records.
    """
    from envforge.lock.lockfile import recorded_input  # noqa: PLC0415 - it imports this module

    if is_pylock(lockfile):
        from envforge.lock.pylock import lockfile_of  # noqa: PLC0415 - few projects have one

        command = lock_command(lockfile_of(lockfile))
        return f"{command} --pylock" if command else ""
    project = project_of(lockfile)
    if project != lockfile.parent and environment_in(project).is_file():
        return project_command("lock", environment_in(project), None, ["--variant", lockfile.absolute().parent.name])
    # the errors about an invalid lockfile contain this command
    (environment, *others), categories = (
        recorded_input(lockfile) if is_valid else ([environment_in(lockfile.parent)], ())
    )
    words = [word for name in categories for word in ("--category", name)]
    return project_command("lock", environment, lockfile, words, others) if environment.is_file() else ""


def project_of(lockfile: Path) -> Path:
    """Return the directory of the project that a lockfile, or the lockfile of a variant, belongs to."""
    absolute = lockfile.absolute()
    return absolute.parents[2] if absolute.parent.parent.name == VARIANTS_DIRECTORY else lockfile.parent


def platform_hints(lockfile: Path, locked: Sequence[str], platform: str) -> tuple[Hint, ...]:
    """Return how to lock one more platform: a project of a template plans its build, another file only lists it."""
    from envforge.base.suggest import nearest  # noqa: PLC0415 - as above
    from envforge.lock.platforms import KNOWN_PLATFORMS  # noqa: PLC0415 - only errors need it

    if platform not in KNOWN_PLATFORMS:
        near = nearest(platform, KNOWN_PLATFORMS, alike=0.6)
        return (Hint(f"did you mean `{near}`?" if near else f"pass one of: {', '.join(KNOWN_PLATFORMS)}"),)
    project = project_of(lockfile)
    update = update_command(project, (*locked, platform))
    if update:
        return (Hint("to add this platform to the project and its lockfile", update),)
    command = lock_command(lockfile)
    if not command:
        return (Hint(f"use a lockfile that has packages for `{platform}`"),)
    return (Hint(f"once `platforms` in `{project / ENVIRONMENT_FILE}` lists `{platform}`", command),)


class _OfTemplate(Struct, frozen=True, kw_only=True):
    """What envforge.toml has if a template made the project."""

    template: Any


def update_command(project: Path, platforms: Sequence[str]) -> str:
    """Return the command that plans a project of a template for these platforms; empty if it can't."""
    from envforge.pytorch.matrix import load_matrix  # noqa: PLC0415 - only errors need it

    document = Document(damaged="the record of the project is invalid", error=EnvforgeError, code="record-damaged")
    try:
        text = document.read_bytes(project / "envforge.toml").decode("utf-8")
        document.read_toml(text, _OfTemplate)
    except (EnvforgeError, ValueError):  # not a project of a template
        return ""
    if not set(platforms) <= set(load_matrix().platforms):
        return ""
    here = project_folder(Path.cwd())
    words = [] if here is not None and _is_same(here, project) else ["--directory", str(project)]
    words += [word for name in dict.fromkeys(platforms) for word in ("-p", name)]
    return shlex.join(["envforge", "update", *words])


def _is_same(one: Path, other: Path) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)  # noqa: PTH100 - as the shell sees it, symlinks included


def project_folder(here: Path) -> Path | None:
    """Return the nearest directory, from ``here`` upward, that contains an environment or the files of a project.

    A ``.conda`` that is not an environment is ignored, because conda stores files of its own in ``~/.conda``.
    """
    start = here.absolute()
    for folder in (start, *start.parents):
        if is_prefix(prefix_in(folder)) or any((folder / name).is_file() for name in _PROJECT_FILES):
            return folder
    return None


def prefix_in(project: Path) -> Path:
    """Return the environment of a project: ``.conda``, or ``.venv`` if the project has only that.

    A ``.venv`` of another tool is used only next to a pylock.toml, because it may contain anything, such as envforge.
    """
    venv = project / VENV_IN_PROJECT
    is_meant = is_prefix(venv) or (is_environment(venv) and (project / PYLOCK).is_file())
    return venv if is_meant and not is_prefix(project / IN_PROJECT) else project / IN_PROJECT


def project_here() -> Path:
    """Return the project of the current directory, relative to it; the current directory if there is no project."""
    here = Path.cwd()
    folder = project_folder(here)
    return Path() if folder in {None, here} else Path(os.path.relpath(folder, here))


def is_prefix(folder: Path) -> bool:
    """Return whether a directory is an environment of envforge or of a conda tool, complete or not."""
    return (folder / ENVFORGE_DIRECTORY).is_dir() or (folder / "conda-meta").is_dir()


def is_environment(folder: Path) -> bool:
    """Return whether a directory is an environment of envforge, of a conda tool, or a virtual environment (PEP 405)."""
    return is_prefix(folder) or (folder / "pyvenv.cfg").is_file()


def input_sha256(environment: str, virtual_packages: str | None, others: Sequence[str] = ()) -> str:
    """Return the SHA-256 of all files, independent of line endings; a missing file differs from an empty one."""
    digest = hashlib.sha256()
    files = [(ENVIRONMENT_FILE, environment), (VIRTUAL_PACKAGES_FILE, virtual_packages)]
    for name, text in [*files, *((ENVIRONMENT_FILE, other) for other in others)]:
        if text is not None:
            data = text.replace("\r\n", "\n").encode()
            digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def recorded_sha256(files: Sequence[Path]) -> str:
    """Return the SHA-256 that a lockfile of these environment files records, without parsing them."""
    virtual = files[0].with_name(VIRTUAL_PACKAGES_FILE)
    texts = [read_text(path, newline=None) for path in files]
    return input_sha256(texts[0], read_text(virtual, newline=None) if virtual.is_file() else None, texts[1:])


def read_text(path: Path, newline: str | None = "") -> str:
    """Read an environment file, by default with its line endings; raise ``EnvforgeError`` with what may be meant."""
    try:
        with regular(path).open(encoding="utf-8", newline=newline) as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        hints = () if path.exists() else _hints_missing(path)
        raise EnvforgeError(f"cannot read `{path}`: {why}", hint=hints, code="unreadable-input") from error


def _hints_missing(path: Path) -> tuple[Hint, ...]:
    """Return what helps if an environment file doesn't exist; the commands that read one have `--file`."""
    other = path.with_suffix(".yaml" if path.suffix == ".yml" else ".yml")
    if other.is_file():
        return (Hint(f"to use `{other}` instead, pass `--file {shlex.quote(str(other))}`"),)
    if path.name != ENVIRONMENT_FILE:
        return (Hint("check the path in `--file`"),)
    return (
        Hint("to create a project", "envforge new TEMPLATE DIR"),
        Hint("to use another environment file, pass `--file FILE`"),
    )


_SUFFIX = ".envforge-change"


class _ReplacedFile(Struct, frozen=True, kw_only=True):
    """A file that a change replaces, and the SHA-256 of its old and its new content."""

    path: str
    old: str | None
    new: str


class _FileJournal(Struct, frozen=True, kw_only=True):
    files: tuple[_ReplacedFile, ...]
    version: Literal[1] = 1


def replace_together(anchor: Path, files: Mapping[Path, bytes]) -> None:
    """Replace all ``files`` in one transaction, with the journal next to ``anchor``.

    Raises ``OutsideError`` and leaves the old files unchanged if a file can't be written.
    """
    files = {Path(os.path.realpath(path)): data for path, data in files.items()}  # a link is written through
    rows = tuple(_row(anchor, path, data) for path, data in files.items())
    journal = _journal(anchor)
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_synced(_aside(path), data)
        write_synced(_aside(journal), json.dumps(to_json(_FileJournal(files=rows)), indent=1).encode())
        # the moment at which the change becomes valid: before it, the old files count, and after it, the new ones
        _aside(journal).replace(journal)
        sync_folder(journal.parent)
    except OSError as error:
        for path in (*files, journal):
            with contextlib.suppress(OSError):  # a leftover file is harmless: the next change overwrites it
                _aside(path).unlink(missing_ok=True)
        raise OutsideError(f"cannot write to the directory of `{anchor}`: {error}", code="unwritable") from error
    complete_transaction(anchor)


def complete_transaction(anchor: Path) -> bool:
    """Complete a change that a crash interrupted, and return whether there was one.

    Raises ``EnvforgeError`` if a file was edited since.
    """
    journal = _journal(anchor)
    if not journal.exists():
        return False
    document = Document(
        damaged=f"the journal `{journal}` of an interrupted change is invalid",
        error=EnvforgeError,
        code="bad-journal",
        hint="to keep the current files, and discard the change",
        command=shlex.join(["rm", str(journal)]),
    )
    rows = document.read_json(document.read_bytes(journal), _FileJournal).files
    again = lock_command(anchor.parent / rows[-1].path) if len(rows) > 1 else ""  # the last row is the lockfile
    for row in rows:
        _refuse_edited(anchor.parent / row.path, row, anchor, again or project_command("lock", anchor, None))
    try:
        for row in rows:
            path = anchor.parent / row.path
            # an interrupted completion may have renamed some of them
            if _digest(path) != row.new:
                _aside(path).replace(path)
        sync_folder(journal.parent)
        for row in rows:
            _aside(anchor.parent / row.path).unlink(missing_ok=True)
        journal.unlink()
    except OSError as error:
        raise OutsideError(
            f"cannot complete the interrupted change in `{journal}`: {error}",
            hint="fix the cause, then run this command again",
            code="unwritable",
        ) from error
    return True


def refuse_unfinished(anchor: Path, complete: str) -> None:
    """Raise ``EnvforgeError`` with the command that completes it if a crash has left a change incomplete."""
    if is_unfinished(anchor):
        raise EnvforgeError(
            f"an earlier change of `{anchor}` is incomplete",
            hint="to complete it",
            command=complete,
            code="half-changed",
        )


def is_unfinished(anchor: Path) -> bool:
    """Return whether a change is incomplete."""
    return _journal(anchor).exists()


def unfinished_beside(file: Path) -> Path | None:
    """Return the anchor of an incomplete change in the directory of ``file``, if there is one."""
    journals = sorted(file.parent.glob(f".*{_SUFFIX}"))
    return next((path.with_name(path.name[1 : -len(_SUFFIX)]) for path in journals), None)


def _refuse_edited(path: Path, row: _ReplacedFile, anchor: Path, again: str) -> None:
    found, journal = _digest(path), _journal(anchor)
    if found == row.new or (found == row.old and _digest(_aside(path)) == row.new):
        return
    raise EnvforgeError(
        f"a change of `{path}` was interrupted, and the file was edited since",
        hint="to keep the current files",
        command=" && ".join((shlex.join(["rm", str(journal)]), again)),
        code="edited-since",
    )


def _row(anchor: Path, path: Path, data: bytes) -> _ReplacedFile:
    place = Path(os.path.relpath(path, os.path.realpath(anchor.parent))).as_posix()
    return _ReplacedFile(path=place, old=_digest(path), new=hashlib.sha256(data).hexdigest())


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(regular(path).read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _journal(anchor: Path) -> Path:
    return anchor.with_name(f".{anchor.name}{_SUFFIX}")


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name.lstrip('.')}.envforge-new")
