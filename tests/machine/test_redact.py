"""Test that ``--redact`` removes what identifies a machine, and keeps every fact that a build depends on."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec.structs import replace

from envforge.machine.probe import probe
from envforge.machine.record import machine_to_json, redact
from tests.support.recorded import A10G, A10G_ANSWER, libcuda, nvml_gpu

MIG = {"name": "MIG 1g.10gb", "uuid": "MIG-dddd0000-1", "memory_bytes": 10}
GPUS = [
    nvml_gpu(0, "NVIDIA H100", (9, 0), uuid="GPU-5ec7e700-0000", mig=[1, 1], mig_devices=[MIG]),
    nvml_gpu(1, "NVIDIA A100", (8, 0), uuid="GPU-5ec7e711-0000"),
]
SECRET = replace(
    A10G,
    libraries=({**A10G_ANSWER, "gpus": GPUS}, libcuda(12090, "/home/alice/gpu-box/compat/libcuda.so.1")),
    environment={"CUDA_VISIBLE_DEVICES": "GPU-5ec7e711-0000,GPU-5ec7e799-0000"},
)


def test_no_uuid_host_name_or_user_name_is_left(tmp_path: Path) -> None:
    machine = probe(
        replace(SECRET, libraries=({**SECRET.libraries[0], "cuda": 12090}, SECRET.libraries[1])).world(tmp_path)
    )
    before, after = (json.dumps(machine_to_json(m)) for m in (machine, redact(machine)))
    for secret in ("5ec7e7", "dddd0000", "gpu-box", "alice"):
        assert secret in before
        assert secret not in after


def test_what_a_build_depends_on_is_kept(tmp_path: Path) -> None:
    machine = probe(SECRET.world(tmp_path))
    kept = redact(machine)
    assert (kept.platform, kept.glibc, kept.driver, kept.visible) == (
        machine.platform,
        machine.glibc,
        machine.driver,
        machine.visible,
    )
    assert kept.capabilities == machine.capabilities
    assert [gpu.name for gpu in kept.gpus] == [gpu.name for gpu in machine.gpus]
    assert [condition.code for condition in kept.conditions] == [condition.code for condition in machine.conditions]
