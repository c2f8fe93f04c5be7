"""Xid errors of the NVIDIA driver in the kernel's log since the start of the machine (effects).

Enters: a ``World``. Leaves: events by GPU and code. Without permission there is a reason, and no empty list.
Form of the lines: NVIDIA, Xid Errors, https://docs.nvidia.com/deploy/xid-errors/ ; checked on 2026-11-22.
"""

from __future__ import annotations

import re

from envforge.machine.nvidia_text import clean
from envforge.probe import World
from envforge.verify.machine.facts import XidEvent
from envforge.verify.machine.signals import NO_PERMISSION
from envforge.verify.values import Signal

_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)\): (\d+)")
_KMSG = "/dev/kmsg"
_JOURNAL = ("journalctl", "--dmesg", "--boot", "--quiet", "--no-pager", "--output=cat")
_NO_LINE_MATCHES = 1  # how `journalctl --grep` ends then
_LONGEST = 200


def observe_xids(world: World) -> Signal[tuple[XidEvent, ...]]:
    """The kernel's own ring first, which is fast, then the journal."""
    try:
        return Signal(value=parse_xids(world.calls.kernel_records(world.root / _KMSG.lstrip("/"))), source=_KMSG)
    except OSError as error:
        refused = error.strerror or str(error)
    journal = world.run((*_JOURNAL, "--grep=NVRM: Xid")) if _may_read_journal(world) else None
    if journal is not None and journal.exit_code in (0, _NO_LINE_MATCHES):
        return Signal(value=parse_xids(journal.stdout), source=" ".join(_JOURNAL[:3]))
    return Signal(source=_KMSG, unreadable=f"{NO_PERMISSION}: the kernel log ({refused})")


def _may_read_journal(world: World) -> bool:
    """A user outside the groups of the journal sees an empty one without an error: ask for one line of the kernel's."""
    line = world.run((*_JOURNAL, "--lines=1"))
    return line is not None and line.exit_code == 0 and bool(line.stdout.strip())


def parse_xids(text: str) -> tuple[XidEvent, ...]:
    """The events in the text of a log, by GPU and code in the order of their first line."""
    lines: dict[tuple[str, int], list[str]] = {}
    for line in text.splitlines():
        match = _XID.search(line)
        if match is not None:
            lines.setdefault((match[1].lower(), int(match[2])), []).append(clean(line[match.start() :])[:_LONGEST])
    return tuple(
        XidEvent(code=code, bus_id=bus_id, count=len(found), line=found[-1]) for (bus_id, code), found in lines.items()
    )
