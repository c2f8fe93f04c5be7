"""Everything that can be set, as one frozen value; each field is an option of ``train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .options import option, require
from .settings import LoopConfig

MODELS = ("resnet", "vit")
LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True, kw_only=True)
class Config(LoopConfig):
    data: Path | None = option(None, "folder with one subfolder of images per class; without it, digits", fixed=True)
    image_size: int = option(64, "height and width of the images of --data; digits stay 8 by 8", fixed=True)
    validation_part: float = option(0.2, "part of the images held back for validation", fixed=True)
    max_corrupt: int = option(10, "unreadable images to skip before giving up", fixed=True)
    model: str = option("resnet", "resnet, vit, torchvision:NAME or timm:NAME", fixed=True)
    width: int = option(16, "channels of the resnet's first stage, a quarter of the vit's; 64 for photos", fixed=True)
    patch: int = option(0, "side of the vit's patches; 0 takes 2, 8 from 32 pixels on, 16 from 128 on", fixed=True)
    depth: int = option(4, "layers of the vit", fixed=True)
    shift: int = option(1, "shift training images at random by up to so many pixels", fixed=True)
    flip: bool = option(False, "mirror training images at random; for photographs, not for digits", fixed=True)
    mixup: float = option(0.0, "blend images in pairs, with weights from Beta(A, A); 0.2 is usual", fixed=True)
    cutmix: float = option(0.0, "paste boxes between images in pairs, sized by Beta(A, A); 1.0 is usual", fixed=True)
    label_smoothing: float = option(0.0, "part of the target given to all classes alike", fixed=True)
    shuffle_labels: bool = option(False, "control: learn shuffled labels, which must fail", fixed=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.validation_part < 1, f"--validation-part must be between 0 and 1, got {self.validation_part}")
        require(self.image_size >= 8, f"--image-size must be at least 8, got {self.image_size}")
        # Tensor cores want multiples of 8 channels, and torch's CPU convolutions are unsafe with fewer than 8 (README).
        require(self.width >= 8 and self.width % 8 == 0, f"--width must be a multiple of 8, got {self.width}")
        library, _, name = self.model.partition(":")
        known = self.model in MODELS or (library in LIBRARIES and name)
        require(bool(known), f"--model must be resnet, vit, torchvision:NAME or timm:NAME, got {self.model}")
        require(self.patch >= 0, f"--patch must not be negative, got {self.patch}")
        require(self.depth >= 1, f"--depth must be at least 1, got {self.depth}")
        for option_name, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            require(value >= 0, f"--{option_name} must not be negative, got {value}")
        require(0 <= self.label_smoothing < 1, f"--label-smoothing must be below 1, got {self.label_smoothing}")
        require(0 <= self.shift < 8, f"--shift must be from 0 to 7, got {self.shift}")
