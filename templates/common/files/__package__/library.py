"""Libraries that only some runs need: what is missing, or does not fit this torch, becomes a message with a hint."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import ProjectError


def library(module: str, wish: str, *, hint: str) -> Any:
    """The module, for a ``wish`` that reads on as "needs NAME"."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # torchvision for another torch is a RuntimeError
        name = module.partition(".")[0]
        raise ProjectError(f"{wish} needs `{name}`, which cannot be imported: {error}", hint=hint) from error
