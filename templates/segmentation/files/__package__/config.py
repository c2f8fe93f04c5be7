"""Everything that can be set, as one frozen value; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .options import option, require
from .settings import LoopConfig

IGNORED = 255  # pixels of a mask that teach and count nothing


@dataclass(frozen=True, kw_only=True)
class Config(LoopConfig):
    data: Path | None = option(None, "folder with images/ and masks/; without it, coins of scikit-image", fixed=True)
    classes: str = option("background,object", "names of the classes 0, 1, ... of the masks in --data", fixed=True)
    crop: int = option(48, "height and width that training sees at once; a multiple of 2 for each level", fixed=True)
    validation_part: float = option(0.25, "part of the images, or of the coins' width, held back", fixed=True)
    max_corrupt: int = option(10, "unreadable pairs to skip before giving up", fixed=True)
    width: int = option(16, "channels of the first level, doubled at each next; 64 suits photographs", fixed=True)
    levels: int = option(3, "resolutions of the network, each half of the one before", fixed=True)
    flip: bool = option(True, "mirror training images at random, in both directions", fixed=True)
    dice: float = option(0.0, "weight of the soft Dice loss beside the cross-entropy", fixed=True)
    shuffle_labels: bool = option(False, "control: learn the masks of other images, which must fail", fixed=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.validation_part < 1, f"--validation-part must be between 0 and 1, got {self.validation_part}")
        require(2 <= self.levels <= 6, f"--levels must be from 2 to 6, got {self.levels}")
        whole = 2 ** (self.levels - 1)
        require(self.crop >= 16, f"--crop must be at least 16, got {self.crop}")
        require(self.crop % whole == 0, f"--crop must be a multiple of {whole} with {self.levels} levels")
        # Tensor cores want multiples of 8 channels, and torch's CPU convolutions are unsafe with fewer than 8 (README).
        require(self.width >= 8 and self.width % 8 == 0, f"--width must be a multiple of 8, got {self.width}")
        require(self.dice >= 0, f"--dice must not be negative, got {self.dice}")
        names = self.class_names
        require(len(names) >= 2, f"--classes needs at least two names, got `{self.classes}`")
        require(len(set(names)) == len(names) <= IGNORED, f"--classes must be different names, got `{self.classes}`")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.classes.split(",") if name.strip())
