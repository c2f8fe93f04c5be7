"""``run.json``: what a run was made with, so that it can be told apart from another, and be made again."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from . import compat, distributed
from .checkpoint import write_aside
from .options import echo
from .training import Training

NAME = "run.json"


def write_manifest(training: Training, **ending: Any) -> None:
    """Write what is known; ``ending`` is what only the end of the run tells."""
    content = {**manifest(training), **ending}
    path = training.config.run_dir / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))


def manifest(training: Training) -> dict[str, Any]:
    """Versions, device, precision, seeds and threads, as plain values."""
    cuda = training.device.type == "cuda"
    return {
        "config": echo(training.config),
        "precision": training.amp.precision.name,
        "fp32_matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "processes": distributed.ranks(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": compat.nccl_version(),
        "device": torch.cuda.get_device_name(training.device) if cuda else platform.processor() or platform.machine(),
        "capability": torch.cuda.get_device_capability(training.device) if cuda else None,
        "lock_sha256": _sha256(Path("conda-lock.yml")),
        "git": _git_revision(),
        "command": sys.argv,
    }


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _git_revision() -> str | None:
    """The commit of the working folder, with a `+` where there are changes; ``None`` outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
