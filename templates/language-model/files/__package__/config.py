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
    data: Path | None = option(None, "text file, or folder of them; without it, Python's documentation", fixed=True)
    suffixes: str = option(".txt,.md,.rst,.py", "which files of a folder are read", fixed=True)
    tokenizer: str = option(BYTES, f"{BYTES}; {TIKTOKEN}NAME; {HUGGING_FACE}NAME; or a tokenizer.json", fixed=True)
    validation_part: float = option(0.1, "part of the text held back for validation", fixed=True)
    validation_windows: int = option(200, "windows of the validation text to evaluate on, evenly spread", fixed=True)
    size: str = option("micro", "width and depth of the model", choices=tuple(SIZES), fixed=True)
    context: int = option(256, "tokens that the model sees at once; 1024 for GPT-2", fixed=True)
    dropout: float = option(0.0, "part of the activations left out in training", fixed=True)
    fsdp: bool = option(False, "hold a part of the weights on each process (FSDP2), for large models", fixed=True)
    shuffle_text: bool = option(False, "control: learn from shuffled text, which must fail", fixed=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.validation_part < 1, f"--validation-part must be between 0 and 1, got {self.validation_part}")
        require(self.validation_windows >= 1, f"--validation-windows must be above 0, got {self.validation_windows}")
        require(self.context >= 8, f"--context must be at least 8, got {self.context}")
        require(0 <= self.dropout < 1, f"--dropout must be at least 0 and below 1, got {self.dropout}")
