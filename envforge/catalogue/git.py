"""Read a catalogue from a shallow clone of a git repository, and publish by commit and push.

git runs as a program without hooks, prompts, symbolic links, or conversion of line endings. Its output is shown without
user and password.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from envforge.base.urls import hide_secrets, show_url
from envforge.catalogue.address import Address
from envforge.catalogue.directory import Addition, add
from envforge.errors import EnvforgeError, OutsideError, RequestError

_TRIES = 8
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
_REJECTED = re.compile(r"\[(remote )?rejected\]|non-fast-forward|fetch first|cannot lock ref|failed to update ref")


@dataclass(frozen=True, kw_only=True, slots=True)
class GitCatalogue:
    """A catalogue in the clone ``work``."""

    address: Address
    work: Path

    @property
    def root(self) -> Path:
        """Directory of the catalogue in the clone."""
        return self.work / self.address.subdirectory

    def bring(self, name: str) -> None:
        """Do nothing: every file is already in the clone."""

    def publish(self, addition: Addition) -> bool:
        """Commit an entry and push it; if another publisher was faster, repeat it on top of their commit."""
        branch = self._branch()
        for _ in range(_TRIES):
            self.root.mkdir(parents=True, exist_ok=True)
            if not add(self.root, addition):
                return False
            name = str(addition.row["file"])
            _git(self.work, "add", "--all", "--", str(self.root))
            _git(self.work, *self._author(addition), "commit", "--quiet", "--no-verify", "-m", f"Publish {name}")
            pushed = _run(self.work, "push", "--quiet", "--no-verify", "origin", f"HEAD:refs/heads/{branch}")
            if pushed.returncode == 0:
                return True
            if _REJECTED.search(pushed.stderr) is None or "hook declined" in pushed.stderr:
                raise self._failed("push to", pushed)
            # start again from the other publisher's commit, because both changed the index
            _git(self.work, "fetch", "--quiet", "--depth", "1", "origin", f"refs/heads/{branch}")
            _git(self.work, "reset", "--quiet", "--hard", "FETCH_HEAD")
        raise OutsideError(
            f"failed to publish to `{self.address.public}`: other publishers were faster {_TRIES} times",
            hint="run the command again",
            code="publish-failed",
        )

    def _branch(self) -> str:
        """Return the branch to push to; raise ``RequestError`` if the clone is at a tag or a commit."""
        found = _run(self.work, "symbolic-ref", "--quiet", "--short", "HEAD")
        if found.returncode:
            raise RequestError(
                f"can't publish to `{self.address.public}`: `{self.address.rev}` is a tag or a commit, not a branch",
                hint="to publish to a branch, pass `--catalogue git+URL@BRANCH`",
                code="not-a-branch",
            )
        return found.stdout.strip()

    def _author(self, addition: Addition) -> tuple[str, ...]:
        """Return the options for the author of the commit: none if git has an identity, else the publisher."""
        if _run(self.work, "config", "user.email").stdout.strip():
            return ()
        return ("-c", f"user.name={addition.row['published']['by']}", "-c", "user.email=publisher@envforge.invalid")

    def _failed(self, what: str, done: subprocess.CompletedProcess[str]) -> EnvforgeError:
        return _error(f"{what} the catalogue", self.address, done)


def clone(address: Address, work: Path, what: str = "catalogue") -> GitCatalogue:
    """Clone one revision of a repository into ``work``, which must not exist; ``what`` names it in errors."""
    if shutil.which("git") is None:
        raise EnvforgeError(
            f"`{address.public}` requires git, which was not found on PATH",
            hint="install git, or use a directory"
            + (" or an https URL as the catalogue" if what == "catalogue" else ""),
            code="no-git",
        )
    if address.rev is not None and re.fullmatch(r"[0-9a-f]{40}", address.rev):
        return _at_commit(address, work, what)
    branch = ("--branch", address.rev) if address.rev else ()
    done = _run(Path(), "clone", "--quiet", "--depth", "1", *branch, "--", address.location, str(work))
    if done.returncode:
        raise _error(f"read the {what}", address, done)
    return GitCatalogue(address=address, work=work)


def _at_commit(address: Address, work: Path, what: str) -> GitCatalogue:
    _git(Path(), "init", "--quiet", "--", str(work))
    _git(work, "remote", "add", "origin", "--", address.location)
    done = _run(work, "fetch", "--quiet", "--depth", "1", "origin", str(address.rev))
    if done.returncode:
        raise _error(f"read the {what}", address, done)
    _git(work, "checkout", "--quiet", "--detach", "FETCH_HEAD")
    return GitCatalogue(address=address, work=work)


def commit_of(work: Path) -> str:
    """Return the commit that is checked out."""
    return _run(work, "rev-parse", "HEAD").stdout.strip()


def links_of(work: Path) -> tuple[PurePosixPath, ...]:
    """Return the symbolic links and submodules of the commit, which are files and empty directories on disk."""
    listed = _run(work, "ls-files", "--stage", "-z").stdout.split("\0")
    return tuple(PurePosixPath(row.partition("\t")[2]) for row in listed if row.startswith(("120000", "160000")))


def identity() -> str | None:
    """Return the user name in git's configuration, or None."""
    if shutil.which("git") is None:
        return None
    return _run(Path(), "config", "user.name").stdout.strip() or None


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C"}
    environment = {name: value for name, value in environment.items() if name not in {"GIT_DIR", "GIT_WORK_TREE"}}
    return subprocess.run(
        ["git", *settings, *words],  # noqa: S607 - git from the user's PATH
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
    )


def _git(folder: Path, *words: str) -> None:
    done = _run(folder, *words)
    if done.returncode:
        raise OutsideError(f"git failed: {_shown(done)}", code="git-failed")


def _shown(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in hide_secrets(done.stderr).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "!"))]
    return "; ".join(telling[:3] or lines[-2:]) or f"exit status {done.returncode}"


def _error(what: str, address: Address, done: subprocess.CompletedProcess[str]) -> EnvforgeError:
    return OutsideError(
        f"git failed to {what} `{address.public}`: {_shown(done)}",
        hint="to check the URL, the branch, and your access",
        command=f"git ls-remote {shlex.quote(show_url(address.location))}",
        code="git-failed",
    )
