"""Test the selections that the issue and the design require, each by name."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from packaging.version import Version

from envforge.base.terms import CPU, ComputeCapability, WheelTag
from envforge.machine.record import parse_machine
from envforge.machine.values import Condition, Driver, Machine
from envforge.pytorch.fit import has_cubin
from envforge.pytorch.matrix import Grade, Preference, Refusal, Request, Selection
from envforge.pytorch.reasons import NoBuildError
from envforge.pytorch.select import select, select_platforms
from tests.pytorch.machines import CU118, MATRIX, machine, stated


def choose(computer: Machine, **request: object) -> Selection:
    return select(computer, Request(**request), MATRIX)  # type: ignore[arg-type]


def pins(selection: Selection) -> dict[str, str]:
    return dict(selection.build.pins)


def reasons_for(refused: tuple[Refusal, ...], tag: str) -> set[str]:
    return {
        r.reason for r in refused if str(r.build.tag) == tag and r.build.platform == "linux-64" and r.build.confirmed
    }


@pytest.mark.parametrize(
    ("driver", "grade"),
    [
        ("595.71.05", Grade.DIRECT),
        ("520.61.05", Grade.DIRECT),
        ("520.61.04", Grade.MINOR_COMPATIBLE),
        ("470.57.02", Grade.MINOR_COMPATIBLE),
        ("450.80.02", Grade.MINOR_COMPATIBLE),
    ],
)
def test_cuda_118_gives_torch_271_with_python_310_and_a_grade_by_driver(driver: str, grade: Grade) -> None:
    selection = choose(machine("7.5", driver=driver), cuda=CU118)
    assert pins(selection) == {"torch": "2.7.1+cu118", "torchvision": "0.22.1+cu118", "torchaudio": "2.7.1+cu118"}
    assert (selection.python, selection.grade) == (Version("3.10"), grade)
    assert selection.index_url == "https://download.pytorch.org/whl/cu118"


def test_cuda_118_is_refused_below_the_driver_of_its_family() -> None:
    with pytest.raises(NoBuildError, match=r"NVIDIA driver 450\.80\.02 or newer, found driver 450\.80\.01"):
        choose(machine("7.5", driver="450.80.01"), cuda=CU118)


def test_v100_with_driver_580_gets_cu126_and_the_reason_against_cu130() -> None:
    selection = choose(machine("7.0", driver="580.65.06"))
    assert pins(selection)["torch"] == "2.14.1+cu126"
    assert selection.grade is Grade.DIRECT
    wanted = "the wheel has no kernel for compute capability 7.0 (GPU-0), the oldest is 7.5"
    assert reasons_for(selection.refused, "cu130") == {wanted}
    assert f"newer cu130, cu132 builds don't fit: {wanted}" in selection.reason


def test_a10g_with_driver_535_gets_the_newest_torch_of_a_cuda_12_index_and_is_told_how_it_runs() -> None:
    selection = choose(machine("8.6", driver="535.216.01"))
    assert pins(selection)["torch"] == "2.14.1+cu126"
    assert selection.grade is Grade.MINOR_COMPATIBLE
    assert "through CUDA minor-version compatibility (525.60.13 or newer), not directly" in selection.reason
    (warning,) = selection.warnings
    assert warning.startswith("minor-version compatibility: the kernels in the wheel run, but PTX of CUDA 12.6 doesn't")
    assert reasons_for(selection.refused, "cu130") == {
        "CUDA 13.x requires NVIDIA driver 580 or newer, found driver 535.216.01"
    }


def test_b200_refuses_cuda_118_naming_both_compute_capabilities() -> None:
    with pytest.raises(NoBuildError) as caught:
        choose(machine("10.0", driver="580.65.06"), cuda=CU118)
    assert "no kernel for compute capability 10.0 (GPU-0), the newest is 9.0" in caught.value.message
    assert "--cuda cpu" in caught.value.hint


def test_v100_and_a100_together_get_the_build_that_serves_both() -> None:
    selection = choose(machine("7.0", "8.0", driver="580.65.06"))
    assert pins(selection)["torch"] == "2.14.1+cu126"
    assert "GPU-0 (7.0) + GPU-1 (8.0)" in selection.reason


def test_a_hidden_v100_does_not_hold_the_a100_back() -> None:
    selection = choose(replace(machine("7.0", "8.0", driver="580.65.06"), visible=(1,)))
    assert str(selection.build.tag) == "cu130"


def test_gpus_that_are_all_hidden_still_bind_and_it_is_said() -> None:
    selection = choose(replace(machine("7.0", driver="580.65.06"), visible=()))
    assert str(selection.build.tag) == "cu126"
    assert selection.warnings[0].startswith("CUDA_VISIBLE_DEVICES hides every GPU (1)")


def test_driver_440_gets_nothing_and_each_build_has_its_reason() -> None:
    with pytest.raises(NoBuildError) as caught:
        choose(machine("7.5", driver="440.33.01"))
    own = [r for r in caught.value.refused if r.build.platform == "linux-64" and not r.build.tag.is_cpu]
    assert {r.code for r in own} == {"driver"}
    assert "driver 440.33.01" in caught.value.message
    assert "NVIDIA driver 450.80.02 or newer" in caught.value.message
    assert len(caught.value.refused) == len(MATRIX.builds)


def test_no_gpu_gets_the_cpu_build_said_aloud() -> None:
    selection = choose(machine())
    assert (pins(selection)["torch"], selection.grade) == ("2.14.1+cpu", Grade.CPU)
    assert selection.warnings == (
        "no NVIDIA driver or GPU was found, so this is the CPU build (for a GPU, pass --cuda or --machine)",
    )


def test_a_gpu_without_driver_is_never_given_the_cpu_build_silently() -> None:
    with pytest.raises(NoBuildError, match="GPU-0 has no NVIDIA driver") as caught:
        choose(machine("7.5"))
    assert "--cuda cpu" in caught.value.hint


def test_cuda_named_without_a_driver_is_honoured_as_unverified() -> None:
    selection = choose(machine(), cuda=CU118)
    assert (pins(selection)["torch"], selection.grade) == ("2.7.1+cu118", Grade.UNVERIFIED)
    assert selection.warnings[0] == "cu118 was not checked against a driver: no NVIDIA driver was found"


def test_cpu_named_on_a_gpu_machine_is_honoured_with_a_warning() -> None:
    selection = choose(machine("8.6", driver="580.65.06"), cuda=CPU)
    assert selection.grade is Grade.CPU
    assert "which the CPU build doesn't use" in selection.warnings[0]


def test_gh200_gets_the_aarch64_build_of_its_driver() -> None:
    old = choose(machine("9.0", driver="570.124.06", platform="linux-aarch64"))
    new = choose(machine("9.0", driver="580.95.05", platform="linux-aarch64"))
    assert (str(old.build.tag), old.build.platform) == ("cu126", "linux-aarch64")
    assert (str(new.build.tag), new.grade) == ("cu130", Grade.DIRECT)


def test_aarch64_torchvision_is_pinned_as_its_file_is_named() -> None:
    selection = choose(machine("9.0", driver="570.124.06", platform="linux-aarch64"), torch=Version("2.7.1"))
    assert pins(selection) == {"torch": "2.7.1+cu128", "torchvision": "0.22.1", "torchaudio": "2.7.1"}
    assert selection.build.pin(Version("0.22.1")) == "0.22.1"


def test_macos_arm64_gets_the_plain_build_without_talk_of_nvidia() -> None:
    selection = choose(machine(platform="osx-arm64", glibc=None))
    assert pins(selection) == {"torch": "2.14.1", "torchvision": "0.29.1", "torchaudio": "2.11.0"}
    assert selection.index_url == "https://download.pytorch.org/whl/cpu"
    assert (selection.grade, selection.warnings) == (Grade.CPU, ())


def test_intel_mac_stops_at_torch_22() -> None:
    assert pins(choose(machine(platform="osx-64", glibc=None)))["torch"] == "2.2.2"


def test_macos_refuses_a_cuda_build_and_says_what_there_is() -> None:
    with pytest.raises(NoBuildError, match="no build for `--cuda cu118` on osx-arm64; available there: cpu"):
        choose(machine(platform="osx-arm64", glibc=None), cuda=CU118)


def test_glibc_217_gets_the_newest_wheel_that_it_can_load() -> None:
    selection = choose(machine("8.0", driver="535.216.01", glibc="2.17"))
    assert pins(selection)["torch"] == "2.6.0+cu118"
    assert selection.build.glibc == Version("2.17")
    assert "the wheel requires glibc 2.28 or newer, found glibc 2.17" in selection.reason


def test_glibc_that_is_not_known_is_warned_of() -> None:
    warnings = choose(machine("8.0", driver="580.65.06", glibc=None)).warnings
    assert warnings == ("the glibc version of this machine is unknown; the wheels require glibc 2.28 or newer",)


def test_jetson_is_refused_although_its_major_version_has_kernels() -> None:
    with pytest.raises(NoBuildError, match=r"a Tegra chip \(8\.7\); .*CUDA 13\.2 or newer may run there"):
        choose(machine("8.7", driver="540.4.0", serves="13.0", platform="linux-aarch64"))


def test_orin_with_cuda_132_gets_a_server_build_that_is_unverified() -> None:
    selection = choose(machine("8.7", driver="595.78", serves="13.2", platform="linux-aarch64"))
    assert (str(selection.build.tag), selection.grade) == ("cu132", Grade.UNVERIFIED)
    assert "it is not known whether code for servers runs on GPU-0, a Tegra chip (8.7)" in selection.reason
    assert not any("PTX" in warning for warning in selection.warnings)


@pytest.mark.parametrize("capability", ["7.2", "6.2", "5.3"])
def test_older_jetson_is_refused_with_any_cuda(capability: str) -> None:
    with pytest.raises(NoBuildError, match=r"NVIDIA publishes PyTorch for Jetson$"):
        choose(machine(capability, driver="595.78", serves="13.2", platform="linux-aarch64"))


def test_thor_is_judged_by_its_cuda_without_a_condition() -> None:
    selection = choose(machine("11.0", driver="580.00", serves="13.0", platform="linux-aarch64"))
    assert (str(selection.build.tag), selection.grade, selection.warnings) == ("cu130", Grade.DIRECT, ())
    assert "a driver for CUDA 13.0 supports CUDA 13.0 directly;" in selection.reason


@pytest.mark.parametrize(
    ("capability", "driver", "tag"),
    [
        ("10.3", "595.71.05", "cu132"),
        ("12.1", "595.71.05", "cu132"),
        ("8.9", "595.71.05", "cu132"),
        ("6.1", "580.126.09", "cu126"),
    ],
)
def test_a_kernel_serves_higher_minor_versions_of_its_major(capability: str, driver: str, tag: str) -> None:
    selection = choose(machine(capability, driver=driver))
    assert (str(selection.build.tag), selection.grade) == (tag, Grade.DIRECT)


def test_a_gpu_newer_than_the_table_gets_an_unverified_cuda_build_through_ptx() -> None:
    selection = choose(machine("13.0", driver="640.10.01"))
    assert (str(selection.build.tag), selection.grade) == ("cu132", Grade.UNVERIFIED)
    assert "compute capability 13.0 (GPU-0) is newer than the table" in selection.warnings[0]


def test_ptx_needs_a_driver_at_or_above_the_toolkit() -> None:
    with pytest.raises(NoBuildError, match=r"requires NVIDIA driver 595\.45\.04 or newer, to compile PTX"):
        choose(machine("13.0", driver="580.65.06"), cuda=WheelTag.parse("cu132"))


def test_a_driver_newer_than_the_table_is_direct() -> None:
    selection = choose(machine("8.6", driver="700.10.01"))
    assert (str(selection.build.tag), selection.grade) == ("cu132", Grade.DIRECT)


def test_a_driver_of_unknown_version_is_unverified_and_never_cpu() -> None:
    selection = choose(replace(machine("8.6"), driver=Driver()))
    assert (selection.build.tag.is_cpu, selection.grade) == (False, Grade.UNVERIFIED)


def test_the_stated_cuda_counts_more_than_the_driver() -> None:
    selection = choose(stated("12.4", "8.6", driver="595.71.05"))
    assert (str(selection.build.tag), selection.grade) == ("cu126", Grade.MINOR_COMPATIBLE)
    assert "set by CONDA_OVERRIDE_CUDA" in selection.reason


def test_the_stated_compute_capability_counts_instead_of_the_gpus() -> None:
    computer = replace(machine("7.0", driver="580.65.06"), capability_override=ComputeCapability(9, 0))
    assert str(choose(computer).build.tag) == "cu130"


def test_only_the_cuda_of_the_driver_known_is_enough() -> None:
    assert choose(machine("8.6", serves="12.6")).grade is Grade.DIRECT
    assert choose(machine("8.6", serves="12.2")).grade is Grade.MINOR_COMPATIBLE


@pytest.mark.parametrize(
    ("capability", "driver", "reason"),
    [
        ("6.1", "595.71.05", r"driver 595\.71\.05 doesn't support GPU-0 \(6\.1\): 580 is the last branch that does"),
        ("3.7", "525.60.13", "470 is the last branch that does"),
        ("7.0", "590.44.01", "580 is the last branch that does"),
        ("10.0", "525.60.13", "570 is the first branch that does"),
    ],
)
def test_driver_that_lacks_a_gpu_fits_no_cuda_build(capability: str, driver: str, reason: str) -> None:
    with pytest.raises(NoBuildError, match=reason) as caught:
        choose(machine(capability, driver=driver))
    assert ("newer NVIDIA driver" in caught.value.hint) is ("first" in reason)
    assert choose(machine(capability, driver=driver), cuda=CPU).grade is Grade.CPU


def test_stated_cuda_counts_instead_of_the_branch() -> None:
    assert choose(stated("12.6", "6.1", driver="595.71.05")).grade is Grade.DIRECT


def test_ptx_only_build_is_unverified() -> None:
    selection = choose(machine("12.0", driver="591.86", platform="win-64"), cuda=CU118)
    assert selection.grade is Grade.UNVERIFIED
    assert any("only PTX" in warning for warning in selection.warnings)


def test_jetson_driver_is_judged_by_its_cuda() -> None:
    jetson = Condition(code="jetson", symptom="s", cause="c", remedy="r")
    thor = replace(machine("11.0", driver="540.4.0", serves="13.0", platform="linux-aarch64"), conditions=(jetson,))
    selection = choose(thor)
    assert (str(selection.build.tag), selection.grade) == ("cu130", Grade.DIRECT)
    assert not any("forward-compatibility" in warning for warning in selection.warnings)


def test_unknown_compute_capability_makes_the_build_unverified() -> None:
    selection = choose(machine("8.6", "?", driver="580.65.06"))
    assert (str(selection.build.tag), selection.grade) == ("cu130", Grade.UNVERIFIED)
    assert selection.warnings[0].startswith("the compute capability of GPU-1 is unknown")


def test_forward_compatibility_libraries_are_not_relied_on() -> None:
    selection = choose(machine("8.0", driver="535.274.02", serves="13.0"))
    assert (str(selection.build.tag), selection.grade) == ("cu126", Grade.MINOR_COMPATIBLE)
    assert any("forward-compatibility libraries are active" in warning for warning in selection.warnings)


@pytest.mark.parametrize(
    "described",
    [
        machine("8.9", driver="551.23", serves="12.4", platform="win-64", glibc=None),
        replace(machine("8.9", driver="551.23", serves="12.4"), is_wsl=True),
        machine("8.0", driver="550.40.07", serves="12.4"),
        parse_machine(b"NVIDIA A100-SXM4-40GB, 550.40.07, 8.0\n", "box"),
        parse_machine(b"NVIDIA A100-SXM4-40GB, 579.10.01, 8.0\n", "box"),
    ],
)
def test_first_driver_of_a_branch_has_no_forward_compatibility(described: Machine) -> None:
    assert not any("forward-compatibility" in warning for warning in choose(described).warnings)


def test_windows_and_wsl_are_judged_by_the_windows_driver() -> None:
    windows = choose(machine("8.9", driver="527.41", platform="win-64", glibc=None), cuda=CU118)
    wsl = replace(machine("8.9", driver="520.06"), is_wsl=True)
    assert windows.grade is Grade.DIRECT
    assert choose(wsl, cuda=CU118).grade is Grade.DIRECT
    assert choose(replace(wsl, is_wsl=False), cuda=CU118).grade is Grade.MINOR_COMPATIBLE


def test_an_announced_release_is_given_only_by_name_and_unverified() -> None:
    computer = machine("8.0", driver="595.71.05")
    assert choose(computer).build.torch == Version("2.14.1")
    named = choose(computer, torch=Version("2.15.0"))
    assert (pins(named)["torch"], named.grade) == ("2.15.0+cu132", Grade.UNVERIFIED)
    assert "torch 2.15.0 for cu132 was announced or reported, but not seen in the index" in named.warnings


def test_torchaudio_is_left_out_where_the_index_has_none() -> None:
    assert "torchaudio" not in pins(choose(machine("8.0", driver="595.71.05")))


def test_prefer_direct_takes_an_older_torch_that_the_driver_serves_itself() -> None:
    selection = choose(machine("8.6", driver="550.54.14"), prefer=Preference.DIRECT)
    assert (pins(selection)["torch"], selection.grade) == ("2.7.1+cu118", Grade.DIRECT)


def test_prefer_widest_takes_the_build_for_the_oldest_drivers() -> None:
    selection = choose(machine("8.6", driver="595.71.05"), prefer=Preference.WIDEST)
    assert pins(selection)["torch"] == "2.7.1+cu118"


def test_a_mirror_of_the_index_keeps_the_tag() -> None:
    selection = choose(machine(), torch_index="https://mirror.example/pytorch/")
    assert selection.index_url == "https://mirror.example/pytorch/cpu"


def test_python_that_a_tag_never_had_lists_what_it_has() -> None:
    with pytest.raises(
        NoBuildError, match=r"`--python 3\.14` on linux-64 with `--cuda cu118`; available there: 3\.8, 3\.9"
    ):
        choose(machine("8.6", driver="595.71.05"), cuda=CU118, python=Version("3.14"))


def test_a_platform_that_is_planned_is_not_bound_by_this_machine() -> None:
    selection = choose(machine("10.0", driver="440.33"), platform="win-64", cuda=CU118)
    assert (selection.build.platform, selection.grade) == ("win-64", Grade.UNVERIFIED)
    assert "nothing is known about the driver and GPU of the win-64 machine" in selection.warnings[0]


def test_several_platforms_get_one_torch_and_one_python() -> None:
    linux, mac = select_platforms(
        machine("7.5", driver="535.216.01"), Request(cuda=CU118), ("linux-64", "osx-arm64"), MATRIX
    )
    assert (pins(linux)["torch"], pins(mac)["torch"]) == ("2.7.1+cu118", "2.7.1")
    assert linux.python == mac.python == Version("3.10")
    assert mac.reason.startswith(
        "torch 2.7.1 is the build of the newest release that every platform of the project has, for osx"
    )


def test_several_platforms_get_the_newest_torch_that_all_have_and_it_is_said() -> None:
    answers = select_platforms(machine("7.5", driver="535.216.01"), Request(), ("osx-64", "linux-64"), MATRIX)
    assert [(a.build.platform, str(a.build.torch)) for a in answers] == [("osx-64", "2.2.2"), ("linux-64", "2.2.2")]
    head = "torch 2.2.2+cu118 is the build of the newest release that every platform of the project has"
    assert answers[1].reason.startswith(head)
    assert answers[1].reason.endswith("without the other platforms, linux-64 would get torch 2.14.1")
    note = "the other platforms of the project hold it back: without them it would get torch 2.14.1"
    assert (answers[0].warnings, answers[1].warnings) == ((), (note,))


def test_a_platform_without_wheels_of_the_tag_gets_cpu_and_it_is_said() -> None:
    answers = select_platforms(
        machine("7.5", driver="535.216.01"), Request(cuda=CU118), ("linux-64", "linux-aarch64"), MATRIX
    )
    assert str(answers[1].build.tag) == "cpu"
    assert "linux-aarch64 has no cu118 wheels, so it gets the CPU build" in answers[1].warnings


def test_platforms_without_a_common_release_are_refused_with_what_each_has() -> None:
    cu130 = WheelTag.parse("cu130")
    with pytest.raises(NoBuildError) as caught:
        select_platforms(machine("8.0", driver="580.65.06"), Request(cuda=cu130), ("linux-64", "osx-64"), MATRIX)
    assert "linux-64: torch 2.9.0 to 2.15.0\n  osx-64: torch 2.0.0 to 2.2.2" in caught.value.message


def test_a_platform_without_builds_lists_those_that_have_some() -> None:
    with pytest.raises(NoBuildError, match="no PyTorch build for linux-ppc64le; there are builds for: linux-64, "):
        choose(machine(platform="linux-ppc64le"))


def test_tegra_code_serves_no_desktop_gpu() -> None:
    build = replace(MATRIX.builds[0], capabilities=(ComputeCapability(8, 7),))
    assert has_cubin(build, ComputeCapability(8, 7), MATRIX)
    assert not has_cubin(build, ComputeCapability(8, 9), MATRIX)


@pytest.mark.parametrize(
    ("capability", "driver", "torch", "grade"),
    [
        ("3.7", "470.57.02", "2.7.1+cu118", Grade.MINOR_COMPATIBLE),
        ("6.0", "550.54.14", "2.14.1+cu126", Grade.MINOR_COMPATIBLE),
        ("7.5", "470.57.02", "2.7.1+cu118", Grade.MINOR_COMPATIBLE),
        ("8.0", "525.60.13", "2.14.1+cu126", Grade.MINOR_COMPATIBLE),
        ("10.3", "575.57.08", "2.11.0+cu128", Grade.DIRECT),
        ("12.0", "570.86.15", "2.11.0+cu128", Grade.DIRECT),
        ("12.0", "580.65.06", "2.14.1+cu130", Grade.DIRECT),
    ],
)
def test_the_newest_torch_for_gpu_and_driver(capability: str, driver: str, torch: str, grade: Grade) -> None:
    selection = choose(machine(capability, driver=driver))
    assert (pins(selection)["torch"], selection.grade) == (torch, grade)


def test_a_gpu_older_than_every_build_is_refused() -> None:
    with pytest.raises(NoBuildError, match=r"no kernel for compute capability 3\.5 \(GPU-0\), the oldest is 3\.7"):
        choose(machine("3.5", driver="470.57.02"))


def test_what_the_machine_would_get_by_itself_is_the_hint() -> None:
    with pytest.raises(NoBuildError) as caught:
        choose(machine("7.0", driver="580.65.06"), cuda=WheelTag.parse("cu130"))
    assert caught.value.hint.startswith("to use torch 2.14.1+cu126 (direct), omit `--cuda`; ")


def condition(code: str) -> Condition:
    return Condition(code=code, symptom=f"symptom of {code}", cause="a cause", remedy=f"remedy of {code}")


def test_a_system_without_glibc_is_refused_with_the_remedy() -> None:
    musl = replace(machine("8.0", driver="580.65.06", glibc=None), conditions=(condition("no-glibc"),))
    with pytest.raises(NoBuildError, match=r"requires glibc 2\.28 or newer, found a system without glibc") as caught:
        choose(musl)
    assert "remedy of no-glibc" in caught.value.hint


def test_a_state_that_keeps_cuda_from_the_gpu_is_warned_of_and_a_harmless_one_is_not() -> None:
    conditions = (condition("driver-library-mismatch"), condition("different-gpus"))
    warnings = choose(replace(machine("8.0", driver="580.65.06"), conditions=conditions)).warnings
    assert warnings == ("symptom of driver-library-mismatch (remedy: remedy of driver-library-mismatch)",)


def test_the_remedy_of_a_missing_driver_is_the_first_hint() -> None:
    with pytest.raises(NoBuildError) as caught:
        choose(replace(machine("7.5"), conditions=(condition("nouveau"),)))
    assert caught.value.hint.startswith("to use the CPU build, pass `--cuda cpu`; remedy of nouveau; ")
