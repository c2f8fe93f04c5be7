"""Define the model: numbers and embeddings of classes, followed by residual blocks with layer norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .network import Network


class TableNet(nn.Module):
    """Input is numbers (rows, numeric) and classes (rows, categorical), output is (rows, outputs).

    ``sizes`` has the number of classes of each categorical column, including the unknown one.
    """

    def __init__(
        self, numeric: int, sizes: Sequence[int], outputs: int, *, width: int, blocks: int, dropout: float
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, embedding_width(size)) for size in sizes)
        self.first = nn.Linear(numeric + sum(embedding_width(size) for size in sizes), width)
        self.blocks = nn.Sequential(*(Network(width, 2 * width, dropout) for _ in range(blocks)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, numbers: Tensor, classes: Tensor) -> Tensor:
        embedded = [embedding(classes[:, column]) for column, embedding in enumerate(self.embeddings)]
        return cast(Tensor, self.head(self.blocks(self.first(torch.cat([numbers, *embedded], dim=1)))))


def embedding_width(size: int) -> int:
    """Return a multiple of 8 that grows with the number of classes, up to 64."""
    return min(64, 8 * -(-size // 16))
