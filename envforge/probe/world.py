"""Hold everything external that ``probe`` reads in one value: files, variables, programs, libraries."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import Version

from envforge.errors import Hint, RequestError
from envforge.probe.calls import Calls

TIMEOUT_VARIABLE = "ENVFORGE_PROBE_TIMEOUT"
TIMEOUT_SECONDS = 30.0  # without persistence mode the driver wakes each GPU, which takes seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramResult:
    """The result of a program; ``exit_code`` is negative for a signal, and ``None`` after a timeout."""

    exit_code: int | None
    stdout: str
    stderr: str


Run = Callable[[Sequence[str]], ProgramResult | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The computer that ``probe`` reads; tests pass a recorded one.

    ``run`` starts a program and returns ``None`` if it isn't installed. ``ask_libraries`` returns the output of
    ``driver_child`` and how it ended; ``ask_health`` also has the health of every GPU.
    """

    root: Path
    environment: Mapping[str, str]
    system: str
    architecture: str
    python: Version
    libc: str
    hostname: str
    run: Run
    ask_libraries: Callable[[], ProgramResult]
    ask_health: Callable[[], ProgramResult] | None = None
    calls: Calls = field(default_factory=Calls)

    @classmethod
    def here(cls, environment: Mapping[str, str]) -> World:
        """Return the computer that envforge runs on."""
        variables = dict(environment)
        timeout_seconds = _timeout_seconds(variables.get(TIMEOUT_VARIABLE))
        return cls(
            root=Path("/"),
            environment=variables,
            system=platform.system(),
            architecture=platform.machine(),
            python=Version(platform.python_version().rstrip("+")),  # a build from a checkout ends with `+`
            libc=_libc(),
            hostname=socket.gethostname(),
            run=lambda command: run_program(command, variables, timeout_seconds),
            ask_libraries=lambda: _ask_libraries(variables, timeout_seconds, "main()"),
            ask_health=lambda: _ask_libraries(variables, timeout_seconds, "main(health=True)"),
        )

    def read(self, path: str) -> str | None:
        """Return the contents of a file below the root; ``None`` if it is missing or can't be read."""
        try:
            # NUL separates the strings of a device tree property
            return (self.root / path.lstrip("/")).read_text(encoding="utf-8", errors="replace").replace("\0", "\n")
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Return whether a file or directory exists below the root."""
        return os.path.lexists(self.root / path.lstrip("/"))

    def entries(self, path: str) -> tuple[str, ...]:
        """Return the names in a directory, sorted; empty if it is missing or can't be read."""
        try:
            return tuple(sorted(entry.name for entry in (self.root / path.lstrip("/")).iterdir()))
        except OSError:
            return ()

    def link_name(self, path: str) -> str | None:
        """Return the last part of a symbolic link's target; ``None`` if there is no link."""
        try:
            return (self.root / path.lstrip("/")).readlink().name
        except OSError:
            return None


def _libc() -> str:
    """Return a string such as ``glibc 2.36`` on GNU/Linux, and an empty one elsewhere."""
    if sys.platform != "win32":
        with contextlib.suppress(ValueError, OSError):  # another C library
            return os.confstr("CS_GNU_LIBC_VERSION") or ""
    return ""


def _timeout_seconds(stated: str | None) -> float:
    if stated is None or stated.strip() == "":
        return TIMEOUT_SECONDS
    try:
        seconds = float(stated)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise RequestError(
            f"invalid value `{stated}` for the environment variable `{TIMEOUT_VARIABLE}`: expected a number of seconds "
            "above 0 and at most 3600",
            hint=(
                Hint("to set a valid value", f"export {TIMEOUT_VARIABLE}=30"),
                Hint("to use the default", f"unset {TIMEOUT_VARIABLE}"),
            ),
            code="bad-timeout",
        )
    return seconds


def run_program(command: Sequence[str], environment: Mapping[str, str], timeout_seconds: float) -> ProgramResult | None:
    """Run a program and capture its output; kill it after the timeout.

    After the kill, wait for one second only, because a process that hangs in the NVIDIA kernel driver doesn't exit.
    """
    try:
        process = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError:
        return None
    exit_code: int | None
    try:
        out, err = process.communicate(timeout=timeout_seconds)
        exit_code = process.returncode
    except subprocess.TimeoutExpired:
        exit_code = None
        process.kill()
        try:
            out, err = process.communicate(timeout=1.0)
        except subprocess.TimeoutExpired as stuck:
            out, err = stuck.output or b"", stuck.stderr or b""
    return ProgramResult(
        exit_code=exit_code, stdout=out.decode("utf-8", "replace"), stderr=err.decode("utf-8", "replace")
    )


def _ask_libraries(environment: Mapping[str, str], timeout_seconds: float, call: str) -> ProgramResult:
    """Query NVML and libcuda in a child process, so that a driver that hangs or crashes can't take envforge down.

    The child imports from the module path of this interpreter, and nothing from the current directory.
    """
    start = f"import sys; sys.path[:] = sys.argv[1:]; from envforge.driver_child import main; {call}"
    package_home = str(Path(__file__).resolve().parents[2])
    result = run_program(
        [sys.executable, "-I", "-S", "-c", start, *sys.path, package_home], environment, timeout_seconds
    )
    if result is None:
        return ProgramResult(exit_code=127, stdout="", stderr=f"cannot start `{sys.executable}`")
    return result
