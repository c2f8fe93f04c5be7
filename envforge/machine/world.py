"""Access the computer: files, variables, programs, and system calls. Tests replace this one value.

Each raises ``OSError`` if the fact is unknown; the caller turns it into the reason.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct, field
from packaging.version import Version

from envforge.errors import Hint, RequestError

GROUPS = "/sys/fs/cgroup"
_RECORD = 1 << 16
_UNSYNCHRONISED = 0x0040  # STA_UNSYNC in <linux/timex.h>
_TIMEX_WORDS = 64  # struct timex has 208 bytes on 64-bit Linux; the rest is spare
_STATUS_OFFSET = 40  # modes, offset, freq, maxerror, esterror come first: int (padded) and four long


class Space(Struct, frozen=True, kw_only=True):
    """The space on a disk; ``free_inodes`` is ``None`` on file systems without inode counts."""

    total_bytes: int
    free_bytes: int
    free_inodes: int | None = None


class Limits(Struct, frozen=True, kw_only=True):
    """A resource limit of this process; ``None`` is unlimited."""

    soft: int | None
    hard: int | None


def space_of(path: Path) -> Space:
    """Return the space that this user has on the disk of ``path``."""
    if not hasattr(os, "statvfs"):
        import shutil  # noqa: PLC0415 - only for Windows

        usage = shutil.disk_usage(path)
        return Space(total_bytes=usage.total, free_bytes=usage.free)
    found = os.statvfs(path)
    counts = found.f_files > 0
    return Space(
        total_bytes=found.f_blocks * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
        free_inodes=found.f_favail if counts else None,
    )


def limits_of(name: str) -> Limits:
    """Return a limit of this process by its POSIX name, for example ``RLIMIT_NOFILE``."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - does not exist on Windows

        soft, hard = resource.getrlimit(getattr(resource, name))
        return Limits(soft=_limit(soft, resource.RLIM_INFINITY), hard=_limit(hard, resource.RLIM_INFINITY))
    raise OSError("this system has no resource limits")


def _limit(value: int, infinity: int) -> int | None:
    return None if value == infinity or value < 0 else value


def processors() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    count = os.cpu_count()
    if count is None:
        raise OSError("the number of processors is not known")
    return count


def is_clock_kept() -> bool:
    """Return whether NTP or another source keeps the kernel's clock synchronized, by a read-only ``adjtimex``."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - `detect` starts without it

        timex = (ctypes.c_long * _TIMEX_WORDS)()
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
        if state < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        status = ctypes.c_int.from_buffer(timex, _STATUS_OFFSET).value
        return not status & _UNSYNCHRONISED
    raise OSError("only Linux reports whether the clock is synchronized")


def kernel_records(path: Path) -> str:
    """Return the current records of the kernel log ``/dev/kmsg``; raise ``OSError`` without permission."""
    records = []
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        while True:
            try:
                record = os.read(descriptor, _RECORD)
            except BlockingIOError:  # the last record was read
                break
            except BrokenPipeError:  # the kernel overwrote a record that was being read
                continue
            if not record:
                break
            records.append(record)
    finally:
        os.close(descriptor)
    return b"".join(records).decode("utf-8", "replace")


class Calls(Struct, frozen=True, kw_only=True):
    """All calls in one value, so that tests can pass recorded ones; each may raise ``OSError``."""

    space: Callable[[Path], Space] = space_of
    limits: Callable[[str], Limits] = limits_of
    processors: Callable[[], int] = processors
    is_clock_kept: Callable[[], bool] = is_clock_kept
    kernel_records: Callable[[Path], str] = kernel_records
    may_use: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK | os.W_OK)


TIMEOUT_VARIABLE = "ENVFORGE_PROBE_TIMEOUT"
TIMEOUT_SECONDS = 30.0  # without persistence mode the driver wakes each GPU, which takes seconds


class ProgramResult(Struct, frozen=True, kw_only=True):
    """The result of a program; ``exit_code`` is negative for a signal, and ``None`` after a timeout."""

    exit_code: int | None
    stdout: str
    stderr: str


RunProgram = Callable[[Sequence[str]], ProgramResult | None]


class World(Struct, frozen=True, kw_only=True):
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
    run: RunProgram
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


def group_folders(world: World, controller: str) -> tuple[str, ...]:
    """Return the directories of the control group and its parents, in both versions."""
    # in a container, the mounted root is the group itself
    folders = [GROUPS, f"{GROUPS}/{controller}"]
    for line in (world.read("/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = f"{GROUPS}/{controller}" if controllers else GROUPS
        group = PurePosixPath(path)
        # a path with `..` is outside this cgroup namespace, so it is not mounted
        if ".." not in group.parts:
            folders += [top + str(folder) for folder in (group, *group.parents) if str(folder) != "/"]
    return tuple(dict.fromkeys(folders))


def processor_quota(world: World) -> tuple[float | None, str]:
    """Return the average number of CPUs that the group may use, and the source of that value."""
    found = []
    for folder in group_folders(world, "cpu"):
        quota, _, period = (world.read(f"{folder}/cpu.max") or "").strip().partition(" ")
        if not quota:
            quota = (world.read(f"{folder}/cpu.cfs_quota_us") or "").strip()
            period = (world.read(f"{folder}/cpu.cfs_period_us") or "").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            found.append(int(quota) / int(period))
    return min(found, default=None), f"sched_getaffinity; {GROUPS} cpu.max"


def usable_cpus(world: World) -> int:
    """Return how many CPUs the affinity and the control group of this process allow, at least 1."""
    quota, _ = processor_quota(world)
    return max(1, int(min(world.calls.processors(), quota or sys.maxsize)))


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
    """Run a program and capture its output; kill it after the timeout, and at the end what it has started."""
    from envforge.base.process import Child, run_lines  # noqa: PLC0415 - described machines need no program

    output: list[bytes] = []
    try:
        end = run_lines(Child(command=command, environment=environment, limit_s=timeout_seconds), output.append)
    except OSError:
        return None
    text = b"".join(tuple(output)).decode("utf-8", "replace")
    return ProgramResult(exit_code=end.exit_code, stdout=text, stderr=end.stderr)


def _ask_libraries(environment: Mapping[str, str], timeout_seconds: float, call: str) -> ProgramResult:
    """Query NVML and libcuda in a child process, so that a driver that hangs or crashes can't take envforge down.

    The child imports from the module path of this interpreter, and nothing from the current directory.
    """
    # `-I -S` and this path: neither variables of Python nor start-up code of packages run in the child
    start = f"import sys; sys.path[:] = sys.argv[1:]; from envforge.machine.driver_child import main; {call}"
    package_home = str(Path(__file__).resolve().parents[2])
    result = run_program(
        [sys.executable, "-I", "-S", "-c", start, *sys.path, package_home], environment, timeout_seconds
    )
    if result is None:
        return ProgramResult(exit_code=127, stdout="", stderr=f"cannot start `{sys.executable}`")
    return result
