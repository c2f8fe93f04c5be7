"""What each check of the environment looks at, so that ``--only`` and ``--fast`` pay for nothing else.

A test holds this against the checks.
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
