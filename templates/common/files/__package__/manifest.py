"""Write ``run.json``: what a run was made with, to compare it with another run and to reproduce it.

``git`` and ``lock_sha256`` are null unless they describe this run. ``git`` requires that the project directory is the
top level of its repository: a repository around it has commits of its own. ``lock_sha256`` requires that the running
environment was made from the lockfile, whichever tool made it. See ``_is_installed``.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch

from . import compat, distributed
from .checkpoint import write_aside
from .options import echo
from .training import Training

NAME = "run.json"
PROJECT = Path(__file__).resolve().parent.parent
_SYSTEMS = {"Linux": "linux", "Darwin": "osx", "Windows": "win"}


def write_manifest(training: Training, **ending: Any) -> None:
    """Write what is known now; ``ending`` holds the values that are known only at the end of the run."""
    content = {**manifest(training), **ending}
    path = training.config.run_dir / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))


def manifest(training: Training) -> dict[str, Any]:
    """Return versions, device, precision, seeds, and threads as plain values."""
    cuda = training.device.type == "cuda"
    lockfile = installed_lockfile(PROJECT, Path(sys.prefix))
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
        "lockfile": lockfile.relative_to(PROJECT).as_posix() if lockfile else None,
        "lock_sha256": hashlib.sha256(lockfile.read_bytes()).hexdigest() if lockfile else None,
        "git": git_revision(PROJECT),
        "command": sys.argv,
    }


def installed_lockfile(project: Path, prefix: Path) -> Path | None:
    """Return the lockfile of the project that the environment at ``prefix`` was made from, or None."""
    lockfiles = [project / "conda-lock.yml", *sorted(project.glob("lockfiles/*/conda-lock.yml"))]
    return next((path for path in lockfiles if path.is_file() and _is_installed(path, prefix)), None)


def _is_installed(lockfile: Path, prefix: Path) -> bool:
    """Compare the lockfile with the installed packages.

    The conda packages of ``prefix`` must be exactly the locked ones, and each locked wheel must be installed in its
    locked version. Other wheels are ignored.
    """
    conda, wheels = _locked(lockfile.read_text(encoding="utf-8"), _platform())
    if not conda or conda != {path.stem for path in (prefix / "conda-meta").glob("*.json")}:
        return False
    return all(_installed_version(name) == version for name, version in wheels)


def _locked(text: str, subdir: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Return conda packages as ``NAME-VERSION-BUILD``, and wheels as name and version.

    The environment needs no YAML library for this: conda-lock writes each field of a package on a line of its own.
    """
    conda, wheels = set(), set()
    for block in re.split(r"^- name:", text, flags=re.MULTILINE)[1:]:
        fields = dict(re.findall(r"^  (manager|platform|url): *['\"]?([^'\"\s]+)", block, flags=re.MULTILINE))
        if fields.get("platform") != subdir:
            continue
        file_name = unquote(fields.get("url", "").partition("#")[0].rpartition("/")[2])
        if fields.get("manager") == "conda":
            conda.add(re.sub(r"(\.conda|\.tar\.bz2)$", "", file_name))
        elif file_name.endswith(".whl"):
            name, version = file_name.split("-")[:2]
            wheels.add((name, version))
    return conda, wheels


def _platform() -> str:
    """Return conda's name of this platform, such as ``linux-64``."""
    machine = platform.machine().lower()
    arm = {"osx": "arm64", "win": "arm64"}
    system = _SYSTEMS.get(platform.system(), "")
    return f"{system}-{arm.get(system, 'aarch64') if machine in ('arm64', 'aarch64') else '64'}"


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def git_revision(project: Path) -> str | None:
    """Return the commit, with ``+`` if files differ from it; None if ``project`` is not the root of a repository."""
    top = _git(project, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != project.resolve():
        return None
    return _git(project, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")


def _git(project: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(project), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
