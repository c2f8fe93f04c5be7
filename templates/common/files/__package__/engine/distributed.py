"""Train one model in the processes that torchrun starts, and exchange values between them.

In a single process, this does nothing. Tensors are sent by the device's own backend, plain values by gloo. A model is
copied to each rank (DDP), or sharded (FSDP2) if the project did so; checkpoints contain complete tensors in both cases.
"""

from __future__ import annotations

import os
import time
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from . import compat
from .errors import PACKAGE, ProjectError

_control: list[Any] = []  # the gloo group for plain values, if there is one


def join(device_request: str) -> None:
    """Join the process group if torchrun started this process."""
    if "WORLD_SIZE" not in os.environ or not dist.is_available() or dist.is_initialized():
        return
    if ":" in device_request:
        raise ProjectError(
            f"`--device {device_request}` names one device, but torchrun started {os.environ['WORLD_SIZE']} processes",
            hint="to give each process its own GPU, omit `--device`",
        )
    on_gpu = torch.cuda.is_available() and device_request in ("auto", "cuda")
    if on_gpu:
        local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= found:
            command = f"torchrun --nproc-per-node {found} -m {PACKAGE}.train"
            message = f"no GPU for process {local} of this machine: torch finds {found}"
            raise ProjectError(message, hint=f"to start one process per GPU, run `{command}`")
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    _control[:] = [dist.new_group(backend="gloo")]


def leave() -> None:
    """End the process group, if there is one."""
    if _control:
        _control.clear()
        if compat.TORCH < (2, 4):
            # destroying the group joins gloo's threads with the GIL held, which deadlocks if one of them still needs
            # the GIL to free a tensor; let it finish first
            time.sleep(1)
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if _control else 0


def ranks() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if _control else 1


def say(line: str) -> None:
    """Print on the first rank only, also after the processes left their group."""
    if rank() == 0 and (_control or os.environ.get("RANK", "0") == "0"):
        print(line, flush=True)


def total(sums: Tensor) -> list[float]:
    """Return the sums over all ranks as plain numbers. Waits for the device."""
    return cast("list[float]", cast(Tensor, sum_of(sums, sums.device)).tolist())


def sum_of(value: float | Tensor, device: torch.device) -> float | Tensor:
    """Return the sum of the ``value`` of all ranks; with several, it stays on the device."""
    if _control:
        value = value.detach().clone() if isinstance(value, Tensor) else torch.tensor(float(value), device=device)
        dist.all_reduce(value)
    return value


def average(tensor: Tensor) -> None:
    """Replace ``tensor`` by the mean over all ranks."""
    if _control:
        dist.all_reduce(tensor)
        tensor /= ranks()


def largest(value: int) -> int:
    """Return the largest value of all ranks, the same on every rank."""
    if _control:
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=_control[0])
        value = int(tensor)
    return value


def gather(value: Any) -> list[Any]:
    """Return the plain values of all ranks, in order of rank."""
    values = [value] * ranks()
    if _control:
        dist.all_gather_object(values, value, group=_control[0])
    return values


def from_first(value: Any) -> Any:
    """Return the ``value`` of the first rank."""
    values = [value]
    if _control:
        dist.broadcast_object_list(values, src=0, group=_control[0])
    return values[0]


def wrap(model: nn.Module, device: torch.device, *, find_unused: bool) -> nn.Module:
    """Return the model to call in training; its backward pass averages the gradients over all ranks."""
    if ranks() == 1 or is_sharded(model):
        return model
    settings = {"find_unused_parameters": find_unused, **compat.buffers_left_alone()}
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None, **settings)


def is_sharded(model: nn.Module) -> bool:
    return hasattr(model, "set_requires_gradient_sync")


def whole(tensor: Any) -> Tensor:
    """Return the complete tensor, gathered from the shards of all ranks if it is sharded."""
    return cast(Tensor, tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor)
