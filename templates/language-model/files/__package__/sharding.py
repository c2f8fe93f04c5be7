"""Train a model that doesn't fit on one GPU (``--fsdp``), or faster with large linear layers (``--precision fp8``).

fp8 converts large linear layers to float8 with torchao; everything else computes in bf16. It is faster only for layers
of several thousand features, and only with ``--compile``. Smaller layers get slower: by torchao's own figures, a
product of 1024 x 2048 x 1024 takes 1.25 times as long as in bf16. ``auto`` never selects it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from .engine import compat
from .engine.device import Precision
from .engine.errors import ProjectError

SMALLEST = 2048


def is_large(module: nn.Module) -> bool:
    """Return whether fp8 speeds up the layer; its kernels require multiples of 16."""
    if not isinstance(module, nn.Linear):
        return False
    sides = (module.in_features, module.out_features)
    return min(sides) >= SMALLEST and all(side % 16 == 0 for side in sides)


def convert(model: nn.Module) -> int:
    """Convert the large linear layers to float8 and return their number."""
    count = sum(is_large(module) for module in model.modules())
    if count == 0:
        raise ProjectError(
            f"fp8 requires linear layers of {SMALLEST} or more features, and this model has none",
            hint="to use bf16 instead, pass `--precision bf16`",
        )
    try:
        float8: Any = importlib.import_module("torchao.float8")
    except ImportError as error:
        raise ProjectError(
            f"fp8 requires torchao: {error}",
            hint=(
                "to add it to the environment, run `envforge add --pip torchao && envforge install`",
                "to use bf16 instead, pass `--precision bf16`",
            ),
        ) from error
    float8.convert_to_float8_training(model, module_filter_fn=lambda module, name: is_large(module))
    return count


def shard(model: Any, blocks: Sequence[nn.Module], precision: Precision) -> None:
    """Shard every parameter over all ranks. The shards are fp32 master weights; ``precision`` is for computing."""
    if compat.TORCH < (2, 4):
        raise ProjectError(
            f"sharding requires torch 2.4 or later, found {torch.__version__}",
            hint="to train without it, omit `--fsdp`",
        )
    if not torch.distributed.is_initialized():  # a single process of torchrun can shard, too, to try it out on one GPU
        command = f"torchrun --nproc-per-node 2 -m {__package__}.train {shlex.join(sys.argv[1:])}".strip()
        raise ProjectError(
            "sharding requires processes that torchrun started", hint=f"to start two processes, run `{command}`"
        )
    if precision.scaled:
        raise ProjectError(
            "sharding doesn't support fp16 with loss scaling",
            hint="to train without loss scaling, pass `--precision bf16`",
        )
    fully_shard, policy_type = _fsdp2()
    policy = policy_type(param_dtype=precision.dtype, reduce_dtype=torch.float32)
    for block in (*blocks, model):
        fully_shard(block, mp_policy=policy)
    model.no_sync = functools.partial(_no_sync, model)  # as DDP has it


@contextlib.contextmanager
def _no_sync(model: Any) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    yield
    model.set_requires_gradient_sync(True)


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the complete states of a sharded model and its optimizer, on the first rank."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    return get_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_state(model: nn.Module, optimizer: torch.optim.Optimizer, of_model: Any, of_optimizer: Any) -> None:
    """Load what ``state`` returned."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    options = StateDictOptions(full_state_dict=True)
    set_state_dict(model, optimizer, model_state_dict=of_model, optim_state_dict=of_optimizer, options=options)


def _fsdp2() -> tuple[Any, Any]:
    """Return ``fully_shard`` and ``MixedPrecisionPolicy``, which are in a private module before torch 2.6."""
    name = "torch.distributed.fsdp" if compat.TORCH >= (2, 6) else "torch.distributed._composable.fsdp"
    module = importlib.import_module(name)
    return module.fully_shard, module.MixedPrecisionPolicy
