"""The journal of a prefix: which lock it was made from, and which step of the install is done.

It lies in ``PREFIX/.envforge/journal.json`` and is written aside, synced and renamed. While it does not say
``verified``, the prefix is unfinished.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

from envforge.errors import EnvforgeError, OutsideError
from envforge.fields import Document, Fields, one_of, read_boolean, read_string, show_as_json
from envforge.install.values import Step

SCHEMA_VERSION = 1
FOLDER = ".envforge"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """A wheel that belongs to the prefix: its normalised name, its version and the sha256 of its file."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Journal:
    """The state of one prefix.

    ``fingerprint`` identifies the packages of the lock; ``created`` says that the folder was empty before envforge
    came, so that an unfinished one may be emptied again; ``conda`` holds the names of the records in conda-meta,
    ``wheels`` what uv installed or is about to install.
    """

    step: Step
    fingerprint: str
    lockfile: str
    platform: str
    created: bool
    conda: tuple[str, ...] = ()
    wheels: tuple[Wheel, ...] = ()

    @property
    def unfinished(self) -> str:
        """The state of a journal whose step is not the last, in the same words for every command."""
        return f"incomplete (last step: `{self.step}`)"

    def at(self, step: Step) -> Journal:
        """The same install, one step on."""
        return replace(self, step=step)


def journal_path(prefix: Path) -> Path:
    """Where the journal of a prefix lies."""
    return prefix / FOLDER / "journal.json"


def read_journal(prefix: Path) -> Journal | None:
    """The journal of a prefix, or ``None`` where envforge has not been; raises ``EnvforgeError`` for a damaged one."""
    path = journal_path(prefix)
    document = Document(
        damaged=f"the journal `{path}` is invalid",
        error=EnvforgeError,
        code="journal-damaged",
        hint="to create the environment again",
        command=recreate_command(prefix),
        mapping="an object",
        show=show_as_json,
    )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise document.fault("", "a text file", str(error)) from error
    return _journal(document.read_json(text))


def _journal(top: Fields) -> Journal:
    if top.raw("schema_version") != SCHEMA_VERSION:
        raise top.fault("schema_version", str(SCHEMA_VERSION), top.raw("schema_version"))
    return Journal(
        step=top.need("step", one_of(get_args(Step))),
        fingerprint=top.need("fingerprint", read_string),
        lockfile=top.need("lockfile", read_string),
        platform=top.need("platform", read_string),
        created=top.need("created", read_boolean),
        conda=top.list_of("conda", read_string),
        wheels=tuple(
            Wheel(
                name=wheel.need("name", read_string),
                version=wheel.need("version", read_string),
                sha256=wheel.need("sha256", read_string),
            )
            for wheel in top.items("wheels")
        ),
    )


def write_journal(prefix: Path, journal: Journal) -> None:
    """Record a step; after a crash either the old or the new journal is there."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(journal)}, indent=1, sort_keys=True) + "\n"
    write_whole(journal_path(prefix), text.encode())


def recreate_command(prefix: Path) -> str:
    """Return the command that removes an environment and installs it again."""
    place = shlex.quote(str(prefix))
    return f"rm -r {place} && envforge install --prefix {place}"


def write_whole(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Write a file aside, sync it unless its loss in a crash is harmless, and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            if synced:
                os.fsync(stream.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OutsideError(f"cannot write `{path}`: {error}", code="write-failed") from error


def unfinished(prefix: Path) -> Step | None:
    """The last step that an unfinished install reached; ``None`` where nothing is unfinished."""
    journal = read_journal(prefix)
    return None if journal is None or journal.step == "verified" else journal.step
