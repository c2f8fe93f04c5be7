"""Measure training steps of models of the size of ResNet-50, ViT-B, and GPT-2 small, as in published figures.

They get random input, and learn nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .context import DTYPES, Context, compiled_model, words

WARM, STEPS = 3, 7
EAGER, GRAPH, COMPILE = "eager", "graph", "compile"


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut; the last convolution is four times as wide."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.BatchNorm2d(4 * width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != 4 * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return the sum of body and shortcut."""
        added: Tensor = self.body(images) + self.shortcut(images)
        return functional.relu(added)


def residual(depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64) -> nn.Module:
    """Return a residual network, by default the size of ResNet-50 (25.6 million parameters)."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = width
    for stage, depth in enumerate(depths):
        for number in range(depth):
            layers.append(Bottleneck(inputs, width << stage, 2 if stage and not number else 1))
            inputs = 4 * (width << stage)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def _layers(depth: int, width: int, heads: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)


class Transformer(nn.Module):
    """A vision transformer over 16 by 16 patches, by default the size of ViT-B (86 million parameters)."""

    def __init__(self, depth: int = 12, width: int = 768, heads: int = 12, size: int = 224) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.places = nn.Parameter(torch.zeros(1, (size // 16) ** 2, width))
        self.layers = _layers(depth, width, heads)
        self.head = nn.Linear(width, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of 1000 classes."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        scores: Tensor = self.head(self.layers(tokens).mean(dim=1))
        return scores


class Decoder(nn.Module):
    """A causal language model, by default the size of GPT-2 small (124 million parameters)."""

    def __init__(
        self, depth: int = 12, width: int = 768, heads: int = 12, length: int = 1024, words: int = 50257
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.zeros(1, length, width))
        self.layers = _layers(depth, width, heads)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)
        nn.init.normal_(self.tokens.weight, std=0.02)  # it is also the output layer, whose scores must stay small

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of every word at every place."""
        # `is_causal` selects a fused attention, which doesn't read the mask
        states = self.layers(self.tokens(tokens) + self.places, mask=self.mask, is_causal=True)
        return functional.linear(states, self.tokens.weight)


@dataclass(frozen=True)
class Reference:
    """A model, the batch sizes to measure, and the shape of one sample."""

    name: str
    build: Callable[[], nn.Module]
    batches: tuple[int, ...]
    sample: tuple[int, ...]
    classes: int = 1000
    is_text: bool = False
    memory_format: Any = torch.contiguous_format

    def batch(self, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return random input and labels."""
        if self.is_text:
            tokens = torch.randint(self.classes, (size, *self.sample), device=device)
            return tokens, tokens.roll(-1, dims=1)
        images = torch.randn(size, *self.sample, device=device).contiguous(memory_format=self.memory_format)
        return images, torch.randint(self.classes, (size,), device=device)


# channels last is the fast layout of convolutions on tensor cores
_RESIDUAL = partial(Reference, memory_format=torch.channels_last)
IMAGES = (
    _RESIDUAL("resnet50-size", residual, (64, 256), (3, 224, 224)),
    Reference("vit-b-size", Transformer, (64, 256), (3, 224, 224)),
)
TEXTS = (Reference("gpt2-size", Decoder, (16,), (1024,), classes=50257, is_text=True),)
TINY_IMAGES = (
    _RESIDUAL("resnet50-size", partial(residual, (1, 1), 8), (2, 4), (3, 32, 32)),
    Reference("vit-b-size", partial(Transformer, depth=1, width=32, heads=2, size=32), (2, 4), (3, 32, 32)),
)
TINY_TEXTS = (
    Reference(
        "gpt2-size",
        partial(Decoder, depth=1, width=32, heads=2, length=16, words=64),
        (2,),
        (16,),
        classes=64,
        is_text=True,
    ),
)


def models(context: Context) -> dict[str, Any]:
    """Measure the image models in each batch size and precision; a run that doesn't fit into memory has an error."""
    return _runs(context, TINY_IMAGES if context.tiny else IMAGES, EAGER)


def language_model(context: Context) -> dict[str, Any]:
    """Measure the language model in each precision."""
    return _runs(context, TINY_TEXTS if context.tiny else TEXTS, EAGER)


def graphs(context: Context) -> dict[str, Any]:
    """Measure each model in low precision, with the complete step replayed from a CUDA graph."""
    return _runs(context, _all(context), GRAPH)


def compilation(context: Context) -> dict[str, Any]:
    """Measure each model in low precision with torch.compile, which compiles for minutes."""
    return _runs(context, _all(context), COMPILE)


def _all(context: Context) -> tuple[Reference, ...]:
    return (*TINY_IMAGES, *TINY_TEXTS) if context.tiny else (*IMAGES, *TEXTS)


def _runs(context: Context, references: Iterable[Reference], variant: str) -> dict[str, Any]:
    """Measure each run, and report each one at once, because the process may run out of time."""
    runs = []
    for reference in references:
        batches = reference.batches[:1] if variant == COMPILE else reference.batches
        for batch in batches:
            for precision, fp32 in context.precisions if variant == EAGER else context.precisions[:1]:
                facts = {"model": reference.name, "batch": batch, "precision": precision, "fp32": fp32}
                runs.append({**facts, **run(context, reference, batch, precision, variant)})
                context.say({"event": "run", "variant": variant, **runs[-1]})
                if context.on_gpu:
                    torch.cuda.empty_cache()
    torch.set_float32_matmul_precision("highest")  # the default, so that later fp32 measurements don't use TF32
    return {"runs": runs}


def run(context: Context, reference: Reference, batch: int, precision: str, variant: str = EAGER) -> dict[str, Any]:
    """Measure one model; return its error if it doesn't fit into memory, or the device can't run the variant."""
    if variant == GRAPH and not context.on_gpu:
        return {"error": "CUDA graphs require a GPU"}
    try:
        return _measure(context, reference, batch, precision, variant)
    except Exception as error:  # noqa: BLE001 - OutOfMemoryError, and any error of a compiler
        return {"error": words(error, most=300)}


def _measure(context: Context, reference: Reference, batch: int, precision: str, variant: str) -> dict[str, Any]:
    """Time forward, backward, and AdamW on one batch; return the median and the peak of allocated memory."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if context.on_gpu:
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
    context.forget_peak_memory()
    model: Any = reference.build()
    model = model.to(device=context.device, memory_format=reference.memory_format)
    images, labels = reference.batch(batch, context.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, fused=context.on_gpu or None, capturable=variant == GRAPH
    )
    started = time.perf_counter()
    if variant == COMPILE:
        # without a GPU, this shows that the measurement works, not what the C++ compiler makes of the model
        model = compiled_model(model, **({} if context.on_gpu else {"backend": "eager"}))
    step: Callable[[], Any] = partial(_step, context, model, optimizer, images, labels, precision)
    if variant == GRAPH:
        step = _captured(step)
    times = [_seconds(context, step) for _ in range(WARM)]
    ready = time.perf_counter() - started
    times = sorted(_seconds(context, step) for _ in range(STEPS))
    return {"step_s": times[len(times) // 2], "peak_memory_bytes": context.peak_memory(), "ready_s": round(ready, 3)}


def _seconds(context: Context, step: Callable[[], Any]) -> float:
    context.synchronize()
    started = time.perf_counter()
    step()
    context.synchronize()
    return time.perf_counter() - started


def _captured(step: Callable[[], Any]) -> Callable[[], Any]:
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
    replay: Callable[[], Any] = graph.replay
    return replay


def _step(context: Context, model: nn.Module, optimizer: Any, images: Tensor, labels: Tensor, precision: str) -> None:
    dtype = DTYPES.get(precision)
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(context.device.type, dtype) if dtype is not None else nullcontext():
        loss = functional.cross_entropy(model(images).flatten(0, -2), labels.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
