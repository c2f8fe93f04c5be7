"""Check the GradScaler in fp16: clean updates, gradients compared with fp32, and the reaction to an overflow."""

# ruff: noqa: B905, BLE001 - runs without envforge, also on older Pythons
from __future__ import annotations

from typing import Any

import torch

from .context import Context, batches, finite

CLEAN, OVERFLOW = 2.0**8, 2.0**60
UPDATES = 3


def scaler(context: Context) -> dict[str, Any]:
    """Run three clean updates, and three updates with a scale that is far too large."""
    return {**_gradients(context), "clean": _run(context, CLEAN), "overflow": _run(context, OVERFLOW)}


def _gradients(context: Context) -> dict[str, Any]:
    """Compare the gradients of the first update, after unscaling and clipping, with those in fp32."""
    found: list[torch.Tensor | None] = []
    for precision in ("fp16", "fp32"):
        training = context.project.training(precision, init_scale=CLEAN)
        try:
            training.train_step(next(iter(batches(training, 1))))
        except Exception as problem:
            return {"gradient_error": None, "gradient_problem": f"{type(problem).__name__}: {problem}"}
        parts = [p.grad.detach().double().reshape(-1).cpu() for p in training.model.parameters() if p.grad is not None]
        found.append(torch.cat(parts) if parts else None)
    low, full = found
    if low is None or full is None or low.shape != full.shape or not float(full.norm()):
        return {"gradient_error": None, "gradient_problem": "there are no gradients to compare"}
    error = finite([(low - full).norm() / full.norm()])[0]
    ratio = finite([low.norm() / full.norm()])[0]
    return {"gradient_error": error, "gradient_ratio": ratio, "gradient_problem": None}


def _run(context: Context, scale: float) -> dict[str, Any]:
    training = context.project.training("fp16", init_scale=scale)
    before = [parameter.detach().clone() for parameter in training.model.parameters()]
    scales = [float(training.amp.scale())]
    losses: list[Any] = []
    error = None
    try:
        for group in batches(training, UPDATES):
            losses.append(training.train_step(group))
            scales.append(float(training.amp.scale()))
    except Exception as problem:
        error = f"{type(problem).__name__}: {str(problem)[:500]}"
    context.synchronize()
    after = list(training.model.parameters())
    return {
        "wanted_scale": scale,
        "scales": scales,
        "losses": finite(losses),
        "moved": sum(not torch.equal(old, new) for old, new in zip(before, after)),
        "weights": len(before),
        "wild": sum(not bool(torch.isfinite(parameter).all()) for parameter in after),
        "error": error,
    }
