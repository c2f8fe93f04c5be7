"""Train one model on several ranks: a copy on each (DDP), or sharded weights (FSDP2) if it doesn't fit on one GPU.

Checkpoints contain complete tensors in both cases.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from . import compat, distributed
from .device import Precision
from .errors import ProjectError


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model to call in training; its backward pass averages the gradients over all ranks."""
    if distributed.ranks() == 1 or is_sharded(model):
        return model
    device_ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, **compat.buffers_left_alone())


def without_sync(model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Return a context without gradient exchange, for all micro-batches of an update but the last."""
    if isinstance(model, DistributedDataParallel):
        return cast("contextlib.AbstractContextManager[Any]", model.no_sync())
    return _unsharded_gradients(model) if is_sharded(model) else contextlib.nullcontext()


def shard(model: nn.Module, blocks: Sequence[nn.Module], precision: Precision) -> None:
    """Shard every parameter over all ranks. The shards are fp32 master weights; ``precision`` is for computing."""
    if compat.TORCH < (2, 4):
        raise ProjectError(
            f"sharding requires torch 2.4 or later, found {torch.__version__}",
            hint="to train without it, omit `--fsdp`",
        )
    if distributed.ranks() == 1:
        raise ProjectError(
            "sharding requires several processes, found one",
            hint="to start two processes",
            command=f"torchrun --nproc-per-node 2 -m {__package__}.train {shlex.join(sys.argv[1:])}".strip(),
        )
    if precision.scaled:
        raise ProjectError(
            "sharding doesn't support fp16 with loss scaling",
            hint="to train without loss scaling",
            option="--precision bf16",
        )
    fully_shard, policy_type = compat.fsdp2()
    policy = policy_type(param_dtype=precision.dtype, reduce_dtype=torch.float32)
    for block in (*blocks, model):
        fully_shard(block, mp_policy=policy)


def is_sharded(model: nn.Module) -> bool:
    return hasattr(model, "set_requires_gradient_sync")


@contextlib.contextmanager
def _unsharded_gradients(model: Any) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def whole(tensor: Tensor) -> Tensor:
    """Return the complete tensor, gathered from the shards of all ranks if it is sharded."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the complete states of model and optimizer on the first rank. Every rank must call this."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    return get_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, model_state: dict[str, Any], optimizer_state: dict[str, Any]
) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    set_state_dict(
        model,
        optimizer,
        model_state_dict=model_state,
        optim_state_dict=optimizer_state,
        options=StateDictOptions(full_state_dict=True),
    )
