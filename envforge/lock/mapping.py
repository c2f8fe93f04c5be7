"""Map names of conda packages to names on PyPI, and back.

``envforge/data/name_mapping.toml`` lists the few that differ; all other names are the same. conda-lock reads the same
mapping from the JSON that ``write`` creates.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from envforge.resources import read_data


@dataclass(frozen=True, slots=True)
class NameMapping:
    """Pairs of (Python name, conda name), both in their original spelling."""

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def bundled(cls) -> NameMapping:
        """Return the built-in mapping."""
        rows = read_data("name_mapping.toml")["package"]
        return cls(tuple((row["python"], row["conda"]) for row in rows))

    def to_python(self, conda: str) -> str:
        """Return the normalized Python name of a conda package."""
        return canonicalize_name({c: p for p, c in self.pairs}.get(conda, conda))

    def to_conda(self, python: str) -> str:
        """Return the conda name of a Python package."""
        return {canonicalize_name(p): c for p, c in self.pairs}.get(canonicalize_name(python), python)

    def write(self, path: Path) -> None:
        """Write the lookup file for conda-lock's ``--pypi_to_conda_lookup_file``."""
        rows = {python: {"pypi_name": python, "conda_name": conda} for python, conda in self.pairs}
        path.write_text(json.dumps(rows, indent=1, sort_keys=True), encoding="utf-8")
