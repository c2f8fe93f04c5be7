"""Run a child process with a time limit, and keep its output.

A process that crashes or hangs is a fact, not an error.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from msgspec import Struct


class ProcessEnd(Struct, frozen=True, kw_only=True):
    """How a process ended. ``exit_code`` None: it ran out of time; ``signal`` names what killed it, as ``SIGSEGV``."""

    seconds: float
    exit_code: int | None = None
    signal: str | None = None
    limit_s: float = 0.0
    stderr: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it exited with code 0."""
        return self.exit_code == 0

    @property
    def is_late(self) -> bool:
        """Whether it was killed after its time limit."""
        return self.exit_code is None and self.signal is None

    @property
    def in_words(self) -> str:
        """How it ended, as a message."""
        if self.signal is not None:
            return f"the process was killed by {self.signal} after {self.seconds:.1f} s"
        if self.is_late:
            return f"the process did not finish within {self.limit_s:g} s and was killed"
        return f"the process exited with code {self.exit_code} after {self.seconds:.1f} s"


# libraries print to stdout, too, so envforge's own lines have a mark
MARK = "@envforge "
_KEPT = 4000
_MOST_OUTPUT = 1 << 25  # bytes
_GRACE_S = 2.0
TICK_S = 5.0


def _ignore(_value: object) -> None:
    """Ignore progress."""


class Child(Struct, frozen=True, kw_only=True):
    """The command, variables, directory, and time limit (in seconds) of a child process.

    ``hear`` receives each JSON line at once; ``tick`` receives the elapsed seconds every ``TICK_S`` seconds.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    limit_s: float
    folder: Path | None = None
    hear: Callable[[dict[str, Any]], None] = _ignore
    tick: Callable[[float], None] = _ignore


def run_child(child: Child) -> tuple[ProcessEnd, tuple[dict[str, Any], ...]]:
    """Run the process until it exits, and return the objects in its marked lines."""
    lines: list[dict[str, Any]] = []
    try:
        return run_lines(child, partial(_take, lines, child.hear)), tuple(lines)
    except OSError as error:
        return ProcessEnd(seconds=0.0, exit_code=127, stderr=f"failed to start `{child.command[0]}`: {error}"), ()


def run_lines(child: Child, take: Callable[[bytes], object]) -> ProcessEnd:
    """Run the process until it exits, and pass on each line of its output; raise ``OSError`` if it can't start."""
    began = time.monotonic()
    errors: list[bytes] = []
    with started(child.command, child.environment, child.folder) as process:
        readers = (_reader(process.stdout, take), _reader(process.stderr, errors.append))
        code = _wait(process, child, began)
    if code is None:
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel driver, which no signal can end
            process.wait(timeout=_GRACE_S)
    for reader in readers:
        reader.join(_GRACE_S)  # a process outside the group can keep the pipe open; use what was read so far
    return ProcessEnd(
        seconds=round(time.monotonic() - began, 2),
        exit_code=code,
        signal=_signal_name(code),
        limit_s=child.limit_s,
        stderr=b"".join(tuple(errors)).decode("utf-8", "replace").strip()[-_KEPT:],
    )


@contextlib.contextmanager
def started(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path | None = None,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process. Its process group is killed at the end of the block, even after an interrupt.

    On Linux, so are all processes that it started in other sessions.
    """
    mark = os.urandom(16).hex()
    with _starting:
        if _is_ended and threading.current_thread() is not threading.main_thread():
            raise OSError("the command that this thread belongs to has ended")
        process = subprocess.Popen(
            list(command),
            env={**environment, _MARK_VARIABLE: mark},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,  # a process group of its own, which can be killed as one
        )
        _running[process.pid] = mark
    try:
        yield process
    finally:
        process.kill()
        _end_processes(process.pid, mark)


def _wait(process: subprocess.Popen[bytes], child: Child, began: float) -> int | None:
    """Return the exit code, or None after the time limit."""
    while (left := child.limit_s - (time.monotonic() - began)) > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=min(left, TICK_S))
        child.tick(time.monotonic() - began)
    return None


def _reader(pipe: IO[bytes] | None, take: Callable[[bytes], object]) -> threading.Thread:
    """Start a thread that passes on each line of a pipe."""

    def read() -> None:
        if pipe is not None:
            with pipe:
                left = _MOST_OUTPUT
                for line in iter(partial(pipe.readline, _MOST_OUTPUT), b""):
                    left -= len(line)
                    if left >= 0:  # the rest is read, so that the process isn't blocked
                        take(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _take(lines: list[dict[str, Any]], hear: Callable[[dict[str, Any]], None], line: bytes) -> None:
    for said in marked_lines(line.decode("utf-8", "replace")):
        lines.append(said)
        hear(said)


def marked_lines(text: str) -> list[dict[str, Any]]:
    """Return the objects in the marked lines; a last line that was cut off is ignored."""
    found = []
    for line in text.splitlines():
        if line.startswith(MARK):
            with contextlib.suppress(ValueError):
                value = json.loads(line[len(MARK) :])
                if isinstance(value, dict):
                    found.append(value)
    return found


_MARK_VARIABLE = "_ENVFORGE_CHILD"
_running: dict[int, str] = {}  # the mark of each child, by its process ID
_survivors: set[int] = set()
_inherited: set[int] = set()  # children of this process that envforge did not start
_is_subreaper = False
_starting = threading.Lock()
_is_ended = False  # whether threads that were left behind may no longer start processes


def adopt_orphans() -> None:
    """Make this process the parent of its orphaned descendants on Linux, so that they can be found and killed.

    Only for a process in which envforge starts all children.
    """
    global _is_subreaper  # noqa: PLW0603 - a property of the process
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - slow to import, and only `verify` needs it

        _inherited.update(_children())
        _is_subreaper = ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER of linux/prctl.h


_ENDING = (
    *("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGALRM"),
    *("SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGRTMIN", "SIGRTMAX"),
)


@contextlib.contextmanager
def ending_children() -> Iterator[None]:
    """Kill all children at the end of the block, also if a signal of a scheduler or a terminal ends it."""
    global _is_ended  # noqa: PLW0603 - a property of the process
    _is_ended = False
    former = []
    for name in _ENDING:
        number = getattr(signal, name, None)  # Windows has one of them
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))
            former.append(number)
    try:
        yield
    finally:
        interrupted = signal.getsignal(signal.SIGINT)
        for number in (*former, signal.SIGINT):  # the next one would interrupt the removal
            signal.signal(number, signal.SIG_IGN)
        _end_children()
        for number in former:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, interrupted or signal.SIG_DFL)


@atexit.register  # they run in threads, which an interrupt doesn't reach
def _end_children() -> None:
    global _is_ended  # noqa: PLW0603 - a property of the process
    _is_ended = True
    if _starting.acquire(timeout=_GRACE_S):  # a process that is being started belongs to those that are ended
        _starting.release()
    for group, mark in tuple(_running.items()):
        _end_processes(group, mark)
    _kill_all(partial(_strays, is_end=True))


def _end_processes(group: int, mark: str) -> None:
    """Kill a process group, and the processes with a mark or without a parent, which may have left the group."""
    # first, because the exit handler must not kill a process ID that the system has given to someone else
    _running.pop(group, None)
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # all processes of the group have exited
            os.killpg(group, signal.SIGKILL)
    if sys.platform == "linux":
        # first these: one that forks and exits again and again is gone before all of /proc is read
        if not _kill_all(lambda: _orphans() or _strays(mark) or _orphans()):
            _survivors.update(_strays(mark))


def _kill_all(find: Callable[[], list[int]]) -> bool:
    """Kill processes until none is found; return False if some are left."""
    end = time.monotonic() + _GRACE_S
    while time.monotonic() < end:
        if not (found := find()):
            return True
        _kill(found)
    return False


def _kill(processes: Iterable[int]) -> None:
    for pid in processes:
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # it has exited
                os.kill(pid, signal.SIGKILL)


def survivors() -> list[int]:
    """Return the processes that were started by a child, and could not be killed, or their descendants."""
    return sorted({*(pid for pid in _survivors if Path(f"/proc/{pid}").exists()), *_strays(is_end=True)})


def _orphans() -> list[int]:
    """Return the orphans among the children of this process."""
    return [pid for pid in _children() if _is_stray(Path(f"/proc/{pid}"), "")] if _is_subreaper else []


def _children() -> list[int]:
    """Return the children of this process, which Linux lists for each thread."""
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in _text_of(task / "children").split()]


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the thread has ended, or Linux was built without these lists
        return ""


def _strays(mark: str = "", *, is_end: bool = False) -> list[int]:
    """Return the processes with the mark, and the orphans; at the end, all children that envforge started."""
    if not (mark or _is_subreaper):
        return []
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [pid for pid in pids if _is_stray(Path(f"/proc/{pid}"), mark, is_end=is_end)]


def _is_stray(process: Path, mark: str, *, is_end: bool = False) -> bool:
    """Return whether a process must be killed; an orphan that has exited is reaped."""
    try:
        # children inherit variables, also those that leave the process group
        if mark and f"{_MARK_VARIABLE}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
            return True
        state, parent, _, session = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
    except OSError:  # a process of another user, or one that has exited
        return False
    # while another child runs, an orphan without a mark may be its own
    is_orphan = _is_subreaper and not _running and int(parent) == os.getpid() and int(process.name) not in _inherited
    if sys.platform != "win32":
        # a process of this session may be in use until the end, or be another's if this process had children before
        is_orphan = is_orphan and (int(session) != os.getsid(0) or (is_end and not _inherited))
        if is_orphan and state == "Z":
            with contextlib.suppress(OSError):  # another thread has reaped it
                os.waitpid(int(process.name), os.WNOHANG)
            return False
    return is_orphan


def _signal_name(code: int | None) -> str | None:
    """Return the name of the signal behind a negative exit code."""
    if code is None or code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
