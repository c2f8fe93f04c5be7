"""Find signs of an NVIDIA device or driver without torch, so that no test passes on the CPU of a GPU machine."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from pathlib import Path


def nvidia_signs(root: Path = Path("/")) -> tuple[str, ...]:
    """Return a description of each sign and its source; empty on a machine without NVIDIA."""
    signs = []
    if (root / "proc/driver/nvidia").exists():
        signs.append("kernel driver (/proc/driver/nvidia)")
    nodes = sorted(path.name for path in (root / "dev").glob("nvidia*"))
    if nodes:
        signs.append(f"device nodes (/dev/{', /dev/'.join(nodes[:3])})")
    devices = [folder.name for folder in sorted((root / "sys/bus/pci/devices").glob("*")) if _is_nvidia_gpu(folder)]
    if devices:
        signs.append(f"PCI device {', '.join(devices)}")
    if (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
        signs.append("driver of Windows (/usr/lib/wsl/lib/libcuda.so.1)")
    if program := shutil.which("nvidia-smi"):
        signs.append(f"nvidia-smi ({program})")
    name = "nvml" if os.name == "nt" else "nvidia-ml"
    if library := ctypes.util.find_library(name):
        signs.append(f"NVML ({library})")
    return tuple(signs)


def _is_nvidia_gpu(folder: Path) -> bool:
    """Return whether the PCI device is a display controller (class 0x03....) by NVIDIA (vendor 0x10de)."""
    try:
        vendor = (folder / "vendor").read_text().strip()
        kind = (folder / "class").read_text().strip()
    except OSError:  # an unreadable device is no sign
        return False
    return vendor == "0x10de" and kind.startswith("0x03")
