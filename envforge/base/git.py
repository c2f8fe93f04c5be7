"""Read a file of the project at a git revision."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from envforge.errors import EnvforgeError, Hint, OutsideError, RequestError

GIT_PREFIX = "git:"
DEFAULT_PATH = "conda-lock.yml"
_TIMEOUT_S = 60


def read_revision(spec: str, folder: Path) -> str:
    """Return the text of ``git:REV:PATH``, relative to ``folder``; raise ``EnvforgeError`` if git has no such file."""
    revision, _, path = spec.removeprefix(GIT_PREFIX).partition(":")
    if not revision or revision.startswith("-") or path.startswith("/"):  # git would read `-…` as an option
        raise RequestError(
            f"`{spec}` is not a file at a git revision; expected `git:REV` or `git:REV:PATH`",
            hint="to compare with the last commit",
            command="envforge diff git:HEAD",
            code="bad-revision",
        )
    command = ["git", "-C", str(folder), "show", f"{revision}:./{path or DEFAULT_PATH}"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise OutsideError(
            f"`{spec}` requires git, which is not on `PATH`", hint="install git, or pass a file", code="no-git"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise OutsideError(f"git didn't return `{spec}` within {_TIMEOUT_S} s", code="git-failed") from error
    if done.returncode != 0:
        reason = " ".join(done.stderr.decode("utf-8", errors="replace").split())
        raise EnvforgeError(
            f"git can't read `{spec}`: {reason}",
            hint=_revisions(folder / (path or DEFAULT_PATH), folder),
            code="no-such-revision",
        )
    try:
        return done.stdout.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EnvforgeError(f"`{spec}` is not a text file: {error}", code="lockfile-unreadable") from error


def restore_hints(folder: Path, *names: str) -> tuple[Hint, ...]:
    """Return the command that restores files from the last commit; nothing unless that commit has all of them."""
    if not all(_succeeds(folder, "cat-file", "-e", f"HEAD:./{name}") for name in names):
        return ()
    where = [] if folder.absolute() == Path.cwd() else ["-C", str(folder)]
    command = shlex.join(["git", *where, "checkout", "HEAD", "--", *names])
    return (Hint("to restore it from version control", command),)


def _revisions(path: Path, folder: Path) -> tuple[Hint, ...]:
    """Return how to compare a file that git can't return: by a revision that has it, by a commit, or by files."""
    files = Hint("to compare two files", "envforge diff OLD NEW")
    if not _succeeds(folder, "rev-parse", "--git-dir"):
        return (files,)
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h", "--", str(path.absolute())]
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    if done.stdout.strip():
        return (Hint(f"to list the revisions of `{path}`", shlex.join(["git", "log", "--oneline", "--", str(path)])),)
    if not path.is_file():
        return (files,)
    words = shlex.quote(str(path))
    commit = Hint(
        "to record the file in git for later comparisons", f"git add {words} && git commit -m MESSAGE {words}"
    )
    return (files, commit)


def _succeeds(folder: Path, *words: str) -> bool:
    try:
        command = ["git", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
