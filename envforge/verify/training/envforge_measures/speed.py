"""Measure speed: products and copies on the device, steps of the project and of reference models, and torch.compile.

The reference models have the size of ResNet-50 and ViT-B, as in published figures. They get random pixels, and learn
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .context import DTYPES, Context, batches, finite, words

BATCHES = (64, 256)
WARM, STEPS = 3, 7


def throughput(context: Context) -> dict[str, Any]:
    """Multiply square matrices in low precision for some seconds, then in fp32; results are in 10^12 FLOP/s."""
    on_gpu = context.on_gpu
    size, seconds = (8192, 3.0) if on_gpu else (128, 0.1)
    free = torch.cuda.mem_get_info(context.device)[0] if on_gpu else 1 << 34
    # three fp32 matrices must fit into half of the free memory
    while size > 512 and 3 * size * size * 4 > free // 2:
        size //= 2
    began = time.time()
    low = _flops(context, DTYPES[context.low], size, seconds)
    ended = time.time()
    context.say({"event": "load", "from": began, "to": ended})
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    full = _flops(context, torch.float32, size, seconds / 3)
    torch.set_float32_matmul_precision(before)
    return {"dtype": context.low, "size": size, "low_tflops": low, "fp32_tflops": full}


def _flops(context: Context, dtype: torch.dtype, size: int, seconds: float) -> float:
    left = torch.randn(size, size, device=context.device).to(dtype)
    right = torch.randn(size, size, device=context.device).to(dtype)
    out = torch.empty(size, size, device=context.device, dtype=dtype)
    best = 0.0
    _repeat(context, lambda: torch.mm(left, right, out=out), 2)  # cuBLAS selects its kernel
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        took = _repeat(context, lambda: torch.mm(left, right, out=out), 4)
        best = max(best, 4 * 2 * float(size) ** 3 / took / 1e12)
    return best


def _repeat(context: Context, work: Callable[[], Any], times: int) -> float:
    context.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        work()
    context.synchronize()
    return time.perf_counter() - started


def transfer(context: Context) -> dict[str, Any]:
    """Time copies of 256 MiB of pinned memory to the GPU and back; the best of five applies."""
    size = 256 << 20
    host = torch.empty(size, dtype=torch.uint8).pin_memory()  # the driver copies other memory twice
    there = torch.empty(size, dtype=torch.uint8, device=context.device)
    began = time.time()
    up = min(_repeat(context, lambda: there.copy_(host, non_blocking=True), 2) / 2 for _ in range(5))
    down = min(_repeat(context, lambda: host.copy_(there, non_blocking=True), 2) / 2 for _ in range(5))
    context.say({"event": "copies", "from": began, "to": time.time()})
    return {"to_device_bytes_per_s": size / up, "from_device_bytes_per_s": size / down}


def compare(context: Context) -> dict[str, Any]:
    """Time the project's training in low precision, in fp32 (ieee), and in TF32 if the GPU supports it."""
    updates = 60 if context.on_gpu else 16
    return {"runs": [_timed(context, precision, fp32, updates) for precision, fp32 in context.precisions]}


def _timed(context: Context, precision: str, fp32: str | None, updates: int) -> dict[str, Any]:
    training = context.project.training(precision)
    context.forget_peak_memory()
    losses: list[Any] = []
    times: list[float] = []
    for group in batches(training, min(updates, training.total_updates)):
        context.synchronize()  # CUDA returns before the work is done
        started = time.perf_counter()
        losses.append(training.train_step(group))
        context.synchronize()
        times.append(time.perf_counter() - started)
    # the first steps allocate memory and select kernels
    kept = sorted(times[WARM:] or times)
    return {
        "precision": precision,
        "fp32": fp32,
        "step_s": kept[len(kept) // 2],
        "steps": len(kept),
        "batch": int(getattr(training.config, "batch_size", 0)),
        "peak_memory_bytes": context.peak_memory(),
        "losses": finite(losses),
    }


def compiled(context: Context) -> dict[str, Any]:
    """Return the loss and gradient norm of one batch, eager and compiled."""
    settings: Any = getattr(getattr(torch, "_functorch", None), "config", None)
    if hasattr(settings, "backward_pass_autocast"):
        settings.backward_pass_autocast = "off"  # noqa: S105 - AMP recommends a backward pass outside autocast
    training = context.project.training(context.low)
    batch = next(iter(batches(training, 1)))[0]
    eager, eager_norm = _eager_or_compiled(training, training.model, batch)
    started = time.perf_counter()
    model = torch.compile(training.model)
    loss, norm = _eager_or_compiled(training, model, batch)
    context.synchronize()
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 2),
        "eager_loss": finite([eager])[0],
        "compiled_loss": finite([loss])[0],
        "eager_gradient_norm": finite([eager_norm])[0],
        "compiled_gradient_norm": finite([norm])[0],
    }


def _eager_or_compiled(training: Any, model: Any, batch: Any) -> Any:
    """Run one forward and backward pass without an update."""
    torch.manual_seed(3)  # both steps must draw the same random numbers
    training.optimizer.zero_grad(set_to_none=True)
    with training.amp.autocast():
        loss = training.task.loss(model, batch)
    loss.backward()
    squares = [float(p.grad.detach().double().norm()) ** 2 for p in training.model.parameters() if p.grad is not None]
    return float(loss.detach()), sum(squares) ** 0.5


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
