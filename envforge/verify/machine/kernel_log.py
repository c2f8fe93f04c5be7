"""Read the Xid errors of the NVIDIA driver since the machine started from the kernel log.

Without permission, the signal has a reason instead of an empty list. Line format: NVIDIA, Xid Errors,
https://docs.nvidia.com/deploy/xid-errors/, checked on 2026-11-22.
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
_NO_LINE_MATCHES = 1  # exit code of `journalctl --grep` in that case
_LONGEST = 200


def observe_xids(world: World) -> Signal[tuple[XidEvent, ...]]:
    """Read the kernel's ring buffer, or the slower journal if the buffer isn't readable."""
    try:
        return Signal(value=parse_xids(world.calls.kernel_records(world.root / _KMSG.lstrip("/"))), source=_KMSG)
    except OSError as error:
        refused = error.strerror or str(error)
    journal = world.run((*_JOURNAL, "--grep=NVRM: Xid")) if _may_read_journal(world) else None
    if journal is not None and journal.exit_code in (0, _NO_LINE_MATCHES):
        return Signal(value=parse_xids(journal.stdout), source=" ".join(_JOURNAL[:3]))
    return Signal(source=_KMSG, unreadable=f"{NO_PERMISSION}: the kernel log ({refused})")


def _may_read_journal(world: World) -> bool:
    """Return whether the journal shows kernel messages to this user."""
    # without permission, journalctl prints nothing and reports no error, so request one line
    line = world.run((*_JOURNAL, "--lines=1"))
    return line is not None and line.exit_code == 0 and bool(line.stdout.strip())


def parse_xids(text: str) -> tuple[XidEvent, ...]:
    """Return the events in a log by GPU and code, in the order of their first lines."""
    lines: dict[tuple[str, int], list[str]] = {}
    for line in text.splitlines():
        match = _XID.search(line)
        if match is not None:
            lines.setdefault((match[1].lower(), int(match[2])), []).append(clean(line[match.start() :])[:_LONGEST])
    return tuple(
        XidEvent(code=code, bus_id=bus_id, count=len(found), line=found[-1]) for (bus_id, code), found in lines.items()
    )
