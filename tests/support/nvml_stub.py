"""Build a stub of the driver's libraries (``nvml_stub.c``), and describe the machines that it represents.

``build_stub`` writes libraries with the driver's names into a directory. In a process that is started with
``stub_environment``, the loader finds them, and the real nvidia-ml-py uses them.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from msgspec import Struct, field

SOURCE = Path(__file__).with_name("nvml_stub.c")


def has_compiler() -> bool:
    """Whether the stub can be built here."""
    return shutil.which("gcc") is not None


def build_stub(folder: Path, library_version: str | None = None) -> Path:
    """Compile both libraries into ``folder``; with a version, as real files behind links, the way a driver installs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libnvidia-ml.so", "libcuda.so"):
        soname = f"{name}.1"
        target = folder / (f"{name}.{library_version}" if library_version else soname)
        command = [
            "gcc",
            "-shared",
            "-fPIC",
            "-O1",
            "-Wall",
            "-Werror",
            f"-Wl,-soname,{soname}",
            "-o",
            str(target),
            str(SOURCE),
        ]
        subprocess.run(command, check=True, capture_output=True)
        if library_version:
            (folder / soname).symlink_to(target.name)
    return folder


class StubGpu(Struct, frozen=True, kw_only=True):
    """One GPU of the stub; ``keys`` and each of ``mig_devices`` are lines of its description."""

    name: str
    keys: dict[str, object] = field(default_factory=dict)
    mig_devices: tuple[dict[str, object], ...] = ()


class StubMachine(Struct, frozen=True, kw_only=True):
    """A machine that the stub answers as; ``keys`` are lines of its description (see ``nvml_stub.c``)."""

    keys: dict[str, object]
    gpus: tuple[StubGpu, ...] = ()

    def write(self, path: Path) -> Path:
        """Write the description."""
        lines = _lines(self.keys)
        for gpu in self.gpus:
            lines += ["[gpu]", f"name = {gpu.name}", *_lines(gpu.keys)]
            for device in gpu.mig_devices:
                lines += ["[mig]", *_lines(device)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path


def _lines(keys: dict[str, object]) -> list[str]:
    return [f"{key} = {value}" for key, value in keys.items()]


def stub_environment(folder: Path, description: Path) -> dict[str, str]:
    """The variables that make a process meet the stub."""
    return {"LD_LIBRARY_PATH": str(folder), "NVML_STUB_MACHINE": str(description)}


GIB = 1024**3


def gpu(name: str, capability: str, memory_gib: int, number: int = 0, **more: object) -> StubGpu:
    """A GPU with the facts that every real one has; ``more`` are further keys."""
    keys: dict[str, object] = {
        "uuid": f"GPU-{number:08x}-1111-2222-3333-444444444444",
        "compute_capability": capability,
        "memory_bytes": memory_gib * GIB,
        "pci_bus_id": f"00000000:{0x10 + number:02X}:00.0",
    }
    return StubGpu(name=name, keys=keys | more)


HEALTHY: dict[str, object] = {
    "persistence": 1,
    "compute_mode": 0,
    "ecc": 1,
    "ecc_uncorrected": 0,
    "ecc_uncorrected_ever": 0,
    "rows": "0 0 0 0",
    "retired_pages": 0,
    "retired_pending": 0,
    "recovery_action": 0,
    "fabric": "0 0 0",
    "mig": 0,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "pcie_generation": 1,
    "pcie_generation_max": 4,
    "power_limit_mw": 400000,
    "power_default_mw": 400000,
    "event_reasons": 1,
    "clock": 210,
    "clock_max": 1410,
    "application_clock": 1410,
    "application_clock_default": 1410,
    "temperature": 34,
    "links": "111111111111",
}
"""The signals of a data-centre GPU at rest with which nothing is wrong."""

A10G = StubMachine(
    keys={"driver_version": "535.216.01", "nvml_version": "12.535.216.01", "cuda": 12020, "libcuda": 12020},
    gpus=(gpu("NVIDIA A10G", "8.6", 22, pci_device_id="0x2237"),),
)
MIXED = StubMachine(
    keys={"driver_version": "580.126.09", "nvml_version": "13.580.126.09", "cuda": 13000, "libcuda": 13000},
    gpus=(gpu("Tesla V100-SXM2-16GB", "7.0", 16), gpu("NVIDIA A100-SXM4-40GB", "8.0", 40, 1, mig=0)),
)
MIG_H100 = StubMachine(
    keys={"driver_version": "590.48.01", "nvml_version": "13.590.48.01", "cuda": 13010, "libcuda": 13010},
    gpus=(
        StubGpu(
            name="NVIDIA H100 80GB HBM3",
            keys=gpu("", "9.0", 79, mig=1).keys,
            mig_devices=(
                {
                    "name": "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
                    "uuid": "MIG-aaaa0000-1",
                    "memory_bytes": 40448 * 1024**2,
                },
                {"name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "uuid": "MIG-bbbb0000-2", "memory_bytes": 9984 * 1024**2},
            ),
        ),
    ),
)
NO_GPU = StubMachine(keys={"driver_version": "580.126.09", "nvml_version": "13.580.126.09", "cuda": 13000})
MISMATCH = StubMachine(keys={"fail nvmlInitWithFlags": 18, "libcuda": 12020})
HANGS = StubMachine(keys={"fail nvmlInitWithFlags": "hang"})
CRASHES = StubMachine(keys={"fail nvmlInitWithFlags": "crash"})
