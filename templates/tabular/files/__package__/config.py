"""Define the options of this project; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .engine.options import TrainOptions, default, option, require

TASKS = ("auto", "classification", "regression")
MISSING = ("error", "mean")
DECIMAL_MARKS = {"auto": "", "point": ".", "comma": ","}


@dataclass(frozen=True, kw_only=True)
class Config(TrainOptions):
    epochs: int = default("epochs", 40)
    lr: float = default("lr", 1e-3)
    weight_decay: float = default("weight_decay", 0.2)
    data: Path | None = option(
        None, "Train on this CSV or Parquet file with named columns; tumors by default.", resume="same"
    )
    encoding: str = option("utf-8-sig", "Decode a CSV file with this encoding.", resume="same")
    decimal: str = option(
        "auto",
        "Read numbers with this decimal mark; auto decides by the cells.",
        choices=tuple(DECIMAL_MARKS),
        resume="same",
    )
    target: str = option("", "Predict this column; the last one by default.", resume="same")
    task: str = option(
        "auto",
        "Set the task; auto is regression if the target has fractions, or more than 10 different numbers.",
        choices=TASKS,
        resume="same",
    )
    categorical: str = option("", "Treat these number columns as classes, such as codes: a,b.", resume="same")
    ignore: str = option("", "Ignore these columns: a,b.", resume="same")
    missing: str = option(
        "error", "Stop at an empty cell, or replace it by the mean and mark it.", choices=MISSING, resume="same"
    )
    val_fraction: float = option(0.2, "Hold back this fraction of the rows for validation.", resume="same")
    split_seed: int = option(2000, "Split the rows at random with this seed.", resume="same")
    width: int = option(128, "Set the width of the hidden layers.", resume="same")
    blocks: int = option(2, "Set the number of residual blocks.", resume="same")
    members: int = option(16, "Average this many predictions, which share nearly all weights.", resume="same")
    dropout: float = option(0.1, "Drop this fraction of the activations in training.")
    class_weights: bool = option(False, "Weight each class by the inverse of its frequency.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.val_fraction < 1, f"--val-fraction must be between 0 and 1, got {self.val_fraction}")
        # tensor cores need multiples of 8
        require(self.width >= 8 and self.width % 8 == 0, f"--width must be a multiple of 8, got {self.width}")
        require(self.blocks >= 1, f"--blocks must be at least 1, got {self.blocks}")
        require(self.members >= 1, f"--members must be at least 1, got {self.members}")
        require(0 <= self.dropout < 1, f"--dropout must be at least 0 and below 1, got {self.dropout}")
