"""Test ``envforge detect`` as a whole, on stub libraries that represent several machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from envforge.cli import main
from envforge.machine.probe import probe
from envforge.machine.record import machine_to_json
from envforge.machine.world import run_program
from tests.support import nvml_stub
from tests.support.nvml_stub import GIB, StubMachine, build_stub, gpu, stub_environment
from tests.support.recorded import (
    A10G,
    A10G_ANSWER,
    MODULE_535,
    NO_LIBCUDA,
    Recorded,
    libcuda,
    nvml,
    nvml_gpu,
    pci_gpu_files,
)

GOLDEN = Path(__file__).with_name("golden")
needs_compiler = pytest.mark.skipif(
    not nvml_stub.has_compiler() or not sys.platform.startswith("linux"), reason="the stub library needs gcc on Linux"
)


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stub(tmp_path_factory.mktemp("stub"))


def command(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """``envforge`` in a process of its own, which has no variables but these."""
    variables = {"PATH": "/nonexistent", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run(
        [sys.executable, "-m", "envforge", *arguments],
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def detect(stub: Path, folder: Path, machine: StubMachine, **environment: str) -> dict[str, Any]:
    """The record of a machine that the stub answers as."""
    variables = stub_environment(stub, machine.write(folder / "machine.txt")) | environment
    done = command("detect", "--json", environment=variables)
    assert (done.returncode, done.stderr) == (0, "")
    envelope = json.loads(done.stdout)
    assert (envelope["ok"], envelope["command"], envelope["schema_version"]) == (True, "detect", 1)
    return dict(envelope["result"])


def codes(record: Mapping[str, Any]) -> list[str]:
    return [condition["code"] for condition in record["conditions"]]


@needs_compiler
def test_nvml_is_read_through_the_real_bindings(stub: Path, tmp_path: Path) -> None:
    record = detect(stub, tmp_path, nvml_stub.A10G)
    assert record["driver"] == {"kernel_version": "535.216.01", "user_version": "535.216.01", "cuda": "12.2"}
    assert record["gpus"] == [
        {
            "index": 0,
            "name": "NVIDIA A10G",
            "compute_capability": "8.6",
            "uuid": "GPU-00000000-1111-2222-3333-444444444444",
            "memory_bytes": 22 * nvml_stub.GIB,
            "mig_enabled": None,
            "pci_bus_id": "00000000:10:00.0",
            "mig_devices": [],
        }
    ]
    assert (record["sources"]["gpus"], codes(record)) == ("NVML", [])


@needs_compiler
def test_a_library_file_with_a_version_names_the_user_space_driver(tmp_path: Path) -> None:
    folder = build_stub(tmp_path / "lib", library_version="535.216.01")
    record = detect(folder, tmp_path, nvml_stub.A10G)
    assert record["sources"]["driver.user_version"] == str(folder / "libnvidia-ml.so.535.216.01")


@needs_compiler
def test_different_gpus_are_all_there(stub: Path, tmp_path: Path) -> None:
    record = detect(stub, tmp_path, nvml_stub.MIXED)
    assert [(g["index"], g["compute_capability"]) for g in record["gpus"]] == [(0, "7.0"), (1, "8.0")]
    assert codes(record) == ["different-gpus"]


@needs_compiler
def test_cuda_visible_devices_chooses_by_uuid(stub: Path, tmp_path: Path) -> None:
    record = detect(stub, tmp_path, nvml_stub.MIXED, CUDA_VISIBLE_DEVICES="GPU-00000001")
    assert record["visible"] == [1]


@needs_compiler
def test_mig_devices_are_listed(stub: Path, tmp_path: Path) -> None:
    record = detect(stub, tmp_path, nvml_stub.MIG_H100, CUDA_VISIBLE_DEVICES="MIG-bbbb")
    (h100,) = record["gpus"]
    assert (h100["mig_enabled"], [d["uuid"] for d in h100["mig_devices"]]) == (
        True,
        ["MIG-aaaa0000-1", "MIG-bbbb0000-2"],
    )
    assert (record["visible"], codes(record)) == ([0], ["mig"])


@needs_compiler
def test_a_version_mismatch_is_a_condition_and_libcuda_still_answers(stub: Path, tmp_path: Path) -> None:
    record = detect(stub, tmp_path, nvml_stub.MISMATCH)
    assert codes(record) == ["driver-library-mismatch"]
    assert (record["driver"]["cuda"], record["gpus"]) == ("12.2", [])


@needs_compiler
def test_a_driver_without_devices_is_a_condition(stub: Path, tmp_path: Path) -> None:
    record = detect(stub, tmp_path, nvml_stub.NO_GPU)
    assert (record["driver"]["kernel_version"], record["gpus"]) == ("580.126.09", [])
    assert codes(record)[0] in {"driver-sees-no-gpu", "container-without-gpus"}


@needs_compiler
def test_a_lost_gpu_leaves_the_others_readable(stub: Path, tmp_path: Path) -> None:
    lost = gpu("NVIDIA A10G", "8.6", 22, 1, **{"fail nvmlDeviceGetHandleByIndex_v2": 15})
    machine = StubMachine(keys=nvml_stub.A10G.keys, gpus=(*nvml_stub.A10G.gpus, lost))
    record = detect(stub, tmp_path, machine)
    assert [g["name"] for g in record["gpus"]] == ["NVIDIA A10G", "unknown"]
    assert "GPU is lost" in record["conditions"][-1]["symptom"]


@needs_compiler
def test_a_hanging_nvml_ends_at_the_timeout_as_a_condition(stub: Path, tmp_path: Path) -> None:
    record = detect(stub, tmp_path, nvml_stub.HANGS, ENVFORGE_PROBE_TIMEOUT="1")
    assert codes(record) == ["nvml-hangs"]


@needs_compiler
def test_a_hanging_libcuda_does_not_lose_what_nvml_said(stub: Path, tmp_path: Path) -> None:
    machine = replace(nvml_stub.A10G, keys={**nvml_stub.A10G.keys, "fail cuDriverGetVersion": "hang"})
    record = detect(stub, tmp_path, machine, ENVFORGE_PROBE_TIMEOUT="2")
    assert (record["gpus"][0]["name"], codes(record)) == ("NVIDIA A10G", [])


@needs_compiler
def test_a_crashing_nvml_does_not_crash_the_command(stub: Path, tmp_path: Path) -> None:
    record = detect(stub, tmp_path, nvml_stub.CRASHES)
    assert codes(record) == ["nvml-crashes"]


@needs_compiler
def test_modules_of_the_current_folder_are_not_run_by_the_child(stub: Path, tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("raise SystemExit('the wrong pynvml was run')", encoding="utf-8")
    variables = stub_environment(stub, nvml_stub.A10G.write(tmp_path / "machine.txt"))
    start = "from envforge.cli import main; raise SystemExit(main())"
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = {path!r}; {start}", "detect", "--json"],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["result"]["gpus"][0]["name"] == "NVIDIA A10G"


@pytest.mark.parametrize("stated", ["soon", "0", "-1", "nan", "1e9"])
def test_a_timeout_that_is_none_is_refused(stated: str) -> None:
    done = command("detect", environment={"ENVFORGE_PROBE_TIMEOUT": stated})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"invalid value `{stated}` for the environment variable `ENVFORGE_PROBE_TIMEOUT`" in done.stderr


def test_a_program_that_hangs_is_ended_with_what_it_had_said() -> None:
    result = run_program([sys.executable, "-c", "print('said', flush=True); input()"], {}, timeout_seconds=30)
    assert result is not None
    assert result.exit_code == 1  # stdin is closed: it cannot wait for the user
    script = "import signal; print('said', flush=True); signal.pause()"
    hung = run_program([sys.executable, "-c", script], {}, timeout_seconds=1)
    assert hung is not None
    assert (hung.exit_code, hung.stdout) == (None, "said\n")


def test_a_program_that_is_missing_is_none() -> None:
    assert run_program(["/nonexistent/nvidia-smi"], {}, timeout_seconds=1) is None


MACHINES = {
    "a10g": A10G,
    "mixed": replace(
        A10G,
        files={"/sys/module/nvidia/version": "580.126.09\n", "/dev/nvidiactl": ""},
        libraries=(
            nvml(
                file="/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.126.09",
                driver_version="580.126.09",
                cuda=13000,
                gpus=[
                    nvml_gpu(0, "Tesla V100-SXM2-16GB", (7, 0)),
                    nvml_gpu(1, "NVIDIA A100-SXM4-40GB", (8, 0), memory_bytes=40 * GIB),
                ],
            ),
            libcuda(13000, "/usr/lib/x86_64-linux-gnu/libcuda.so.580.126.09"),
        ),
        environment={"CUDA_VISIBLE_DEVICES": "1,0", "CONDA_OVERRIDE_CUDA": "12.6"},
    ),
    "mismatch": replace(
        A10G,
        libraries=(nvml(error={"code": 18, "text": "x"}, file="/usr/lib/libnvidia-ml.so.550.54.15"), NO_LIBCUDA),
    ),
    "nouveau": Recorded(
        files=pci_gpu_files("0x2684"),
        links={"/sys/bus/pci/devices/0000:10:00.0/driver": "../../../bus/pci/drivers/nouveau"},
    ),
    "container": Recorded(files=MODULE_535 | pci_gpu_files("0x2330") | {"/.dockerenv": ""}),
    "mig": replace(
        A10G,
        libraries=(
            {
                **A10G_ANSWER,
                "gpus": [
                    nvml_gpu(
                        0,
                        "NVIDIA H100 80GB HBM3",
                        (9, 0),
                        memory_bytes=81559 * 1024**2,
                        mig=[1, 1],
                        mig_devices=[
                            {"name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "uuid": "MIG-1", "memory_bytes": 10468982784}
                        ],
                    )
                ],
            },
            libcuda(12020),
        ),
    ),
    "nothing": Recorded(),
}


@pytest.mark.parametrize("name", MACHINES)
def test_what_people_read_of_a_machine(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = json.dumps(machine_to_json(probe(MACHINES[name].world(tmp_path / "root"))))
    (tmp_path / "box.json").write_text(record, encoding="utf-8")
    assert main(["detect", "--machine", "box.json"]) == 0
    shown = capsys.readouterr().out
    assert shown == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_what_people_read_of_a_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--machine", "gh200"]) == 0
    assert capsys.readouterr().out == (GOLDEN / "profile-gh200.txt").read_text(encoding="utf-8")


def test_the_record_that_json_prints_is_read_back_as_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", "--json", "--machine", "h100"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "h100.json").write_text(first, encoding="utf-8")
    assert main(["detect", "--json", "--machine", str(tmp_path / "h100.json")]) == 0
    assert capsys.readouterr().out == first


def test_redact_leaves_no_uuid_in_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "box.json"
    record.write_text(json.dumps(machine_to_json(probe(A10G.world(tmp_path / "root")))), encoding="utf-8")
    for arguments in (["detect"], ["detect", "--redact"]):
        assert main([*arguments, "--machine", str(record)]) == 0
    full, redacted = capsys.readouterr().out.split("A build must support:")[:2]
    assert ("GPU-00000000" in full, "gpu-box" in full) == (True, True)
    assert ("GPU-00000000" in redacted, "gpu-box" in redacted) == (False, False)


def test_an_unknown_machine_is_a_usage_error_also_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--json", "--machine", "h10"]) == 2
    captured = capsys.readouterr()
    envelope = json.loads(captured.out)
    assert (envelope["ok"], envelope["error"]["code"]) == (False, "no-such-machine")
    assert envelope["error"]["hint"] == "did you mean `--machine h100`?"
    assert captured.err.endswith("hint: did you mean `--machine h100`?\n")


def test_variables_of_this_shell_are_said_not_to_count_for_a_record() -> None:
    done = command("detect", "--machine", "t4", environment={"CONDA_OVERRIDE_CUDA": "11.8"})
    assert done.returncode == 0
    assert done.stderr == "note: ignoring CONDA_OVERRIDE_CUDA, because `--machine t4` is another computer\n"
    assert "12.2" in done.stdout
