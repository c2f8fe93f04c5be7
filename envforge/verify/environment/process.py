"""Start a Python of somebody else's, with a time limit, and keep what it said until it died (effects).

Enters: a ``Child``. Leaves: how it ended and the JSON objects that it wrote, one a line. A process that crashes or
hangs is a fact, not an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envforge.verify.environment.facts import ProcessEnd

MARK = "@envforge "
_KEPT = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """What to start, where, and how many seconds it has."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    limit_s: float


def run_child(child: Child) -> tuple[ProcessEnd, tuple[dict[str, Any], ...]]:
    """Run it to its end; with it goes every process that it has started."""
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            list(child.command),
            env=dict(child.environment),
            cwd=child.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return ProcessEnd(seconds=0.0, exit_code=127, stderr=f"cannot start `{child.command[0]}`: {error}"), ()
    code: int | None
    try:
        out, err = process.communicate(timeout=child.limit_s)
        code = process.returncode
    except subprocess.TimeoutExpired:
        code = None
        out, err = _kill(process)
    finally:
        _end_group(process.pid)
    end = ProcessEnd(
        seconds=round(time.monotonic() - started, 2),
        exit_code=code,
        signal=_signal_name(code),
        limit_s=child.limit_s,
        stderr=err.decode("utf-8", "replace").strip()[-_KEPT:],
    )
    return end, tuple(marked_lines(out.decode("utf-8", "replace")))


def marked_lines(text: str) -> list[dict[str, Any]]:
    """The objects in the lines that carry our mark; a last line that was cut off does not count."""
    found = []
    for line in text.splitlines():
        if line.startswith(MARK):
            with contextlib.suppress(ValueError):
                value = json.loads(line[len(MARK) :])
                if isinstance(value, dict):
                    found.append(value)
    return found


def _kill(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Kill the whole group. A process that hangs inside the kernel's driver does not end, and is left behind."""
    _end_group(process.pid)
    process.kill()
    try:
        return process.communicate(timeout=2.0)
    except subprocess.TimeoutExpired as stuck:
        return stuck.output or b"", stuck.stderr or b""


def _end_group(group: int) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(OSError):  # all of them have ended by themselves
            os.killpg(group, signal.SIGKILL)


def _signal_name(code: int | None) -> str | None:
    """The name of the signal behind a negative exit code."""
    if code is None or code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
