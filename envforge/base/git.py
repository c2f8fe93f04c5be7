"""Run git without prompts, hooks, and links, and read a file of the project at a git revision."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from msgspec import Struct

from envforge.base.urls import Url, hide_secrets
from envforge.errors import EnvforgeError, Hint, OutsideError, RequestError

GIT_PREFIX = "git:"
_DEFAULT_PATH = "conda-lock.yml"
_TIMEOUT_S = 60
NETWORK_TIMEOUT_S = 900
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.symlinks=false",
    "core.autocrlf=false",
    "core.fsmonitor=false",
    "protocol.allow=never",
    "protocol.https.allow=always",
    "protocol.http.allow=always",
    "protocol.ssh.allow=always",
    "protocol.file.allow=always",
    "submodule.recurse=false",
    "commit.gpgSign=false",
    "gc.auto=0",
    "advice.detachedHead=false",
)
# a credential helper: the arguments of git are visible to every user of the computer, its environment is not
_HELPER = (
    r"""!f() { test "$1" != get || printf 'username=%s\npassword=%s\n' """
    '"$_ENVFORGE_GIT_USER" "$_ENVFORGE_GIT_PASSWORD"; }; f'
)
# a hook of git sets these, and git would use that repository (`git rev-parse --local-env-vars`)
_OF_A_HOOK = {
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
}


class GitEnd(Struct, frozen=True, kw_only=True):
    """How git ended; ``stderr`` contains no secret of a URL."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """The output as text, without white space around it."""
        return self.stdout.decode("utf-8", errors="replace").strip()

    @property
    def reason(self) -> str:
        """The lines of stderr that state the error."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "!"))]
        return "; ".join(telling[:3] or lines[-2:]) or f"exit status {self.code}"


def has_git() -> bool:
    """Return whether git is installed."""
    return shutil.which("git") is not None


def run_git(folder: Path, *words: str, timeout_s: float = _TIMEOUT_S, isolated: bool = False) -> GitEnd:
    """Run git in ``folder``; raise ``OutsideError`` if it can't be started, or doesn't end in time.

    With ``isolated``, neither the settings of the user nor the environment change the result. git, and the ssh that it
    starts, can't prompt, because they have no terminal.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _OF_A_HOOK}
    if isolated:
        environment = {name: value for name, value in environment.items() if not name.startswith("GIT_")}
        environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        environment |= {"GIT_CEILING_DIRECTORIES": str(folder)}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C"}
    words = tuple(_without_user(word, environment) for word in words)
    try:
        done = subprocess.run(
            ["git", *(word for setting in _SETTINGS for word in ("-c", setting)), *words],  # noqa: S607 - of PATH
            cwd=folder,
            env=environment,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            start_new_session=sys.platform != "win32",
        )
    except FileNotFoundError as error:
        raise OutsideError(
            "git is required, but is not on `PATH`", hint="install git, then run the command again", code="no-git"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise OutsideError(f"`git {words[0]}` didn't end within {timeout_s:.0f} s", code="git-failed") from error
    except OSError as error:
        raise OutsideError(f"cannot start git: {error.strerror or error}", code="git-failed") from error
    return GitEnd(code=done.returncode, stdout=done.stdout, stderr=hide_secrets(done.stderr.decode(errors="replace")))


def _without_user(word: str, environment: dict[str, str]) -> str:
    """Return a word of a command; if it is a URL with a user, move the user and the password to ``environment``."""
    try:
        url = Url.parse(word)
    except ValueError:
        return word
    if url.scheme not in {"http", "https"} or not url.user_info:
        return word
    user, password = url.credentials({}) or ("", "")
    settings = [("username", user)]
    if ":" in url.user_info:
        environment |= {"_ENVFORGE_GIT_USER": user, "_ENVFORGE_GIT_PASSWORD": password}
        settings += [("helper", ""), ("helper", _HELPER)]  # instead of the helpers of the user
    for name, value in settings:
        count = environment.get("GIT_CONFIG_COUNT", "")
        number = int(count) if count.isdecimal() else 0
        environment |= {
            "GIT_CONFIG_COUNT": str(number + 1),
            f"GIT_CONFIG_KEY_{number}": f"credential.{url.origin}.{name}",
            f"GIT_CONFIG_VALUE_{number}": value,
        }
    return url.without_user().reveal()


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
    done = run_git(folder, "show", f"{revision}:./{path or _DEFAULT_PATH}")
    if done.code:
        raise EnvforgeError(
            f"git can't read `{spec}`: {' '.join(done.stderr.split())}",
            hint=_revisions(folder / (path or _DEFAULT_PATH), folder),
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
    if run_git(folder, "log", "-1", "--format=%h", "--", str(path.absolute())).text:
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
        return run_git(folder, *words).code == 0
    except OutsideError:
        return False
