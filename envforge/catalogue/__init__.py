"""Solved locks that wait for the question they answer: ``index.json`` and the lockfiles that it names.

Enters: a folder and the hash of what a lock would be solved from (``spec.input_sha256``). Leaves: the entry with that
hash, and the text of its lock, verified and with the addresses of the user's own Python package registry filled in.
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
