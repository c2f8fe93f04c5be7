"""Find the environment that a command uses, and detect incomplete changes."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from msgspec import Struct

from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.lock.project import (
    _PROJECT_FILES,
    ENVFORGE_DIRECTORY,
    ENVIRONMENT_FILE,
    IN_PROJECT,
    VARIANTS_DIRECTORY,
    VENV_IN_PROJECT,
    is_environment,
    prefix_in,
    project_folder,
    unfinished_beside,
)
from envforge.prefix.journal import Journal, lock_prefix, pylock_word, read_journal
from envforge.prefix.venv import is_venv, venv_program

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def named_prefix(name: str) -> Path:
    """Return the prefix of a name; raise ``RequestError`` if the name is invalid."""
    import platformdirs  # noqa: PLC0415 - only for named environments

    if not _NAME.fullmatch(name) or name.endswith("."):
        raise RequestError(
            f"invalid environment name `{name}`: expected up to 64 letters, digits, `.`, `_`, or `-`, starting with a "
            "letter or digit and not ending with `.`",
            hint="choose another name, such as `--name my-project`",
            code="bad-name",
        )
    return Path(platformdirs.user_data_dir("envforge", appauthor=False)) / "environments" / name


class ChosenEnvironment(Struct, frozen=True, kw_only=True):
    """A prefix, whether or not it exists, and the option of ``envforge install`` that selects it."""

    prefix: Path
    option: str

    @property
    def label(self) -> str:
        """Name for prompts: the project directory for ``PROJECT/.conda``, else the last part of the path.

        Shells evaluate their prompt, so characters with a meaning to them are replaced.
        """
        in_project = self.prefix.name in {IN_PROJECT, VENV_IN_PROJECT}
        name = self.prefix.parent.name if in_project else self.prefix.name
        return re.sub(r"[^\w.@+ -]", "_", name)

    @property
    def install_command(self) -> str:
        """Command that creates or completes the environment."""
        return f"envforge install {pylock_word(self.prefix)}{self.option}".rstrip()


def chosen_environment(prefix: Path | None, name: str | None, here: Path) -> ChosenEnvironment:
    """Return the prefix that the options select; without options, ``.conda`` of the project around ``here``."""
    if prefix is not None and name is not None:
        raise RequestError(
            "`--prefix` and `--name` can't be used together",
            hint="to select one environment, omit `--prefix` or `--name`",
            code="two-places",
        )
    if name is not None:
        return ChosenEnvironment(prefix=named_prefix(name), option=f"--name {shlex.quote(name)}")
    if prefix is not None:
        return ChosenEnvironment(
            prefix=Path(os.path.abspath(prefix)),  # noqa: PTH100 - keep symbolic links
            option=f"--prefix {shlex.quote(str(prefix))}",
        )
    folder = project_folder(here)
    if folder is None:
        raise EnvforgeError(
            f"no project or environment found in `{here.absolute()}` or any parent directory (looked for "
            f"`{IN_PROJECT}`, `{VENV_IN_PROJECT}`, `{_PROJECT_FILES[0]}`, `{_PROJECT_FILES[1]}`)",
            hint=(
                Hint("to use the environment of a project, change to its directory"),
                Hint("to select an environment, pass `--prefix DIR` or `--name NAME`"),
            ),
            code="no-environment",
        )
    return ChosenEnvironment(prefix=prefix_in(folder), option="")


class Unfinished(Struct, frozen=True, kw_only=True):
    """Work that an interrupted command left incomplete, and the command that completes it.

    ``step`` is the last step of an install; it is empty for a change, which has none.
    """

    what: str
    step: str
    command: str
    code: str

    def error(self) -> EnvforgeError:
        """Return the error for a command that must stop."""
        message = f"{self.what} is incomplete: an earlier command was interrupted{self._last_step}"
        return EnvforgeError(message, hint="to complete it", command=self.command, code=self.code)

    @property
    def state(self) -> str:
        """Short description of the state, without the command."""
        return f"incomplete{self._last_step}"

    @property
    def _last_step(self) -> str:
        return f" (last step: `{self.step}`)" if self.step else ""

    def __str__(self) -> str:
        completed = f"; {Hint('to complete it', self.command)}" if self.command else ""
        return f"{self.what} is {self.state}{completed}"


def unfinished_install(meant: ChosenEnvironment) -> Unfinished | None:
    """Return the incomplete install of a prefix, if any; raise ``EnvforgeError`` if its journal is invalid."""
    prefix = meant.prefix
    journal = read_journal(prefix)
    if journal is not None and journal.step == "verified":
        return None
    # a directory of envforge without a journal is an install that stopped before its first step
    if journal is None and (not (prefix / ENVFORGE_DIRECTORY).is_dir() or (prefix / "conda-meta").is_dir()):
        return None
    return Unfinished(
        what=f"the environment in `{prefix}`",
        step=journal.step if journal is not None else "",
        command=journal.again(meant.install_command) if journal is not None else meant.install_command,
        code="unfinished",
    )


def check_exists(meant: ChosenEnvironment) -> None:
    """Raise ``EnvforgeError`` if a prefix doesn't exist or is not an environment."""
    prefix = meant.prefix
    if not prefix.is_dir():
        raise EnvforgeError(
            f"no environment found in `{prefix}`",
            hint="to create it",
            command=meant.install_command,
            code="no-environment",
        )
    if not is_environment(prefix):
        raise EnvforgeError(
            f"`{prefix}` is not an environment: it contains neither `conda-meta`, `{ENVFORGE_DIRECTORY}`, nor "
            "`pyvenv.cfg`",
            hint="to select an environment, pass `--prefix DIR` or `--name NAME`",
            code="not-an-environment",
        )


def check_in_place(meant: ChosenEnvironment, journal: Journal | None) -> None:
    """Raise ``EnvforgeError`` if an environment was moved, because its programs contain the path of its Python."""
    if journal is not None and journal.was_moved(meant.prefix):
        raise EnvforgeError(
            f"the environment in `{meant.prefix}` was created in `{journal.prefix}` and then moved or copied, but its "
            "programs contain the old path",
            hint="to create it again in its new place",
            command=journal.again(meant.install_command),
            code="prefix-moved",
        )


def check_python(meant: ChosenEnvironment) -> None:
    """Raise ``EnvforgeError`` for a virtual environment without its Python, which another one on PATH would replace."""
    program = venv_program(meant.prefix)
    if is_venv(meant.prefix) and not program.exists():
        reason = (
            f"the Python that it was created from, `{program.readlink()}`, does" if program.is_symlink() else "it does"
        )
        raise EnvforgeError(
            f"the virtual environment in `{meant.prefix}` has no Python: {reason} not exist",
            hint="to create it again",
            command=meant.install_command,
            code="no-interpreter",
        )


def check_usable(meant: ChosenEnvironment) -> None:
    """Raise ``EnvforgeError`` for a prefix that is missing, not an environment, moved, or incomplete."""
    check_exists(meant)
    found = unfinished_install(meant)
    if found is None:
        check_in_place(meant, read_journal(meant.prefix))
        check_python(meant)
        return
    with lock_prefix(meant.prefix):  # raises another error if an install is running
        pass
    raise found.error()


def unfinished_change(lockfile: Path) -> Unfinished | None:
    """Return the incomplete change of environment.yml and its lockfile in the directory of ``lockfile``, if any."""
    anchor = unfinished_beside(lockfile)
    if anchor is None:
        return None
    words = []
    if anchor.parent.parent.name == VARIANTS_DIRECTORY:
        words = ["--variant", anchor.parent.name]
    elif anchor.name != ENVIRONMENT_FILE or anchor.parent.absolute() != Path.cwd():
        words = ["--file", str(anchor)]
    return Unfinished(
        what=f"a change of `{anchor}` and its lockfile",
        step="",
        command=shlex.join(["envforge", "lock", *words]),
        code="half-changed",
    )


def unfinished_change_of(prefix: Path) -> Unfinished | None:
    """Return the incomplete change of the lockfile that a prefix was created from, if any."""
    journal = read_journal(prefix)
    return None if journal is None else unfinished_change(Path(journal.lockfile))


def unfinished_around(here: Path) -> Unfinished | None:
    """Return the incomplete install of the environment of the project around ``here``, if any."""
    folder = project_folder(here)
    if folder is None:
        return None
    return unfinished_install(ChosenEnvironment(prefix=prefix_in(folder), option=""))
