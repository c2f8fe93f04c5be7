"""Checkpoints that survive a crash, a full disk and a pulled plug.

Enters: a dictionary of plain values and tensors. Leaves: ``step-00000120.pt`` and, once that is safely on the disk,
``step-00000120.pt.sha256``; a checkpoint without its matching mark is not one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import torch

from . import compat
from .errors import ProjectError

FORMAT = 2
BEST = "best.pt"


class Checkpoints:
    """The checkpoints of one run, the newest ``keep`` of them and the best."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write aside, fsync, rename; then the mark; then let the oldest go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.pt"
        mark = _mark(path)
        mark.unlink(missing_ok=True)
        try:
            write_aside(path, lambda file: torch.save({"format": FORMAT, **state}, file))
            write_aside(mark, lambda file: file.write(f"{_sha256(path)}\n".encode()))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise ProjectError(
                f"checkpoint `{path}` could not be written: {error}",
                hint="free disk space; the checkpoints before it are intact and `--resume` uses the newest of them",
            ) from error
        for old in self.complete()[: -self.keep]:
            _mark(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)
        return path

    def keep_as_best(self, path: Path) -> None:
        """Let ``best.pt`` be the checkpoint at ``path``, which may go later on."""
        best = self.folder / BEST
        _mark(best).unlink(missing_ok=True)
        for source, target in ((path, best), (_mark(path), _mark(best))):
            aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            _same_file(source, aside)
            os.replace(aside, target)

    def complete(self) -> list[Path]:
        """Checkpoints that have their mark, oldest first."""
        return sorted(path for path in self.folder.glob("step-*.pt") if _mark(path).is_file())

    def newest(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest checkpoint that is whole; each damaged one is named through ``say``. None where none exists."""
        found = self.complete()
        for path in reversed(found):
            wanted = _mark(path).read_text(encoding="utf-8").strip()
            actual = _sha256(path)
            if actual != wanted:
                hashes = f"sha256 {actual[:12]}…, wanted {wanted[:12]}…"
                say(f"checkpoint `{path}` is damaged ({hashes}): using the one before")
                continue
            return self._load(path)
        if found:
            raise ProjectError(
                f"all {len(found)} checkpoints in `{self.folder}` are damaged", hint="start anew with another --run-dir"
            )
        return None

    def _load(self, path: Path) -> dict[str, Any]:
        try:
            state = compat.load(path)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise ProjectError(f"checkpoint `{path}` cannot be read: {error}") from error
        found = state.get("format", 0)
        if found != FORMAT:
            age = "a newer version" if found > FORMAT else "an older version"
            raise ProjectError(
                f"checkpoint `{path}` was written by {age} of this code: format {found}, wanted {FORMAT}",
                hint="use the version of the project that wrote it, or start anew with another --run-dir",
            )
        return state


def write_aside(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """The file is there whole or not at all: written beside its place, synced, renamed, the folder synced."""
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


def random_state() -> dict[str, Any]:
    """The state of every global random generator, without anything that ``weights_only`` loading refuses."""
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
    """A second name for the same bytes; a copy where the file system has no hard links."""
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
    """A handle of the folder, so that a rename in it can be synced; Windows has none."""
    if os.name == "nt":
        yield None
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)
