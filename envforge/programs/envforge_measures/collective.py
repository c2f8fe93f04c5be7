"""Measure an all-reduce of a known tensor, and its speed; torchrun starts one process per GPU.

The only argument is the backend. Each rank prints one marked line of JSON. The module imports only torch, so that it
also runs as a file.
"""

# ruff: noqa: ICN001 - runs without envforge, also on older Pythons
from __future__ import annotations

import datetime
import json
import os
import sys
import time

import torch
import torch.distributed as dist


def main(backend: str) -> bool:
    """Sum 1, 2, 3 … over the ranks, then time a large tensor five times; return whether the sum is correct."""
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=60))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    known = torch.full((1024,), float(rank + 1), device=device)
    dist.all_reduce(known)
    total = float(known[0])
    # every element, because a broken link can corrupt a part of a tensor
    same = bool((known == total).all())
    size = (256 << 20) if device.type == "cuda" else (4 << 20)
    data = torch.ones(size // 4, device=device)
    dist.all_reduce(data)
    # the first call opens connections, and others of the machine disturb single ones, so the best of five counts
    best = min(_seconds(data, device) for _ in range(5))
    line = {
        "event": "rank",
        "rank": rank,
        "ranks": ranks,
        "sum": total if same else None,
        "bytes": size,
        "seconds": best,
        "host": os.environ.get("GROUP_RANK", "0"),
    }
    sys.stdout.write("@envforge " + json.dumps(line) + "\n")
    sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()
    return same and total == ranks * (ranks + 1) / 2


def _seconds(data: torch.Tensor, device: torch.device) -> float:
    dist.barrier()
    started = time.perf_counter()
    dist.all_reduce(data)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1]) else 1)
