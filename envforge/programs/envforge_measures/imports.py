"""Import torch as a user's program would, and report what was loaded; ``isolated`` only finds torch."""

# ruff: noqa: BLE001, ICN001, PLC0415, PTH112, PTH113, PTH118, PTH119, PTH123, PTH208, SLF001 - runs without envforge, also on older Pythons
from __future__ import annotations

import os
import shutil
import site
import sys
import sysconfig
import time
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import open_lines

if TYPE_CHECKING:
    from collections.abc import Callable

FAMILIES = (
    "libcudnn", "libcublas", "libnccl", "libnvrtc", "libnvJitLink", "libcudart", "libcusparse", "libcusolver",
    "libcufft", "libcurand", "libtorch", "libc10", "libgomp", "libiomp5", "libomp", "libmkl",
)  # fmt: skip


def main(mode: str) -> None:
    """Report each part, CUDA last; one that raises doesn't keep the others from being reported."""
    print_line = open_lines()

    def say(part: str, ask: Callable[[], Any]) -> None:
        try:
            line = {"part": part, "value": ask()}
        except BaseException as error:
            line = {"part": part, "error": f"{type(error).__name__}: {error}", "code": _code(error)}
        print_line(line)

    if mode == "isolated":
        say("isolated", lambda: _origin("torch"))
        return
    say("python", _python)
    say("toolchain", _toolchain)
    say("torch", _torch)
    if "torch" in sys.modules:
        say("numpy", _numpy)
        say("libraries", _libraries)
        say("cuda", _cuda)


def _code(error: BaseException) -> str | None:
    """Return the kind of an error that checks distinguish."""
    # the dynamic linker has no error codes
    of_linker = isinstance(error, (ImportError, OSError)) and (
        "undefined symbol" in str(error) or "nvJitLink" in str(error)
    )
    return "undefined-symbol" if of_linker else None


def _origin(name: str) -> str | None:
    found = find_spec(name)
    if found is None:
        return None
    return found.origin or next(iter(found.submodule_search_locations or ()), None)


def _python() -> dict[str, Any]:
    prefixes = {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix)}
    outside = [path for path in sys.path if path and os.path.isdir(path) and not _below(path, prefixes)]
    return {
        "version": ".".join(str(part) for part in sys.version_info[:3]),
        "executable": sys.executable,
        "prefix": sys.prefix,
        "python_path": os.environ.get("PYTHONPATH"),
        "user_site": _user_site(),
        "outside": outside,
        "pth": _pth(),
        "torch_origin": _origin("torch"),
    }


def _user_site() -> str | None:
    """Return the user's site-packages directory if Python uses it and it exists."""
    folder = site.getusersitepackages()
    return folder if site.ENABLE_USER_SITE and os.path.isdir(folder) else None


def _pth() -> list[str]:
    """Return the first lines of each ``.pth`` file in site-packages, which add directories or run code."""
    found = []
    for folder in sysconfig.get_path("purelib"), sysconfig.get_path("platlib"):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            if name.endswith(".pth"):
                with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                    lines = [line.strip() for line in file if line.strip() and not line.startswith("#")]
                found += [f"{name}: {line[:1024]}" for line in lines[:3]]
    return sorted(set(found))


def _below(path: str, folders: Any) -> bool:
    real = os.path.realpath(path)
    return any(real == folder or real.startswith(folder + os.sep) for folder in folders)


def _toolchain() -> dict[str, Any]:
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    compiler = next((found for name in ("cc", "gcc", "clang", "g++") if (found := shutil.which(name))), None)
    return {
        "compiler": os.environ.get("CC") or compiler,
        "python_header": header if os.path.isfile(header) else None,
        "triton": _origin("triton"),
    }


def _torch() -> dict[str, Any]:
    started = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import torch
    return {
        "version": str(torch.__version__),
        "file": torch.__file__,
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        # `torch.cuda.get_arch_list` returns nothing without a usable GPU
        "arch_list": (torch._C._cuda_getArchFlags() or "").split() if torch.version.cuda else [],
        "cudnn": _cudnn(torch),
        "nccl": _nccl(torch),
        "seconds": round(time.monotonic() - started, 2),
        "numpy_warning": next((text for text in _texts(caught) if "umpy" in text or "ARRAY_API" in text), None),
    }


def _texts(caught: Any) -> list[str]:
    return [str(warning.message)[:1000] for warning in caught]


def _cudnn(torch: Any) -> str | None:
    version = torch.backends.cudnn.version() if torch.version.cuda else None
    if version is None:
        return None
    first = 10000 if version >= 90000 else 1000  # cuDNN 9 changed the encoding of its version
    return f"{version // first}.{version % first // 100}.{version % 100}"


def _nccl(torch: Any) -> str | None:
    if not torch.version.cuda or not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return None
    version = torch.cuda.nccl.version()
    return ".".join(str(part) for part in version) if isinstance(version, tuple) else str(version)


def _numpy() -> dict[str, Any] | None:
    """Convert an array to a tensor and back; on an incompatible NumPy, torch only warns, and fails later."""
    if find_spec("numpy") is None:
        return None
    try:
        import numpy
        import torch

        there = torch.from_numpy(numpy.arange(3.0))
        back = (there * 2).numpy()
    except Exception as error:
        version = getattr(sys.modules.get("numpy"), "__version__", "unknown")
        return {"version": version, "works": False, "error": f"{type(error).__name__}: {error}"}
    return {"version": numpy.__version__, "works": back.tolist() == [0.0, 2.0, 4.0], "error": None}


def _libraries() -> list[dict[str, Any]]:
    """Return the loaded CUDA, torch, and OpenMP libraries, and whether each one is in this environment."""
    # what the loader has really mapped: a path in a variable may not exist
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        paths = {line.split(None, 5)[5].strip() for line in file if line.count("/") and ".so" in line}
    prefixes = {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix)}
    found = []
    for path in sorted(paths):
        family = next((name for name in FAMILIES if os.path.basename(path).startswith(name)), None)
        if family is not None:
            found.append({"family": family, "path": path, "inside": _below(path, prefixes)})
    return found


def _cuda() -> dict[str, Any]:
    """Return the GPUs that torch finds. This part is last, because CUDA can hang or abort when it starts."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    gpus, error = [], None
    if not available and torch.version.cuda:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except Exception as reason:
            error = f"{type(reason).__name__}: {str(reason)[:1000]}"
    for index in range(torch.cuda.device_count()) if available else []:
        major, minor = torch.cuda.get_device_capability(index)
        gpus.append({"index": index, "name": torch.cuda.get_device_name(index), "capability": f"{major}.{minor}"})
    return {"available": bool(available), "warnings": _texts(caught), "gpus": gpus, "error": error}
