"""The same bits again: a second run, and a run that was stopped and resumed. And one kernel many times over."""

# ruff: noqa: ICN001, PLC0415 - runs alone, under older Pythons
from __future__ import annotations

import hashlib
import random
from typing import Any

import torch

from .context import Context, batches, finite
from .kernels import hashes

HALF = 4


def repeat(context: Context) -> dict[str, Any]:
    """Run, run again, and resume from the checkpoint in the middle of the first run; all of them deterministic."""
    try:
        checkpoints = context.project.checkpoints()
        first = context.project.training(context.low, deterministic=True)
        losses = _train(first, HALF)
        checkpoints.save(first.state(), HALF)
        randomness = _randomness()
        losses += _train(first, HALF)
        second = context.project.training(context.low, deterministic=True)
        again = _train(second, 2 * HALF)
        resumed, resumed_randomness = _resume(context, checkpoints)
        late = _train(resumed, HALF)
    finally:
        torch.use_deterministic_algorithms(False)
    return {
        "updates": 2 * HALF,
        "losses": finite(losses),
        "second_losses": finite(again),
        "resumed_losses": finite(late),
        "state": state_hash(first),
        "second_state": state_hash(second),
        "resumed_state": state_hash(resumed),
        "optimizer": _optimizer_hash(first),
        "resumed_optimizer": _optimizer_hash(resumed),
        "lost_generators": sorted(name for name, digest in randomness.items() if resumed_randomness[name] != digest),
    }


def _train(training: Any, updates: int) -> list[float]:
    return [float(training.train_step(group)) for group in batches(training, updates)]


def _resume(context: Context, checkpoints: Any) -> tuple[Any, dict[str, str]]:
    """A new training with the state of the checkpoint; the generators stand elsewhere before it is loaded."""
    training = context.project.training(context.low, deterministic=True)
    _scramble()
    training.load_state(checkpoints.newest(_quiet))
    return training, _randomness()


def _scramble() -> None:
    random.seed(98765)
    torch.manual_seed(98765)
    try:
        import numpy
    except ImportError:
        return
    numpy.random.seed(98765)


def _randomness() -> dict[str, str]:
    """A digest of each global generator's state."""
    states = {"python": repr(random.getstate()).encode(), "torch": bytes(torch.get_rng_state().tolist())}
    if torch.cuda.is_available():
        states["cuda"] = bytes(torch.cuda.get_rng_state().tolist())
    try:
        import numpy
    except ImportError:
        pass
    else:
        states["numpy"] = repr([str(part) for part in numpy.random.get_state()]).encode()
    return {name: hashlib.sha256(state).hexdigest() for name, state in states.items()}


def _quiet(line: str) -> None:
    """A checkpoint that is damaged would be named here; ours was just written."""


def state_hash(training: Any) -> str:
    """sha256 of weights and buffers."""
    return _hash(sorted(training.model.state_dict().items()))


def _optimizer_hash(training: Any) -> str:
    state = training.optimizer.state_dict()["state"]
    return _hash(sorted((f"{k}.{name}", value) for k, entry in state.items() for name, value in entry.items()))


def _hash(named: Any) -> str:
    digest = hashlib.sha256()
    for name, value in named:
        digest.update(str(name).encode())
        tensor = value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def same_bits(context: Context) -> dict[str, Any]:
    """One product and one convolution, again and again: a device that computes them otherwise once is not sound."""
    times = 50 if context.device.type == "cuda" else 3
    found = [tuple(hashes(context)) for _ in range(times)]
    return {"times": times, "different": len(set(found)) - 1, "digests": list(found[0])}
