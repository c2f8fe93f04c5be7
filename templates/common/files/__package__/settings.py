"""What the loop needs to know; each field is an option of ``train``, and a project's ``Config`` adds its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .device import PRECISIONS
from .options import option, require


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    run_dir: Path = option(Path("runs/default"), "folder for checkpoints, metrics and curves")
    resume: bool = option(False, "continue from the newest checkpoint in --run-dir, if there is one")
    epochs: int = option(10, "passes over the training data", fixed=True)
    max_updates: int = option(0, "stop after so many updates; 0 for no limit", fixed=True)
    batch_size: int = option(64, "samples in a micro-batch, on each GPU", fixed=True)
    auto_batch: bool = option(False, "find the largest --batch-size that fits, and keep --batch-size x --accumulate")
    accumulate: int = option(1, "micro-batches in one update", fixed=True)
    learning_rate: float = option(2e-3, "peak learning rate of AdamW", fixed=True)
    warmup: float = option(0.1, "part of the updates in which the learning rate rises", fixed=True)
    weight_decay: float = option(0.05, "decay of weights, not of biases and norms", fixed=True)
    clip_norm: float = option(1.0, "largest norm of the gradient; 0 for no clipping", fixed=True)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")
    precision: str = option("auto", "what to compute in; auto goes by the device", choices=PRECISIONS)
    init_scale: float = option(2.0**16, "first loss scale (fp16 only)", fixed=True)
    growth_interval: int = option(2000, "updates without overflow until the loss scale doubles (fp16 only)", fixed=True)
    max_skips: int = option(20, "stop when so many updates in a row were not finite")
    detect_anomaly: bool = option(False, "name the operation that first gives NaN in backward; slow, to find faults")
    ema: float = option(0.0, "evaluate a moving average of the weights with this decay (0.999); 0 for none", fixed=True)
    compile: bool = option(False, "torch.compile: faster on GPUs after a minute or more; needs a C compiler")
    profile: int = option(0, "record so many updates into trace.json")
    seed: int = option(0, "seed of every random generator", fixed=True)
    deterministic: bool = option(False, "only kernels that give the same bits each time; slower")
    workers: int = option(-1, "processes that load data; -1 decides")
    log_every: int = option(10, "updates between two lines in metrics.jsonl", fixed=True)
    save_every: int = option(500, "updates between two checkpoints, besides one at each epoch's end")
    keep: int = option(3, "checkpoints to keep, besides the best")

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
