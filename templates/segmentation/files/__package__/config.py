"""Define the options of this project; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .engine.options import TrainOptions, default, option, require, words

IGNORED = 255  # mask value of pixels that training and evaluation ignore


@dataclass(frozen=True, kw_only=True)
class Config(TrainOptions):
    epochs: int = default("epochs", 30)
    batch_size: int = default("batch_size", 16)
    lr: float = default("lr", 3e-3)
    data: Path | None = option(
        None, "Train on this directory with images/ and masks/; coins of scikit-image by default.", resume="same"
    )
    classes: str = option("background,object", "Name the classes 0, 1, ... of the masks.", resume="same")
    crop: int = option(48, "Crop images to this height and width, a multiple of 2 ** (levels - 1).", resume="same")
    val_fraction: float = option(
        0.25, "Hold back this fraction of the images, or of the coins' width, for validation.", resume="same"
    )
    max_corrupt: int = option(10, "Skip up to this many unreadable pairs of image and mask.")
    width: int = option(16, "Set the channels of the first level, doubled at each further level.", resume="same")
    levels: int = option(3, "Set the number of resolutions, each half of the previous one.", resume="same")
    flip: bool = option(True, "Mirror training images at random in both directions.")
    dice: float = option(0.0, "Add the soft Dice loss with this weight to the cross-entropy.")
    random_crop: bool = option(True, "Train on random parts of the images of --data, scaled to --crop.")
    class_weights: bool = option(False, "Weight each class by the inverse of its number of pixels.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.val_fraction < 1, f"--val-fraction must be between 0 and 1, got {self.val_fraction}")
        require(2 <= self.levels <= 6, f"--levels must be from 2 to 6, got {self.levels}")
        whole = 2 ** (self.levels - 1)
        require(self.crop >= 16, f"--crop must be at least 16, got {self.crop}")
        require(
            self.crop % whole == 0, f"--crop must be a multiple of {whole} for {self.levels} levels, got {self.crop}"
        )
        # tensor cores need multiples of 8, and torch's CPU convolutions are unsafe with fewer than 8 channels (README)
        require(self.width >= 8 and self.width % 8 == 0, f"--width must be a multiple of 8, got {self.width}")
        require(self.dice >= 0, f"--dice must not be negative, got {self.dice}")
        names = self.class_names
        require(len(names) >= 2, f"--classes requires at least two names, got `{self.classes}`")
        require(len(set(names)) == len(names) <= IGNORED, f"--classes must be different names, got `{self.classes}`")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(words(self.classes))
