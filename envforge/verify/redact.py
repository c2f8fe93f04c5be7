"""What may be shown to strangers: a report without user, host, serial numbers and identifiers. Pure.

Enters: a ``Report`` and the ``Identity`` of who ran it. Leaves: the same report with stand-ins; the verdicts stay.
Each question redacts its own facts first (``redacted`` of its package); then every text of the whole report is gone
through, so that a name is also found in a message of a program.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from envforge.verify.record import Record
from envforge.verify.texts import change_texts
from envforge.verify.values import QUESTIONS, Finding, Report

_UUID = re.compile(r"\b(GPU|MIG)-(?:GPU-)?[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?:/\d+/\d+)?")
_HOME = re.compile(r"(/home|/Users|[A-Za-z]:\\Users)[/\\][^/\\\s:'\"`]+")
_MAC = re.compile(r"\b(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\b")
_TOO_SHORT = 3
_COMMON = {"localhost", "root", "user", "ubuntu", "admin", "debian", "ec2-user", "nobody"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who ran it and where: what is looked for in texts. Empty where it is not known."""

    user: str = ""
    host: str = ""
    home: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str], host: str) -> Identity:
        """The identity that a process has."""
        user = environment.get("USER") or environment.get("LOGNAME") or environment.get("USERNAME") or ""
        return cls(user=user, host=host, home=environment.get("HOME") or environment.get("USERPROFILE") or "")


def redact(report: Report, identity: Identity) -> Report:
    """The report as it may be shown; the record says that it is redacted."""
    clean = _cleaner(identity, (identity.host, _host_of(report.record)))
    record = change_texts(_with_facts_redacted(report.record), clean)
    return Report(
        record=dataclasses.replace(record, redacted=True),
        findings=tuple(_finding(finding, clean) for finding in report.findings),
    )


def _host_of(record: Record) -> str:
    """The host that was observed, which another one may report on."""
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
    """Replace what names somebody; the same identifier gets the same number wherever it stands."""
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
    """Whether a name says who somebody is; a common one is left, since replacing it would maim every text."""
    return len(name) >= _TOO_SHORT and name.lower() not in _COMMON
