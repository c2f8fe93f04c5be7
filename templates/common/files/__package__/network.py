"""Define the feed-forward block of a Transformer, which is also the block of the MLP for tables."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional


class Network(nn.Module):
    """Norm, widen, and narrow, with a residual connection."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, hidden: Tensor) -> Tensor:
        wide = functional.gelu(self.widen(self.norm(hidden)), approximate="tanh")
        return hidden + functional.dropout(cast(Tensor, self.narrow(wide)), self.dropout, self.training)
