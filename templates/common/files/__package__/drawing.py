"""Pictures into files, where matplotlib is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .checkpoint import write_aside


def pyplot() -> Any:
    """matplotlib's pyplot, which needs no screen here; ``None`` where it is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, picture: Path) -> None:
    """Write the figure as PNG, whole or not at all, and forget it."""
    from matplotlib import pyplot

    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_aside(picture, lambda file: figure.savefig(file, format="png", dpi=120))
    pyplot.close(figure)
