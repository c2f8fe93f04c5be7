"""Convert large linear layers to float8 with torchao, for ``--precision fp8``; everything else computes in bf16.

It is faster only for layers of several thousand features, and only with ``--compile``. Smaller layers get slower: by
torchao's own figures, a product of 1024 x 2048 x 1024 takes 1.25 times as long as in bf16. ``auto`` never selects it.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from .errors import Hint, ProjectError

SMALLEST = 2048


def is_large(module: nn.Module) -> bool:
    """Return whether fp8 speeds up the layer; its kernels require multiples of 16."""
    if not isinstance(module, nn.Linear):
        return False
    sides = (module.in_features, module.out_features)
    return min(sides) >= SMALLEST and all(side % 16 == 0 for side in sides)


def convert(model: nn.Module) -> int:
    """Convert the large linear layers to float8 and return their number."""
    count = sum(is_large(module) for module in model.modules())
    if count == 0:
        raise ProjectError(
            f"fp8 requires linear layers of {SMALLEST} or more features, and this model has none",
            hint="to use bf16 instead",
            option="--precision bf16",
        )
    try:
        float8: Any = importlib.import_module("torchao.float8")
    except ImportError as error:
        raise ProjectError(
            f"fp8 requires torchao: {error}",
            hint=(
                Hint("to add it to the environment", command="envforge add --pip torchao && envforge install"),
                Hint("to use bf16 instead", option="--precision bf16"),
            ),
        ) from error
    float8.convert_to_float8_training(model, module_filter_fn=lambda module, name: is_large(module))
    return count
