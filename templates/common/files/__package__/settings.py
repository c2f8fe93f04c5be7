"""Define the options of the training loop; a project's ``Config`` adds its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .device import PRECISIONS
from .options import option, require


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    run_dir: Path = option(Path("runs/default"), "Write checkpoints, metrics, and curves into this directory.")
    resume: bool = option(False, "Continue from the newest checkpoint in --run-dir, if there is one.")
    epochs: int = option(10, "Train for this many passes over the training data.", fixed=True)
    max_updates: int = option(0, "Stop after this many updates; 0 for no limit.", fixed=True)
    batch_size: int = option(64, "Put this many samples into a micro-batch, on each GPU.", fixed=True)
    auto_batch: bool = option(
        False, "Find the largest --batch-size that fits, and keep --batch-size x --accumulate constant."
    )
    accumulate: int = option(1, "Accumulate the gradients of this many micro-batches in an update.", fixed=True)
    learning_rate: float = option(2e-3, "Set the peak learning rate of AdamW.", fixed=True)
    warmup: float = option(0.1, "Increase the learning rate during this fraction of the updates.", fixed=True)
    weight_decay: float = option(0.05, "Decay weights, but not biases and norms.", fixed=True)
    clip_norm: float = option(1.0, "Clip gradients to this norm; 0 for no clipping.", fixed=True)
    device: str = option("auto", "Train on auto, cpu, cuda, cuda:1, or mps.")
    precision: str = option("auto", "Compute in this precision; auto depends on the device.", choices=PRECISIONS)
    init_scale: float = option(2.0**16, "Start with this loss scale (fp16 only).", fixed=True)
    growth_interval: int = option(
        2000, "Double the loss scale after this many updates without overflow (fp16 only).", fixed=True
    )
    max_skips: int = option(20, "Stop after this many consecutive updates that are not finite.")
    detect_anomaly: bool = option(False, "Report the operation whose gradient is NaN first (slow).")
    ema: float = option(
        0.0, "Evaluate a moving average of the weights with this decay, such as 0.999; 0 for none.", fixed=True
    )
    compile: bool = option(False, "Use torch.compile, which takes a minute or more and requires a C++ compiler.")
    profile: int = option(0, "Record this many updates into trace.json.")
    seed: int = option(0, "Seed every random generator with this number.", fixed=True)
    deterministic: bool = option(False, "Use only kernels with bit-identical results (slower).")
    workers: int = option(-1, "Load data in this many processes; -1 for automatic.")
    log_every: int = option(10, "Write a line to metrics.jsonl after this many updates.", fixed=True)
    save_every: int = option(500, "Save a checkpoint after this many updates, and after each epoch.")
    keep: int = option(3, "Keep this many checkpoints in addition to the best one.")

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "accumulate", "log_every", "save_every", "keep", "max_skips")
        for name in (*counts, "growth_interval"):
            value = getattr(self, name)
            require(value >= 1, f"--{name.replace('_', '-')} must be at least 1, got {value}")
        require(self.learning_rate > 0, f"--learning-rate must be above 0, got {self.learning_rate}")
        require(0 <= self.warmup < 1, f"--warmup must be at least 0 and below 1, got {self.warmup}")
        require(self.profile >= 0, f"--profile must not be negative, got {self.profile}")
        require(0 <= self.ema < 1, f"--ema must be at least 0 and below 1, got {self.ema}")
        require(self.init_scale >= 1, f"--init-scale must be at least 1, got {self.init_scale}")
        require(self.clip_norm >= 0, f"--clip-norm must not be negative, got {self.clip_norm}")
