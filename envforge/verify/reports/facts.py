"""The facts that a reader wants beside the findings: project and lock, machine, environment, training. Pure.

Enters: a ``Record``. Leaves: sections of labelled texts for every report, short ones for the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from envforge.verify.record import Record

Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One group of facts; ``short`` are those that a terminal shows, ``compared`` whether two machines should agree."""

    title: str
    rows: Rows
    short: Rows = ()
    compared: bool = True


def facts(record: Record) -> tuple[Section, ...]:
    """The sections of a record that have something to say."""
    return tuple(section for section in _sections(record) if section.rows)


def _sections(record: Record) -> Iterator[Section]:
    yield _project(record)
    yield _run(record)


def _project(record: Record) -> Section:
    project = record.project
    if project is None:
        return Section(title="Project", rows=())
    rows = (
        ("project", project.name or ""),
        ("template", project.template or ""),
        ("variant", project.variant or ""),
        ("lock", project.lock_file or ""),
        ("lock sha256", project.lock_sha256 or ""),
        ("platforms", ", ".join(project.lock_platforms)),
        ("needs", project.lock_needs or ""),
    )
    short = (
        f"{project.lock_file}, sha256 {project.lock_sha256[:12]}" if project.lock_sha256 else project.lock_file or ""
    )
    return Section(title="Project and lock", rows=_present(rows), short=_present((("lock", short),)))


def _run(record: Record) -> Section:
    times = ", ".join(f"{item.what} {item.seconds:.1f} s" for item in record.observed)
    rows = (
        ("envforge", record.envforge),
        ("observed at", record.created_at.isoformat(timespec="seconds")),
        ("took", times),
        ("depth", record.asked.depth),
        ("only", ", ".join(record.asked.only)),
        ("skipped", ", ".join(record.asked.skip)),
        ("redacted", "yes: user, host, serial numbers and identifiers" if record.redacted else "no"),
    )
    return Section(title="This run", rows=_present(rows), compared=False)


def _present(rows: Rows) -> Rows:
    return tuple((label, value) for label, value in rows if value)
