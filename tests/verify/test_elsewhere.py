"""Test ``verify --machine``: a lockfile compared with a machine that is only described."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace
from packaging.version import Version

from envforge.base.data_files import lockfiles_root
from envforge.cli import main
from envforge.machine.record import machine_to_json
from envforge.machine.values import Condition, Machine
from tests.verify.made_up import T4, published_schema

Captured = pytest.CaptureFixture[str]
LOCKS = lockfiles_root() / "image-classification"


def lock(build: str) -> str:
    return str(LOCKS / f"{build}-linux-64.conda-lock.yml")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def described(machine: Machine) -> str:
    Path("machine.json").write_text(json.dumps(machine_to_json(machine)))
    return "machine.json"


def verdicts(capsys: Captured, *arguments: str) -> dict[str, str]:
    main(["verify", *arguments, "--json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, published_schema())
    return {found["check"]: found["verdict"] for found in document["result"]["findings"]}


@pytest.mark.parametrize(
    ("machine", "build", "check", "code"),
    [
        ("t4", "cu118", "", 0),
        ("t4", "cu130", "driver-too-old", 1),
        ("v100", "cu130", "no-kernel-for-gpu", 1),
        ("cpu", "cu126", "gpu-missing", 1),
        ("t4", "cpu", "", 0),
    ],
)
def test_machine_exits_with_1_if_the_lockfile_does_not_fit(
    capsys: Captured, machine: str, build: str, check: str, code: int
) -> None:
    assert main(["verify", "machine", "--machine", machine, "--lock", lock(build)]) == code
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith(f"The lockfile {'does not fit' if code else 'fits'} {machine}")
    assert (f"\nFAIL  {check}" in out) is bool(check)
    assert ("run       envforge explain --machine" in out) is bool(check)


def test_machine_works_before_and_without_the_subcommand(capsys: Captured) -> None:
    found = verdicts(capsys, "machine", "--machine", "t4", "--lock", lock("cu118"))
    assert found == verdicts(capsys, "--machine", "t4", "machine", "--lock", lock("cu118"))
    assert found == verdicts(capsys, "--machine", "t4", "--lock", lock("cu118"))


def test_facts_that_the_record_lacks_are_unknown(capsys: Captured) -> None:
    unnamed = replace(T4.gpus[0], name="NVIDIA Graphics Device", compute_capability=None)
    bare = replace(T4, glibc=None, driver=None, gpus=(unnamed,))
    found = verdicts(capsys, "--machine", described(bare), "--lock", lock("cu126"))
    unknown = {check for check, verdict in found.items() if verdict == "unknown"}
    assert unknown >= {"glibc-too-old", "driver-too-old", "no-kernel-for-gpu", "cpu-too-old"}
    assert "fail" not in found.values()


def test_a_condition_of_the_machine_fails_its_check(capsys: Captured) -> None:
    broken = replace(
        T4, conditions=(Condition(code="driver-library-mismatch", symptom="s", cause="c", remedy="reboot"),)
    )
    found = verdicts(capsys, "--machine", described(broken), "--lock", lock("cu118"))
    assert found["driver-library-mismatch"] == "fail"


def test_an_old_glibc_fails(capsys: Captured) -> None:
    old = described(replace(T4, glibc=Version("2.17")))
    assert verdicts(capsys, "--machine", old, "--lock", lock("cu118"))["glibc-too-old"] == "fail"


def test_the_record_is_judged_again_with_the_same_verdicts(capsys: Captured) -> None:
    main(["verify", "--machine", "t4", "--lock", lock("cu130"), "--json"])
    Path("r.json").write_text(capsys.readouterr().out)
    assert verdicts(capsys, "--from", "r.json") == verdicts(capsys, "--machine", "t4", "--lock", lock("cu130"))


def test_the_machine_selects_the_variant_of_the_project(directory: Path, capsys: Captured) -> None:
    (directory / "envforge.toml").write_text("")
    for build in ("cu130", "cu118", "cpu"):
        variant = directory / "lockfiles" / build
        variant.mkdir(parents=True)
        (variant / "conda-lock.yml").write_bytes(Path(lock(build)).read_bytes())
    for arguments, variant_name in (((), "cu118"), (("--variant", "cu130"), "cu130")):
        main(["verify", "--machine", "t4", *arguments, "--json"])
        project = json.loads(capsys.readouterr().out)["result"]["record"]["project"]
        assert project["variant"] == variant_name


def test_every_report_is_written(capsys: Captured) -> None:
    files = ("--html", "h.html", "--markdown", "m.md", "--junit", "j.xml")
    assert main(["verify", "--machine", "t4", "--lock", lock("cu130"), *files]) == 1
    assert "The lockfile does not fit t4" in Path("m.md").read_text()
    assert "The lockfile does not fit t4" in Path("h.html").read_text()
    assert "driver-too-old" in Path("j.xml").read_text()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--machine", "t4"), "no-lockfile"),
        (("--machine", "tesla"), "no-such-machine"),
        (("--machine", "--json"), "no-such-machine"),
        (("--machine", "t4", "--from", "r.json"), "two-machines"),
        (("--machine", "t4", "--lock", "a.yml", "--variant", "cu118"), "two-locks"),
        (("--machine", "t4", "--lock", lock("cpu"), "--only", "disk-full"), "nothing-to-check"),
    ],
)
def test_what_cannot_be_judged_is_a_usage_error(capsys: Captured, arguments: tuple[str, ...], code: str) -> None:
    assert main(["verify", *arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
