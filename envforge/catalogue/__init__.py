"""Find and read stored lockfiles: ``index.json`` and the lockfiles that it lists.

The key of an entry is the hash of the input that its lockfile was solved from (``spec.input_sha256``). A lockfile is
verified against the index, and the URLs of the configured package index are inserted.
"""

from __future__ import annotations

from envforge.catalogue.index import entries, find
from envforge.catalogue.stored import fill, filled, read, verified_text
from envforge.catalogue.values import (
    INDEX_FILE,
    PLACEHOLDER,
    CatalogueError,
    Entry,
    Publication,
    Requirements,
    Selected,
)

__all__ = [
    "INDEX_FILE",
    "PLACEHOLDER",
    "CatalogueError",
    "Entry",
    "Publication",
    "Requirements",
    "Selected",
    "entries",
    "fill",
    "filled",
    "find",
    "read",
    "verified_text",
]
