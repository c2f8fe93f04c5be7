"""Define the options of this project; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .options import option, require
from .settings import LoopConfig
from .tokens import BYTES, HUGGING_FACE, TIKTOKEN
from .transformer import SIZES


@dataclass(frozen=True, kw_only=True)
class Config(LoopConfig):
    data: Path | None = option(
        None, "Train on this CSV, TSV, or JSONL file; texts of the standard library by default.", fixed=True
    )
    text_column: str = option("text", "Read texts from this column (CSV) or key (JSONL).", fixed=True)
    label_column: str = option("label", "Read labels from this column (CSV) or key (JSONL).", fixed=True)
    encoding: str = option("utf-8-sig", "Decode the file with this encoding.", fixed=True)
    max_bad_rows: int = option(0, "Skip up to this many rows without text or label.", fixed=True)
    validation_part: float = option(0.2, "Hold back this fraction of the texts for validation.", fixed=True)
    model: str = option("micro", f"Train {', '.join(SIZES)}, or {HUGGING_FACE}NAME.", fixed=True)
    tokenizer: str = option(BYTES, f"Use {BYTES}, {TIKTOKEN}NAME, {HUGGING_FACE}NAME, or a tokenizer.json.", fixed=True)
    context: int = option(128, "Cut texts to this many bytes or tokens.", fixed=True)
    dropout: float = option(0.1, "Drop this fraction of the activations in training.", fixed=True)
    class_weights: bool = option(False, "Weight each class by the inverse of its frequency.", fixed=True)
    label_smoothing: float = option(0.0, "Spread this fraction of the target over all classes.", fixed=True)
    shuffle_labels: bool = option(False, "Train on shuffled labels, as the control that must not learn.", fixed=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.model in SIZES or (self.model.startswith(HUGGING_FACE) and self.model != HUGGING_FACE)
        require(known, f"--model must be one of {', '.join(SIZES)} or {HUGGING_FACE}NAME, got {self.model}")
        require(0 < self.validation_part < 1, f"--validation-part must be between 0 and 1, got {self.validation_part}")
        require(self.context >= 8, f"--context must be at least 8, got {self.context}")
        require(self.max_bad_rows >= 0, f"--max-bad-rows must not be negative, got {self.max_bad_rows}")
        require(0 <= self.dropout < 1, f"--dropout must be at least 0 and below 1, got {self.dropout}")
        require(0 <= self.label_smoothing < 1, f"--label-smoothing must be below 1, got {self.label_smoothing}")
