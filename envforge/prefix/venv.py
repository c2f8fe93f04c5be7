"""Create the virtual environment for a pylock.toml, and find its Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.version import Version

from envforge.base.files import current_umask, regular
from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.prefix.cache import read_tree

WINDOWS = os.name == "nt"
_CONFIGURATION = "pyvenv.cfg"
_SEEDS = frozenset({"pip", "setuptools", "wheel"})  # of `python -m venv` and virtualenv; uv keeps them, too


def is_venv(prefix: Path) -> bool:
    """Return whether a prefix is a virtual environment (PEP 405), and not a conda environment."""
    return (prefix / _CONFIGURATION).is_file()


def venv_python(prefix: Path) -> Version | None:
    """Return the minor version of the Python of a virtual environment; None if the prefix is no such environment."""
    found = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+)", _configuration(prefix), re.MULTILINE)
    return Version(found[1]) if found else None


def _configuration(prefix: Path) -> str:
    try:
        return regular(prefix / _CONFIGURATION).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def is_venv_of(prefix: Path, python: Version) -> bool:
    """Return whether a prefix is a virtual environment of a minor version of Python that is still installed."""
    return venv_python(prefix) == python and venv_program(prefix).exists()


def venv_site_packages(prefix: Path) -> str | None:
    """Return the site-packages of a virtual environment, relative to it; None if the prefix is no such environment."""
    python = venv_python(prefix)
    if python is None:
        return None
    return "Lib/site-packages" if WINDOWS else f"lib/python{python}/site-packages"


def venv_program(prefix: Path) -> Path:
    """Return the Python program of a virtual environment."""
    return prefix / ("Scripts/python.exe" if WINDOWS else "bin/python")


def python_program(prefix: Path) -> Path:
    """Return the Python program of a virtual environment or of a conda environment; it may not exist."""
    if is_venv(prefix):
        return venv_program(prefix)
    return prefix / ("python.exe" if WINDOWS else "bin/python")


def files_of_creator(prefix: Path) -> frozenset[str]:
    """Return the files in site-packages that uv 0.9 or virtualenv writes when it creates a virtual environment.

    No package lists them.
    """
    site_packages = venv_site_packages(prefix)
    if site_packages is None or re.search(r"^(?:uv|virtualenv)\s*=", _configuration(prefix), re.MULTILINE) is None:
        return frozenset()
    return frozenset(f"{site_packages}/_virtualenv.{end}" for end in ("py", "pth"))


def seed_packages(prefix: Path, *, is_created: bool) -> frozenset[str]:
    """Return the packages that the creator of a virtual environment may have installed; envforge installs none."""
    return _SEEDS if is_venv(prefix) and not is_created else frozenset()


def create_venv(prefix: Path, program: str) -> None:
    """Create a virtual environment of an interpreter, without packages."""
    # without pip, and by the standard library: uv adds files of its own to site-packages, which no package lists
    command = [program, "-I", "-m", "venv", "--without-pip", str(prefix)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OutsideError(
            f"failed to create a virtual environment in `{prefix}`:\n{(done.stderr or done.stdout).strip()}",
            hint="install the module `venv` of this Python, which some systems package separately",
            code="venv-failed",
        )
    # as uv and Python 3.13 do, because the project's own file may not list the directory
    (prefix / ".gitignore").write_text("*\n", encoding="utf-8")
    (prefix / ".lock").touch()  # uv would create it with permission for everyone to write
    if not WINDOWS:  # the files that `venv` copies have the permissions of its own installation
        read_tree(prefix, umask=current_umask())


def find_interpreter(python: Version) -> str:
    """Return an interpreter of a minor version: this one, or else the one that uv finds.

    Raises ``EnvforgeError`` if the machine has none.
    """
    from uv import find_uv_bin  # noqa: PLC0415 - only if an environment is created

    if sys.version_info[:2] == (python.major, python.minor):
        return sys.executable
    command = [find_uv_bin(), "python", "find", str(python), "--system", "--no-python-downloads", "--no-config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EnvforgeError(
            f"the lockfile requires Python {python}, which is not installed on this machine",
            hint=(
                Hint("to install it", f"uv python install {python}"),
                Hint("to install an environment that contains Python", "envforge install conda-lock.yml"),
            ),
            code="no-interpreter",
        )
    return done.stdout.strip()
