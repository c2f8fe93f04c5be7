"""Observe one update: the dtypes of its operations, and autocast in the forward and backward pass."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_HEAVY = ("mm", "addmm", "bmm", "baddbmm", "convolution", "attention")
_LOW = ("bfloat16", "float16")


class Operations(TorchDispatchMode):
    """Count matrix products and convolutions by the dtype of their result, after the casts of autocast."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        parts = str(function).split(".")
        if any(word in parts[min(1, len(parts) - 1)] for word in _HEAVY):
            first = result[0] if isinstance(result, (tuple, list)) else result
            if isinstance(first, torch.Tensor):
                self.dtypes[str(first.dtype).replace("torch.", "")] += 1
        return result


class Passes:
    """Hooks on the model that record whether autocast is on in the forward and backward pass."""

    def __init__(self, model: torch.nn.Module, kind: str) -> None:
        self.kind = kind
        self.forward: bool | None = None
        self.forward_dtype: str | None = None
        self.backward: bool | None = None
        self._handles = [model.register_forward_pre_hook(self._at_forward)]
        first = next((p for p in model.parameters() if p.requires_grad), None)
        if first is not None:
            self._handles.append(first.register_hook(self._at_gradient))  # type: ignore[no-untyped-call]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _at_forward(self, module: Any, inputs: Any) -> None:
        self.forward = autocast_is_on(self.kind)
        self.forward_dtype = autocast_dtype(self.kind) if self.forward else None

    def _at_gradient(self, gradient: Any) -> None:
        self.backward = autocast_is_on(self.kind)


def autocast_is_on(kind: str) -> bool:
    """Return whether autocast is on for a device type in this thread; torch 2.4 changed the function."""
    if kind == "cpu" and not _takes_kind():
        return bool(torch.is_autocast_cpu_enabled())
    return bool(torch.is_autocast_enabled(kind) if _takes_kind() else torch.is_autocast_enabled())


def autocast_dtype(kind: str) -> str:
    """Return the dtype that autocast casts to."""
    if _takes_kind():
        return str(torch.get_autocast_dtype(kind)).replace("torch.", "")
    found = torch.get_autocast_cpu_dtype() if kind == "cpu" else torch.get_autocast_gpu_dtype()
    return str(found).replace("torch.", "")


def _takes_kind() -> bool:
    return hasattr(torch, "get_autocast_dtype")


def watched_update(training: Any, group: Any) -> dict[str, Any]:
    """Run one update and return what was observed; its loss is a tensor under ``loss``."""
    passes, operations = Passes(training.model, training.device.type), Operations()
    try:
        with operations:
            loss = training.train_step(group)
    finally:
        passes.remove()
    return {
        "loss": loss,
        "heavy": sum(operations.dtypes.values()),
        "low": sum(operations.dtypes[name] for name in _LOW),
        "dtypes": dict(operations.dtypes),
        "autocast_forward": passes.forward,
        "autocast_dtype": passes.forward_dtype,
        "autocast_backward": passes.backward,
    }


def gradients(model: torch.nn.Module) -> dict[str, Any]:
    """Return the norm of the last update's gradients, and which are missing, zero, or not finite."""
    without: list[str] = []
    zero: list[str] = []
    wild: list[str] = []
    squares = 0.0
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, parameter in named:
        if parameter.grad is None:
            without.append(name)
            continue
        size = float(parameter.grad.detach().double().norm())
        if size - size != 0:  # inf or nan
            wild.append(name)
        elif size == 0.0:
            zero.append(name)
        else:
            squares += size * size
    return {
        "parameters": len(named),
        "without_gradient": without,
        "zero_gradient": zero,
        "wild_gradient": wild,
        "gradient_norm": squares**0.5,
    }
