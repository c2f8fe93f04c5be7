"""Everything that can be set, as one frozen value; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .options import option, require
from .settings import LoopConfig
from .tokens import BYTES, HUGGING_FACE, TIKTOKEN
from .transformer import SIZES


@dataclass(frozen=True, kw_only=True)
class Config(LoopConfig):
    data: Path | None = option(None, "CSV, TSV or JSONL file; without it, texts of the standard library", fixed=True)
    text_column: str = option("text", "column (CSV) or key (JSONL) of the text", fixed=True)
    label_column: str = option("label", "column (CSV) or key (JSONL) of the label", fixed=True)
    encoding: str = option("utf-8-sig", "encoding of the file", fixed=True)
    max_bad_rows: int = option(0, "rows without text or label to leave out before giving up", fixed=True)
    validation_part: float = option(0.2, "part of the texts held back for validation", fixed=True)
    model: str = option("micro", f"size: {', '.join(SIZES)}; or {HUGGING_FACE}NAME, a name or folder", fixed=True)
    tokenizer: str = option(BYTES, f"{BYTES}; {TIKTOKEN}NAME; or the path of a tokenizer.json", fixed=True)
    context: int = option(128, "bytes or tokens of a text that the model sees; longer ones are cut", fixed=True)
    dropout: float = option(0.1, "part of the activations left out in training", fixed=True)
    class_weights: bool = option(False, "weigh each class by the inverse of its frequency", fixed=True)
    label_smoothing: float = option(0.0, "part of the target given to all classes alike", fixed=True)
    shuffle_labels: bool = option(False, "control: learn shuffled labels, which must fail", fixed=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.model in SIZES or (self.model.startswith(HUGGING_FACE) and self.model != HUGGING_FACE)
        require(known, f"--model must be one of {', '.join(SIZES)} or {HUGGING_FACE}NAME, got {self.model}")
        require(0 < self.validation_part < 1, f"--validation-part must be between 0 and 1, got {self.validation_part}")
        require(self.context >= 8, f"--context must be at least 8, got {self.context}")
        require(self.max_bad_rows >= 0, f"--max-bad-rows must not be negative, got {self.max_bad_rows}")
        require(0 <= self.dropout < 1, f"--dropout must be at least 0 and below 1, got {self.dropout}")
        require(0 <= self.label_smoothing < 1, f"--label-smoothing must be below 1, got {self.label_smoothing}")
