"""Check that a second run and a resumed run have bit-identical results."""

# ruff: noqa: ICN001, PLC0415 - runs without envforge, also on older Pythons
from __future__ import annotations

import hashlib
import random
from typing import Any

import torch

from .context import Context, batches, finite, quiet

HALF = 4


def repeat(context: Context) -> dict[str, Any]:
    """Run twice, and resume from a checkpoint in the middle of the first run, all deterministic."""
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
    """Return a new training with the state of the checkpoint."""
    training = context.project.training(context.low, deterministic=True)
    _scramble()  # generators that the checkpoint doesn't restore will differ
    training.load_state(checkpoints.newest(quiet))
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
    """Return a digest of the state of each global generator."""
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


def state_hash(training: Any) -> str:
    """Return the SHA-256 of weights and buffers."""
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
