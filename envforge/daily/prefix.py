"""Find the environment that a command refers to: ``--prefix``, ``--name``, or ``.conda`` of the project."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.install.journal import FOLDER
from envforge.install.named import named_prefix

# editors find an environment in the workspace, and deleting the project deletes it, too
IN_PROJECT = ".conda"
_PROJECT_FILES = ("envforge.toml", "conda-lock.yml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Meant:
    """A prefix, whether or not it exists, and the option of ``envforge install`` that selects it."""

    prefix: Path
    option: str

    @property
    def label(self) -> str:
        """Name for prompts: the project directory for ``PROJECT/.conda``, else the last part of the path.

        Shells evaluate their prompt, so characters with a meaning to them are replaced.
        """
        name = self.prefix.parent.name if self.prefix.name == IN_PROJECT else self.prefix.name
        return re.sub(r"[^\w.@+ -]", "_", name)

    @property
    def install_command(self) -> str:
        """Command that creates or completes the environment."""
        return f"envforge install {self.option}".rstrip()


def meant_prefix(prefix: Path | None, name: str | None, here: Path) -> Meant:
    """Return the prefix that the options select; without options, ``.conda`` of the project around ``here``."""
    if prefix is not None and name is not None:
        raise RequestError(
            "`--prefix` and `--name` can't be used together",
            hint="to select one environment, omit `--prefix` or `--name`",
            code="two-places",
        )
    if name is not None:
        return Meant(prefix=named_prefix(name), option=f"--name {shlex.quote(name)}")
    if prefix is not None:
        return Meant(
            prefix=Path(os.path.abspath(prefix)),  # noqa: PTH100 - keep symbolic links
            option=f"--prefix {shlex.quote(str(prefix))}",
        )
    folder = project_folder(here)
    if folder is None:
        raise EnvforgeError(
            f"no project or environment found in `{here.absolute()}` or any parent directory (looked for "
            f"`{IN_PROJECT}`, `{_PROJECT_FILES[0]}`, `{_PROJECT_FILES[1]}`)",
            hint=(
                Hint("to use the environment of a project, change to its directory"),
                Hint("to select an environment, pass `--prefix DIR` or `--name NAME`"),
            ),
            code="no-environment",
        )
    return Meant(prefix=folder / IN_PROJECT, option="")


def project_folder(here: Path) -> Path | None:
    """Return the nearest directory, from ``here`` upward, that contains an environment or the files of a project.

    A ``.conda`` that is not an environment is ignored, because conda stores files of its own in ``~/.conda``.
    """
    start = here.absolute()
    for folder in (start, *start.parents):
        if is_prefix(folder / IN_PROJECT) or any((folder / name).is_file() for name in _PROJECT_FILES):
            return folder
    return None


def project_here() -> Path:
    """Return the project of the current directory, relative to it; the current directory if there is no project."""
    here = Path.cwd()
    folder = project_folder(here)
    return Path() if folder in {None, here} else Path(os.path.relpath(folder, here))


def is_prefix(folder: Path) -> bool:
    """Return whether a directory is an environment of envforge or of a conda tool, complete or not."""
    return (folder / FOLDER).is_dir() or (folder / "conda-meta").is_dir()
