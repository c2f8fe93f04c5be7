"""``explain --compare``: the builds that other tools would install follow from their published rules."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from packaging.version import Version

from envforge.cli import main
from envforge.machine.record import load_machine
from envforge.machine.values import Machine
from envforge.pytorch.matrix import Request, load_matrix
from envforge.pytorch.others import CONDA, PIP, UV, ToolBuild, compare_tools, load_other_tools
from tests.pytorch.machines import MATRIX, machine

TOOLS = load_other_tools()
PYTHON = Version("3.12")


def choices(of: Machine, request: Request | None = None, python: Version = PYTHON) -> dict[str, ToolBuild]:
    return {choice.tool: choice for choice in compare_tools(of, request or Request(), python, MATRIX, TOOLS)}


@pytest.mark.parametrize(
    ("driver", "tag"),
    [("580.126.09", "cu132"), ("579.99", "cu129"), ("525.60.13", "cu129"), ("525.60.12", "cu118"), ("440.33", "cpu")],
)
def test_uv_follows_the_driver_only(driver: str, tag: str) -> None:
    assert choices(machine("7.0", driver=driver))[UV].build.endswith(f"+{tag}")


def test_uv_is_not_predicted_for_what_its_rules_do_not_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = tmp_path / "node.txt"
    for kind, reason in (
        ("mi300x", "for GPUs of AMD and Intel"),
        ("max1550", "for GPUs of AMD"),
        ("a100", "the driver"),
    ):
        node.write_text(f"g1 gpu:{kind}:1\n", encoding="utf-8")
        found = choices(load_machine(str(node), {}))[UV]
        assert (found.verdict, found.build, reason in found.reason) == ("unverified", "", True)
        main(["explain", "--machine", str(node), "--compare"])
        assert re.search(rf"{UV} +not predicted +unverified", capsys.readouterr().out)


def test_uv_compares_the_number_of_a_jetsons_driver() -> None:
    orin = machine("8.7", driver="540.4.0", serves="12.6", platform="linux-aarch64")
    assert choices(orin)[UV].build.endswith("+cu129")
    assert choices(machine("8.7", driver="595.78", serves="13.2", platform="linux-aarch64"))[UV].build.endswith(
        "+cu132"
    )


def test_uv_uses_other_numbers_on_windows() -> None:
    assert choices(machine("8.6", driver="528.32", platform="win-64"))[UV].build.endswith("+cu118")
    assert choices(machine("8.6", driver="528.33", platform="win-64"))[UV].build.endswith("+cu129")


def test_uv_fails_if_the_first_index_lacks_the_release() -> None:
    found = choices(machine("8.0", driver="580.126.09"), Request(torch=Version("2.4.1")))[UV]
    assert (found.verdict, found.build) == ("fails", "")
    assert "the index of cu132, the first for this driver, has no torch 2.4.1 for linux-64" in found.reason


@pytest.mark.parametrize(
    ("platform", "torch", "build"),
    [
        ("linux-64", "2.4.1", "2.4.1+cu121"),
        ("linux-64", "2.7.1", "2.7.1+cu126"),
        ("linux-64", "2.14.1", "2.14.1+cu130"),
        ("linux-64", "2.15.0", "2.15.0+cu132"),
        ("linux-aarch64", "2.10.0", "2.10.0+cpu"),
        ("linux-aarch64", "2.11.0", "2.11.0+cu130"),
        ("win-64", "2.14.1", "2.14.1+cpu"),
        ("osx-arm64", "2.14.1", "2.14.1+cpu"),
    ],
)
def test_pip_installs_the_default_build_of_the_release(platform: str, torch: str, build: str) -> None:
    request = Request(torch=Version(torch), platform=platform)
    assert choices(machine("9.0", driver="610.43.02", platform=platform), request)[PIP].build == build


def test_pip_on_windows_leaves_the_gpu_unused() -> None:
    found = choices(machine("8.6", driver="610.43", platform="win-64"))[PIP]
    assert (found.verdict, found.reason) == ("cpu-only", "it is the CPU build, which doesn't use the GPU")


def test_installers_take_an_older_release_on_an_old_glibc() -> None:
    old = machine("8.0", driver="580.126.09", glibc="2.27")
    assert (
        choices(old)[PIP].build
        == max(
            (build for build in MATRIX.builds if build.platform == "linux-64" and build.glibc == Version("2.17")),
            key=lambda build: build.torch,
        ).torch.public
        + "+cu124"
    )


def test_conda_builds_for_the_cuda_of_the_driver() -> None:
    for serves, name in (("13.0", "CUDA 13.0"), ("12.2", "CUDA 12.9"), ("11.8", "CPU")):
        found = choices(machine("8.0", driver="580.126.09", serves=serves))[CONDA]
        assert found.build.endswith(f"({name})")
    assert choices(machine(platform="osx-arm64"))[CONDA].build.endswith("(CPU)")


def test_verdict_compares_kernels_and_driver() -> None:
    volta = choices(machine("7.0", driver="580.126.09", serves="13.0"))
    assert {choice.verdict for choice in volta.values()} == {"fails"}
    ampere = choices(machine("8.0", driver="610.43.02", serves="13.3"))
    assert (ampere[PIP].verdict, ampere[CONDA].verdict) == ("runs", "runs")
    none = choices(machine())
    assert (none[PIP].verdict, none[PIP].reason[:20]) == ("runs", "it is a CUDA build, ")


def test_every_machine_gets_a_verdict_with_its_source() -> None:
    drivers = (None, "450.80.02", "525.60.13", "560.28.03", "580.65.06", "610.43.02")
    for platform in MATRIX.platforms:
        for driver in drivers:
            for choice in choices(machine("8.6", driver=driver, platform=platform)).values():
                assert choice.verdict in {"runs", "unverified", "cpu-only", "fails"}
                assert choice.source
                assert (choice.verdict == "runs") or choice.reason


def test_python_that_no_build_has_fails() -> None:
    assert {choice.verdict for choice in choices(machine("8.0", driver="580.1"), python=Version("3.7")).values()} == {
        "fails"
    }


def test_pip_default_of_every_release_is_a_build() -> None:
    """A release that changes the default, or has no such tag anymore, needs a `[[pip]]` row in its file."""
    matrix = load_matrix()
    for platform in matrix.platforms:
        defaults = [row for row in matrix.pip_defaults if platform in row.platforms]
        for torch in {build.torch for build in matrix.builds if build.platform == platform}:
            row = max((row for row in defaults if row.since <= torch), key=lambda row: row.since)
            tags = {build.tag for build in matrix.builds if (build.torch, build.platform) == (torch, platform)}
            assert row.tag in tags, f"torch {torch} has no {row.tag} build for {platform}"


def test_rules_are_in_the_order_of_preference() -> None:
    tags = [row.tag.cuda for row in TOOLS.uv]
    assert tags == sorted(tags, reverse=True)  # type: ignore[type-var] # every row has a CUDA tag
    for platform in MATRIX.platforms:
        cudas = [row.cuda or Version("0") for row in TOOLS.conda_forge if platform in row.platforms]
        assert cudas == sorted(cudas, reverse=True)
        assert cudas[-1] == Version("0")


def test_json_has_the_comparison_even_if_no_build_fits(capsys: pytest.CaptureFixture[str]) -> None:
    for words, code in (([], 0), (["--cuda", "13.0"], 1)):
        assert main(["explain", "--machine", "v100", "--compare", "--json", *words]) == code
        compared = json.loads(capsys.readouterr().out)["result"]["compared"]
        assert [each["tool"] for each in compared] == [UV, PIP, CONDA]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", each["checked"]) for each in compared)
    assert main(["explain", "--machine", "v100", "--json"]) == 0
    assert "compared" not in json.loads(capsys.readouterr().out)["result"]


def test_each_platform_has_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--machine", "t4", "-p", "linux-64", "-p", "osx-arm64", "--compare"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"would install on (\S+):", out) == ["linux-64", "osx-arm64"]
    assert max(map(len, out.splitlines())) <= 80


def test_unconfirmed_build_of_an_index_is_unverified() -> None:
    wanted = replace(Request(), torch=Version("2.13.0"))
    found = choices(machine("8.0", driver="570.26"), wanted)[UV]
    assert (found.build, found.verdict) == ("2.13.0+cu129", "unverified")
    assert "whether the index has torch 2.13.0 for cu129" in found.reason
