"""Get the published CUDA 13 build of torch with its libraries, 3 GB, from a package index; needs Python 3.11."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.wheel import relabeled

TORCH, TORCHVISION, TAG = "2.14.1", "0.29.1", "cu130"
PYTHON = (3, 11)


def download_wheels(folder: Path) -> list[Path]:
    """Download the wheels with pip, and give torch and torchvision the local version of the PyTorch index."""
    assert sys.version_info[:2] == PYTHON
    packages = [f"torch=={TORCH}", f"torchvision=={TORCHVISION}"]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), *packages], check=True)
    for name in (f"torch-{TORCH}", f"torchvision-{TORCHVISION}"):
        [wheel] = folder.glob(f"{name}-*.whl")
        relabeled(wheel, TAG, folder)
        wheel.unlink()
    return sorted(folder.glob("*.whl"))
