"""Handle all differences between torch 2.0 and torch 2.15."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import shutil
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .errors import UnsupportedError

TORCH = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])

OUT_OF_MEMORY: type[Exception] = getattr(torch, "OutOfMemoryError", None) or torch.cuda.OutOfMemoryError  # < 2.5


def grad_scaler(device_type: str, **settings: Any) -> Any:
    """Return a ``GradScaler``; before torch 2.3, there is only one for CUDA."""
    if TORCH >= (2, 3):
        return torch.amp.GradScaler(device_type, **settings)
    return torch.cuda.amp.GradScaler(**settings)


def native_bf16(device: torch.device) -> bool:
    """Return whether the CUDA device computes in bf16 natively, which torch's default also claims for T4 and V100."""
    if torch.version.hip is not None:
        return True
    with torch.cuda.device(device):
        try:
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        except TypeError:  # before torch had the argument, the call required compute capability 8.0
            return bool(torch.cuda.is_bf16_supported())


def buffers_left_alone() -> dict[str, Any]:
    """Return the argument that stops DDP from overwriting buffers in each forward pass; torch 2.13 renamed it."""
    names = inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers": False}


def compiled(model: nn.Module, device_type: str) -> nn.Module:
    """Compile the model for a backward pass outside autocast; newer versions of torch assume it is inside."""
    config: Any = importlib.import_module("torch._functorch.config")
    if hasattr(config, "backward_pass_autocast"):
        config.backward_pass_autocast = "off"
    missing, hints = [], ["to train without it, omit `--compile`"]
    if device_type == "cuda" and importlib.util.find_spec("triton") is None:
        missing.append("triton")
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang", "cl", os.environ.get("CXX", "g++"))):
        missing.append("a C++ compiler")
        install = "envforge add cxx-compiler && envforge install"
        hints.append(f"to add a compiler, which `envforge run` activates, run `{install}`")
    if missing:
        raise UnsupportedError(f"`--compile` requires {' and '.join(missing)}, which this machine lacks", hint=hints)
    return cast("nn.Module", torch.compile(model))


def load(path: Path) -> dict[str, Any]:
    """Load a file of ``torch.save`` onto the CPU, without executing pickled code."""
    with warnings.catch_warnings():  # torch 2.0 warns about a storage class that its own loader uses
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content
