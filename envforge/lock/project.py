"""Find the project around a directory."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from envforge.errors import Hint

ENVIRONMENT, LOCKFILE, VARIANTS = "environment.yml", "conda-lock.yml", "lockfiles"


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
    return Path(ENVIRONMENT)


def environment_in(folder: Path) -> Path:
    """Return the environment file of a directory: ``environment.yml``, or ``environment.yaml`` if only that exists."""
    other = (folder / ENVIRONMENT).with_suffix(".yaml")
    return other if other.is_file() and not (folder / ENVIRONMENT).is_file() else folder / ENVIRONMENT


def find_sources(here: Path) -> tuple[Path, ...]:
    """Return the environment files of the project around ``here``: several if its lockfile was made from several."""
    default = find_environment(here)
    recorded = recorded_sources(default.with_name(LOCKFILE))
    return recorded if len(recorded) > 1 or not default.is_file() else (default,)


def recorded_sources(lockfile: Path) -> tuple[Path, ...]:
    """Return the environment files that a lockfile records; if one doesn't exist, the one next to the lockfile."""
    from envforge.errors import EnvforgeError  # noqa: PLC0415 - most callers need only a path
    from envforge.lock.lockfile import read_lockfile  # noqa: PLC0415 - as above

    try:
        found = read_lockfile(lockfile).source_files(lockfile) if lockfile.is_file() else ()
    except EnvforgeError:  # an explicit file, or an error that the command reports with its own hints
        found = ()
    return found if found and all(path.is_file() for path in found) else (environment_in(lockfile.parent),)


def find_lockfile(here: Path) -> Path:
    """Return ``conda-lock.yml`` of the project around ``here``, relative to ``here``; it may not exist."""
    if (here / LOCKFILE).is_file():
        return Path(LOCKFILE)
    return find_environment(here).with_name(LOCKFILE)


def _from(start: Path, path: Path) -> Path:
    return Path(path.name) if path.parent == start else Path(os.path.relpath(path, start))


def project_command(
    name: str, environment: Path, lockfile: Path | None, words: Sequence[str] = (), others: Sequence[Path] = ()
) -> str:
    """Return ``envforge NAME`` with the options that select these files, if the command doesn't find them itself."""
    is_default = not others and _is_same(environment, find_environment(Path()))
    files = [] if is_default else [word for path in (environment, *others) for word in ("-f", str(path))]
    if lockfile is not None and not _is_same(lockfile, environment.with_name(LOCKFILE)):
        files += ["--lockfile", str(lockfile)]
    return shlex.join(["envforge", name, *files, *words])


def lock_command(lockfile: Path) -> str:
    """Return the command that creates or updates a lockfile; empty without its environment.yml."""
    from envforge.lock.pylock import is_pylock  # noqa: PLC0415 - only errors need it

    if is_pylock(lockfile):
        command = lock_command(lockfile.with_name(LOCKFILE))
        return f"{command} --pylock" if command else ""
    project = project_of(lockfile)
    if project != lockfile.parent and environment_in(project).is_file():
        return project_command("lock", environment_in(project), None, ["--variant", lockfile.absolute().parent.name])
    if environment_in(lockfile.parent).is_file():
        return project_command("lock", environment_in(lockfile.parent), lockfile)
    return ""


def project_of(lockfile: Path) -> Path:
    """Return the directory of the project that a lockfile, or the lockfile of a variant, belongs to."""
    absolute = lockfile.absolute()
    return absolute.parents[2] if absolute.parent.parent.name == VARIANTS else lockfile.parent


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
    return (Hint(f"once `platforms` in `{project / ENVIRONMENT}` lists `{platform}`", command),)


def update_command(project: Path, platforms: Sequence[str]) -> str:
    """Return the command that plans a project of a template for these platforms; empty if it can't."""
    from envforge.base import toml  # noqa: PLC0415 - only errors need it
    from envforge.pytorch.matrix import load_matrix  # noqa: PLC0415 - as above

    try:
        record = toml.loads((project / "envforge.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    if "template" not in record or not set(platforms) <= set(load_matrix().platforms):
        return ""
    here = project_folder(Path.cwd())
    words = [] if here is not None and _is_same(here, project) else ["--directory", str(project)]
    words += [word for name in dict.fromkeys(platforms) for word in ("-p", name)]
    return shlex.join(["envforge", "update", *words])


def _is_same(one: Path, other: Path) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)  # noqa: PTH100 - as the shell sees it, symlinks included


ENVFORGE_DIRECTORY = ".envforge"


# editors find an environment in the workspace, and deleting the project deletes it, too
IN_PROJECT = ".conda"
VENV_IN_PROJECT = ".venv"  # the environment of a pylock.toml, where editors and uv look for one


_PROJECT_FILES = ("envforge.toml", "conda-lock.yml")


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
    """Return the environment of a project: ``.conda``, or ``.venv`` if envforge created only that."""
    venv = project / VENV_IN_PROJECT
    return venv if is_prefix(venv) and not is_prefix(project / IN_PROJECT) else project / IN_PROJECT


def project_here() -> Path:
    """Return the project of the current directory, relative to it; the current directory if there is no project."""
    here = Path.cwd()
    folder = project_folder(here)
    return Path() if folder in {None, here} else Path(os.path.relpath(folder, here))


def is_prefix(folder: Path) -> bool:
    """Return whether a directory is an environment of envforge or of a conda tool, complete or not."""
    return (folder / ENVFORGE_DIRECTORY).is_dir() or (folder / "conda-meta").is_dir()
