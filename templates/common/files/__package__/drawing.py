"""Draw pictures into files, if matplotlib is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .checkpoint import write_aside


def pyplot() -> Any:
    """Return matplotlib's pyplot with a backend that needs no screen; None if matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, picture: Path) -> None:
    """Write the figure as PNG, atomically, and close it."""
    from matplotlib import pyplot

    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_aside(picture, lambda file: figure.savefig(file, format="png", dpi=120))
    pyplot.close(figure)
