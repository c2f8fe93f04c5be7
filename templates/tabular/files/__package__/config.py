"""Define the options of this project; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .options import option, require
from .settings import LoopConfig

TASKS = ("auto", "classification", "regression")
MISSING = ("error", "mean")


@dataclass(frozen=True, kw_only=True)
class Config(LoopConfig):
    data: Path | None = option(
        None, "Train on this CSV or Parquet file with named columns; tumors by default.", fixed=True
    )
    encoding: str = option("utf-8-sig", "Decode a CSV file with this encoding.", fixed=True)
    target: str = option("", "Predict this column; the last one by default.", fixed=True)
    task: str = option(
        "auto", "Set the task; auto is regression if the target has fractions.", choices=TASKS, fixed=True
    )
    categorical: str = option("", "Treat these number columns as classes, such as codes: a,b.", fixed=True)
    ignore: str = option("", "Ignore these columns: a,b.", fixed=True)
    missing: str = option(
        "error", "Stop at an empty cell, or replace it by the mean and mark it.", choices=MISSING, fixed=True
    )
    validation_part: float = option(0.2, "Hold back this fraction of the rows for validation.", fixed=True)
    width: int = option(128, "Set the width of the hidden layers.", fixed=True)
    blocks: int = option(2, "Set the number of residual blocks.", fixed=True)
    dropout: float = option(0.1, "Drop this fraction of the activations in training.", fixed=True)
    shuffle_labels: bool = option(False, "Train on shuffled targets, as the control that must not learn.", fixed=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.validation_part < 1, f"--validation-part must be between 0 and 1, got {self.validation_part}")
        # tensor cores need multiples of 8
        require(self.width >= 8 and self.width % 8 == 0, f"--width must be a multiple of 8, got {self.width}")
        require(self.blocks >= 1, f"--blocks must be at least 1, got {self.blocks}")
        require(0 <= self.dropout < 1, f"--dropout must be at least 0 and below 1, got {self.dropout}")
