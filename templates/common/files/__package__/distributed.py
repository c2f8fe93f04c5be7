"""Several processes that train one model, as torchrun starts them; everything here also works in a single one.

Enters: the variables RANK, LOCAL_RANK and WORLD_SIZE. Leaves: a process group, and the few operations over it that
the other modules need. Tensors travel by the device's own backend, plain values by gloo.
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

_control: list[Any] = []  # the gloo group for plain values, where there is one


def join(device_request: str) -> None:
    """Become one of the processes that torchrun started; nothing happens where it started none."""
    if "WORLD_SIZE" not in os.environ or not dist.is_available() or dist.is_initialized():
        return
    on_gpu = torch.cuda.is_available() and device_request in ("auto", "cuda")
    if ":" in device_request:
        raise ProjectError(
            f"--device {device_request} names one device, and torchrun started {os.environ['WORLD_SIZE']} processes",
            hint="leave --device out: each process takes the GPU of its own number",
        )
    if on_gpu:
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ProjectError(
                f"process {local} of this machine has no GPU: torch sees {torch.cuda.device_count()}",
                hint=f"torchrun --nproc-per-node {torch.cuda.device_count()}",
            )
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    _control[:] = [dist.new_group(backend="gloo")]


def leave() -> None:
    """End the process group, if there is one."""
    if _control:
        _control.clear()
        if compat.TORCH < (2, 4):  # it ends gloo's threads with the interpreter's lock held, for ever where one needs
            time.sleep(1)  # the lock to drop the last tensor: let it do so first
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if _control else 0


def ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _control else 1


def suffix() -> str:
    """What tells the files of one rank from those of another; nothing for the first."""
    return f"-{rank()}" if rank() else ""


def say(line: str) -> None:
    """Print, on the first rank only."""
    if rank() == 0:
        print(line, flush=True)


def share(size: int, batch_size: int) -> Iterator[list[int]]:
    """This rank's batches of the indices 0 to ``size``, to evaluate on; some rank may have none."""
    mine = range(rank(), size, ranks())
    for start in range(0, len(mine), batch_size):
        yield list(mine[start : start + batch_size])


def total(sums: Tensor) -> list[float]:
    """The sums of all ranks added up, as plain numbers. Waits for the device."""
    if _control:
        dist.all_reduce(sums)
    return cast("list[float]", sums.tolist())


def average(tensor: Tensor) -> None:
    """Put the mean over all ranks into ``tensor``."""
    if _control:
        dist.all_reduce(tensor)
        tensor /= ranks()


def largest(value: int) -> int:
    """The largest of the values that the ranks bring; every rank gets the same answer."""
    if not _control:
        return value
    tensor = torch.tensor(value)
    dist.all_reduce(tensor, dist.ReduceOp.MAX, group=_control[0])
    return int(tensor)


def gather(value: Any) -> list[Any]:
    """The values of all ranks, in order of rank."""
    if not _control:
        return [value]
    values: list[Any] = [None] * ranks()
    dist.all_gather_object(values, value, group=_control[0])
    return values


def from_first(value: Any) -> Any:
    """What the first rank has for ``value``."""
    if not _control:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_control[0])
    return values[0]
