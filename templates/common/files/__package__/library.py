"""Import optional libraries; raise ``ProjectError`` with a hint if one is missing or incompatible."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from .errors import Hint, ProjectError


def library(module: str, wish: str, *, hint: str | Sequence[Hint]) -> Any:
    """Import and return the module; ``wish`` is what requires it, such as an option."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # torchvision raises RuntimeError for another torch
        name = module.partition(".")[0]
        raise ProjectError(f"{wish} requires `{name}`, which cannot be imported: {error}", hint=hint) from error
