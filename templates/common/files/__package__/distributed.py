"""Join the processes that torchrun starts, and exchange values between them. In a single process, this does nothing.

The variables RANK, LOCAL_RANK, and WORLD_SIZE define the process group. Tensors are sent by the device's own backend,
plain values by gloo.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from . import compat
from .errors import ProjectError

_control: list[Any] = []  # the gloo group for plain values, if there is one


def join(device_request: str) -> None:
    """Join the process group if torchrun started this process."""
    if "WORLD_SIZE" not in os.environ or not dist.is_available() or dist.is_initialized():
        return
    on_gpu = torch.cuda.is_available() and device_request in ("auto", "cuda")
    if ":" in device_request:
        raise ProjectError(
            f"`--device {device_request}` names one device, but torchrun started {os.environ['WORLD_SIZE']} processes",
            hint="to give each process its own GPU, omit `--device`",
        )
    if on_gpu:
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ProjectError(
                f"no GPU for process {local} of this machine: torch finds {torch.cuda.device_count()}",
                hint="to start one process per GPU",
                command=f"torchrun --nproc-per-node {torch.cuda.device_count()} -m {__package__}.train",
            )
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


def suffix() -> str:
    """Return a suffix for the files of this rank; empty for the first one."""
    return f"-{rank()}" if rank() else ""


def say(line: str) -> None:
    """Print on the first rank only."""
    if rank() == 0:
        print(line, flush=True)


def share(size: int, batch_size: int) -> Iterator[list[int]]:
    """Yield this rank's batches of the indices 0 to ``size`` for evaluation; a rank may have none."""
    mine = range(rank(), size, ranks())
    for start in range(0, len(mine), batch_size):
        yield list(mine[start : start + batch_size])


def total(sums: Tensor) -> list[float]:
    """Return the sums over all ranks as plain numbers. Waits for the device."""
    if _control:
        dist.all_reduce(sums)
    return cast("list[float]", sums.tolist())


def average(tensor: Tensor) -> None:
    """Replace ``tensor`` by the mean over all ranks."""
    if _control:
        dist.all_reduce(tensor)
        tensor /= ranks()


def largest(value: int) -> int:
    """Return the largest value of all ranks, the same on every rank."""
    if not _control:
        return value
    tensor = torch.tensor(value)
    dist.all_reduce(tensor, dist.ReduceOp.MAX, group=_control[0])
    return int(tensor)


def gather(value: Any) -> list[Any]:
    """Return the values of all ranks, in order of rank."""
    if not _control:
        return [value]
    values: list[Any] = [None] * ranks()
    dist.all_gather_object(values, value, group=_control[0])
    return values


def from_first(value: Any) -> Any:
    """Return the ``value`` of the first rank."""
    if not _control:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_control[0])
    return values[0]
