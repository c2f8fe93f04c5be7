"""Train the project on real data, where it must learn, and on shuffled labels, where it must not."""

# ruff: noqa: B905, BLE001 - runs without envforge, also on older Pythons
from __future__ import annotations

import time
from typing import Any

import torch

from .context import Context, batches, finite
from .watch import gradients, watched_update

_LOOK_AT = 3
_TELL_EVERY_S = 2.0


def project(context: Context) -> dict[str, Any]:
    """Import the package, which all other measurements of the project need."""
    found = context.project
    return {"package": found.package, "file": str(found.train.__file__)}


def learning(context: Context) -> dict[str, Any]:
    """Train the smoke configuration in low precision on true labels, and observe its first update."""
    training = context.project.training(context.low)
    return train(context, training, watched=True)


def control(context: Context) -> dict[str, Any]:
    """Train the same configuration on shuffled labels, which shows the score without learning."""
    return train(context, context.project.training(context.low, shuffled=True), watched=False)


def train(context: Context, training: Any, *, watched: bool, updates: int = 0) -> dict[str, Any]:
    """Run all updates of a training, or the first ``updates``; record an error of the project and stop there."""
    before = [parameter.detach().clone() for parameter in training.model.parameters()]
    facts: dict[str, Any] = {"precision": training.amp.precision.name, **context.project.bounds(training)}
    losses: list[Any] = []
    error = None
    total = updates or training.total_updates
    started = told = time.monotonic()
    try:
        for number, group in enumerate(batches(training, total), start=1):
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                context.say({"event": "update", "number": number, "of": total})
            if watched and number == 1:
                seen = watched_update(training, group)
                losses.append(seen.pop("loss"))
                facts.update(seen)
            else:
                losses.append(training.train_step(group))
            if watched and number == _LOOK_AT:
                facts.update(gradients(training.model))
    except Exception as problem:
        error = f"{type(problem).__name__}: {str(problem)[:1500]}"
        if watched and "parameters" not in facts:
            facts.update(gradients(training.model))
    context.synchronize()
    facts["seconds"] = round(time.monotonic() - started, 3)
    evaluation = training.evaluate() if error is None else {}
    after = list(training.model.parameters())
    return {
        **facts,
        "updates": len(losses),
        "losses": finite(losses),
        "evaluation": {name: finite([value])[0] for name, value in evaluation.items()},
        "skipped": int(training.amp.skipped),
        "error": error,
        "weights": len(before),
        "weights_moved": sum(not torch.equal(old, new) for old, new in zip(before, after)),
        "weights_wild": sum(not bool(torch.isfinite(parameter).all()) for parameter in after),
    }


def guard(context: Context) -> dict[str, Any]:
    """Inject NaN into the model's output for one update; weights and running statistics must not change."""
    training = context.project.training(context.low)
    groups = batches(training, 2)
    training.train_step(next(groups))
    before = {name: tensor.detach().clone() for name, tensor in training.model.state_dict().items()}
    planted: list[bool] = []

    def spoil(module: Any, inputs: Any, output: Any) -> Any:  # noqa: ARG001 - the signature of a hook
        if isinstance(output, torch.Tensor):
            planted.append(True)
            return output * float("nan")
        return output

    handle = training.model.register_forward_hook(spoil)
    error = None
    try:
        training.train_step(next(groups))
    except Exception as problem:
        error = f"{type(problem).__name__}: {str(problem)[:500]}"
    finally:
        handle.remove()
    after = training.model.state_dict()
    changed = [name for name, tensor in before.items() if not _same(tensor, after[name])]
    wild = [name for name in changed if not bool(torch.isfinite(after[name].float()).all())]
    return {"planted": bool(planted), "error": error, "changed": changed, "wild": wild}


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(torch.equal(one, other))
