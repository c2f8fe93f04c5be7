"""Define the models: a Transformer encoder over bytes, or a Hugging Face model if `transformers` is installed."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import Config
from .errors import ProjectError
from .tokens import HUGGING_FACE, from_hugging_face
from .transformer import SIZES, Block

PAD = 0  # a byte or token is stored as its number plus one
TRIGRAMS = 4096


class ByteTransformer(nn.Module):
    """Embeddings of bytes and of hashed trigrams, Transformer blocks, the mean over the text, and a linear layer."""

    def __init__(self, classes: int, config: Config, *, vocabulary: int = 257) -> None:
        super().__init__()
        width, depth, heads = SIZES[config.model]
        self.dropout = config.dropout
        self.bytes = nn.Embedding(-(-vocabulary // 8) * 8, width)  # a multiple of 8 for the tensor cores
        self.trigrams = nn.Embedding(TRIGRAMS, width)
        self.positions = nn.Embedding(config.context, width)
        for table in (self.bytes, self.trigrams, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, dropout=config.dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = tokens != PAD
        hidden = self.bytes(tokens) + self.trigrams(hash_trigrams(tokens))
        hidden = hidden + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        hidden = functional.dropout(hidden, self.dropout, self.training)
        for block in self.blocks:
            hidden = block(hidden, mask[:, None, None, :])
        weights = mask[:, :, None].to(hidden.dtype)
        mean = (self.norm(hidden) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return cast(Tensor, self.head(mean))


class HuggingFace(nn.Module):
    """Call a pretrained model with token numbers, and return its scores."""

    def __init__(self, model: nn.Module, pad: int) -> None:
        super().__init__()
        self.model, self.pad = model, pad

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.model(input_ids=tokens, attention_mask=(tokens != self.pad).long()).logits)


def hash_trigrams(tokens: Tensor) -> Tensor:
    """Return a number below TRIGRAMS for each position, from the token there and the two before it."""
    before = functional.pad(tokens, (2, 0))
    return (before[:, 2:] * 31 + before[:, 1:-1] * 4_421 + before[:, :-2] * 1_000_003) % TRIGRAMS


def make_model(config: Config, *, classes: int, pad: int, vocabulary: int) -> nn.Module:
    if not config.model.startswith(HUGGING_FACE):
        return ByteTransformer(classes, config, vocabulary=vocabulary)
    model = from_hugging_face("AutoModelForSequenceClassification", config.model, option="--model", num_labels=classes)
    longest = getattr(model.config, "max_position_embeddings", config.context)
    if longest < config.context:
        raise ProjectError(
            f"`--context {config.context}` is larger than the limit of {config.model}, {longest} tokens",
            hint="to cut the texts",
            option=f"--context {longest}",
        )
    return HuggingFace(model, pad)
