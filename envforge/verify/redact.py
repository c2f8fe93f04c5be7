"""Remove user, host, serial numbers, and identifiers from a report, and keep its verdicts.

Each question first redacts its own facts (``redacted`` of its package). Then every string of the report is searched,
because names also occur in messages of other programs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from envforge.base.redact import change_texts
from envforge.verify.record import Record
from envforge.verify.values import QUESTIONS, Finding, Report

_UUID = re.compile(r"\b(GPU|MIG)-(?:GPU-)?[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?:/\d+/\d+)?")
_HOME = re.compile(r"(/home|/Users|[A-Za-z]:\\Users)[/\\][^/\\\s:'\"`]+")
_MAC = re.compile(r"\b(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\b")
_TOO_SHORT = 3
_COMMON = {"localhost", "root", "user", "ubuntu", "admin", "debian", "ec2-user", "nobody"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """The names to search for: of the user, the host, and the home directory. Unknown ones are empty."""

    user: str = ""
    host: str = ""
    home: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str], host: str) -> Identity:
        """Return the identity in the environment of a process."""
        user = environment.get("USER") or environment.get("LOGNAME") or environment.get("USERNAME") or ""
        return cls(user=user, host=host, home=environment.get("HOME") or environment.get("USERPROFILE") or "")


def redact(report: Report, identity: Identity) -> Report:
    """Return the report without these names; its record states that it is redacted."""
    clean = _cleaner(identity, (identity.host, _host_of(report.record)))
    record = change_texts(_with_facts_redacted(report.record), clean)
    return Report(
        record=dataclasses.replace(record, redacted=True),
        findings=tuple(_finding(finding, clean) for finding in report.findings),
    )


def _host_of(record: Record) -> str:
    """Return the name of the observed host, which can differ from the host that creates the report."""
    return str((record.machine.machine.get("hostname") if record.machine is not None else None) or "")


def _with_facts_redacted(record: Record) -> Record:
    changes: dict[str, Any] = {}
    for question in QUESTIONS:
        facts = getattr(record, question)
        if facts is not None:
            package = import_module(f"envforge.verify.{question}")
            own = getattr(package, "redacted", None) or import_module(f"{package.__name__}.redact").redacted
            changes[question] = own(facts)
    return dataclasses.replace(record, **changes)


def _finding(finding: Finding, clean: Callable[[str], str]) -> Finding:
    return dataclasses.replace(
        finding,
        observed=clean(finding.observed),
        wanted=clean(finding.wanted),
        source=clean(finding.source),
        subject=clean(finding.subject),
        why=clean(finding.why),
        command=clean(finding.command),
    )


def _cleaner(identity: Identity, hosts: Sequence[str]) -> Callable[[str], str]:
    """Return a function that redacts a string; equal identifiers get equal numbers throughout the report."""
    seen: dict[str, int] = {}

    def numbered(match: re.Match[str]) -> str:
        return f"{match[1]}-redacted-{seen.setdefault(match[0].lower(), len(seen) + 1)}"

    names = [name for host in hosts for name in (host, host.partition(".")[0]) if _is_telling(name)]
    host = re.compile("|".join(rf"(?<![\w-]){re.escape(name)}(?![\w-])" for name in names)) if names else None
    user = (
        re.compile(rf"(?<![\w-]){re.escape(identity.user)}(?=@)|(?<=[/\\]){re.escape(identity.user)}(?=[/\\]|$)")
        if _is_telling(identity.user)
        else None
    )
    home = re.compile(rf"{re.escape(identity.home)}(?![\w.-])") if len(identity.home) > 1 else None

    def clean(text: str) -> str:
        for pattern, stand_in in ((home, "~"), (_HOME, "~"), (host, "HOST"), (user, "USER"), (_MAC, "MAC")):
            text = pattern.sub(stand_in, text) if pattern is not None else text
        return _UUID.sub(numbered, text)

    return clean


def _is_telling(name: str) -> bool:
    """Return whether a name identifies someone; replacing a common name would make strings unreadable."""
    return len(name) >= _TOO_SHORT and name.lower() not in _COMMON
