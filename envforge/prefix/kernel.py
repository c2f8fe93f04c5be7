"""Register an environment with Jupyter: one ``kernel.json`` in the user's Jupyter data directory.

The kernel runs the environment's own Python with the variables of its activation. It doesn't need envforge, and needs a
shell only if a package has activation scripts. Source of the format and the directories: documentation of
jupyter_client, "Kernel specs", and of jupyter_core, "Data files".
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from envforge.base.documents import Document
from envforge.base.envelope import Json
from envforge.base.files import write_atomic
from envforge.errors import EnvforgeError, OutsideError, RequestError
from envforge.lock.project import ENVIRONMENT_FILE, VARIANTS_DIRECTORY
from envforge.prefix.activation import activation, bin_folders, with_scripts
from envforge.prefix.journal import read_journal
from envforge.prefix.locate import ChosenEnvironment
from envforge.prefix.venv import is_venv, python_program

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILE = "kernel.json"


class _Of(Struct, frozen=True, kw_only=True):
    prefix: str


class _KernelMetadata(Struct, frozen=True, kw_only=True):
    envforge: _Of


class _KernelFile(Struct, frozen=True, kw_only=True):
    """What envforge reads of a ``kernel.json``."""

    metadata: _KernelMetadata


class Kernel(Struct, frozen=True, kw_only=True):
    """A Jupyter kernel: its directory, and the name that users see."""

    folder: Path
    display_name: str


def kernels_folder(environment: Mapping[str, str], home: Path, platform: str = sys.platform) -> Path:
    """Return the directory in which Jupyter looks for the user's kernels."""
    stated = environment.get("JUPYTER_DATA_DIR")
    if stated:
        return Path(stated) / "kernels"
    if platform == "darwin":
        return home / "Library" / "Jupyter" / "kernels"
    if platform == "win32":
        return Path(environment.get("APPDATA") or home / "AppData" / "Roaming") / "jupyter" / "kernels"
    return Path(environment.get("XDG_DATA_HOME") or home / ".local" / "share") / "jupyter" / "kernels"


def kernel_name(stated: str | None, meant: ChosenEnvironment) -> str:
    """Return the name of a kernel: ``stated``, or one derived from the environment.

    Raises ``RequestError`` if the name is invalid.
    """
    name = stated if stated is not None else re.sub(r"[^a-z0-9._-]+", "-", meant.label.lower()).strip("._-")
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"invalid kernel name `{name}`: expected up to 64 lowercase letters, digits, `.`, `_`, or `-`, starting "
            "with a letter or digit",
            hint="choose another name, such as `--kernel my-project`",
            code="bad-kernel-name",
        )
    return name


def register(meant: ChosenEnvironment, kernel: Kernel, environment: Mapping[str, str]) -> None:
    """Write the kernel; raise ``EnvforgeError`` if ipykernel is missing or another kernel has the name."""
    _check_ipykernel(meant)
    owner = _owner(kernel.folder)
    if kernel.folder.exists() and owner != str(meant.prefix):
        whose = f"it runs `{owner}`" if owner else "envforge did not create it"
        raise EnvforgeError(
            f"the kernel `{kernel.folder.name}` in `{kernel.folder}` already exists, and {whose}",
            hint="to use another name",
            command=" ".join(filter(None, ["envforge kernel", meant.option, f"--kernel {kernel.folder.name}-2"])),
            code="kernel-taken",
        )
    document = _document(meant, kernel.display_name, environment)
    write_atomic(kernel.folder / _FILE, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def remove(meant: ChosenEnvironment, folder: Path) -> None:
    """Remove the kernel of this environment; raise ``EnvforgeError`` if it is missing or another environment's."""
    owner = _owner(folder)
    if not folder.exists():
        raise EnvforgeError(f"no kernel `{folder.name}` found in `{folder.parent}`", code="no-kernel")
    if owner != str(meant.prefix):
        raise EnvforgeError(
            f"the kernel `{folder.name}` does not run `{meant.prefix}`: "
            + (f"it runs `{owner}`" if owner else "envforge did not create it"),
            hint="to remove it anyway",
            command=f"jupyter kernelspec remove {folder.name}",
            code="kernel-of-another",
        )
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise OutsideError(f"cannot remove `{folder}`: {error}", code="not-removed") from error


# a kernel that calls `envforge run` would die silently once envforge's own environment is moved or removed
def _document(meant: ChosenEnvironment, display_name: str, environment: Mapping[str, str]) -> dict[str, Json]:
    outside = {name: value for name, value in environment.items() if not name.startswith(("CONDA_", "__CONDA_"))}
    active = activation(meant.prefix, meant.label, outside)
    words: tuple[str, ...] = (str(python_program(meant.prefix)), "-m", "ipykernel_launcher", "-f", "{connection_file}")
    if active.scripts and os.name != "nt":
        words = with_scripts(words, replace(active, changes=()), environment).words
    folders = os.pathsep.join(str(folder) for folder in bin_folders(meant.prefix))
    # Jupyter expands `$NAME` in these values
    fixed = {name: value.replace("$", "$$") for name, value in active.changes if value is not None and name != "PATH"}
    return {
        "argv": [*words],
        "display_name": display_name,
        "language": "python",
        "env": {**fixed, "PATH": folders.replace("$", "$$") + os.pathsep + "${PATH}"},
        "metadata": {"debugger": True, "envforge": {"prefix": str(meant.prefix)}},
    }


def _check_ipykernel(meant: ChosenEnvironment) -> None:
    places = ("Lib/site-packages",) if os.name == "nt" else ("lib/python*/site-packages",)
    if python_program(meant.prefix).exists() and any(
        True for place in places for _ in meant.prefix.glob(f"{place}/ipykernel_launcher.py")
    ):
        return
    raise EnvforgeError(
        f"a kernel requires the package `ipykernel`, but the environment in `{meant.prefix}` does not contain it",
        hint="to add it",
        command=" && ".join(
            [
                f"envforge add ipykernel{file_option(meant)}",
                *([f"envforge lock --pylock{file_option(meant)}"] if is_venv(meant.prefix) else []),
                meant.install_command,
            ]
        ),
        code="no-ipykernel",
    )


def file_option(meant: ChosenEnvironment) -> str:
    """Return the option for the environment.yml of an environment, unless it is in the current directory."""
    journal = read_journal(meant.prefix)
    folder = Path(journal.lockfile).parent if journal is not None else Path.cwd()
    project = folder.parents[1] if folder.parent.name == VARIANTS_DIRECTORY else folder
    stated = project / ENVIRONMENT_FILE
    return f" --file {shlex.quote(str(stated))}" if stated.is_file() and project != Path.cwd() else ""


def _owner(folder: Path) -> str | None:
    """Return the prefix that a kernel of envforge runs; None for any other kernel."""
    path = folder / _FILE
    document = Document(damaged=f"the kernel `{path}` is invalid", error=EnvforgeError, code="kernel-damaged")
    try:
        return document.read_json(document.read_bytes(path), _KernelFile).metadata.envforge.prefix
    except EnvforgeError:  # another program's, or damaged: not one that envforge may replace
        return None
