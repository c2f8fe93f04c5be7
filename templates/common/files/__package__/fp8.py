"""fp8, for those who ask for it: torchao computes large linear layers in float8, all else stays in bf16.

It pays for layers of several thousand features together with ``--compile``, and makes smaller ones slower: a product of
1024 x 2048 x 1024 took 1.25 times as long as in bf16 by torchao's own figures. ``auto`` never chooses it.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from .errors import ProjectError

SMALLEST = 2048


def is_large(module: nn.Module) -> bool:
    """A linear layer that is worth it, and whose sides are multiples of 16, as the kernels demand."""
    if not isinstance(module, nn.Linear):
        return False
    sides = (module.in_features, module.out_features)
    return min(sides) >= SMALLEST and all(side % 16 == 0 for side in sides)


def convert(model: nn.Module) -> int:
    """Let the large linear layers compute in float8; returns how many there are."""
    count = sum(is_large(module) for module in model.modules())
    if count == 0:
        raise ProjectError(
            f"fp8 pays for linear layers from {SMALLEST} features on, and this model has none",
            hint="--precision bf16",
        )
    try:
        float8: Any = importlib.import_module("torchao.float8")
    except ImportError as error:
        raise ProjectError(f"fp8 needs torchao: {error}", hint="pip install torchao, or --precision bf16") from error
    float8.convert_to_float8_training(model, module_filter_fn=lambda module, name: is_large(module))
    return count
