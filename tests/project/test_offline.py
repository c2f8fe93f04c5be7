"""Test which build ``envforge new`` selects without a network, and what it reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from envforge.cli import main
from envforge.project.record import need_project_file
from tests.project.trees import tree
from tests.support.loopback import Loopback

DEAD = "http://127.0.0.1:9"
SERVERS = ("https://conda.anaconda.org", "https://download.pytorch.org")
TEMPLATES = ("image-classification", "language-model", "segmentation", "tabular", "text-classification")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("CONDA_OVERRIDE_CUDA", "CONDA_OVERRIDE_CUDA_ARCH", "CONDA_OVERRIDE_GLIBC", "ENVFORGE_CATALOGUE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ENVFORGE_MIRRORS", " ".join(f"{server}={DEAD}" for server in SERVERS))
    return tmp_path


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """Servers that answer, but have no packages."""
    with Loopback(lambda _: None) as server:
        monkeypatch.setenv("ENVFORGE_MIRRORS", " ".join(f"{each}={server.url}" for each in SERVERS))
        yield server


@pytest.mark.parametrize(
    ("template", "profile"),
    [*((template, "t4") for template in TEMPLATES), *((TEMPLATES[0], name) for name in ("v100", "a10g", "rtx-4090"))],
)
def test_offline_new_selects_build_with_lock(
    here: Path, template: str, profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", template, "net", "--machine", profile]) == 0

    selection = need_project_file(here / "net").selections[0]
    pin = selection.build.pin(selection.build.torch)
    assert pin.endswith("+cu126")
    err = capsys.readouterr().err
    assert (
        f"note: 127.0.0.1 can't be reached, so the project uses torch {pin}, whose lockfile is in the catalogue" in err
    )
    assert "run `envforge update --directory net --cuda 12.6 --torch 2.14.1`" in err
    assert main(["lock", "--check", "-f", "net/environment.yml"]) == 0
    assert selection.request.torch is None  # what was requested is recorded, not what was selected
    assert selection.request.cuda is None


def test_offline_note_is_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "tabular", "net", "--machine", "t4", "--json"]) == 0

    result = json.loads(capsys.readouterr().out)["result"]
    assert result["lock"]["origin"] == "catalogue"
    assert "can't be reached" in result["notes"][0]
    assert result["selections"][0]["reason"].startswith("torch 2.14.0+cu126 is the best build with a lockfile in the")


def test_offline_dry_run_shows_the_same_build(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "tabular", "net", "--machine", "t4", "--dry-run"]) == 0

    assert "torch 2.14.0+cu126" in capsys.readouterr().out
    assert tree(here) == {}


@pytest.mark.parametrize(
    ("options", "offered"),
    [
        (("--torch", "2.14.1"), "envforge new tabular net --cuda 12.6 --torch 2.14.0 --machine t4"),
        (("--cuda", "12.4"), "envforge new tabular net --cuda 12.6 --torch 2.14.0 --machine t4"),
        (("--python", "3.11"), "envforge new tabular net --cuda 12.6 --torch 2.14.0 --python 3.12 --machine t4"),
        (("--with", "notebook"), "--with notebook --no-lock"),
    ],
)
def test_offline_new_keeps_explicit_request(
    here: Path, options: tuple[str, str], offered: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "tabular", "net", "--machine", "t4", *options]) == 3

    err = capsys.readouterr().err
    assert "the catalogue has no lockfile for torch" in err
    assert "`127.0.0.1`, which a solve requires, can't be reached" in err
    assert offered in err
    assert tree(here) == {}


def test_offered_command_works_offline(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "tabular", "net", "--machine", "t4", "--torch", "2.14.1", "--json"]) == 3
    command = json.loads(capsys.readouterr().out)["error"]["commands"][0]

    assert main(command.removesuffix(" --json").split()[1:]) == 0

    assert (here / "net" / "conda-lock.yml").is_file()
    assert "note: 127.0.0.1" not in capsys.readouterr().err


def test_offline_new_selects_the_lock_of_another_architecture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "image-classification", "net", "--machine", "gh200"]) == 0

    assert "the project uses torch 2.7.1+cu128" in capsys.readouterr().err
    selection = need_project_file(here / "net").selections[0]
    assert selection.build.platform == "linux-aarch64"
    assert "cu128/torch-2.7.1%2Bcu128-cp312-cp312-manylinux_2_28_aarch64.whl" in (
        here / "net" / "conda-lock.yml"
    ).read_text(encoding="utf-8")


def test_offline_new_without_any_lock_fails(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "tabular", "net", "--machine", "cpu", "--platform", "osx-64"]) == 3

    assert "with Python 3.12 on osx-64, and `127.0.0.1`, which a solve requires" in capsys.readouterr().err
    assert tree(here) == {}


def test_answering_servers_keep_the_default_build(
    here: Path, answering: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "tabular", "net", "--machine", "t4"]) != 0

    err = capsys.readouterr().err
    assert "can't be reached, so the project" not in err
    assert "envforge new tabular net --cuda 12.6 --torch 2.14.0 --machine t4" in err
    assert tree(here) == {}


def test_new_asks_no_server_for_a_lock_of_the_catalogue(answering: Loopback) -> None:
    assert main(["new", "tabular", "net", "--machine", "a10g", "--cuda", "11.8"]) == 0

    assert answering.requests == ()


def test_one_silent_server_is_enough(monkeypatch: pytest.MonkeyPatch, answering: Loopback) -> None:
    monkeypatch.setenv("ENVFORGE_MIRRORS", f"{SERVERS[0]}={answering.url} {SERVERS[1]}={DEAD}")
    assert main(["new", "tabular", "net", "--machine", "t4"]) == 0


def test_offline_platforms_without_a_common_lock_are_named_together(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["new", "tabular", "net", "--machine", "cpu", "-p", "linux-64", "-p", "osx-arm64"]
    assert main([*words, "--json"]) == 3

    error = json.loads(capsys.readouterr().out)["error"]
    assert error["message"].startswith(
        "the catalogue has no lockfile for the combination of torch 2.14.1+cpu with Python 3.12 on linux-64 and "
        "torch 2.14.1 with Python 3.12 on osx-arm64, and `127.0.0.1`, which"
    )
    assert "to create it only for linux-64, whose lockfile is in the catalogue" in error["hint"]
    command = next(each for each in error["commands"] if "linux-64" in each and "osx-arm64" not in each)
    assert main(command.removesuffix(" --json").split()[1:]) == 0
    assert (here / "net" / "conda-lock.yml").is_file()


def test_offline_update_offers_builds_with_a_lock(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "tabular", "net", "--machine", "a10g", "--cuda", "11.8"]) == 0
    monkeypatch.chdir(here / "net")
    before = tree(here)
    capsys.readouterr()

    assert main(["update", "--machine", "a10g", "--cuda", "12.6", "--json"]) == 3

    command = json.loads(capsys.readouterr().out)["error"]["commands"][0]
    assert command == "envforge update --cuda 12.6 --torch 2.14.0 --machine a10g --json"
    assert tree(here) == before
    assert main(command.split()[1:]) == 0
    assert str(need_project_file(here / "net").selections[0].build.torch) == "2.14.0"


def test_offline_update_offers_no_build_for_an_edited_environment(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "tabular", "net", "--machine", "a10g", "--cuda", "11.8"]) == 0
    monkeypatch.chdir(here / "net")
    environment = Path("environment.yml").read_text()
    Path("environment.yml").write_text(environment.replace('  - "pytest"\n', '  - "einops"\n  - "pytest"\n'))
    capsys.readouterr()

    assert main(["update", "--machine", "a10g", "--cuda", "12.6", "--json"]) == 3

    commands = json.loads(capsys.readouterr().out)["error"]["commands"]
    assert [each for each in commands if "--torch" in each] == []
