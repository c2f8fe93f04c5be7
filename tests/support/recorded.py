"""Record a computer for ``probe``: files and links below a directory, and the output of libraries and programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace
from packaging.version import Version

from envforge.machine.world import ProgramResult, World


def nvml(**answer: Any) -> dict[str, Any]:
    """A line of the child for NVML."""
    return {"library": "nvml", **answer}


def libcuda(cuda: int, file: str = "/usr/lib/x86_64-linux-gnu/libcuda.so.535.216.01") -> dict[str, Any]:
    """A line of the child for libcuda."""
    return {"library": "libcuda", "cuda": cuda, "file": file}


NO_NVML = nvml(error={"code": 12, "text": "NVML Shared Library Not Found"})
NO_LIBCUDA = {"library": "libcuda", "error": {"code": None, "text": "libcuda.so.1: cannot open shared object file"}}


def nvml_gpu(index: int, name: str, capability: tuple[int, int] | None, **more: Any) -> dict[str, Any]:
    """A GPU in the child's line."""
    return {
        "index": index,
        "name": name,
        "compute_capability": list(capability) if capability else None,
        "uuid": f"GPU-{index:08x}-1111-2222-3333-444444444444",
        "memory_bytes": 16 * 1024**3,
        "pci_bus_id": f"00000000:{0x10 + index:02X}:00.0",
        "mig": None,
        **more,
    }


class Recorded(Struct, frozen=True, kw_only=True):
    """What is on the computer; ``files`` and ``links`` are paths with their text or target."""

    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    libraries: Sequence[Mapping[str, Any]] = (NO_NVML, NO_LIBCUDA)
    libraries_exit_code: int | None = 0
    programs: Mapping[tuple[str, ...], tuple[int, str]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    system: str = "Linux"
    architecture: str = "x86_64"
    libc: str = "glibc 2.35"

    def with_files(self, files: Mapping[str, str]) -> Recorded:
        """The same computer with more files."""
        return replace(self, files={**self.files, **files})

    def world(self, root: Path) -> World:
        """The computer, laid out below ``root``."""
        for path, text in self.files.items():
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        for path, target_name in self.links.items():
            link = root / path.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target_name)
        return World(
            root=root,
            environment=self.environment,
            system=self.system,
            architecture=self.architecture,
            python=Version("3.12.4"),
            libc=self.libc,
            hostname="gpu-box",
            run=self._run,
            ask_libraries=self._ask,
        )

    def _ask(self) -> ProgramResult:
        lines = "".join(json.dumps(line) + "\n" for line in self.libraries)
        return ProgramResult(exit_code=self.libraries_exit_code, stdout=lines, stderr="")

    def _run(self, command: Sequence[str]) -> ProgramResult | None:
        if tuple(command) in self.programs:
            exit_code, text = self.programs[tuple(command)]
            return ProgramResult(exit_code=exit_code, stdout=text, stderr="")
        if any(known[0] == command[0] for known in self.programs):
            return ProgramResult(exit_code=2, stdout="ERROR: Option is not recognized.\n", stderr="")
        return None


def pci_gpu_files(device_id: str, bus_id: str = "0000:10:00.0") -> dict[str, str]:
    """The files of one NVIDIA GPU on the PCI bus."""
    folder = f"/sys/bus/pci/devices/{bus_id}"
    return {f"{folder}/vendor": "0x10de\n", f"{folder}/device": f"{device_id}\n", f"{folder}/class": "0x030200\n"}


MODULE_535 = {"/sys/module/nvidia/version": "535.216.01\n", "/dev/nvidiactl": ""}
A10G_ANSWER = nvml(
    file="/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.535.216.01",
    driver_version="535.216.01",
    nvml_version="12.535.216.01",
    cuda=12020,
    gpus=[nvml_gpu(0, "NVIDIA A10G", (8, 6), memory_bytes=23028 * 1024**2)],
)
A10G = Recorded(
    files=MODULE_535 | pci_gpu_files("0x2237"),
    links={"/sys/bus/pci/devices/0000:10:00.0/driver": "../../../bus/pci/drivers/nvidia"},
    libraries=(A10G_ANSWER, libcuda(12020)),
)
