"""``envforge info`` prints what a bug report needs, even if the environment is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from packaging.version import Version

from envforge import __version__
from envforge.base.terms import ComputeCapability
from envforge.cli.info import machine_lines
from envforge.machine.values import Driver, Gpu, Machine
from envforge.prefix.journal import journal_path, read_journal, write_journal
from tests.prefix.use.support import User

SECRETS = {
    "HTTPS_PROXY": "http://ada:secret@proxy.example:8080",
    "ENVFORGE_MIRRORS": "https://conda.anaconda.org=https://ada:secret@mirror.example/conda",
    "PIP_INDEX_URL": "https://ada:secret@index.example/simple",
}


def test_environment_lock_tools_and_machine_are_told(user: User, plain: Path) -> None:
    run = user.envforge("info", here=plain.parent)
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert lines[0].startswith(f"envforge            {__version__} in ")
    assert f"environment         {plain} (complete)" in lines
    assert "                    1 conda package, 0 wheels" in lines
    assert any(line.startswith("                    lockfile: ") for line in lines)
    assert any(line.startswith("tools               conda-lock ") for line in lines)
    assert any(line.startswith("machine             ") for line in lines)


def test_home_is_shortened_and_credentials_are_left_out(user: User) -> None:
    project = user.home / "digits"
    project.mkdir()
    (project / "conda-lock.yml").touch()
    for words in (("info",), ("info", "--json")):
        run = user.envforge(*words, here=project, env=user.environment(**SECRETS))
        assert run.returncode == 0
        assert "secret" not in run.stdout
        assert "mirror.example/conda" in run.stdout
        assert "https://index.example/simple" in run.stdout
    assert "project             ~/digits\n" in user.envforge("info", here=project).stdout
    assert str(user.home) not in user.envforge("info", here=project).stdout


@pytest.mark.parametrize(
    ("case", "state"),
    [
        ("unfinished", "incomplete (last step: `conda done`); to complete it, run `envforge install`"),
        ("damaged", "invalid: the journal"),
        ("gone", "missing; to create it, run `envforge install --prefix"),
    ],
)
def test_broken_environments_are_told_and_do_not_stop_the_rest(user: User, plain: Path, case: str, state: str) -> None:
    journal = read_journal(plain)
    assert journal is not None
    write_journal(plain, journal.at("conda done"))
    if case == "damaged":
        journal_path(plain).write_text("{")
    words = ("--prefix", str(plain.parent / "gone")) if case == "gone" else ()
    run = user.envforge("info", *words, "--json", here=plain.parent)
    assert run.returncode == 0
    document = json.loads(run.stdout)["result"]
    assert document["environment"]["state"].startswith(state)
    assert document["machine"]["platform"]


def test_the_variants_and_the_one_for_this_machine_are_told(user: User, plain: Path, tmp_path: Path) -> None:
    folder = plain.parent / "lockfiles" / "cpu"
    assert "variants  " not in user.envforge("info", here=plain.parent).stdout
    folder.mkdir(parents=True)
    for place in (folder, plain.parent):
        (place / "conda-lock.yml").write_bytes((tmp_path / "made-plain" / "conda-lock.yml").read_bytes())
    run = user.envforge("info", here=plain.parent)
    assert "variants            conda-lock.yml, cpu; for this machine: conda-lock.yml\n" in run.stdout
    (plain.parent / "conda-lock.yml").unlink()
    run = user.envforge("info", here=plain.parent)
    assert "variants            cpu; for this machine: cpu\n" in run.stdout
    (folder / "conda-lock.yml").write_text("version: 1\n", encoding="utf-8")
    document = json.loads(user.envforge("info", "--json", here=plain.parent).stdout)["result"]
    assert document["variants"] == "cpu; for this machine: none"


def test_the_catalogue_that_counts_is_told_without_credentials(user: User, plain: Path) -> None:
    assert "catalogue           none configured\n" in user.envforge("info", here=plain.parent).stdout
    settings = plain.parent / "envforge.toml"
    settings.write_text('[catalogue]\naddress = "https://ada:secret@locks.example/team"\n', encoding="utf-8")
    run = user.envforge("info", here=plain.parent)
    assert f"catalogue           https://locks.example/team (from {settings})\n" in run.stdout
    assert "secret" not in run.stdout
    settings.write_text("[catalogue]\naddress = 3\n", encoding="utf-8")
    run = user.envforge("info", here=plain.parent)
    assert run.returncode == 0
    assert "catalogue           cannot be read: " in run.stdout


def test_without_an_environment_the_rest_is_told(user: User) -> None:
    document = json.loads(user.envforge("info", "--json").stdout)["result"]
    assert (document["environment"], document["project"]) == (None, None)
    assert document["version"] == __version__


def test_machine_is_two_lines() -> None:
    gpu = Gpu(index=0, name="Tesla T4", compute_capability=ComputeCapability.parse("7.5"))
    driver = Driver(kernel_version=Version("535.274.02"), cuda=Version("12.2"))
    machine = Machine(
        platform="linux-64",
        python=Version("3.12"),
        glibc=Version("2.35"),
        container="docker",
        driver=driver,
        gpus=(gpu, replace(gpu, index=1)),
    )
    assert machine_lines(machine) == (
        "linux-64, glibc 2.35, docker",
        "driver 535.274.02, CUDA 12.2, 2 x Tesla T4 (compute capability 7.5)",
    )
    bare = Machine(platform="osx-arm64", python=Version("3.12"))
    assert machine_lines(bare) == ("osx-arm64, no glibc", "no NVIDIA driver, no GPU")
