"""Merge three versions of a text with ``git merge-file``: the template's old and new ones, and the project's.

Every line of the project that the template changed or removed too is kept, or is part of a conflict.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from envforge.errors import OutsideError

OnConflict = Literal["inline", "rej"]
_LABELS = ("yours", "the template before", "the template now")


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """The merged text; ``rejected`` is a patch of what couldn't be merged (only with ``rej``)."""

    content: bytes
    conflicts: int = 0
    rejected: bytes | None = None


def can_merge() -> bool:
    """Return whether git is installed."""
    return shutil.which("git") is not None


def is_text(content: bytes) -> bool:
    """Return whether the content can be merged line by line: UTF-8 without NUL."""
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def merge_text(base: bytes, mine: bytes, new: bytes, on_conflict: OnConflict) -> Merged:
    """Merge the change from ``base`` to ``new`` into ``mine``, and keep its line endings."""
    if _has_other_line_ends(mine, base):
        merged = merge_text(base, mine.replace(b"\r\n", b"\n"), new, on_conflict)
        return Merged(
            content=merged.content.replace(b"\n", b"\r\n"), conflicts=merged.conflicts, rejected=merged.rejected
        )
    with tempfile.TemporaryDirectory(prefix="envforge-update-") as name:
        folder = Path(name)
        for part, content in (("mine", mine), ("base", base), ("new", new)):
            (folder / part).write_bytes(content)
        conflicts, content = _merge_file(folder, "--diff3")
        if conflicts == 0 or on_conflict == "inline":
            return Merged(content=content, conflicts=conflicts)
        ours, theirs = _merge_file(folder, "--ours")[1], _merge_file(folder, "--theirs")[1]
    return Merged(content=ours, conflicts=conflicts, rejected=_patch(ours, theirs))


def has_conflict(content: bytes) -> bool:
    """Return whether a file still contains both markers of a conflict that ``merge_text`` wrote."""
    return all(
        re.search(rb"(?m)^" + mark, content) for mark in (rb"<<<<<<< yours\r?$", rb">>>>>>> the template now\r?$")
    )


def same_text(mine: bytes, other: bytes) -> bool:
    """Return whether two files differ at most in line endings, which git converts in a checkout on Windows."""
    return mine == other or (_has_other_line_ends(mine, other) and mine.replace(b"\r\n", b"\n") == other)


def _has_other_line_ends(mine: bytes, base: bytes) -> bool:
    return b"\r\n" in mine and b"\r\n" not in base and mine.count(b"\r\n") == mine.count(b"\n")


def _merge_file(folder: Path, *options: str) -> tuple[int, bytes]:
    labels = [word for label in _LABELS for word in ("-L", label)]
    command = ["git", "merge-file", "-p", "-q", *options, *labels, "mine", "base", "new"]
    # settings of the user or of a running git hook must not change the result
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CEILING_DIRECTORIES": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    if not 0 <= done.returncode <= 127:  # git's manual: the number of conflicts, at most 127; above, an error
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise OutsideError(f"`git merge-file` failed with exit code {done.returncode}: {said}", code="git-failed")
    return done.returncode, done.stdout


def _patch(ours: bytes, theirs: bytes) -> bytes:
    lines = difflib.diff_bytes(
        difflib.unified_diff, _lines(ours), _lines(theirs), b"yours", b"the template now", lineterm=b"\n"
    )
    return b"".join(line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n" for line in lines)


def _lines(content: bytes) -> list[bytes]:
    return re.findall(rb"[^\n]*\n|[^\n]+", content)
