"""Read a catalogue from a shallow clone of a git repository, and publish by commit and push.

git runs as a program without hooks, prompts, symbolic links, or conversion of line endings. Its output is shown without
user and password.
"""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path, PurePosixPath

from msgspec import Struct

from envforge.base.git import NETWORK_TIMEOUT_S, GitEnd, has_git, run_git
from envforge.base.urls import show_url
from envforge.catalogue.address import Address
from envforge.catalogue.directory import Addition, add
from envforge.errors import EnvforgeError, OutsideError, RequestError

_TRIES = 8
_run = partial(run_git, timeout_s=NETWORK_TIMEOUT_S)
_REJECTED = re.compile(r"\[(remote )?rejected\]|non-fast-forward|fetch first|cannot lock ref|failed to update ref")


class GitCatalogue(Struct, frozen=True, kw_only=True):
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
            if not add(self.address, self.root, addition):
                return False
            name = str(addition.row["file"])
            _git(self.work, "add", "--all", "--", str(self.root))
            _git(self.work, *self._author(addition), "commit", "--quiet", "--no-verify", "-m", f"Publish {name}")
            pushed = _run(
                self.work, "push", "--quiet", "--no-verify", "--", self.address.location, f"HEAD:refs/heads/{branch}"
            )
            if pushed.code == 0:
                return True
            if _REJECTED.search(pushed.stderr) is None or "hook declined" in pushed.stderr:
                raise _error("push to the catalogue", self.address, pushed)
            # start again from the other publisher's commit, because both changed the index
            _git(self.work, "fetch", "--quiet", "--depth", "1", "--", self.address.location, f"refs/heads/{branch}")
            _git(self.work, "reset", "--quiet", "--hard", "FETCH_HEAD")
        raise OutsideError(
            f"failed to publish to `{self.address.public}`: other publishers were faster {_TRIES} times",
            hint="run the command again",
            code="publish-failed",
        )

    def _branch(self) -> str:
        """Return the branch to push to; raise ``RequestError`` if the clone is at a tag or a commit."""
        found = _run(self.work, "symbolic-ref", "--quiet", "--short", "HEAD")
        if found.code:
            raise RequestError(
                f"can't publish to `{self.address.public}`: `{self.address.rev}` is a tag or a commit, not a branch",
                hint="to publish to a branch, pass `--catalogue git+URL@BRANCH`",
                code="not-a-branch",
            )
        return found.text

    def _author(self, addition: Addition) -> tuple[str, ...]:
        """Return the options for the author of the commit: none if git has an identity, else the publisher."""
        if _run(self.work, "config", "user.email").text:
            return ()
        return ("-c", f"user.name={addition.row['published']['by']}", "-c", "user.email=publisher@envforge.invalid")


def clone(address: Address, work: Path, what: str = "catalogue") -> GitCatalogue:
    """Clone one revision of a repository into ``work``, which must not exist; ``what`` names it in errors."""
    if not has_git():
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
    if done.code:
        raise _error(f"read the {what}", address, done)
    return GitCatalogue(address=address, work=work)


def _at_commit(address: Address, work: Path, what: str) -> GitCatalogue:
    _git(Path(), "init", "--quiet", "--", str(work))
    done = _run(work, "fetch", "--quiet", "--depth", "1", "--", address.location, str(address.rev))
    if done.code:
        raise _error(f"read the {what}", address, done)
    _git(work, "checkout", "--quiet", "--detach", "FETCH_HEAD")
    return GitCatalogue(address=address, work=work)


def commit_of(work: Path) -> str:
    """Return the commit that is checked out."""
    return _run(work, "rev-parse", "HEAD").text


def links_of(work: Path) -> tuple[PurePosixPath, ...]:
    """Return the symbolic links and submodules of the commit, which are files and empty directories on disk."""
    listed = _run(work, "ls-files", "--stage", "-z").text.split("\0")
    return tuple(PurePosixPath(row.partition("\t")[2]) for row in listed if row.startswith(("120000", "160000")))


def identity() -> str | None:
    """Return the user name in git's configuration, or None."""
    return _run(Path(), "config", "user.name").text or None if has_git() else None


def _git(folder: Path, *words: str) -> None:
    done = _run(folder, *words)
    if done.code:
        raise OutsideError(f"git failed: {done.reason}", code="git-failed")


def _error(what: str, address: Address, done: GitEnd) -> EnvforgeError:
    return OutsideError(
        f"git failed to {what} `{address.public}`: {done.reason}",
        hint="to check the URL, the branch, and your access",
        command=f"git ls-remote {shlex.quote(show_url(address.location))}",
        code="git-failed",
    )
