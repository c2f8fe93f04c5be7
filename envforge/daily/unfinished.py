"""Detect what an interrupted command left incomplete: an install, or a change of environment.yml."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from envforge.daily.prefix import IN_PROJECT, Meant, is_prefix, project_folder
from envforge.errors import EnvforgeError, Hint
from envforge.install.holding import held
from envforge.install.journal import FOLDER, read_journal
from envforge.lock.together import unfinished_beside


@dataclass(frozen=True, kw_only=True, slots=True)
class Unfinished:
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


def unfinished_install(meant: Meant) -> Unfinished | None:
    """Return the incomplete install of a prefix, if any; raise ``EnvforgeError`` if its journal is invalid."""
    prefix = meant.prefix
    journal = read_journal(prefix)
    if journal is not None and journal.step == "verified":
        return None
    if journal is None and (not (prefix / FOLDER).is_dir() or (prefix / "conda-meta").is_dir()):
        return None
    return Unfinished(
        what=f"the environment in `{prefix}`",
        step=journal.step if journal is not None else "",
        command=meant.install_command,
        code="unfinished",
    )


def check_exists(meant: Meant) -> None:
    """Raise ``EnvforgeError`` if a prefix doesn't exist or is not an environment."""
    prefix = meant.prefix
    if not prefix.is_dir():
        raise EnvforgeError(
            f"no environment found in `{prefix}`",
            hint="to create it",
            command=meant.install_command,
            code="no-environment",
        )
    if not is_prefix(prefix):
        raise EnvforgeError(
            f"`{prefix}` is not an environment: it contains neither `conda-meta` nor `{FOLDER}`",
            hint="to select an environment, pass `--prefix DIR` or `--name NAME`",
            code="not-an-environment",
        )


def check_usable(meant: Meant) -> None:
    """Raise ``EnvforgeError`` for a prefix that does not exist, is not an environment, or is incomplete."""
    check_exists(meant)
    found = unfinished_install(meant)
    if found is None:
        return
    with held(meant.prefix):  # raises another error if an install is running
        pass
    raise found.error()


def unfinished_change(lockfile: Path) -> Unfinished | None:
    """Return the incomplete change of environment.yml and its lockfile in the directory of ``lockfile``, if any."""
    anchor = unfinished_beside(lockfile)
    if anchor is None:
        return None
    from envforge.install.variant_files import FOLDER as VARIANTS  # noqa: PLC0415 - only if a change is incomplete
    from envforge.spec import ENVIRONMENT_FILE  # noqa: PLC0415 - as above

    words = []
    if anchor.parent.parent.name == VARIANTS:
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
    return unfinished_install(Meant(prefix=folder / IN_PROJECT, option=""))
