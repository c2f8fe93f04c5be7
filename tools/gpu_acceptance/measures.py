"""Measure variants of the reference models of `verify` that take minutes: a language model, graphs, and compilation.

The measuring process of ``envforge verify`` runs ``main`` in an environment with torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from envforge.programs import envforge_measures
from envforge.programs.envforge_measures.context import Context, compiled_model
from envforge.programs.envforge_measures.models import (
    IMAGES,
    WARM,
    Reference,
    Step,
    Transformer,
    eager,
    layers,
    measured,
    residual,
)


class Decoder(nn.Module):
    """A causal language model, by default the size of GPT-2 small (124 million parameters)."""

    def __init__(
        self, depth: int = 12, width: int = 768, heads: int = 12, length: int = 1024, words: int = 50257
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.zeros(1, length, width))
        self.layers = layers(depth, width, heads)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)
        nn.init.normal_(self.tokens.weight, std=0.02)  # it is also the output layer, whose scores must stay small

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of every word at every place."""
        # `is_causal` selects a fused attention, which doesn't read the mask
        states = self.layers(self.tokens(tokens) + self.places, mask=self.mask, is_causal=True)
        return functional.linear(states, self.tokens.weight)


@dataclass(frozen=True)
class TextReference(Reference):
    """A language model; a sample is a sequence of words, and its label the next words."""

    words: int = 50257

    def batch(self, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return random words and labels."""
        tokens = torch.randint(self.words, (size, *self.sample), device=device)
        return tokens, tokens.roll(-1, dims=1)


TEXTS = (TextReference("gpt2-size", Decoder, (16,), (1024,)),)
TINY_IMAGES = (
    Reference("resnet50-size", partial(residual, (1, 1), 8), (2, 4), (3, 32, 32), torch.channels_last),
    Reference("vit-b-size", partial(Transformer, depth=1, width=32, heads=2, size=32), (2, 4), (3, 32, 32)),
)
_TINY = partial(Decoder, depth=1, width=32, heads=2, length=16, words=64)
TINY_TEXTS = (TextReference("gpt2-size", _TINY, (2,), (16,), words=64),)


def _captured(step: Step) -> Step:
    """Capture a step into a CUDA graph, and return the function that replays it."""
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is done once can't be captured: selecting kernels, and optimizer state
        for _ in range(WARM):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Step = graph.replay
    return replay


def graph(context: Context, *arguments: Any) -> Step:
    """Return the complete step, replayed from a CUDA graph."""
    if not context.on_gpu:
        raise RuntimeError("CUDA graphs require a GPU")
    return _captured(eager(context, *arguments, capturable=True))


def compile(context: Context, model: Any, *arguments: Any) -> Step:  # noqa: A001 - the name of its variant
    """Return the step of the compiled model, which is compiled for minutes."""
    # without a GPU, this shows that the measurement works, not what the C++ compiler makes of the model
    return eager(context, compiled_model(model, **({} if context.on_gpu else {"backend": "eager"})), *arguments)


def models(context: Context) -> dict[str, Any]:
    """Measure the image models in each batch size and precision."""
    return measured(context, TINY_IMAGES if _is_tiny(context) else IMAGES)


def language_model(context: Context) -> dict[str, Any]:
    """Measure the language model in each precision."""
    return measured(context, TINY_TEXTS if _is_tiny(context) else TEXTS)


def graphs(context: Context) -> dict[str, Any]:
    """Measure each model in low precision, with a CUDA graph."""
    return measured(context, _all(context), graph)


def compilation(context: Context) -> dict[str, Any]:
    """Measure each model in low precision with torch.compile, in its smallest batch."""
    return measured(context, [replace(each, batches=each.batches[:1]) for each in _all(context)], compile)


def _all(context: Context) -> tuple[Reference, ...]:
    return (*TINY_IMAGES, *TINY_TEXTS) if _is_tiny(context) else (*IMAGES, *TEXTS)


def _is_tiny(context: Context) -> bool:
    """Return whether to measure models that a CPU trains in a moment."""
    return bool(context.specification["tiny"])


def main(text: str) -> None:
    """Parse the specification, and run every measurement in it."""
    envforge_measures.main(text, (models, language_model, graphs, compilation))
