"""Run a training from the command line to its last line of output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from . import compat, distributed
from .checkpoint import make_run_dir, seed_everything
from .device import Precision
from .loop import fit
from .memory import fitting_batch, out_of_memory
from .nvidia import nvidia_signs
from .options import parse
from .settings import LoopConfig
from .start import prepare
from .task import Outcome
from .training import Training

Config = TypeVar("Config", bound=LoopConfig)
Build = Callable[[Config, torch.device, Precision], Training]


def run(config_type: type[Config], build: Build[Config], arguments: Sequence[str] | None, *, description: str) -> int:
    """Parse the options, train, and return the exit code."""
    program = f"python -m {__package__}.train"
    train(parse(config_type, arguments, program=program, description=description), build)
    return 0


def train(config: Config, build: Build[Config]) -> Outcome:
    """Prepare, build, train, and print the result."""
    try:
        device, precision = prepare(config, distributed.say)
        if distributed.rank() == 0:
            make_run_dir(config.run_dir)
        if device.type != "cuda" and (signs := nvidia_signs()):
            print(f"warning: training on {device}, although the machine has {'; '.join(signs)}", file=sys.stderr)
        if config.auto_batch:
            config = fitting_batch(config, build, device, precision, distributed.say)
            seed_everything(config.seed)
        try:
            outcome = fit(build(config, device, precision), distributed.say)
        except compat.OUT_OF_MEMORY as error:
            raise out_of_memory(config, device, error) from error
        if not outcome.stopped_by:
            told = ", ".join(f"{name} {value:.4f}" for name, value in outcome.evaluation.items())
            distributed.say(f"done after {outcome.updates} updates ({outcome.skipped} skipped): validation {told}")
            distributed.say(f"state sha256 {outcome.state_hash}")
        return outcome
    finally:
        distributed.leave()
