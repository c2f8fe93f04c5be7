"""Define the Transformer block for patches, bytes, and tokens, and the sizes of models by name."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

SIZES = {  # width, depth, heads: the vision transformers of the same names, and four smaller ones for a CPU
    "nano": (32, 1, 2),
    "pico": (64, 1, 4),
    "micro": (96, 2, 4),
    "mini": (192, 4, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),  # as GPT-2 and BERT
    "large": (1024, 24, 16),
}


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


class Block(nn.Module):
    """Attention and a feed-forward block, each after a norm and with a residual connection.

    ``causal``: a position attends only to earlier ones. ``project`` and ``network.narrow`` add to the residual stream.
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.network = Network(width, 4 * width, dropout)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """``hidden`` (batch, length, width); ``mask`` (batch, 1, 1, length) is true at visible positions."""
        batch, length, width = hidden.shape
        split = self.query_key_value(self.norm(hidden)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=self.causal)
        added = self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return cast(Tensor, self.network(hidden + functional.dropout(added, self.dropout, self.training)))
