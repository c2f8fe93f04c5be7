"""Save and load checkpoints that survive a crash, a full disk, and a power failure, and the finished model.

``step-00000120.pt`` is valid only with a matching ``step-00000120.pt.sha256``, which is written after it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy
import torch
from torch import nn

from . import compat
from .errors import CONTINUE, PACKAGE, ProjectError, naming
from .options import from_echo

Config = TypeVar("Config")

FORMAT = 3
BEST, LAST, MODEL = "best.pt", "last.pt", "model.pt"
OTHER_RUN = "to start another run, pass `--run-dir runs/NAME`"


class Checkpoints:
    """The checkpoints of one run: the newest ``keep`` of them, and the best."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write the checkpoint and its checksum atomically, then delete the oldest ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.pt"
        _mark(path).unlink(missing_ok=True)
        try:
            write_aside(path, lambda file: torch.save({"format": FORMAT, **state}, file))
            write_text(_mark(path), f"{_sha256(path)}\n")
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            hint = f"free some disk space, and check that the directory is still writable{CONTINUE}"
            raise ProjectError(f"cannot write the checkpoint `{path}`: {error}", hint=hint) from error
        for old in self.complete()[: -self.keep]:
            _mark(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)
        self.keep_as(path, LAST)
        return path

    def keep_as(self, path: Path, name: str) -> None:
        """Give the checkpoint at ``path``, which may be deleted later, a second name."""
        aside = _aside(self.folder / name)
        aside.unlink(missing_ok=True)
        try:
            os.link(path, aside)
        except OSError:  # the file system has no hard links
            shutil.copyfile(path, aside)
        os.replace(aside, self.folder / name)

    def complete(self) -> list[Path]:
        """Return the checkpoints that have a checksum, oldest first."""
        return sorted(path for path in self.folder.glob("step-*.pt") if _mark(path).is_file())

    def newest(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """Return the newest intact checkpoint, or None if there is no checkpoint; report corrupt ones by ``say``."""
        found = self.complete()
        for path in reversed(found):
            wanted, actual = _mark(path).read_text(encoding="utf-8").strip(), _sha256(path)
            if actual == wanted:
                return load(path)
            hashes = f"expected sha256 {wanted[:12]}…, found {actual[:12]}…"
            say(f"checkpoint `{path}` is corrupt ({hashes}): using the previous one")
        if found:
            raise ProjectError(f"every checkpoint in `{self.folder}` is corrupt ({len(found)} found)", hint=OTHER_RUN)
        return None


def load(path: Path) -> dict[str, Any]:
    """Load a file that this code wrote, without executing pickled code."""
    try:
        state = compat.load(path)
    except FileNotFoundError as error:
        raise ProjectError(f"there is no file `{path}`", hint="check its path") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ProjectError(f"cannot read `{path}`: {str(error).splitlines()[0]}") from error
    found = state.get("format", 0) if isinstance(state, dict) else 0
    if found != FORMAT:
        age = f"{'a newer' if found > FORMAT else 'an older'} version of this code: expected format {FORMAT}"
        hint = ("to read it, check out the version of the project that wrote it", OTHER_RUN)
        raise ProjectError(f"`{path}` was written by {age}, found {found}", hint=hint)
    return state


def load_model(run: Path) -> dict[str, Any]:
    """Return ``model``, ``config``, and ``about`` of a run or of a file; averaged weights if there are any."""
    files = (run / MODEL, run / "checkpoints" / LAST) if run.is_dir() else (run,)
    path = next((path for path in files if path.is_file()), None)
    if path is None:
        hint = f"to train one, run `python -m {PACKAGE}.train`"
        raise ProjectError(f"there is no trained model at `{files[0]}`", hint=hint)
    state = load(path)
    return {**state, "model": {**state["model"], **state.get("ema", {})}}


def restore(
    run: Path, config_type: type[Config], make_model: Callable[[Config, dict[str, Any]], nn.Module]
) -> tuple[nn.Module, Config, dict[str, Any]]:
    """Return the trained model of a run on the CPU in evaluation mode, its configuration, and ``about``."""
    state = load_model(run)
    changes = {"pretrained": False} if "pretrained" in state["config"] else {}  # the weights are in the file
    config = from_echo(config_type, state["config"], **changes)
    model = make_model(config, state["about"])
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ProjectError(f"`{run}` is of another model than `model.py` makes: {error}") from error
    return model.eval(), config, state["about"]


def write_aside(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file atomically: write a temporary file next to it, sync, rename, and sync the directory."""
    aside = _aside(path)
    try:
        with naming(path), aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    if os.name != "nt":  # Windows can't sync a directory
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    write_aside(path, lambda file: file.write(text.encode()))


def make_run_dir(folder: Path, *, kind: str = "run directory", option: str = "--run-dir runs/NAME") -> None:
    """Create a directory, and check that files can be written into it before anything is computed."""
    deed = "create"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        deed = "write to"
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        message = f"cannot {deed} the {kind} `{folder}`: {error.strerror or error}"
        raise ProjectError(message, hint=f"to use another directory, pass `{option}`") from error


def random_state(*, cuda: bool = True) -> dict[str, Any]:
    """Return the state of every global random generator, in types that ``weights_only`` loading accepts."""
    version, words, gauss = random.getstate()
    name, keys, *rest = numpy.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), [int(key) for key in keys], *rest],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if cuda and torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])


def seed_everything(seed: int, *, cuda: bool = True) -> None:
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    if cuda:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _mark(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
