"""Everything that can be set, as one frozen value; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .options import option, require
from .settings import LoopConfig

TASKS = ("auto", "classification", "regression")
MISSING = ("error", "mean")


@dataclass(frozen=True, kw_only=True)
class Config(LoopConfig):
    data: Path | None = option(None, "CSV or Parquet file with named columns; without it, tumours", fixed=True)
    encoding: str = option("utf-8-sig", "encoding of a CSV file", fixed=True)
    target: str = option("", "the column to predict; the last one where it is not named", fixed=True)
    task: str = option(
        "auto", "what to learn; auto: classes, unless the target is a fraction", choices=TASKS, fixed=True
    )
    categorical: str = option("", "number columns that are classes, such as codes: a,b", fixed=True)
    ignore: str = option("", "columns to leave out: a,b", fixed=True)
    missing: str = option("error", "empty cells: stop, or take the mean and mark them", choices=MISSING, fixed=True)
    validation_part: float = option(0.2, "part of the rows held back for validation", fixed=True)
    width: int = option(128, "numbers in a hidden layer", fixed=True)
    blocks: int = option(2, "residual blocks", fixed=True)
    dropout: float = option(0.1, "part of the hidden numbers dropped in training", fixed=True)
    shuffle_labels: bool = option(False, "control: learn shuffled targets, which must fail", fixed=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.validation_part < 1, f"--validation-part must be between 0 and 1, got {self.validation_part}")
        # Tensor cores want multiples of 8.
        require(self.width >= 8 and self.width % 8 == 0, f"--width must be a multiple of 8, got {self.width}")
        require(self.blocks >= 1, f"--blocks must be at least 1, got {self.blocks}")
        require(0 <= self.dropout < 1, f"--dropout must be at least 0 and below 1, got {self.dropout}")
