"""Keep the user's own files, and name the editable installs, of an environment that is created again."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from envforge.base.urls import show_url
from envforge.lock.project import ENVFORGE_DIRECTORY
from envforge.prefix.cache import walk
from envforge.prefix.installed import read_conda, read_distributions, site_packages_of
from envforge.prefix.values import InstallProgress
from envforge.prefix.venv import python_program, venv_site_packages

_ASIDE = f"{ENVFORGE_DIRECTORY}/own-files"
_SHOWN = 5
_OF_ENVIRONMENT = ("conda-meta", ENVFORGE_DIRECTORY)
_OF_VENV = ("bin", "Scripts", "include", "pyvenv.cfg", "lib64", ".gitignore")


def set_aside(prefix: Path) -> None:
    """Move the files that belong to no package to a directory that emptying the environment leaves."""
    for path in tuple(_own(prefix)):
        target = prefix / _ASIDE / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (prefix / path).replace(target)


def put_back(prefix: Path, progress: InstallProgress) -> None:
    """Move the files back, and name them; a file whose path a package contains isn't moved."""
    aside = prefix / _ASIDE
    kept, taken = [], []
    for path in _files(aside):
        target = prefix / path
        if os.path.lexists(target):
            taken.append(path)
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):  # a package has a file in the place of the directory
            taken.append(path)
            continue
        (aside / path).replace(target)
        kept.append(path)
    moved = f"packages now contain these paths, so your files are in `{aside}`"
    for paths, what in ((kept, "kept files that belong to no package"), (taken, moved)):
        if paths:
            more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
            progress.note(f"{what}: {', '.join(paths[:_SHOWN])}{more}")


def _files(folder: Path) -> list[str]:
    found = walk(folder, skip=("__pycache__",)) if folder.is_dir() else ()
    return sorted(path for path, _, state in found if not stat.S_ISDIR(state.st_mode))


def _own(prefix: Path) -> Iterator[str]:
    conda = read_conda(prefix)
    site_packages = venv_site_packages(prefix)
    skipped = (*_OF_ENVIRONMENT, *(_OF_VENV if site_packages else ()))
    site_packages = site_packages or site_packages_of(conda, prefix)
    wheels = read_distributions(prefix, site_packages, conda) if site_packages else ()
    claims = [claim for package in conda for claim in package.claims]
    owned = {claim.path for claim in (*claims, *(claim for wheel in wheels for claim in wheel.claims))}
    found = [path for path in _files(prefix) if path.split("/", 1)[0] not in skipped]
    # a package may list a file through a directory that is a link
    root = os.path.realpath(prefix)
    linked = (os.path.realpath(prefix / path) for path in owned.difference(found))
    owned |= {Path(os.path.relpath(path, root)).as_posix() for path in linked}
    yield from (path for path in found if path not in owned)


def note_editables(editable: Iterable[tuple[str, str]], progress: InstallProgress) -> None:
    """Report the editable installs that stay, by name and address."""
    for name, url in editable:
        progress.note(f"kept the editable install of `{name}` (`{show_url(url)}`), which is not locked")


def editable_command(prefix: Path, url: str, before: str, *, has_pip: bool) -> str:
    """Return the command that installs a directory in editable mode again.

    ``before`` is where the environment was: a directory of its project has moved with it.
    """
    from envforge.base.distribution import file_url_path  # noqa: PLC0415 - slow to import, and few have such an install

    folder = Path(file_url_path(url))
    project = Path(before).parent
    if before and not folder.exists() and folder.is_relative_to(project):
        folder = prefix.parent / folder.relative_to(project)
    words = ["uv", "pip", "install", "--python", str(python_program(prefix))]
    if has_pip:
        words = ["envforge", "run", "--prefix", str(prefix), "--", "python", "-m", "pip", "install"]
    return shlex.join([*words, "--no-deps", "-e", str(folder)])
