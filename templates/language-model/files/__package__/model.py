"""Define the model: a decoder like GPT-2, with tied input and output embeddings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import Config
from .layers import SIZES, Block


class GPT(nn.Module):
    """Input is token numbers (batch, length), output is scores of the next token (batch, length, vocabulary)."""

    def __init__(self, vocabulary: int, config: Config) -> None:
        super().__init__()
        width, depth, heads = SIZES[config.size]
        self.context, self.dropout = config.context, config.dropout
        padded = -(-vocabulary // 64) * 64  # a multiple for the tensor cores; the added tokens never occur
        self.tokens = nn.Embedding(padded, width)
        self.positions = nn.Embedding(config.context, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout=config.dropout, causal=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        spread = 0.02 * math.sqrt(768 / width)  # GPT-2 uses 0.02 at its width of 768
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                # 2 * depth layers add to the residual stream; scaling keeps its variance (Radford et al. 2019, 2.3)
                adds = name.endswith(("project.weight", "narrow.weight"))
                nn.init.normal_(parameter, std=spread / math.sqrt(2 * depth) if adds else spread)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.tokens(tokens) + self.positions(places)
        hidden = functional.dropout(hidden, self.dropout, self.training)
        for block in self.blocks:
            hidden = block(hidden)
        return functional.linear(self.norm(hidden), self.tokens.weight)


def make_model(config: Config, about: dict[str, Any]) -> nn.Module:
    """Create the model; ``about`` has the size of the vocabulary."""
    return GPT(about["vocabulary"], config)


def example_inputs(config: Config, about: dict[str, Any]) -> tuple[Tensor, ...]:
    """Return inputs for an export."""
    return (torch.randint(0, about["vocabulary"], (4, config.context)),)
