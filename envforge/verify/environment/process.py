"""Start a Python of somebody else's, with a time limit, and keep what it said until it died (effects).

Enters: a ``Child``. Leaves: how it ended and the JSON objects that it wrote, one a line. A process that crashes or
hangs is a fact, not an error.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from envforge.verify.environment.facts import ProcessEnd

MARK = "@envforge "
_KEPT = 4000
_GRACE_S = 2.0


def _unheard(_line: dict[str, Any]) -> None:
    """Nobody listens while it runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """What to start, where, and how many seconds it has. ``hear`` gets each of its objects as soon as it is said."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    limit_s: float
    hear: Callable[[dict[str, Any]], None] = _unheard


def run_child(child: Child) -> tuple[ProcessEnd, tuple[dict[str, Any], ...]]:
    """Run it to its end; with it goes every process of its group, also where we ourselves are interrupted."""
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
    lines: list[dict[str, Any]] = []
    errors: list[bytes] = []
    readers = (_reader(process.stdout, partial(_take, lines, child.hear)), _reader(process.stderr, errors.append))
    code = _wait(process, child.limit_s)
    for reader in readers:
        reader.join(_GRACE_S)  # a process that left the group may hold the pipe: what was read until now counts
    end = ProcessEnd(
        seconds=round(time.monotonic() - started, 2),
        exit_code=code,
        signal=_signal_name(code),
        limit_s=child.limit_s,
        stderr=b"".join(tuple(errors)).decode("utf-8", "replace").strip()[-_KEPT:],
    )
    return end, tuple(lines)


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """The exit code, None where its time ran out. No process of its group is left, also where we are interrupted."""
    end_group = partial(_end_group, process.pid)
    atexit.register(end_group)  # an interrupt does not reach the threads in which observers run
    try:
        return process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
    finally:
        end_group()
        atexit.unregister(end_group)
    with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs inside the kernel's driver, and is left behind
        process.wait(timeout=_GRACE_S)
    return None


def _reader(pipe: IO[bytes] | None, take: Callable[[bytes], object]) -> threading.Thread:
    """A thread that hands over every whole line of a pipe until its end."""

    def read() -> None:
        if pipe is not None:
            with pipe:
                for line in pipe:
                    take(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _take(lines: list[dict[str, Any]], hear: Callable[[dict[str, Any]], None], line: bytes) -> None:
    for said in marked_lines(line.decode("utf-8", "replace")):
        lines.append(said)
        hear(said)


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


def _end_group(group: int) -> None:
    if sys.platform != "win32":
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
