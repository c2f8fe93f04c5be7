"""A moving average of the weights, which often generalizes better than the weights themselves.

Enters: the model after each update. Leaves: averages that take the model's place while it is evaluated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Ema:
    """Averages of all weights and of BatchNorm's statistics; ``decay`` is what remains of them at each update."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        named = (*model.named_parameters(), *model.named_buffers())
        self._live = {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}
        self._averages = {name: tensor.clone() for name, tensor in self._live.items()}

    def update(self, applied: int, skipped: Tensor) -> None:
        """Follow the model, faster at first. A skipped update counts for nothing, and the device decides on that."""
        decay = min(self.decay, (1 + applied) / (10 + applied))
        weight = torch.where(skipped, 0.0, 1.0 - decay)
        for name, average in self._averages.items():
            average.lerp_(self._live[name], weight.to(average.dtype))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While entered, the model has the averages; afterwards its own weights again."""
        own = {name: tensor.clone() for name, tensor in self._live.items()}
        self._put(self._averages)
        try:
            yield
        finally:
            self._put(own)

    def state(self) -> dict[str, Tensor]:
        return dict(self._averages)

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, average in self._averages.items():
            average.copy_(state[name])

    def _put(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in self._live.items():
            tensor.copy_(tensors[name])
