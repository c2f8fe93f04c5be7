"""Define the options of this project; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .engine.options import PRECISIONS, TrainOptions, default, option, require
from .layers import SIZES
from .texts import BYTES, HUGGING_FACE, TIKTOKEN

LEAST_CONTEXT = 8


@dataclass(frozen=True, kw_only=True)
class Config(TrainOptions):
    epochs: int = default("epochs", 8)
    batch_size: int = default("batch_size", 8)
    lr: float = default("lr", 4e-3)
    weight_decay: float = default("weight_decay", 0.1)
    data: Path | None = option(
        None, "Train on this text file or directory; Python's documentation by default.", resume="same"
    )
    suffixes: str = option(".txt,.md,.rst,.py", "Read the files of a directory with these suffixes.", resume="same")
    tokenizer: str = option(
        BYTES, f"Use {BYTES}, {TIKTOKEN}NAME, {HUGGING_FACE}NAME, or a tokenizer.json.", resume="same"
    )
    val_fraction: float = option(0.1, "Hold back this fraction of the text for validation.", resume="same")
    val_windows: int = option(
        0, "Evaluate on this many windows, evenly spread over the validation text; 0 for all.", resume="same"
    )
    size: str = option("micro", "Set the size of the model.", choices=tuple(SIZES), resume="same")
    context: int = option(128, "Set how many tokens the model sees at once.", resume="same")
    dropout: float = option(0.0, "Drop this fraction of the activations in training.")
    precision: str = option("auto", "Compute in this precision.", choices=(*PRECISIONS, "fp8"), resume="free")
    fsdp: bool = option(False, "Shard the weights over all processes (FSDP2), for large models.", resume="free")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.val_fraction < 1, f"--val-fraction must be between 0 and 1, got {self.val_fraction}")
        require(self.val_windows >= 0, f"--val-windows must not be negative, got {self.val_windows}")
        require(self.context >= LEAST_CONTEXT, f"--context must be at least {LEAST_CONTEXT}, got {self.context}")
        require(0 <= self.dropout < 1, f"--dropout must be at least 0 and below 1, got {self.dropout}")
