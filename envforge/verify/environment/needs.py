"""List the checks that need an audit or the environment's Python, so that other runs skip that work.

A test compares the lists with the checks.
"""

from __future__ import annotations

AUDIT = ("environment-drift", "files-changed", "packages-twice")
PYTHON = (
    "torch-import-failed",
    "import-isolation",
    "library-from-outside",
    "openmp-twice",
    "numpy-abi",
    "cpu-build-in-gpu-lock",
    "torch-version",
    "library-versions",
    "torch-sees-no-gpu",
    "torch-gpu-count",
    "arch-not-in-torch",
    "compile-toolchain",
)
