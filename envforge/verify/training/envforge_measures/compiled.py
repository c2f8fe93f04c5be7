"""Run one step of the project's model with ``torch.compile``, and compare it with the eager step."""

from __future__ import annotations

import time
from typing import Any

import torch

from .context import Context, batches, finite


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
