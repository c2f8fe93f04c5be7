"""Three versions of one text made into one, by ``git merge-file`` (effects: runs git on temporary files).

Enters: what the template gave before, what is in the project, what the template gives now. Leaves: a ``Merged`` text in
which every line of the project that the template did not leave alone too is either kept or stands in a conflict.
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
    """``content`` is the new text, ``rejected`` a patch of what could not be merged into it (only with ``rej``)."""

    content: bytes
    conflicts: int = 0
    rejected: bytes | None = None


def can_merge() -> bool:
    """Whether git is there."""
    return shutil.which("git") is not None


def is_text(content: bytes) -> bool:
    """Whether lines of this can be merged: UTF-8 without NUL."""
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def merge_text(base: bytes, mine: bytes, new: bytes, on_conflict: OnConflict) -> Merged:
    """Merge the change from ``base`` to ``new`` into ``mine``, whose line ends it keeps."""
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
    """Whether both sides of a conflict still stand in a file, between the marks that ``merge_text`` makes."""
    return all(
        re.search(rb"(?m)^" + mark, content) for mark in (rb"<<<<<<< yours\r?$", rb">>>>>>> the template now\r?$")
    )


def same_text(mine: bytes, other: bytes) -> bool:
    """Whether two files are the same but for the line ends of Windows, which git puts into a checkout there."""
    return mine == other or (_has_other_line_ends(mine, other) and mine.replace(b"\r\n", b"\n") == other)


def _has_other_line_ends(mine: bytes, base: bytes) -> bool:
    return b"\r\n" in mine and b"\r\n" not in base and mine.count(b"\r\n") == mine.count(b"\n")


def _merge_file(folder: Path, *options: str) -> tuple[int, bytes]:
    labels = [word for label in _LABELS for word in ("-L", label)]
    command = ["git", "merge-file", "-p", "-q", *options, *labels, "mine", "base", "new"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CEILING_DIRECTORIES": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    if not 0 <= done.returncode <= 127:  # git's manual: the number of conflicts, at most 127; above it an error
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
