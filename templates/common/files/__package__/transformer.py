"""The layer of which every Transformer here is made: of patches, of bytes, of tokens."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Attention and a small network, each behind a norm and beside a shortcut.

    ``causal``: a place sees only what stands before it. ``project`` and ``narrow`` are the layers that add to the
    shortcut.
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """``hidden`` (batch, length, width); ``mask`` (batch, 1, 1, length) is true at the places that are seen."""
        hidden = hidden + self._drop(self._attend(self.norm_1(hidden), mask))
        wide = functional.gelu(self.widen(self.norm_2(hidden)), approximate="tanh")
        return hidden + self._drop(self.narrow(wide))

    def _attend(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, width = hidden.shape
        split = self.query_key_value(hidden).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=self.causal)
        return cast(Tensor, self.project(mixed.transpose(1, 2).reshape(batch, length, width)))

    def _drop(self, hidden: Tensor) -> Tensor:
        return functional.dropout(hidden, self.dropout, self.training)
