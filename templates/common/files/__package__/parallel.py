"""One model on several ranks: a copy on each (DDP), or its weights in parts (FSDP2) where one GPU cannot hold them.

Enters: a model and, for FSDP2, those of its modules that are gathered one at a time. Leaves: the model to call in
training, and its state as whole tensors on the CPU, so that a checkpoint does not show how it was trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from . import compat, distributed
from .device import Precision
from .errors import ProjectError


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model to call in training: its backward pass averages the gradients over all ranks."""
    if distributed.ranks() == 1 or is_sharded(model):
        return model
    device_ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, **compat.buffers_left_alone())


def without_sync(model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """While entered, backward passes leave the gradients to this rank: for all micro-batches but an update's last."""
    if isinstance(model, DistributedDataParallel):
        return cast("contextlib.AbstractContextManager[Any]", model.no_sync())
    return _unsharded_gradients(model) if is_sharded(model) else contextlib.nullcontext()


def shard(model: nn.Module, blocks: Sequence[nn.Module], precision: Precision) -> None:
    """Split every parameter over all ranks. Computes in bf16 where asked to; fp32 parts are the master weights."""
    if compat.TORCH < (2, 4):
        raise ProjectError(f"sharding needs torch 2.4, found {torch.__version__}", hint="leave --fsdp out")
    if distributed.ranks() == 1:
        raise ProjectError("sharding needs several processes", hint="torchrun --nproc-per-node 2 -m …")
    if precision.scaled:
        raise ProjectError("sharding and loss scaling do not go together", hint="--precision bf16 or tf32")
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
    """The tensor put together from the parts that the ranks hold; a plain one is itself."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """The states of model and optimizer, whole on the first rank. Every rank must ask."""
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
