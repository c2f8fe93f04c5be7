"""Draw images next to their true and predicted masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from .config import IGNORED
from .engine.log import pyplot, save_figure


def draw_masks(images: Tensor, masks: Tensor, predicted: Tensor, classes: Sequence[str], picture: Path) -> bool:
    """Draw one row per image, with ignored pixels in white. Return False without matplotlib."""
    plot = pyplot()
    if plot is None:
        return False
    rows = len(images)
    figure, axes = plot.subplots(rows, 3, figsize=(7, 2 * rows), layout="constrained", squeeze=False)
    top = len(classes) - 1
    for row, (image, mask, guess) in enumerate(zip(images, masks, predicted)):
        pixels = image.permute(1, 2, 0).squeeze(-1)
        axes[row, 0].imshow(pixels.tolist(), cmap="gray" if pixels.dim() == 2 else None, vmin=0, vmax=1)
        for column, numbers in ((1, mask), (2, guess)):
            shown = numbers.double().masked_fill(mask == IGNORED, float("nan"))
            colors = axes[row, column].imshow(shown.tolist(), cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
    for axis, title in zip(axes[0], ("image", "true", "predicted")):
        axis.set_title(title)
    for axis in axes.flat:
        axis.set_axis_off()
    bar = figure.colorbar(colors, ax=axes[:, 2], ticks=range(len(classes)))
    bar.ax.set_yticklabels(list(classes))
    save_figure(figure, picture)
    return True
