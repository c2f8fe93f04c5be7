"""Test that each row of the data tables can be used, and has a meaning and a source."""

from __future__ import annotations

import re
from typing import Any

import pytest

from envforge.base.data_files import data_folder, read_data
from envforge.verify.machine import reference_data as tables
from envforge.verify.machine.reference_data import event_reasons, hurting_variables, xid

APPLICATION = (13, 31, 43, 45, 68, 69)
HARDWARE = (48, 61, 62, 64, 74, 79, 92, 94, 95, 109, 119, 120, 140, 143)
XIDS = read_data("xid.toml", dict[str, Any])


@pytest.mark.parametrize("code", sorted(XIDS["xid"]))
def test_every_xid_says_what_it_means_and_what_to_do(code: str) -> None:
    row = xid(int(code))
    assert row is not None
    assert row.kind in ("app", "driver", "hardware")
    assert row.meaning
    assert row.advice


def test_programs_and_hardware_are_told_apart_as_in_nvidias_list() -> None:
    assert [code for code in APPLICATION if (row := xid(code)) is None or row.kind != "app"] == []
    assert [code for code in HARDWARE if (row := xid(code)) is None or row.kind != "hardware"] == []


def test_a_code_without_a_row_is_none() -> None:
    assert xid(9999) is None


def test_bits_of_throttling_are_the_ones_of_nvml() -> None:
    assert [reason.name for reason in event_reasons(0x1 | 0x4)] == ["idle", "software power cap"]
    assert [mask for mask in (0x1, 0x2, 0x4, 0x10, 0x100, 0x200, 0x400) if event_reasons(mask)[0].bad] == []
    assert [mask for mask in (0x8, 0x20, 0x40, 0x80) if not event_reasons(mask)[0].bad] == []


def test_a_bit_that_nobody_knows_is_not_taken_for_a_good_one() -> None:
    (reason,) = event_reasons(1 << 40)
    assert reason.bad


def test_the_numbers_agree_with_nvidia_ml_py() -> None:
    import pynvml

    names = [name for name in dir(pynvml) if name.startswith("nvmlClocksEventReason")]
    bits = {getattr(pynvml, name) for name in names} - {0, pynvml.nvmlClocksEventReasonAll}
    assert {str(bit) for bit in bits} <= set(read_data("machine-checks.toml", dict[str, Any])["event_reasons"])
    assert tables.name_of("recovery_actions", pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT) == "reboot the machine"
    assert tables.name_of("compute_modes", pynvml.NVML_COMPUTEMODE_PROHIBITED) == "prohibited"
    assert tables.name_of("fabric_states", pynvml.NVML_GPU_FABRIC_STATE_COMPLETED) == "completed"


def test_the_list_of_variables_has_those_of_dcgm_and_of_torch() -> None:
    assert {"CUDA_LAUNCH_BLOCKING", "NVIDIA_TF32_OVERRIDE", "CUDA_PROFILE", "CUDA_INJECTION64_PATH"} <= set(
        hurting_variables()
    )


@pytest.mark.parametrize("name", ["xid.toml", "machine-checks.toml"])
def test_every_table_names_its_source_and_the_day(name: str) -> None:
    text = (data_folder() / name).read_text(encoding="utf-8")
    assert re.search(r"[Cc]hecked on \d{4}-\d\d-\d\d", text)
    for table in re.findall(
        r"((?:^#.*\n)*)^\[(event_reasons|variables|compute_modes|fabric_states|cpu_levels)\]", text, re.MULTILINE
    ):
        assert re.search(r"Source|nvml\.h|psABI", table[0]), table[1]
