"""Measure training steps of models of the size of ResNet-50 and ViT-B, as in published figures.

They get random input, and learn nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .context import DTYPES, Context, words

Step = Callable[[], Any]
Prepare = Callable[..., Step]
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


def layers(depth: int, width: int, heads: int) -> nn.TransformerEncoder:
    """Return the layers of a transformer."""
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
        self.layers = layers(depth, width, heads)
        self.head = nn.Linear(width, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of 1000 classes."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        scores: Tensor = self.head(self.layers(tokens).mean(dim=1))
        return scores


@dataclass(frozen=True)
class Reference:
    """A model, the batch sizes to measure, and the shape of one sample."""

    name: str
    build: Callable[[], nn.Module]
    batches: tuple[int, ...]
    sample: tuple[int, ...]
    memory_format: Any = torch.contiguous_format

    def batch(self, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return random input and labels."""
        images = torch.randn(size, *self.sample, device=device).contiguous(memory_format=self.memory_format)
        return images, torch.randint(1000, (size,), device=device)


IMAGES = (
    # channels last is the fast layout of convolutions on tensor cores
    Reference("resnet50-size", residual, (64, 256), (3, 224, 224), torch.channels_last),
    Reference("vit-b-size", Transformer, (64, 256), (3, 224, 224)),
)


def models(context: Context) -> dict[str, Any]:
    """Measure each model in each batch size and precision."""
    return measured(context, IMAGES)


def eager(context: Context, model: Any, batch: tuple[Tensor, Tensor], precision: str, **options: Any) -> Step:
    """Return one step of training on a batch; ``options`` are those of the optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=context.on_gpu or None, **options)
    dtype = DTYPES.get(precision)
    images, labels = batch

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(context.device.type, dtype) if dtype is not None else nullcontext():
            loss = functional.cross_entropy(model(images).flatten(0, -2), labels.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def measured(context: Context, references: Iterable[Reference], prepare: Prepare = eager) -> dict[str, Any]:
    """Measure each run, and report each one at once, because the process may run out of time.

    A run that doesn't fit into memory has an error. ``prepare`` returns the step; variants of ``eager`` are measured
    only in low precision.
    """
    runs = []
    for reference in references:
        for batch in reference.batches:
            for precision, fp32 in context.precisions if prepare is eager else context.precisions[:1]:
                facts: dict[str, Any] = {"model": reference.name, "batch": batch, "precision": precision, "fp32": fp32}
                try:
                    facts.update(run(context, reference, batch, precision, prepare))
                except Exception as error:  # noqa: BLE001 - OutOfMemoryError, and any error of a compiler
                    facts["error"] = words(error, most=300)
                runs.append(facts)
                context.say({"event": "run", "variant": prepare.__name__, **facts})
                if context.on_gpu:
                    torch.cuda.empty_cache()
    torch.set_float32_matmul_precision("highest")  # the default, so that later fp32 measurements don't use TF32
    return {"runs": runs}


def run(context: Context, reference: Reference, batch: int, precision: str, prepare: Prepare = eager) -> dict[str, Any]:
    """Time forward, backward, and AdamW on one batch; return the median and the peak of allocated memory."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if context.on_gpu:
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
    context.forget_peak_memory()
    model: Any = reference.build()
    model = model.to(device=context.device, memory_format=reference.memory_format)
    samples = reference.batch(batch, context.device)
    started = time.perf_counter()
    step = prepare(context, model, samples, precision)
    for _ in range(WARM):
        context.seconds(step)
    ready = time.perf_counter() - started
    times = sorted(context.seconds(step) for _ in range(STEPS))
    return {"step_s": times[len(times) // 2], "peak_memory_bytes": context.peak_memory(), "ready_s": round(ready, 3)}
