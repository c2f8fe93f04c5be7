"""Compare a prefix with its lockfile, package by package and file by file.

Module order: ``values`` → ``records`` (what packages list) → ``inventory`` (what exists) → ``hashes`` → ``packages``,
``files``, ``libraries`` (differences) → ``normal`` (the digest) → ``engine``. ``repair`` restores what differs.
"""

from __future__ import annotations

from envforge.audit.engine import audit
from envforge.audit.repair import repair
from envforge.audit.values import AuditReport, AuditRequest, Finding, Repair

__all__ = ["AuditReport", "AuditRequest", "Finding", "Repair", "audit", "repair"]
