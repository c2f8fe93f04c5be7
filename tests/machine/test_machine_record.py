"""Test that machine records survive a round trip, and that errors of invalid ones contain the path inside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from envforge.base.envelope import failure, success
from envforge.base.terms import ComputeCapability
from envforge.machine.record import MachineRecordError, load_machine, machine_from_json, machine_to_json, read_machine
from envforge.machine.values import Condition, Driver, Gpu, Machine, MigDevice, Override

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
VERSION = st.builds(lambda a, b, c: Version(f"{a}.{b}.{c}"), *[st.integers(0, 999)] * 3)
CAPABILITY = st.builds(ComputeCapability, st.integers(3, 20), st.integers(0, 9))
MIG = st.builds(MigDevice, name=TEXT | st.none(), uuid=TEXT | st.none(), memory_bytes=st.integers(0) | st.none())
GPU = st.builds(
    Gpu,
    index=st.integers(0, 15),
    name=TEXT,
    compute_capability=CAPABILITY | st.none(),
    uuid=TEXT | st.none(),
    memory_bytes=st.integers(0, 1 << 40) | st.none(),
    mig_enabled=st.booleans() | st.none(),
    pci_bus_id=TEXT | st.none(),
    mig_devices=st.lists(MIG, max_size=2).map(tuple),
)
MACHINE = st.builds(
    Machine,
    platform=st.sampled_from(["linux-64", "linux-aarch64", "osx-arm64", "win-64"]),
    python=VERSION,
    glibc=VERSION | st.none(),
    driver=st.builds(
        Driver, kernel_version=VERSION | st.none(), user_version=VERSION | st.none(), cuda=VERSION | st.none()
    )
    | st.none(),
    gpus=st.lists(GPU, max_size=3, unique_by=lambda gpu: gpu.index).map(tuple),
    capability_override=CAPABILITY | st.none(),
    container=TEXT | st.none(),
    is_wsl=st.booleans(),
    hostname=TEXT | st.none(),
    overrides=st.lists(st.builds(Override, variable=TEXT, value=TEXT), max_size=2).map(tuple),
    conditions=st.lists(st.builds(Condition, code=TEXT, symptom=TEXT, cause=TEXT, remedy=TEXT), max_size=2).map(tuple),
    sources=st.dictionaries(TEXT, TEXT, max_size=3).map(lambda facts: tuple(sorted(facts.items()))),
)


def record(**changes: Any) -> dict[str, Any]:
    gpu = {"index": 0, "name": "NVIDIA A10G", "compute_capability": "8.6"}
    driver = {"kernel_version": "535.216.01", "user_version": "535.216.01", "cuda": "12.2"}
    top = {"record": "envforge-machine", "record_version": 1, "platform": "linux-64", "python": "3.12", "glibc": "2.35"}
    return {**top, "driver": driver, "gpus": [gpu], **changes}


@settings(max_examples=60, deadline=None)
@given(machine=MACHINE)
def test_a_record_gives_back_the_machine(machine: Machine) -> None:
    assert machine_from_json(json.loads(json.dumps(machine_to_json(machine))), "x.json") == machine


def test_a_record_written_by_hand_needs_only_what_it_knows() -> None:
    machine = machine_from_json(record(), "x.json")
    assert machine.capabilities == (ComputeCapability(8, 6),)
    minimal = {key: record()[key] for key in ("record", "record_version", "platform", "python")}
    assert machine_from_json(minimal, "x.json") == Machine(platform="linux-64", python=Version("3.12"))


def test_driver_versions_keep_their_zeros() -> None:
    assert machine_to_json(machine_from_json(record(), "x.json"))["driver"] == record()["driver"]


@pytest.mark.parametrize(
    ("changes", "path", "wanted", "found"),
    [
        ({"record": "other"}, "record", "`envforge-machine`", "`other`"),
        ({"platform": 64}, "platform", "a string", "`64`"),
        ({"platform": "linux"}, "platform", "a conda platform such as `linux-64`", "`linux`"),
        ({"platform": None}, "platform", "a value", "nothing"),
        ({"python": "new"}, "python", "a version", "`new`"),
        ({"python": 3.12}, "python", "a version such as `12.4`, as a string", "`3.12`"),
        ({"glibc": []}, "glibc", "a version such as `12.4`, as a string", "`[]`"),
        ({"driver": []}, "driver", "a mapping or null", "`[]`"),
        ({"driver": {"cuda": "12,2"}}, "driver.cuda", "a version", "`12,2`"),
        ({"driver": {"version": "535"}}, "driver", "one of the fields", "`version`"),
        ({"gpus": {}}, "gpus", "a list", "`{}`"),
        ({"gpus": ["A10G"]}, "gpus[0]", "a mapping", "`A10G`"),
        ({"gpus": [{"name": "A10G"}]}, "gpus[0].index", "a value", "nothing"),
        ({"gpus": [{"index": 0}]}, "gpus[0].name", "a value", "nothing"),
        ({"gpus": [{"index": True, "name": "A10G"}]}, "gpus[0].index", "an integer", "`true`"),
        ({"gpus": [{"index": 0, "name": "A", "memory_bytes": -1}]}, "gpus[0].memory_bytes", "not negative", "`-1`"),
        (
            {"gpus": [{"index": 0, "name": "A10G", "compute_capability": "sm_86"}]},
            "gpus[0].compute_capability",
            "a compute capability such as `8.6`",
            "`sm_86`",
        ),
        (
            {"gpus": [{"index": 0, "name": "A"}, {"index": 0, "name": "B"}]},
            "gpus[1].index",
            "a unique GPU number",
            "`0`",
        ),
        ({"gpus": [{"index": 0, "name": "A", "memory": 1}]}, "gpus[0]", "one of the fields", "`memory`"),
        ({"visible": [1]}, "visible[0]", "the index of a GPU", "`1`"),
        ({"visible": "0"}, "visible", "a list", "`0`"),
        ({"is_wsl": "no"}, "is_wsl", "true or false", "`no`"),
        ({"sources": {"platform": 1}}, "sources.platform", "a string", "`1`"),
        ({"compute_capability": "8.6"}, "", "one of the fields", "`compute_capability`"),
        ({"conditions": [{"code": "x"}]}, "conditions[0].symptom", "a value", "nothing"),
    ],
)
def test_a_damaged_record_names_file_path_wanted_and_found(
    changes: dict[str, Any], path: str, wanted: str, found: str
) -> None:
    with pytest.raises(MachineRecordError) as caught:
        machine_from_json(record(**changes), "box.json")
    message = caught.value.message
    at = f" at `{path}`" if path else ""
    assert message.startswith(f"the machine record `box.json` is invalid{at}: expected ")
    assert wanted in message
    assert message.endswith(f"found {found}")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("version", "hint"), [(2, "to read records of newer versions"), (0, "detect --json"), (None, "")]
)
def test_a_record_of_another_version_is_refused(version: int | None, hint: str) -> None:
    with pytest.raises(MachineRecordError, match=f"expected `1`, found `{version}`") as caught:
        machine_from_json(record(record_version=version), "box.json")
    assert hint in caught.value.hint


def test_the_output_of_detect_is_read_as_the_record_in_it(tmp_path: Path) -> None:
    file = tmp_path / "box.json"
    file.write_text(success("detect", record()), encoding="utf-8")
    assert read_machine(file) == machine_from_json(record(), "x")


def test_the_output_of_a_detection_that_failed_is_no_machine(tmp_path: Path) -> None:
    file = tmp_path / "box.json"
    file.write_text(failure("detect", MachineRecordError("x", code="y")), encoding="utf-8")
    with pytest.raises(MachineRecordError, match="at `ok`: expected true"):
        read_machine(file)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_refused_with_the_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "box.json"
    file.write_bytes(content)
    with pytest.raises(MachineRecordError, match=r"box\.json"):
        read_machine(file)


def test_name_gives_the_capability_that_a_record_lacks(tmp_path: Path) -> None:
    file = tmp_path / "box.json"
    file.write_text(json.dumps(record(gpus=[{"index": 0, "name": "NVIDIA GeForce RTX 5070"}])), encoding="utf-8")
    assert load_machine(str(file), {}).capabilities == (ComputeCapability(12, 0),)


def test_a_record_saved_by_windows_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "box.json"
    file.write_text("\ufeff" + json.dumps(record()), encoding="utf-8")
    assert read_machine(file).platform == "linux-64"
