"""Read which build of torch a lockfile contains."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from envforge.errors import EnvforgeError
from envforge.install.explicit import read_any_lock
from envforge.lockfile import LockedPackage
from envforge.verify.environment.facts import LockedTorch
from envforge.verify.values import Signal

_TAG = re.compile(r"(?:\+|%2B|/)cu(\d{2,3})(?:[-./]|$)")
_CONDA_CUDA = re.compile(r"cuda_?(\d{2})(\d)|cuda(\d+)\.(\d+)")
_NAMED = ("cudnn", "nccl", "numpy")


def locked_torch(lock: Path | None, platform: str) -> Signal[LockedTorch]:
    """Return the torch of that platform in the lockfile, or why it is unknown."""
    if lock is None:
        return Signal(unreadable="no lockfile")
    try:
        packages = read_any_lock(lock, platform).for_platform(platform)
    except EnvforgeError as error:
        return Signal(source=str(lock), unreadable=error.message)
    if not packages:
        return Signal(source=str(lock), unreadable=f"the lockfile `{lock}` has no packages for `{platform}`")
    found = next((package for package in packages if package.name in ("torch", "pytorch")), None)
    if found is None:
        return Signal(source=str(lock), unreadable=f"the lockfile `{lock}` has no torch for `{platform}`")
    return Signal(value=read_torch(found, packages), source=str(lock))


def read_torch(torch: LockedPackage, packages: Iterable[LockedPackage]) -> LockedTorch:
    """Return the build of a locked torch, by its tag, its build string, or the libraries next to it."""
    names = {package.name: package.version for package in packages}
    build = torch.file_name
    return LockedTorch(
        version=torch.version,
        build=build,
        cuda=_conda_cuda(build, names) if torch.manager == "conda" else _wheel_cuda(torch, names),
        packages={key: version for key in _NAMED if (version := _version_of(key, names)) is not None},
    )


def _wheel_cuda(torch: LockedPackage, names: dict[str, str]) -> str | None:
    """Return the CUDA version of a wheel. A wheel of PyPI has no tag, but requires NVIDIA's libraries."""
    match = _TAG.search(torch.version) or _TAG.search(torch.url)
    if match is not None:
        return f"{match[1][:-1]}.{match[1][-1]}"
    if "+cpu" in torch.version or "%2Bcpu" in torch.url or "/cpu/" in torch.url:
        return None
    if "cuda-toolkit" in names:
        return ".".join(names["cuda-toolkit"].split(".")[:2])
    runtime = next((v for n, v in sorted(names.items()) if n.startswith("nvidia-cuda-runtime")), None)
    if runtime is not None:
        return ".".join(runtime.split(".")[:2])
    # a CUDA build of unknown CUDA version
    return "" if any(name.startswith("nvidia-") for name in names) else None


def _conda_cuda(build: str, names: dict[str, str]) -> str | None:
    match = _CONDA_CUDA.search(build)
    if match is not None:
        return f"{match[1] or match[3]}.{match[2] or match[4]}"
    return "" if "cuda" in build or "pytorch-cuda" in names else None


def _version_of(library: str, names: dict[str, str]) -> str | None:
    """Return the version of a library, by its conda name or its name on PyPI, such as ``nvidia-cudnn-cu13``."""
    if library in names:
        return names[library]
    return next((v for name, v in sorted(names.items()) if name.startswith(f"nvidia-{library}")), None)
