"""Define the options of this project; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .options import option, require
from .settings import LoopConfig

MODELS = ("resnet", "vit")
LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True, kw_only=True)
class Config(LoopConfig):
    data: Path | None = option(
        None, "Train on this directory with one subdirectory of images per class; digits by default.", fixed=True
    )
    image_size: int = option(64, "Scale the images of --data to this height and width.", fixed=True)
    validation_part: float = option(0.2, "Hold back this fraction of the images for validation.", fixed=True)
    max_corrupt: int = option(10, "Skip up to this many unreadable images.", fixed=True)
    model: str = option("resnet", "Train resnet, vit, torchvision:NAME, or timm:NAME.", fixed=True)
    width: int = option(
        16, "Set the channels of the resnet's first stage, or a quarter of the vit's width.", fixed=True
    )
    patch: int = option(
        0, "Set the patch size of the vit; 0 for 2, 8 (from 32 pixels), or 16 (from 128 pixels).", fixed=True
    )
    depth: int = option(4, "Set the number of layers of the vit.", fixed=True)
    shift: int = option(1, "Shift training images at random by up to this many pixels.", fixed=True)
    flip: bool = option(False, "Mirror training images at random (for photos, not for digits).", fixed=True)
    mixup: float = option(
        0.0, "Blend pairs of images with weights from Beta(A, A), such as 0.2; 0 for none.", fixed=True
    )
    cutmix: float = option(
        0.0, "Paste boxes between pairs of images, sized by Beta(A, A), such as 1; 0 for none.", fixed=True
    )
    label_smoothing: float = option(0.0, "Spread this fraction of the target over all classes.", fixed=True)
    shuffle_labels: bool = option(False, "Train on shuffled labels, as the control that must not learn.", fixed=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.validation_part < 1, f"--validation-part must be between 0 and 1, got {self.validation_part}")
        require(self.image_size >= 8, f"--image-size must be at least 8, got {self.image_size}")
        # tensor cores need multiples of 8, and torch's CPU convolutions are unsafe with fewer than 8 channels (README)
        require(self.width >= 8 and self.width % 8 == 0, f"--width must be a multiple of 8, got {self.width}")
        library, _, name = self.model.partition(":")
        known = self.model in MODELS or (library in LIBRARIES and name)
        require(bool(known), f"--model must be resnet, vit, torchvision:NAME, or timm:NAME, got {self.model}")
        require(self.patch >= 0, f"--patch must not be negative, got {self.patch}")
        require(self.depth >= 1, f"--depth must be at least 1, got {self.depth}")
        for option_name, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            require(value >= 0, f"--{option_name} must not be negative, got {value}")
        require(0 <= self.label_smoothing < 1, f"--label-smoothing must be below 1, got {self.label_smoothing}")
        require(0 <= self.shift < 8, f"--shift must be from 0 to 7, got {self.shift}")
