"""Measure the speed of AMP and fp32 on the project's own step, of matrix products, and of copies."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from .context import DTYPES, Context, batches, finite

WARM = 3


def compare(context: Context) -> dict[str, Any]:
    """Time the project's training in low precision, in fp32 (ieee), and in TF32 if the GPU supports it."""
    names = [context.low, "fp32"]
    if context.device.type == "cuda" and torch.cuda.get_device_capability(context.device) >= (8, 0):
        names.append("tf32")
    updates = int(context.specification.get("compare_updates") or (60 if context.device.type == "cuda" else 16))
    return {"runs": [_run(context, name, updates) for name in names]}


def _run(context: Context, precision: str, updates: int) -> dict[str, Any]:
    training = context.project.training(precision)
    peak: int | None = None
    on_gpu = context.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(context.device)
    losses: list[Any] = []
    times: list[float] = []
    for group in batches(training, min(updates, training.total_updates)):
        context.synchronize()
        started = time.perf_counter()
        losses.append(training.train_step(group))
        context.synchronize()
        times.append(time.perf_counter() - started)
    if on_gpu:
        peak = int(torch.cuda.max_memory_allocated(context.device))
    kept = sorted(times[WARM:] or times)
    return {
        "precision": precision,
        "fp32": {"fp32": "ieee", "tf32": "tf32"}.get(precision),
        "step_s": kept[len(kept) // 2],
        "slowest_step_s": kept[-1],
        "steps": len(kept),
        "batch": int(getattr(training.config, "batch_size", 0)),
        "peak_memory_bytes": peak,
        "losses": finite(losses),
    }


def throughput(context: Context) -> dict[str, Any]:
    """Multiply square matrices in low precision for some seconds, then in fp32; results are in 10^12 FLOP/s."""
    on_gpu = context.device.type == "cuda"
    size, seconds = (8192, float(context.specification.get("load_s") or 3.0)) if on_gpu else (128, 0.1)
    free = torch.cuda.mem_get_info(context.device)[0] if on_gpu else 1 << 34
    # three fp32 matrices must fit into half of the free memory
    while size > 512 and 3 * size * size * 4 > free // 2:
        size //= 2
    began = time.time()
    low = _flops(context, DTYPES[context.low], size, seconds)
    ended = time.time()
    context.say({"event": "load", "from": began, "to": ended})
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    full = _flops(context, torch.float32, size, seconds / 3)
    torch.set_float32_matmul_precision(before)
    return {"dtype": context.low, "size": size, "low_tflops": low, "fp32_tflops": full, "load_s": ended - began}


def _flops(context: Context, dtype: torch.dtype, size: int, seconds: float) -> float:
    left = torch.randn(size, size, device=context.device).to(dtype)
    right = torch.randn(size, size, device=context.device).to(dtype)
    out = torch.empty(size, size, device=context.device, dtype=dtype)
    best = 0.0
    _repeat(context, lambda: torch.mm(left, right, out=out), 2)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        took = _repeat(context, lambda: torch.mm(left, right, out=out), 4)
        best = max(best, 4 * 2 * float(size) ** 3 / took / 1e12)
    return best


def _repeat(context: Context, work: Callable[[], Any], times: int) -> float:
    context.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        work()
    context.synchronize()
    return time.perf_counter() - started


def transfer(context: Context) -> dict[str, Any]:
    """Time copies of 256 MiB of pinned memory to the GPU and back; the best of five applies."""
    size = 256 << 20
    host = torch.empty(size, dtype=torch.uint8).pin_memory()
    there = torch.empty(size, dtype=torch.uint8, device=context.device)
    began = time.time()
    up = min(_repeat(context, lambda: there.copy_(host, non_blocking=True), 2) / 2 for _ in range(5))
    down = min(_repeat(context, lambda: host.copy_(there, non_blocking=True), 2) / 2 for _ in range(5))
    context.say({"event": "copies", "from": began, "to": time.time()})
    return {"bytes": size, "to_device_bytes_per_s": size / up, "from_device_bytes_per_s": size / down}
