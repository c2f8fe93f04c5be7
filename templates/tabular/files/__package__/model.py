"""Define the model: numbers and embeddings of classes, followed by residual blocks with layer norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .config import Config
from .layers import Network


class TableNet(nn.Module):
    """Input is numbers (rows, numeric) and classes (rows, categorical), output is (rows, members, outputs).

    The members share all weights but the signs of their inputs and the head, which makes an average of different
    predictions for little more than the cost of one (BatchEnsemble, 2020; TabM, 2024). ``sizes`` has the number of
    classes of each categorical column, including the unknown one.
    """

    def __init__(self, numeric: int, sizes: Sequence[int], outputs: int, config: Config) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, embedding_width(size)) for size in sizes)
        inputs = numeric + sum(embedding_width(size) for size in sizes)
        self.signs = nn.Parameter(torch.randint(0, 2, (config.members, inputs)).float() * 2 - 1)
        self.first = nn.Linear(inputs, config.width)
        self.blocks = nn.Sequential(
            *(Network(config.width, 2 * config.width, config.dropout) for _ in range(config.blocks))
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = Heads(config.members, config.width, outputs)

    def forward(self, numbers: Tensor, classes: Tensor) -> Tensor:
        embedded = [embedding(classes[:, column]) for column, embedding in enumerate(self.embeddings)]
        inputs = torch.cat([numbers, *embedded], dim=1)[:, None, :] * self.signs
        return cast(Tensor, self.head(self.norm(self.blocks(self.first(inputs)))))


class Heads(nn.Module):
    """A linear layer for each member."""

    def __init__(self, members: int, width: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)  # as nn.Linear
        self.weight = nn.Parameter(torch.empty(members, width, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.einsum("rmw,mwo->rmo", hidden, self.weight) + self.bias


def embedding_width(size: int) -> int:
    """Return a multiple of 8 that grows with the number of classes, up to 64."""
    return min(64, 8 * -(-size // 16))


def make_model(config: Config, about: dict[str, Any]) -> nn.Module:
    """Create the network; ``about`` has the columns and the target."""
    numeric = sum(1 + column["may_be_empty"] for column in about["numeric"])
    sizes = [len(column["values"]) + 1 for column in about["categorical"]]
    return TableNet(numeric, sizes, len(about["labels"]) or 1, config)


def example_inputs(config: Config, about: dict[str, Any]) -> tuple[Tensor, ...]:
    """Return inputs for an export."""
    numeric = sum(1 + column["may_be_empty"] for column in about["numeric"])
    return torch.rand(4, numeric), torch.zeros(4, len(about["categorical"]), dtype=torch.long)
