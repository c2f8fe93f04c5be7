"""Define the model: a U-Net (Ronneberger, Fischer, and Brox, 2015) with batch norm and padded convolutions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import Config


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Return two convolutions that keep the size."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """An encoder that halves the size per level, and a decoder with skip connections from it.

    Input is (count, channels, height, width) of any size, output is (count, classes, height, width).
    """

    def __init__(self, channels: int, classes: int, *, width: int, levels: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        pairs = list(pairwise(widths))
        self.whole = 2 ** (levels - 1)
        self.first = block(channels, width)
        self.down = nn.ModuleList(block(fine, coarse) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, 2) for fine, coarse in reversed(pairs))
        self.merge = nn.ModuleList(block(2 * fine, fine) for fine, _ in reversed(pairs))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        features = self.first(functional.pad(images, (0, -width % self.whole, 0, -height % self.whole)))
        seen = []
        for down in self.down:
            seen.append(features)
            features = down(functional.max_pool2d(features, 2))
        for up, merge in zip(self.up, self.merge):
            features = merge(torch.cat([up(features), seen.pop()], dim=1))
        return cast(Tensor, self.head(features))[..., :height, :width]


def make_model(config: Config, about: dict[str, Any]) -> nn.Module:
    """Create the network; ``about`` has the channels of the images, and the classes."""
    return UNet(about["channels"], len(about["classes"]), width=config.width, levels=config.levels)


def example_inputs(config: Config, about: dict[str, Any]) -> tuple[Tensor, ...]:
    """Return inputs for an export."""
    return (torch.rand(4, about["channels"], about["crop"], about["crop"]),)
