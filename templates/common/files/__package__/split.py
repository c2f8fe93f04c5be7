"""Which samples train and which validate, and in which order the control gets answers that are not its own."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import ProjectError


def by_chance(count: int, seed: int = 2000) -> Tensor:
    """0 to ``count`` in an order that only the seed decides; without one, the same for every run."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def split(count: int, part: float) -> tuple[list[int], list[int]]:
    """Indices held back for validation, about ``part`` of all, and indices kept; never none of either."""
    held_back = max(1, round(count * part))
    if held_back >= count:
        raise ProjectError(
            f"{count} samples cannot be split with {held_back} to validate on",
            hint="give more, or lower --validation-part",
        )
    order = by_chance(count).tolist()
    return sorted(order[:held_back]), sorted(order[held_back:])


def shuffled(count: int, seed: int) -> Tensor:
    """The order of the control."""
    return by_chance(count, seed + 1)
