"""Count the dtypes in which matrix products and convolutions are computed."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode

LOW_PRECISION = (torch.bfloat16, torch.float16)
_HEAVY = ("mm", "addmm", "bmm", "baddbmm", "convolution", "attention")


class Observer(TorchDispatchMode):
    """While entered, count heavy operations by the dtype of their result, after the casts of autocast."""

    def __init__(self) -> None:
        cast(Any, super()).__init__()  # has no annotations
        self.dtypes: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = str(function).split(".")[1] if "." in str(function) else str(function)
        if any(part in name for part in _HEAVY):
            first = result[0] if isinstance(result, (tuple, list)) else result
            if isinstance(first, torch.Tensor):
                self.dtypes[first.dtype] += 1
        return result

    @property
    def low(self) -> int:
        """Heavy operations in bf16 or fp16."""
        return sum(self.dtypes[dtype] for dtype in LOW_PRECISION)

    @property
    def all(self) -> int:
        return sum(self.dtypes.values())
