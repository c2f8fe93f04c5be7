"""Everything that can be set, as one frozen value; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .options import option, require
from .settings import LoopConfig

MODELS = ("resnet",)


@dataclass(frozen=True, kw_only=True)
class Config(LoopConfig):
    data: Path | None = option(None, "folder with one subfolder of images per class; without it, digits", fixed=True)
    image_size: int = option(64, "height and width of the images of --data; digits stay 8 by 8", fixed=True)
    validation_part: float = option(0.2, "part of the images held back for validation", fixed=True)
    max_corrupt: int = option(10, "unreadable images to skip before giving up", fixed=True)
    model: str = option("resnet", "what to train", choices=MODELS, fixed=True)
    width: int = option(16, "channels of the first stage, doubled at each next; 64 suits photographs", fixed=True)
    shift: int = option(1, "shift training images at random by up to so many pixels", fixed=True)
    flip: bool = option(False, "mirror training images at random; for photographs, not for digits", fixed=True)
    label_smoothing: float = option(0.0, "part of the target given to all classes alike", fixed=True)
    shuffle_labels: bool = option(False, "control: learn shuffled labels, which must fail", fixed=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.validation_part < 1, f"--validation-part must be between 0 and 1, got {self.validation_part}")
        require(self.image_size >= 8, f"--image-size must be at least 8, got {self.image_size}")
        # Tensor cores want multiples of 8 channels, and torch's CPU convolutions are unsafe with fewer than 8 (README).
        require(self.width >= 8 and self.width % 8 == 0, f"--width must be a multiple of 8, got {self.width}")
        require(0 <= self.label_smoothing < 1, f"--label-smoothing must be below 1, got {self.label_smoothing}")
        require(0 <= self.shift < 8, f"--shift must be from 0 to 7, got {self.shift}")
