"""Test that ``CUDA_VISIBLE_DEVICES`` is resolved as torch does, and that pitfalls are reported."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from envforge.machine.values import Gpu, MigDevice, resolve_visible
from tests.support.nvml_stub import StubGpu, StubMachine, build_stub, has_compiler, stub_environment

UUIDS = ("GPU-aaaa1111-0000", "GPU-aaaa2222-0000", "GPU-bbbb3333-0000")
GPUS = tuple(
    Gpu(index=index, name="NVIDIA A100", compute_capability=None, uuid=uuid) for index, uuid in enumerate(UUIDS)
)
MIG = (
    Gpu(
        index=0,
        name="NVIDIA H100",
        compute_capability=None,
        uuid="GPU-cccc",
        mig_devices=(MigDevice(uuid="MIG-1111"), MigDevice(uuid="MIG-2222")),
    ),
)
ENTRIES = ["0", "1", "2", "9", "-1", "+1", " 1", "1gpu2", "", "none", "-", *UUIDS, "GPU-", "GPU-aaaa", "GPU-dddd"]
ENTRIES += ["MIG-1111", "00"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", ()),
        ("-1", ()),
        ("0", (0,)),
        ("2,0", (2, 0)),
        ("0,0", ()),
        ("1,01", ()),
        ("0,-1,1", (0,)),
        ("0,x,1", (0,)),
        ("0,9,1", (0,)),
        ("2,3", (2,)),
        ("1gpu2,2ampere", (1, 2)),
        ("+1", (1,)),
        ("none", ()),
        ("GPU-bbbb", (2,)),
        ("GPU-bbbb,GPU-aaaa1", (2, 0)),
        ("GPU-aaaa", ()),
        ("GPU-bbbb,GPU-bbbb", ()),
        ("GPU-bbbb,GPU-bbbb3", ()),
        ("GPU-bbbb,0", (2,)),
        ("GPU-dddd,GPU-bbbb", ()),
        ("MIG-1111", None),
    ],
)
def test_the_rules_of_torch_are_kept(text: str | None, expected: tuple[int, ...] | None) -> None:
    assert resolve_visible(text, GPUS).indices == expected


@pytest.mark.parametrize("text", ["0,9", "0,0", "x", "0,x", "GPU-dddd", "GPU-aaaa", "GPU-bbbb,0", "MIG-1111", "-x"])
def test_a_text_that_does_not_mean_what_it_seems_to_is_explained(text: str) -> None:
    assert resolve_visible(text, GPUS).problem


@pytest.mark.parametrize("text", [None, "", "-1", "0", "2,1,0", "GPU-bbbb"])
def test_a_text_that_means_what_it_says_is_not_complained_about(text: str | None) -> None:
    assert resolve_visible(text, GPUS).problem == ""


def test_a_mig_device_makes_its_gpu_visible_and_only_the_first_counts() -> None:
    visible = resolve_visible("MIG-2222,MIG-1111", MIG)
    assert (visible.indices, "`MIG-2222`, and ignores the other 1" in visible.problem) == ((0,), True)


def test_the_older_name_of_a_mig_device_names_its_gpu() -> None:
    assert resolve_visible("MIG-GPU-cccc/1/0", MIG).indices == (0,)


def test_a_mig_device_that_does_not_exist_leaves_nothing() -> None:
    assert resolve_visible("MIG-3333", MIG).indices == ()


def test_uuids_that_cannot_be_checked_are_not_guessed() -> None:
    unknown = (Gpu(index=0, name="NVIDIA A100", compute_capability=None),)
    visible = resolve_visible("GPU-aaaa", unknown)
    assert (visible.indices, "can't be checked" in visible.problem) == (None, True)


ASK_TORCH = """
import json, os, sys
import torch.cuda

counts = []
for text in json.load(sys.stdin):
    os.environ["CUDA_VISIBLE_DEVICES"] = text
    try:
        counts.append(torch.cuda._device_count_nvml())
    except ValueError:  # a sign without a number
        counts.append(0)
print(json.dumps(counts))
"""


@pytest.mark.skipif(not has_compiler() or not sys.platform.startswith("linux"), reason="the stub needs gcc on Linux")
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_torch_counts_the_same_gpus_on_the_same_driver(tmp_path: Path) -> None:
    machine = StubMachine(keys={}, gpus=tuple(StubGpu(name="NVIDIA A100", keys={"uuid": uuid}) for uuid in UUIDS))
    environment = stub_environment(build_stub(tmp_path / "lib"), machine.write(tmp_path / "machine.txt"))
    texts = [",".join(entries) for length in (1, 2, 3) for entries in itertools.product(ENTRIES, repeat=length)]
    done = subprocess.run(
        [sys.executable, "-c", ASK_TORCH],
        input=json.dumps(texts),
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    counts = dict(zip(texts, json.loads(done.stdout), strict=True))
    left_to_cuda = {text for text, count in counts.items() if count < 0}  # torch does not parse MIG devices itself
    assert all(text.startswith("MIG-") for text in left_to_cuda)
    ours = {text: resolve_visible(text, GPUS).indices for text in texts if text not in left_to_cuda}
    differing = {
        text: (counts[text], found) for text, found in ours.items() if found is None or len(found) != counts[text]
    }
    assert differing == {}
    assert {0, 1, 2, 3} <= set(counts.values())
