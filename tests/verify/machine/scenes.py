"""Create machines in many states: real files below a root, the stub driver under nvidia-ml-py, and real lockfiles.

A ``Scene`` is written to a directory, and the real observer reads it. ``calls`` replaces values that come from the
kernel.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace
from packaging.version import Version

from envforge.machine.world import Calls, Limits, ProgramResult, Space, World
from envforge.verify.checks import judge
from envforge.verify.machine.observe import observe_machine
from envforge.verify.record import Record
from envforge.verify.values import Finding
from tests.support.nvml_stub import GIB, HEALTHY, StubGpu, StubMachine, gpu, stub_environment
from tests.verify.environment.support import situation
from tests.verify.made_up import checks_of

CHECKS = checks_of("machine")
LIBRARIES = ("libnvidia-ml.so.1", "libcuda.so.1")
NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
LOCKS = Path(__file__).parents[3] / "lockfiles" / "image-classification"
CUDA_LOCK = LOCKS / "cu126-linux-64.conda-lock.yml"
NEWEST_LOCK = LOCKS / "cu130-linux-64.conda-lock.yml"
CPU_LOCK = LOCKS / "cpu-linux-64.conda-lock.yml"
MAC_LOCK = LOCKS / "cpu-osx-arm64.conda-lock.yml"

FLAGS_V2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
FLAGS_V3 = f"{FLAGS_V2} abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
MEMINFO = "MemTotal:       65536000 kB\nMemFree:        60000000 kB\n"


def cpuinfo(flags: str) -> str:
    """``/proc/cpuinfo`` of one processor."""
    return f"processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu {flags}\n"


class FakeCalls(Struct, frozen=True):
    """What the kernel would say. A text is the reason of an OSError."""

    spaces: Mapping[str, Space] = field(default_factory=dict)
    limits: Mapping[str, int | None] = field(default_factory=dict)
    processors: int = 8
    clock_kept: bool | str = True
    kernel_log: str | PermissionError = ""
    closed: tuple[str, ...] = ()

    def calls(self, root: Path) -> Calls:
        """The calls, with the kernel's log in a file below ``root``, which the real reader reads."""
        return Calls(
            space=self._space,
            limits=lambda name: Limits(soft=self.limits.get(name, 65536), hard=1 << 20),
            processors=lambda: self.processors,
            is_clock_kept=self._clock,
            kernel_records=self._log,
            may_use=lambda path: f"/{path.relative_to(root)}" not in self.closed,
        )

    def _space(self, path: Path) -> Space:
        for part, space in self.spaces.items():
            if part in str(path):
                return space
        return Space(total_bytes=500 * GIB, free_bytes=400 * GIB, free_inodes=9_000_000)

    def _clock(self) -> bool:
        if isinstance(self.clock_kept, str):
            raise OSError(1, self.clock_kept)
        return self.clock_kept

    def _log(self, _path: Path) -> str:
        if isinstance(self.kernel_log, PermissionError):
            raise self.kernel_log
        return self.kernel_log


class Scene(Struct, frozen=True):
    """One computer. ``stub`` None is one without any NVIDIA library; ``folder`` names the folder of the libraries."""

    stub: StubMachine | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[tuple[str, ...], tuple[int, str]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    libraries: str = "libraries"
    without: tuple[str, ...] = ()
    lock: Path | None = None
    architecture: str = "x86_64"
    system: str = "Linux"
    libc: str = "glibc 2.35"
    calls: FakeCalls = field(default_factory=FakeCalls)
    timeout_s: float = 30.0
    written: datetime = NOW - timedelta(days=20)

    def world(self, folder: Path, stub: Path) -> World:
        """Lay the computer out below ``folder``; ``stub`` has the libraries of the driver."""
        root = folder / "root"
        root.mkdir(parents=True)
        for path, text in {"/proc/cpuinfo": cpuinfo(FLAGS_V3), "/proc/meminfo": MEMINFO, **self.files}.items():
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        for path, target_name in self.links.items():
            (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            (root / path.lstrip("/")).symlink_to(target_name)
        variables = {"ENVFORGE_PROBE_TIMEOUT": str(self.timeout_s), "PATH": os.environ["PATH"]}
        if self.stub is not None:
            libraries = folder / self.libraries
            libraries.mkdir(parents=True)
            for name in set(LIBRARIES) - set(self.without):
                shutil.copy(stub / name, libraries / name)
            variables |= stub_environment(libraries, self.stub.write(folder / "machine.txt"))
        return replace(
            World.here(variables),
            root=root,
            environment=dict(self.environment),
            system=self.system,
            architecture=self.architecture,
            python=Version("3.12.4"),
            libc=self.libc,
            hostname="gpu-box",
            run=self._run,
            calls=self.calls.calls(root),
        )

    def _run(self, command: Sequence[str]) -> ProgramResult | None:
        for known, (exit_code, text) in self.programs.items():
            if tuple(command) == known:
                return ProgramResult(exit_code=exit_code, stdout=text, stderr="")
        if any(known[0] == command[0] for known in self.programs):
            return ProgramResult(exit_code=2, stdout="", stderr="option is not recognized")
        return None

    def record(self, folder: Path, stub: Path) -> Record:
        """Observe the computer with the real observer."""
        project = folder / "project"
        world = self.world(folder, stub)
        project.mkdir()
        lock = None
        if self.lock is not None:
            lock = project / "conda-lock.yml"
            shutil.copyfile(self.lock, lock)
            os.utime(lock, (self.written.timestamp(), self.written.timestamp()))
        here = situation(folder=project, project=project if lock else None, lock=lock, prefix=None, world=world)
        return Record(envforge="0", created_at=NOW, machine=observe_machine(replace(here, now=NOW)))


def findings(record: Record, check: str) -> tuple[Finding, ...]:
    """What one check says of a record."""
    return judge(record, [known for known in CHECKS if known.id == check]).findings


DRIVER = {"driver_version": "580.126.09", "nvml_version": "13.580.126.09", "cuda": 13000, "libcuda": 13000}
MODULE = {"/sys/module/nvidia/version": "580.126.09\n", "/dev/nvidiactl": "", "/dev/nvidia-uvm": ""}


def pci(count: int, driver: str = "nvidia") -> tuple[dict[str, str], dict[str, str]]:
    """The files and links of GPUs on the PCI bus, where the stub says they are."""
    files: dict[str, str] = {}
    links: dict[str, str] = {}
    for number in range(count):
        place = f"/sys/bus/pci/devices/0000:{0x10 + number:02x}:00.0"
        files |= {f"{place}/vendor": "0x10de\n", f"{place}/device": "0x20b2\n", f"{place}/class": "0x030200\n"}
        if driver:
            links[f"{place}/driver"] = f"../../../bus/pci/drivers/{driver}"
    return files, links


def a100(number: int = 0, **more: Any) -> StubGpu:
    """A healthy A100 with other signals; ``signals`` has those whose key is no word."""
    keys: dict[str, Any] = HEALTHY | more.pop("signals", {}) | more
    return gpu("NVIDIA A100-SXM4-40GB", "8.0", 40, number, **keys)


def machine(*gpus: StubGpu, **scene: Any) -> Scene:
    """A computer with these GPUs and driver 580, on which nothing else is wrong."""
    files, links = pci(len(gpus))
    files |= MODULE | {f"/dev/nvidia{number}": "" for number in range(len(gpus))}
    more = dict(scene)
    files |= more.pop("files", {})
    keys = DRIVER | more.pop("driver", {})
    whole = Scene(stub=StubMachine(keys=keys, gpus=gpus), files=files, links=links, lock=CUDA_LOCK)
    return replace(whole, **more)
