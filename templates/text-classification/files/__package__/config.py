"""Define the options of this project; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .engine.options import TrainOptions, default, option, require
from .layers import SIZES
from .texts import BYTES, HUGGING_FACE, TIKTOKEN


@dataclass(frozen=True, kw_only=True)
class Config(TrainOptions):
    epochs: int = default("epochs", 5)
    lr: float = default("lr", 4e-3)
    data: Path | None = option(
        None, "Train on this CSV, TSV, or JSONL file; texts of the standard library by default.", resume="same"
    )
    text_column: str = option("text", "Read texts from this column (CSV) or key (JSONL).", resume="same")
    label_column: str = option("label", "Read labels from this column (CSV) or key (JSONL).", resume="same")
    encoding: str = option("utf-8-sig", "Decode the file with this encoding.", resume="same")
    max_bad_rows: int = option(0, "Skip up to this many rows without text or label.", resume="same")
    val_fraction: float = option(0.2, "Hold back this fraction of the texts for validation.", resume="same")
    model: str = option("pico", f"Train {', '.join(SIZES)}, or {HUGGING_FACE}NAME.", resume="same")
    pretrained: bool = option(True, "Start a Hugging Face model with its own weights.")
    tokenizer: str = option(
        BYTES, f"Use {BYTES}, {TIKTOKEN}NAME, {HUGGING_FACE}NAME, or a tokenizer.json.", resume="same"
    )
    context: int = option(128, "Cut texts to this many bytes or tokens.", resume="same")
    dropout: float = option(0.3, "Drop this fraction of the activations in training.")
    class_weights: bool = option(False, "Weight each class by the inverse of its frequency.")
    label_smoothing: float = option(0.1, "Spread this fraction of the target over all classes.")
    ngram_dropout: float = option(0.6, "Drop this fraction of the values of n-grams in training.")
    token_dropout: float = option(0.1, "Hide this fraction of the bytes or tokens in training.")

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.model in SIZES or (self.model.startswith(HUGGING_FACE) and self.model != HUGGING_FACE)
        require(known, f"--model must be one of {', '.join(SIZES)} or {HUGGING_FACE}NAME, got {self.model}")
        require(0 < self.val_fraction < 1, f"--val-fraction must be between 0 and 1, got {self.val_fraction}")
        require(self.context >= 8, f"--context must be at least 8, got {self.context}")
        require(self.max_bad_rows >= 0, f"--max-bad-rows must not be negative, got {self.max_bad_rows}")
        for name in ("dropout", "ngram_dropout", "token_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"--{name.replace('_', '-')} must be at least 0 and below 1, got {value}")
        require(0 <= self.label_smoothing < 1, f"--label-smoothing must be below 1, got {self.label_smoothing}")
