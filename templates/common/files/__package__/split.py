"""Split samples into training and validation, and shuffle the answers of the control."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import ProjectError


def by_chance(count: int, seed: int = 2000) -> Tensor:
    """Return 0 to ``count`` in an order that depends only on the seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def split(count: int, part: float) -> tuple[list[int], list[int]]:
    """Return the indices for validation (about ``part`` of all) and for training, at least one each."""
    held_back = max(1, round(count * part))
    if held_back >= count:
        raise ProjectError(
            f"cannot split {count} {'sample' if count == 1 else 'samples'} with {held_back} for validation",
            hint="add samples" if count < 2 else "to validate on fewer of them",
            option="" if count < 2 else f"--validation-part {1 / count:.2g}",
        )
    order = by_chance(count).tolist()
    return sorted(order[:held_back]), sorted(order[held_back:])


def shuffled(count: int, seed: int) -> Tensor:
    """Return the order of the answers in the control."""
    return by_chance(count, seed + 1)
