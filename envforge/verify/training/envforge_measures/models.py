"""Measure step time and peak memory of models the size of ResNet-50 and ViT-B, on random pixels, in each precision.

Published figures are about models of these sizes. Nothing is learned.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .context import DTYPES, Context, words

BATCHES = (64, 256)
WARM, STEPS = 3, 7


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


class Transformer(nn.Module):
    """A vision transformer over 16 by 16 patches, by default the size of ViT-B (86 million parameters)."""

    def __init__(self, depth: int = 12, width: int = 768, heads: int = 12, size: int = 224) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.places = nn.Parameter(torch.zeros(1, (size // 16) ** 2, width))
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of 1000 classes."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        scores: Tensor = self.head(self.layers(tokens).mean(dim=1))
        return scores


def models(context: Context) -> dict[str, Any]:
    """Measure each model, batch size, and precision; a run that doesn't fit into memory has an error."""
    runs = []
    for name, build in (("resnet50-size", residual), ("vit-b-size", Transformer)):
        for batch in BATCHES:
            for precision, fp32 in context.precisions:
                facts = {"model": name, "batch": batch, "precision": precision, "fp32": fp32}
                runs.append({**facts, **run(context, build, batch, precision)})
                if context.on_gpu:
                    torch.cuda.empty_cache()
    torch.set_float32_matmul_precision("highest")  # the default, so that later fp32 measurements don't use TF32
    return {"runs": runs}


def run(
    context: Context, build: Callable[[], nn.Module], batch: int, precision: str, size: int = 224
) -> dict[str, Any]:
    """Measure one model on images of this size; return its error if it doesn't fit into memory."""
    try:
        return _measure(context, build(), batch, precision, size)
    except RuntimeError as error:  # OutOfMemoryError is a subclass
        return {"error": words(error, most=300)}


def _measure(context: Context, model: nn.Module, batch: int, precision: str, size: int) -> dict[str, Any]:
    """Time forward, backward, and AdamW on one batch; return the median and the peak of allocated memory."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if context.on_gpu:
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
    context.forget_peak_memory()
    # channels last is the fast layout of convolutions on tensor cores
    layout = torch.contiguous_format if isinstance(model, Transformer) else torch.channels_last
    placed: Any = model
    placed = placed.to(device=context.device, memory_format=layout)
    images = torch.randn(batch, 3, size, size, device=context.device).contiguous(memory_format=layout)
    labels = torch.randint(1000, (batch,), device=context.device)
    optimizer = torch.optim.AdamW(placed.parameters(), lr=1e-4, fused=context.on_gpu or None)
    times = []
    for _ in range(WARM + STEPS):
        context.synchronize()
        started = time.perf_counter()
        _step(context, placed, optimizer, images, labels, precision)
        context.synchronize()
        times.append(time.perf_counter() - started)
    kept = sorted(times[WARM:])
    return {"step_s": kept[len(kept) // 2], "peak_memory_bytes": context.peak_memory()}


def _step(context: Context, model: nn.Module, optimizer: Any, images: Tensor, labels: Tensor, precision: str) -> None:
    dtype = DTYPES.get(precision)
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(context.device.type, dtype) if dtype is not None else nullcontext():
        loss = functional.cross_entropy(model(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
