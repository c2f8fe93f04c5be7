"""Define the options of this project; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .engine.options import TrainOptions, default, option, require

MODELS = ("resnet", "vit")
LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True, kw_only=True)
class Config(TrainOptions):
    epochs: int = default("epochs", 60)
    lr: float = default("lr", 8e-3)
    weight_decay: float = default("weight_decay", 0.2)
    data: Path | None = option(
        None, "Train on this directory with one subdirectory of images per class; digits by default.", resume="same"
    )
    image_size: int = option(64, "Scale the images of --data to this height and width.", resume="same")
    val_fraction: float = option(0.2, "Hold back this fraction of the images for validation.", resume="same")
    max_corrupt: int = option(10, "Skip up to this many unreadable images.")
    model: str = option("resnet", "Train resnet, vit, torchvision:NAME, or timm:NAME.", resume="same")
    pretrained: bool = option(False, "Start with the weights of the library, and normalize as they require.")
    width: int = option(
        16, "Set the channels of the resnet's first stage, or a quarter of the vit's width.", resume="same"
    )
    patch: int = option(
        0, "Set the patch size of the vit; 0 for 2, 8 (from 32 pixels), or 16 (from 128 pixels).", resume="same"
    )
    depth: int = option(4, "Set the number of layers of the vit.", resume="same")
    random_crop: bool = option(True, "Train on random crops of the images of --data.")
    shift: int = option(1, "Shift training images at random by up to this many pixels.")
    flip: bool = option(False, "Mirror training images at random (for photos, not for digits).")
    mixup: float = option(0.0, "Blend pairs of images with weights from Beta(A, A), such as 0.2; 0 for none.")
    cutmix: float = option(0.0, "Paste boxes between pairs of images, sized by Beta(A, A), such as 1; 0 for none.")
    label_smoothing: float = option(0.0, "Spread this fraction of the target over all classes.")
    class_weights: bool = option(False, "Weight each class by the inverse of its frequency.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.val_fraction < 1, f"--val-fraction must be between 0 and 1, got {self.val_fraction}")
        require(self.image_size >= 8, f"--image-size must be at least 8, got {self.image_size}")
        # tensor cores need multiples of 8, and torch's CPU convolutions are unsafe with fewer than 8 channels (README)
        require(self.width >= 8 and self.width % 8 == 0, f"--width must be a multiple of 8, got {self.width}")
        library, _, name = self.model.partition(":")
        known = self.model in MODELS or (library in LIBRARIES and name)
        require(bool(known), f"--model must be resnet, vit, torchvision:NAME, or timm:NAME, got {self.model}")
        require(not self.pretrained or ":" in self.model, "--pretrained requires a model of torchvision or timm")
        require(self.patch >= 0, f"--patch must not be negative, got {self.patch}")
        require(self.depth >= 1, f"--depth must be at least 1, got {self.depth}")
        for option_name, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            require(value >= 0, f"--{option_name} must not be negative, got {value}")
        require(0 <= self.label_smoothing < 1, f"--label-smoothing must be below 1, got {self.label_smoothing}")
        require(0 <= self.shift < 8, f"--shift must be from 0 to 7, got {self.shift}")
