"""Read and write the journal of a prefix: its lockfile, its packages, and the last completed step.

The journal is ``PREFIX/.envforge/journal.json`` and is replaced atomically. Until its step is ``verified``, the prefix
is incomplete.
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
    """A wheel of the prefix: its normalized name, its version, and the SHA-256 of its file."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Journal:
    """The state of one prefix.

    ``fingerprint`` identifies the packages of the lockfile. ``created`` means that the directory was empty before the
    first install, so an incomplete prefix may be emptied again. ``conda`` contains the names of the records in
    conda-meta, ``wheels`` what uv has installed or is about to install.
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
        """Description of an incomplete prefix, the same for every command."""
        return f"incomplete (last step: `{self.step}`)"

    def at(self, step: Step) -> Journal:
        """Return the journal with another step."""
        return replace(self, step=step)


def journal_path(prefix: Path) -> Path:
    """Return the path of the journal of a prefix."""
    return prefix / FOLDER / "journal.json"


def read_journal(prefix: Path) -> Journal | None:
    """Return the journal of a prefix, or None if it has none; raise ``EnvforgeError`` if it is invalid."""
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
    """Record a step; after a crash, the file is either the old or the new journal."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(journal)}, indent=1, sort_keys=True) + "\n"
    write_whole(journal_path(prefix), text.encode())


def recreate_command(prefix: Path) -> str:
    """Return the command that removes an environment and installs it again."""
    place = shlex.quote(str(prefix))
    return f"rm -r {place} && envforge install --prefix {place}"


def write_whole(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Write a temporary file and rename it to ``path``; ``synced=False`` if losing it in a crash is harmless."""
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
    """Return the last step of an incomplete install, or None if the prefix is complete or has no journal."""
    journal = read_journal(prefix)
    return None if journal is None or journal.step == "verified" else journal.step
