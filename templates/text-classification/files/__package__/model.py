"""Define the models: a Transformer encoder over bytes, or a Hugging Face model if `transformers` is installed."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import Config
from .engine.errors import ProjectError, library
from .layers import SIZES, Block
from .texts import HUGGING_FACE, from_hugging_face

PAD = 0  # a byte or token is stored as its number plus one
ORDERS = (2, 3, 4, 5, 6)  # of the n-grams
SLOTS = 16_384  # for the n-grams of one order


class TextTransformer(nn.Module):
    """Embeddings of tokens and of hashed n-grams, Transformer blocks, the mean over the text, and a linear layer."""

    def __init__(self, classes: int, vocabulary: int, config: Config) -> None:
        super().__init__()
        width, depth, heads = SIZES[config.model]
        self.dropout, self.ngram_dropout, self.token_dropout = (
            config.dropout,
            config.ngram_dropout,
            config.token_dropout,
        )
        self.tokens = nn.Embedding(-(-vocabulary // 8) * 8, width)  # a multiple of 8 for the tensor cores
        self.ngrams = nn.ModuleList(nn.Embedding(SLOTS, width) for _ in ORDERS)
        self.positions = nn.Embedding(config.context + -config.context % 16, width)  # texts are filled up to 16
        for table in (self.tokens, *self.ngrams, self.positions):
            nn.init.normal_(cast(nn.Embedding, table).weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, dropout=config.dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = tokens != PAD
        if self.training and self.token_dropout:
            tokens = tokens.masked_fill(torch.rand(tokens.shape, device=tokens.device) < self.token_dropout, PAD)
        ngrams = [table(hash_ngrams(tokens, order)) for table, order in zip(self.ngrams, ORDERS)]
        summed = functional.dropout(torch.stack(ngrams).sum(dim=0), self.ngram_dropout, self.training)
        hidden = self.tokens(tokens) + summed
        hidden = hidden + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        hidden = functional.dropout(hidden, self.dropout, self.training)
        for block in self.blocks:
            hidden = block(hidden, mask[:, None, None, :])
        weights = mask[:, :, None].to(hidden.dtype)
        mean = (self.norm(hidden) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return cast(Tensor, self.head(functional.dropout(mean, self.dropout, self.training)))


class HuggingFace(nn.Module):
    """Call a pretrained model with token numbers, and return its scores."""

    def __init__(self, model: nn.Module, pad: int) -> None:
        super().__init__()
        self.model, self.pad = model, pad

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.model(input_ids=tokens, attention_mask=(tokens != self.pad).long()).logits)


def hash_ngrams(tokens: Tensor, order: int) -> Tensor:
    """Return a number below SLOTS for each position, from the token there and the ``order - 1`` before it."""
    padded = functional.pad(tokens, (order - 1, 0))
    length = tokens.shape[1]
    mixed = torch.zeros_like(tokens)
    for offset in range(order):
        mixed = (mixed * 1_000_003 + padded[:, offset : offset + length] + 7) % 2_147_483_647
    return mixed % SLOTS


def make_model(config: Config, about: dict[str, Any]) -> nn.Module:
    """Create the configured model; ``about`` has the classes, the vocabulary, and the padding."""
    classes = len(about["classes"])
    if not config.model.startswith(HUGGING_FACE):
        return TextTransformer(classes, about["vocabulary"], config)
    if config.pretrained:
        kind = "AutoModelForSequenceClassification"
        model = from_hugging_face(kind, config.model, option="--model", num_labels=classes)
    else:
        settings = from_hugging_face("AutoConfig", config.model, option="--model", num_labels=classes)
        model = library("transformers", "`--model`").AutoModelForSequenceClassification.from_config(settings)
    longest = getattr(model.config, "max_position_embeddings", config.context)
    if longest < config.context:
        raise ProjectError(
            f"`--context {config.context}` is larger than the limit of {config.model}, {longest} tokens",
            hint=f"to cut the texts, pass `--context {longest}`",
        )
    return HuggingFace(model, about["pad"])


def example_inputs(config: Config, about: dict[str, Any]) -> tuple[Tensor, ...]:
    """Return inputs for an export."""
    return (torch.randint(1, about["vocabulary"], (4, 16 * (config.context // 16) or config.context)),)
