"""Replace several files in one transaction. If a run crashes, the next one completes the change.

The new files are written under temporary names, then a journal lists them, then each is renamed, then the journal is
removed. Without a journal the old state is valid; with one, ``finish`` completes the new state.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envforge.base.files import sync_folder, write_synced
from envforge.errors import EnvforgeError, OutsideError
from envforge.lock.project import project_command

_VERSION = 1
_SUFFIX = ".envforge-change"


def replace_together(anchor: Path, files: Mapping[Path, bytes]) -> None:
    """Replace all ``files`` in one transaction, with the journal next to ``anchor``.

    Raises ``OutsideError`` and leaves the old files unchanged if a file can't be written.
    """
    files = {Path(os.path.realpath(path)): data for path, data in files.items()}  # a link is written through
    rows = [_row(anchor, path, data) for path, data in files.items()]
    journal = _journal(anchor)
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_synced(_aside(path), data)
        write_synced(_aside(journal), json.dumps({"version": _VERSION, "files": rows}, indent=1).encode())
        _aside(journal).replace(journal)
        sync_folder(journal.parent)
    except OSError as error:
        for path in (*files, journal):
            with contextlib.suppress(OSError):  # a leftover file is harmless: the next change overwrites it
                _aside(path).unlink(missing_ok=True)
        raise OutsideError(f"cannot write to the directory of `{anchor}`: {error}", code="unwritable") from error
    complete_transaction(anchor)


def complete_transaction(anchor: Path) -> bool:
    """Complete a change that a crash interrupted, and return whether there was one.

    Raises ``EnvforgeError`` if a file was edited since.
    """
    journal = _journal(anchor)
    try:
        rows = json.loads(journal.read_bytes())["files"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvforgeError(
            f"cannot read the journal `{journal}` of an interrupted change: {error}",
            hint="to keep the current files, and discard the change",
            command=shlex.join(["rm", str(journal)]),
            code="bad-journal",
        ) from error
    for row in rows:
        _refuse_edited(anchor.parent / row["path"], row, anchor)
    try:
        for row in rows:
            path = anchor.parent / row["path"]
            if _digest(path) != row["new"]:
                _aside(path).replace(path)
        sync_folder(journal.parent)
        for row in rows:
            _aside(anchor.parent / row["path"]).unlink(missing_ok=True)
        journal.unlink()
    except OSError as error:
        raise OutsideError(
            f"cannot complete the interrupted change in `{journal}`: {error}",
            hint="fix the cause, then run this command again",
            code="unwritable",
        ) from error
    return True


def refuse_unfinished(anchor: Path) -> None:
    """Raise ``EnvforgeError`` if a crash has left a change incomplete."""
    if is_unfinished(anchor):
        raise EnvforgeError(
            f"an earlier change of `{anchor}` is incomplete",
            hint="to complete it",
            command=project_command("lock", anchor, None),
            code="half-changed",
        )


def is_unfinished(anchor: Path) -> bool:
    """Return whether a change is incomplete."""
    return _journal(anchor).exists()


def unfinished_beside(file: Path) -> Path | None:
    """Return the anchor of an incomplete change in the directory of ``file``, if there is one."""
    journals = sorted(file.parent.glob(f".*{_SUFFIX}"))
    return next((path.with_name(path.name[1 : -len(_SUFFIX)]) for path in journals), None)


def _refuse_edited(path: Path, row: Mapping[str, Any], anchor: Path) -> None:
    found, journal = _digest(path), _journal(anchor)
    if found == row["new"] or (found == row["old"] and _digest(_aside(path)) == row["new"]):
        return
    raise EnvforgeError(
        f"a change of `{path}` was interrupted, and the file was edited since",
        hint="to keep the current files",
        command=" && ".join((shlex.join(["rm", str(journal)]), project_command("lock", anchor, None))),
        code="edited-since",
    )


def _row(anchor: Path, path: Path, data: bytes) -> dict[str, Any]:
    place = Path(os.path.relpath(path, os.path.realpath(anchor.parent))).as_posix()
    return {"path": place, "old": _digest(path), "new": hashlib.sha256(data).hexdigest()}


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _journal(anchor: Path) -> Path:
    return anchor.with_name(f".{anchor.name}{_SUFFIX}")


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name.lstrip('.')}.envforge-new")
