"""Map package names between conda and the Python package index, and recognize the packages of PyTorch.

``envforge/data/name_mapping.json`` lists the few that differ; all other names are the same. conda-lock reads the same
mapping from the JSON that ``write`` creates. Decision 0042 has the reasons.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from msgspec import Struct
from packaging.utils import canonicalize_name

from envforge.base.data_files import read_data


class NameMapping(Struct, frozen=True):
    """Pairs of (Python name, conda name), both in their original spelling."""

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def bundled(cls) -> NameMapping:
        """Return the built-in mapping."""
        return read_data("name_mapping.json", cls)

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


_TORCH_INDEX = re.compile(r"/(?:whl|cpu|cu\d{2,3}|rocm[\d.]+|xpu|nightly|test)/?$")
_FAMILY = re.compile(
    r"torch|torchvision|torchaudio|torchtext|torchdata|torchao|torchcodec|functorch|"
    r"triton|pytorch-triton(?:-rocm|-xpu)?|cuda-(?:bindings|toolkit|pathfinder|python)|nvidia-(?!ml-py$|nvml).*"
)
_LOCAL = re.compile(r"\+(?:cpu|cu\d{2,3}|rocm|xpu)")


def is_torch_family(name: str, requested: str = "") -> bool:
    """Return whether a package may come only from a PyTorch index, by its name or by a pin such as ``==2.1+cu118``."""
    return _FAMILY.fullmatch(canonicalize_name(name)) is not None or _LOCAL.search(requested) is not None


def torch_indexes(pip_repositories: tuple[str, ...]) -> tuple[str, ...]:
    """Return the ``pip-repositories`` in PyTorch's layout: their URLs end in a wheel tag or in ``whl``."""
    return tuple(url for url in pip_repositories if _TORCH_INDEX.search(re.split("[?#]", url)[0]))
