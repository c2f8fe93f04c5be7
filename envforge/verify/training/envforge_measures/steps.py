"""Measure single steps of the project: their speed in each precision, the GradScaler in fp16, and torch.compile."""

# ruff: noqa: BLE001 - any error of a project is a result
from __future__ import annotations

import time
from typing import Any

import torch

from .context import Context, Weights, batches, finite, words

WARM = 3
CLEAN, OVERFLOW = 2.0**8, 2.0**60
UPDATES = 3


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
        "slowest_step_s": kept[-1],
        "steps": len(kept),
        "batch": int(getattr(training.config, "batch_size", 0)),
        "peak_memory_bytes": context.peak_memory(),
        "losses": finite(losses),
    }


def scaler(context: Context) -> dict[str, Any]:
    """Run three clean updates, and three updates with a scale that is far too large."""
    return {**_gradients(context), "clean": _scaled(context, CLEAN), "overflow": _scaled(context, OVERFLOW)}


def _gradients(context: Context) -> dict[str, Any]:
    """Compare the gradients of the first update, after unscaling and clipping, with those in fp32."""
    found: list[torch.Tensor | None] = []
    for precision in ("fp16", "fp32"):
        training = context.project.training(precision, init_scale=CLEAN)
        try:
            training.train_step(next(iter(batches(training, 1))))
        except Exception as problem:
            return {"gradient_error": None, "gradient_problem": words(problem)}
        parts = [p.grad.detach().double().reshape(-1).cpu() for p in training.model.parameters() if p.grad is not None]
        found.append(torch.cat(parts) if parts else None)
    low, full = found
    if low is None or full is None or low.shape != full.shape or not float(full.norm()):
        return {"gradient_error": None, "gradient_problem": "there are no gradients to compare"}
    error = finite([(low - full).norm() / full.norm()])[0]
    ratio = finite([low.norm() / full.norm()])[0]
    return {"gradient_error": error, "gradient_ratio": ratio, "gradient_problem": None}


def _scaled(context: Context, scale: float) -> dict[str, Any]:
    training = context.project.training("fp16", init_scale=scale)
    weights = Weights(training.model)
    scales = [float(training.amp.scale())]
    losses: list[Any] = []
    error = None
    try:
        for group in batches(training, UPDATES):
            losses.append(training.train_step(group))
            scales.append(float(training.amp.scale()))
    except Exception as problem:
        error = words(problem)
    context.synchronize()
    return {
        "wanted_scale": scale,
        "scales": scales,
        "losses": finite(losses),
        "moved": weights.moved(),
        "weights": len(weights.before),
        "wild": weights.wild(),
        "error": error,
    }


def compiled(context: Context) -> dict[str, Any]:
    """Return the loss and gradient norm of one batch, eager and compiled."""
    settings: Any = getattr(getattr(torch, "_functorch", None), "config", None)
    if hasattr(settings, "backward_pass_autocast"):
        settings.backward_pass_autocast = "off"  # noqa: S105 - AMP recommends a backward pass outside autocast
    training = context.project.training(context.low)
    batch = next(iter(batches(training, 1)))[0]
    eager, eager_norm = _step(training, training.model, batch)
    started = time.perf_counter()
    model = torch.compile(training.model)
    loss, norm = _step(training, model, batch)
    context.synchronize()
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 2),
        "eager_loss": finite([eager])[0],
        "compiled_loss": finite([loss])[0],
        "eager_gradient_norm": finite([eager_norm])[0],
        "compiled_gradient_norm": finite([norm])[0],
    }


def _step(training: Any, model: Any, batch: Any) -> Any:
    """Run one forward and backward pass without an update."""
    torch.manual_seed(3)  # both steps must draw the same random numbers
    training.optimizer.zero_grad(set_to_none=True)
    with training.amp.autocast():
        loss = training.task.loss(model, batch)
    loss.backward()
    squares = [float(p.grad.detach().double().norm()) ** 2 for p in training.model.parameters() if p.grad is not None]
    return float(loss.detach()), sum(squares) ** 0.5
