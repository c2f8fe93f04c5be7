"""Measure the device itself: its kernels compared with float64 on the CPU, and repeated kernels."""

# ruff: noqa: B905, PTH123 - runs without envforge, also on older Pythons
from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .context import DTYPES, Context


def device(context: Context) -> dict[str, Any]:
    """Return the properties of the device."""
    where = context.device
    facts = {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "count": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "low": context.low,
        "native_bf16": context.native_bf16,
    }
    if not context.on_gpu:
        return {**facts, "name": _cpu_name(), "is_gpu": False}
    properties = torch.cuda.get_device_properties(where)
    return {
        **facts,
        "name": properties.name,
        "is_gpu": True,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": int(properties.total_memory),
        "uuid": str(getattr(properties, "uuid", "")),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else "CPU"


def matmul(context: Context) -> dict[str, Any]:
    """Measure a product of two matrices."""
    rows, inner, columns = (512, 768, 640) if context.on_gpu else (96, 128, 160)
    return _check(context, lambda a, b: a @ b, [(rows, inner), (inner, columns)])


def convolution(context: Context) -> dict[str, Any]:
    """Measure a 3 by 3 convolution with stride 2."""
    batch, size = (16, 56) if context.on_gpu else (4, 16)
    return _check(
        context,
        lambda images, kernel: functional.conv2d(images, kernel, stride=2, padding=1),
        [(batch, 16, size, size), (32, 16, 3, 3)],
    )


def attention(context: Context) -> dict[str, Any]:
    """Measure causal scaled dot product attention, with the kernel that torch selects."""
    shape = (4, 8, 256, 64) if context.on_gpu else (2, 2, 32, 32)
    return _check(
        context,
        lambda query, key, value: functional.scaled_dot_product_attention(query, key, value, is_causal=True),
        [shape, shape, shape],
    )


def _check(context: Context, compute: Callable[..., Tensor], shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Run forward and backward in low precision, and with the same inputs in float64 on the CPU."""
    dtype = DTYPES[context.low]
    generator = torch.Generator().manual_seed(7)
    # rounded to the low precision first, so that only the computation differs
    inputs = [(torch.randn(*shape, generator=generator) / math.sqrt(shape[-1])).to(dtype) for shape in shapes]
    here = [tensor.clone().to(context.device).requires_grad_() for tensor in inputs]
    result = compute(*here)
    upstream = torch.randn(result.shape, generator=generator).to(dtype)
    result.backward(upstream.to(context.device))  # type: ignore[no-untyped-call]
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    reference = compute(*exact)  # on the CPU, which is independent of the GPU that is checked
    reference.backward(upstream.double())  # type: ignore[no-untyped-call]
    errors = [_error(result.detach(), reference.detach())]
    errors += [_error(mine.grad, theirs.grad) for mine, theirs in zip(here, exact)]
    return {
        "dtype": context.low,
        "result_dtype": str(result.dtype).replace("torch.", ""),
        "shapes": ["x".join(str(part) for part in shape) for shape in shapes],
        "errors": [None if math.isnan(error) or math.isinf(error) else error for error in errors],
    }


def _error(found: Any, wanted: Any) -> float:
    """Return the norm of the difference, relative to the norm of the expected tensor."""
    if found is None:
        return math.inf
    there = found.detach().cpu().double()
    return float((there - wanted).norm() / wanted.norm())


def same_bits(context: Context) -> dict[str, Any]:
    """Run one product and one convolution many times; a sound device always returns the same bits."""
    # hardware that fails only sometimes shows it only in many runs
    times = 50 if context.on_gpu else 3
    found = [tuple(_hashes(context)) for _ in range(times)]
    return {"times": times, "different": len(set(found)) - 1, "digests": list(found[0])}


def _hashes(context: Context) -> list[str]:
    """Return digests of one product and one convolution, equal on every run and on all GPUs of one model."""
    generator = torch.Generator().manual_seed(11)
    size, dtype = (1024, DTYPES[context.low]) if context.on_gpu else (128, torch.float32)
    left = torch.randn(size, size, generator=generator).to(context.device, dtype)
    images = torch.randn(8, 32, 32, 32, generator=generator).to(context.device, dtype)
    kernel = torch.randn(32, 32, 3, 3, generator=generator).to(context.device, dtype)
    # cuDNN is off by default here; with its benchmark, GPUs may select different algorithms
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        results = [left @ left, functional.conv2d(images, kernel, padding=1)]
    return [hashlib.sha256(bytes(result.float().cpu().reshape(-1).numpy().tobytes())).hexdigest() for result in results]
