"""Keep a moving average of the weights, which replaces them in evaluations (``--ema``)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Ema:
    """Averages of all weights and of BatchNorm's statistics, multiplied by ``decay`` at each update."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        named = (*model.named_parameters(), *model.named_buffers())
        self._live = {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}
        self._averages = {name: tensor.clone() for name, tensor in self._live.items()}

    def update(self, applied: int, skipped: Tensor) -> None:
        """Follow the model, faster at first. A skipped update has no weight, which the device decides."""
        decay = min(self.decay, (1 + applied) / (10 + applied))
        weight = torch.where(skipped, 0.0, 1.0 - decay)
        for name, average in self._averages.items():
            average.lerp_(self._live[name], weight.to(average.dtype))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While entered, replace the model's weights by the averages."""
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
