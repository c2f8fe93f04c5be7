"""Provide what every measurement needs: the device, its low precision, and the project's training."""

# ruff: noqa: B905 - runs without envforge, also on older Pythons
from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    Say = Callable[[dict[str, Any]], None]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Context:
    """One device, and one project if there is one."""

    def __init__(self, specification: dict[str, Any], scratch: str, say: Say) -> None:
        self.specification = specification
        self.scratch = scratch
        self.say = say
        self.device = torch.device(specification["device"])
        if self.on_gpu:
            torch.cuda.set_device(self.device)
        else:
            # one thread adds in one order, so that runs can be compared bit by bit
            torch.set_num_threads(1)
        self._project: TrainedProject | None = None

    @property
    def low(self) -> str:
        """The low precision of this device: bf16 on a CPU or if the GPU supports it in hardware, else fp16."""
        return "bf16" if not self.on_gpu or self.native_bf16 else "fp16"

    @property
    def native_bf16(self) -> bool | None:
        """Whether a GPU computes bf16 in hardware; ``torch.cuda.is_bf16_supported`` includes emulation."""
        if not self.on_gpu:
            return None
        if getattr(torch.version, "hip", None) is not None:
            return True
        return torch.cuda.get_device_capability(self.device) >= (8, 0)

    @property
    def precisions(self) -> list[tuple[str, str | None]]:
        """The precisions to compare, the low one first, each with the kind of fp32 if it is one."""
        found: list[tuple[str, str | None]] = [(self.low, None), ("fp32", "ieee")]
        if self.on_gpu and torch.cuda.get_device_capability(self.device) >= (8, 0):
            found.append(("tf32", "tf32"))
        return found

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def forget_peak_memory(self) -> None:
        """Measure the peak of allocated memory from now on."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory(self) -> int | None:
        """Return the most bytes that were allocated on a GPU."""
        return int(torch.cuda.max_memory_allocated(self.device)) if self.on_gpu else None

    @property
    def project(self) -> TrainedProject:
        """The project's package, imported from its directory."""
        if self._project is None:
            self._project = TrainedProject(self.specification, self.device, self.scratch)
        return self._project

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], times: int = 1) -> float:
        """Return the time that the device needs to do something ``times`` times."""
        self.synchronize()
        started = time.perf_counter()
        for _ in range(times):
            work()
        self.synchronize()
        return time.perf_counter() - started


class TrainedProject:
    """The interface of a rendered project: ``train.build``, ``prepare``, ``SMOKE``, ``smoke_config``."""

    def __init__(self, specification: dict[str, Any], device: torch.device, scratch: str) -> None:
        folder, package = specification["project"], specification["package"]
        if folder not in sys.path:
            sys.path.insert(0, folder)
        self.package = package
        self.device = device
        self.scratch = scratch
        self.train = importlib.import_module(package + ".train")
        self.limits = self.train.SMOKE
        self.prepare = self._find("prepare", "train", "start", "loop")
        self.precision_type = self._find("Precision", "engine.device", "device")

    def _find(self, name: str, *modules: str) -> Any:
        """Return an attribute from the first of the modules that has it; it moved between project versions."""
        for module in modules:
            try:
                found = getattr(importlib.import_module(self.package + "." + module), name, None)
            except ModuleNotFoundError as error:
                if not (self.package + "." + module + ".").startswith(str(error.name) + "."):
                    raise
                continue
            if found is not None:
                return found
        places = ", ".join(module + ".py" for module in modules)
        raise AttributeError(f"the package `{self.package}` has no `{name}` in {places}")

    def training(self, precision: str, *, shuffled: bool = False, **changes: Any) -> Any:
        """Return a training of the smoke configuration in a precision; ``changes`` override other fields."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        # projects reject fp16 on a CPU, but the GradScaler measurement needs it there
        asked = "bf16" if precision == "fp16" and self.device.type == "cpu" else precision
        # the configuration of the project's own smoke test, so that its thresholds apply
        config = self.train.smoke_config(device=str(self.device), precision=asked, run_dir=folder, shuffled=shuffled)
        config = dataclasses.replace(config, **changes)
        device, chosen = self.prepare(config, quiet)
        if asked != precision:
            chosen = self.precision_type(precision, "asked for by envforge verify")
        training = self.train.build(config, device, chosen)
        training.model.train()
        if not hasattr(training, "train_step"):  # since template version 3, it is a function in train.py
            training.train_step = functools.partial(self.train.train_step, training)
            training.total_updates = training.total_steps
        return training

    def checkpoints(self) -> Any:
        """Return the project's own checkpoints, in a temporary directory."""
        kind = self._find("Checkpoints", "engine.checkpoint", "checkpoint")
        return kind(Path(tempfile.mkdtemp(dir=self.scratch)), keep=1)

    def bounds(self, training: Any) -> dict[str, Any]:
        """Return the thresholds of the smoke test, which older projects have under other names."""
        limits, metric = self.limits, getattr(getattr(training, "task", None), "metric", None)
        name = getattr(limits, "metric", None) or getattr(metric, "name", None)
        return {
            "metric": name if isinstance(name, str) else getattr(name, "name", None),
            "higher_is_better": bool(getattr(metric, "higher_is_better", True)),
            "reach": _number(getattr(limits, "reach", getattr(limits, "floor", None))),
            "ceiling": _number(getattr(limits, "control", getattr(limits, "control_ceiling", None))),
            "loss_ratio": _number(getattr(limits, "loss_ratio", None)),
            "skips": _number(getattr(limits, "skips", None)),
        }


def batches(training: Any, count: int) -> Any:
    """Yield ``count`` groups of batches, over as many epochs as that requires."""
    given = 0
    while given < count:
        before = given
        for group in training.groups():
            yield group
            given += 1
            if given == count:
                return
        if given == before:
            raise RuntimeError("the training gave no batches")
        training.order.next_epoch()  # an epoch may have fewer batches than the smoke test has updates


def finite(values: Any) -> Any:
    """Convert to floats; values that aren't finite, which JSON lacks, become None."""
    return [_number(float(value)) for value in values]


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if number - number == 0 else None  # inf - inf and nan - nan are nan


def quiet(line: str) -> None:
    """Ignore a message of the project, such as the one about its device, which ``verify`` reports itself."""


def words(error: BaseException, most: int = 500) -> str:
    """Return the type and the message of an error, shortened."""
    return f"{type(error).__name__}: {str(error)[:most]}"


def compiled_model(model: Any, **options: Any) -> Any:
    """Return the compiled model, for a backward pass outside autocast, as AMP recommends it."""
    settings: Any = getattr(getattr(torch, "_functorch", None), "config", None)
    if hasattr(settings, "backward_pass_autocast"):
        settings.backward_pass_autocast = "off"  # noqa: S105 - not a password
    return torch.compile(model, **options)


class Weights:
    """The parameters of a model before a run, to count those that changed."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.before = [parameter.detach().clone() for parameter in model.parameters()]

    def moved(self) -> int:
        """Return how many changed."""
        return sum(not torch.equal(old, new) for old, new in zip(self.before, self.model.parameters()))

    def wild(self) -> int:
        """Return how many have a value that isn't finite."""
        return sum(not bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters())


os.environ.setdefault("MPLBACKEND", "Agg")  # projects may plot, and this process has no display
