"""Measure speed: products and copies on the device, steps of the project, and torch.compile."""

from __future__ import annotations

import time
from typing import Any

import torch

from .context import DTYPES, Context, batches, compiled_model, finite

WARM = 3


def throughput(context: Context) -> dict[str, Any]:
    """Multiply square matrices in low precision for some seconds, then in fp32; results are in 10^12 FLOP/s."""
    on_gpu = context.on_gpu
    size, seconds = (8192, 3.0) if on_gpu else (128, 0.1)
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
    return {"dtype": context.low, "size": size, "low_tflops": low, "fp32_tflops": full}


def _flops(context: Context, dtype: torch.dtype, size: int, seconds: float) -> float:
    left = torch.randn(size, size, device=context.device).to(dtype)
    right = torch.randn(size, size, device=context.device).to(dtype)
    out = torch.empty(size, size, device=context.device, dtype=dtype)
    best = 0.0
    context.seconds(lambda: torch.mm(left, right, out=out), 2)  # cuBLAS selects its kernel
    end = time.perf_counter() + seconds
    # for seconds, so that clocks and temperature reach what they are in training
    while time.perf_counter() < end:
        took = context.seconds(lambda: torch.mm(left, right, out=out), 4)
        best = max(best, 4 * 2 * float(size) ** 3 / took / 1e12)
    return best


def transfer(context: Context) -> dict[str, Any]:
    """Time copies of 256 MiB of pinned memory to the GPU and back; the best of five applies."""
    size = 256 << 20
    host = torch.empty(size, dtype=torch.uint8).pin_memory()  # the driver copies other memory twice
    there = torch.empty(size, dtype=torch.uint8, device=context.device)
    began = time.time()
    up = min(context.seconds(lambda: there.copy_(host, non_blocking=True), 2) / 2 for _ in range(5))
    down = min(context.seconds(lambda: host.copy_(there, non_blocking=True), 2) / 2 for _ in range(5))
    context.say({"event": "copies", "from": began, "to": time.time()})
    return {"to_device_bytes_per_s": size / up, "from_device_bytes_per_s": size / down}


def compare(context: Context) -> dict[str, Any]:
    """Time the project's training in low precision, in fp32 (ieee), and in TF32 if the GPU supports it."""
    updates = 60 if context.on_gpu else 16
    return {"runs": [_timed(context, precision, fp32, updates) for precision, fp32 in context.precisions]}


def _timed(context: Context, precision: str, fp32: str | None, updates: int) -> dict[str, Any]:
    training = context.project.training(precision)
    context.forget_peak_memory()
    losses: list[Any] = []
    times: list[float] = []
    for group in batches(training, min(updates, training.total_updates)):
        context.synchronize()  # CUDA returns before the work is done
        started = time.perf_counter()
        losses.append(training.train_step(group))
        context.synchronize()
        times.append(time.perf_counter() - started)
    # the first steps allocate memory and select kernels
    kept = sorted(times[WARM:] or times)
    return {
        "precision": precision,
        "fp32": fp32,
        "step_s": kept[len(kept) // 2],
        "steps": len(kept),
        "batch": int(getattr(training.config, "batch_size", 0)),
        "peak_memory_bytes": context.peak_memory(),
        "losses": finite(losses),
    }


def compiled(context: Context) -> dict[str, Any]:
    """Return the loss and gradient norm of one batch, eager and compiled."""
    training = context.project.training(context.low)
    batch = next(iter(batches(training, 1)))[0]
    eager, eager_norm = _eager_or_compiled(training, training.model, batch)
    started = time.perf_counter()
    model = compiled_model(training.model)
    loss, norm = _eager_or_compiled(training, model, batch)
    context.synchronize()
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 2),
        "eager_loss": finite([eager])[0],
        "compiled_loss": finite([loss])[0],
        "eager_gradient_norm": finite([eager_norm])[0],
        "compiled_gradient_norm": finite([norm])[0],
    }


def _eager_or_compiled(training: Any, model: Any, batch: Any) -> Any:
    """Run one forward and backward pass without an update."""
    torch.manual_seed(3)  # both steps must draw the same random numbers
    training.optimizer.zero_grad(set_to_none=True)
    with training.amp.autocast():
        loss = training.task.loss(model, batch)
    loss.backward()
    squares = [float(p.grad.detach().double().norm()) ** 2 for p in training.model.parameters() if p.grad is not None]
    return float(loss.detach()), sum(squares) ** 0.5
