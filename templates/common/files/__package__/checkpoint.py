"""Save and load checkpoints that survive a crash, a full disk, and a power failure.

``step-00000120.pt`` is valid only with a matching ``step-00000120.pt.sha256``, which is written after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import torch

from . import compat
from .errors import DiskError, Hint, ProjectError

FORMAT = 2
BEST = "best.pt"


class Checkpoints:
    """The checkpoints of one run: the newest ``keep`` of them, and the best."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write the checkpoint and its checksum atomically, then delete the oldest ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.pt"
        mark = _mark(path)
        mark.unlink(missing_ok=True)
        try:
            write_aside(path, lambda file: torch.save({"format": FORMAT, **state}, file))
            write_aside(mark, lambda file: file.write(f"{_sha256(path)}\n".encode()))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise DiskError(
                f"cannot write the checkpoint `{path}`: {error}",
                hint="free some disk space, and check that the directory is still writable",
            ) from error
        for old in self.complete()[: -self.keep]:
            _mark(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)
        return path

    def keep_as_best(self, path: Path) -> None:
        """Make ``best.pt`` the checkpoint at ``path``, which may be deleted later."""
        best = self.folder / BEST
        _mark(best).unlink(missing_ok=True)
        for source, target in ((path, best), (_mark(path), _mark(best))):
            aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            _same_file(source, aside)
            os.replace(aside, target)

    def complete(self) -> list[Path]:
        """Return the checkpoints that have a checksum, oldest first."""
        return sorted(path for path in self.folder.glob("step-*.pt") if _mark(path).is_file())

    def newest(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """Return the newest intact checkpoint, or None if there is no checkpoint; report corrupt ones by ``say``."""
        found = self.complete()
        for path in reversed(found):
            wanted = _mark(path).read_text(encoding="utf-8").strip()
            actual = _sha256(path)
            if actual != wanted:
                hashes = f"expected sha256 {wanted[:12]}…, found {actual[:12]}…"
                say(f"checkpoint `{path}` is corrupt ({hashes}): using the previous one")
                continue
            return self._load(path)
        if found:
            raise ProjectError(
                f"every checkpoint in `{self.folder}` is corrupt ({len(found)} found)",
                hint="to start another run",
                option="--run-dir runs/NAME",
            )
        return None

    def _load(self, path: Path) -> dict[str, Any]:
        try:
            state = compat.load(path)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise ProjectError(f"cannot read the checkpoint `{path}`: {error}") from error
        found = state.get("format", 0)
        if found != FORMAT:
            age = "a newer version" if found > FORMAT else "an older version"
            raise ProjectError(
                f"checkpoint `{path}` was written by {age} of this code: expected format {FORMAT}, found {found}",
                hint=(
                    Hint("to resume it, check out the version of the project that wrote it"),
                    Hint("to start another run", option="--run-dir runs/NAME"),
                ),
            )
        return state


def write_aside(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file atomically: write a temporary file next to it, sync, rename, and sync the directory."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    with _folder_handle(path.parent) as handle:
        if handle is not None:
            os.fsync(handle)


def make_run_dir(folder: Path) -> None:
    """Create the directory of a run, and check that files can be written into it before anything is computed."""
    deed = "create"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        deed = "write to"
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ProjectError(
            f"cannot {deed} the run directory `{folder}`: {error.strerror or error}",
            hint="to use another directory",
            option="--run-dir runs/NAME",
        ) from error


def random_state() -> dict[str, Any]:
    """Return the state of every global random generator, in types that ``weights_only`` loading accepts."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])


def seed_everything(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def _mark(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _same_file(source: Path, target: Path) -> None:
    """Create a hard link, or a copy if the file system has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _folder_handle(folder: Path) -> Iterator[int | None]:
    """Open a directory, so that a rename in it can be synced; None on Windows, which can't."""
    if os.name == "nt":
        yield None
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)
