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
        None, "Train on this text file or directory; Python's documentation by default.", fixed=True
    )
    suffixes: str = option(".txt,.md,.rst,.py", "Read the files of a directory with these suffixes.", fixed=True)
    tokenizer: str = option(BYTES, f"Use {BYTES}, {TIKTOKEN}NAME, {HUGGING_FACE}NAME, or a tokenizer.json.", fixed=True)
    validation_part: float = option(0.1, "Hold back this fraction of the text for validation.", fixed=True)
    validation_windows: int = option(
        200, "Evaluate on this many windows, evenly spread over the validation text.", fixed=True
    )
    size: str = option("micro", "Set the size of the model.", choices=tuple(SIZES), fixed=True)
    context: int = option(256, "Set how many tokens the model sees at once.", fixed=True)
    dropout: float = option(0.0, "Drop this fraction of the activations in training.", fixed=True)
    fsdp: bool = option(False, "Shard the weights over all processes (FSDP2), for large models.", fixed=True)
    shuffle_text: bool = option(False, "Train on shuffled text, as the control that must not learn.", fixed=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.validation_part < 1, f"--validation-part must be between 0 and 1, got {self.validation_part}")
        require(self.validation_windows >= 1, f"--validation-windows must be at least 1, got {self.validation_windows}")
        require(self.context >= 8, f"--context must be at least 8, got {self.context}")
        require(0 <= self.dropout < 1, f"--dropout must be at least 0 and below 1, got {self.dropout}")
