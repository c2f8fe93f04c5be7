from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import envforge
from envforge.base.data_files import lockfiles_root, templates_root
from envforge.base.distribution import distribution_name, pinned_requirement
from envforge.catalogue.index import INDEX_FILE, list_entries
from envforge.cli import main
from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.machine.record import load_machine
from envforge.project.record import read_project_file
from envforge.project.smoke import interpreter_torch
from tests.project.trees import tree

TEMPLATE = "image-classification"
NAME = distribution_name()
CU118 = (TEMPLATE, "net", "--machine", "a10g", "--cuda", "11.8")
GENERATED = {"envforge.toml", "environment.yml", "virtual-packages.yml"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("CONDA_OVERRIDE_CUDA", "CONDA_OVERRIDE_CUDA_ARCH", "CONDA_OVERRIDE_GLIBC", "ENVFORGE_MIRRORS"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def _new(*arguments: str) -> int:
    return main(["new", *arguments])


def test_a_project_without_lock_is_written_whole(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _new(*CU118, "--no-lock") == 0

    project = tree(here / "net")
    assert set(project) > GENERATED
    assert "conda-lock.yml" not in project
    assert '"torch==2.7.1+cu118"' in project["environment.yml"]
    assert '__cuda: "11.8"' in project["virtual-packages.yml"]
    assert {"net/train.py", "net/smoke.py", "net/engine/amp.py"} <= set(project)
    out = capsys.readouterr().out
    assert "torch 2.7.1+cu118, torchvision 0.22.1+cu118, Python 3.10" in out
    assert out.endswith("\nNext:\n  cd net\n  envforge lock\n  envforge install\n")


def test_the_default_folder_has_the_name_of_the_template(here: Path) -> None:
    assert _new(TEMPLATE, "--machine", "cpu", "--no-lock") == 0

    assert (here / TEMPLATE / "image_classification" / "train.py").is_file()


def test_an_empty_folder_is_filled_in_place(here: Path) -> None:
    (here / "net").mkdir()
    os.chdir(here / "net")

    assert _new(TEMPLATE, ".", "--machine", "cpu", "--no-lock") == 0

    assert (here / "net" / "net" / "train.py").is_file()


def test_a_dry_run_lists_every_file_with_its_size_and_changes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _new(*CU118, "--no-lock", "--dry-run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)["result"]

    assert tree(here) == {}
    assert _new(*CU118, "--no-lock", "--dry-run") == 0
    words = capsys.readouterr().out
    assert _new(*CU118, "--no-lock") == 0
    written = {
        name: (here / "net" / name).stat().st_size for name, text in tree(here / "net").items() if text != "folder"
    }
    assert {file["path"]: file["bytes"] for file in planned["files"]} == written
    for name, size in written.items():
        assert f"{size:>9,}  create     {name}" in words


def test_the_same_answers_give_the_same_bytes_under_any_name(here: Path) -> None:
    for name in ("one", "two"):
        assert _new(TEMPLATE, name, "--machine", "a10g", "--cuda", "11.8", "--no-lock") == 0

    for name in ("environment.yml", "virtual-packages.yml"):
        assert (here / "one" / name).read_bytes() == (here / "two" / name).read_bytes()


def test_the_machine_does_not_change_the_environment(here: Path) -> None:
    for machine in ("a10g", "v100", "cpu"):
        assert _new(TEMPLATE, machine, "--name", "net", "--machine", machine, "--cuda", "11.8", "--no-lock") == 0

    assert len({(here / machine / "environment.yml").read_bytes() for machine in ("a10g", "v100", "cpu")}) == 1


def test_the_record_says_how_the_project_came_to_be(here: Path) -> None:
    assert _new(*CU118, "--no-lock") == 0

    record = read_project_file(here / "net")
    assert record is not None
    assert (record.template, record.project, record.package) == (TEMPLATE, "net", "net")
    assert record.selections[0].build.pin(record.selections[0].build.torch) == "2.7.1+cu118"
    assert "A10G" in json.dumps(record.machine)


def test_the_record_names_no_person_and_no_device(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--machine", "a10g", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    document["result"]["hostname"] = "ada-workstation"
    document["result"]["gpus"][0]["uuid"] = "GPU-11111111-2222-3333-4444-555555555555"
    (here / "m.json").write_text(json.dumps(document), encoding="utf-8")

    assert _new(TEMPLATE, "net", "--machine", "m.json", "--no-lock") == 0

    text = (here / "net" / "envforge.toml").read_text(encoding="utf-8")
    assert "A10G" in text
    assert "ada-workstation" not in text
    assert "GPU-1111" not in text


@pytest.mark.parametrize("marker", ["folder", "file"])
def test_new_notes_enclosing_git_repository(here: Path, marker: str, capsys: pytest.CaptureFixture[str]) -> None:
    git = here / ".git"
    git.mkdir() if marker == "folder" else git.write_text("gitdir: elsewhere\n", encoding="utf-8")
    (here / "deep").mkdir()

    assert _new(TEMPLATE, "deep/net", "--machine", "cpu", "--no-lock") == 0

    note = f"note: deep/net is inside another git repository, which begins at {here}; "
    assert note in capsys.readouterr().err


def test_new_in_repository_root_has_no_note(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "net" / ".git").mkdir(parents=True)
    (here / ".git").mkdir()

    assert _new(TEMPLATE, "net", "--machine", "cpu", "--no-lock", "--force") == 0

    assert "git repository" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "variable", "settings", "recorded"),
    [
        (None, None, None, ""),
        (f"{NAME} @ git+https://host.example/x.git", None, None, f"{NAME} @ git+https://host.example/x.git"),
        (None, "./tool", None, "./tool"),
        (None, None, f"{NAME}>=2", f"{NAME}>=2"),
        ("1", "./tool", f"{NAME}==2", f"{NAME}==1"),
        (None, "2.0", None, f"{NAME}==2.0"),
        (None, None, "3.0", f"{NAME}==3.0"),
        (None, "", None, ""),
    ],
)
def test_requirement_reaches_files_and_record(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str | None,
    variable: str | None,
    settings: str | None,
    recorded: str,
) -> None:
    (here / "demo" / "files").mkdir(parents=True)
    (here / "demo" / "template.yml").write_text("{name: demo, version: 1, summary: A demo}", encoding="utf-8")
    (here / "demo" / "files" / "setup.sh.jinja").write_text(
        "pip install {{ envforge_requirement }}\n", encoding="utf-8"
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here / "config"))
    if variable is None:
        monkeypatch.delenv("ENVFORGE_REQUIREMENT", raising=False)
    else:
        monkeypatch.setenv("ENVFORGE_REQUIREMENT", variable)
    if settings is not None:
        (here / "config" / "envforge").mkdir(parents=True)
        text = f'[envforge]\nrequirement = "{settings}"\n'
        (here / "config" / "envforge" / "config.toml").write_text(text, encoding="utf-8")
    options = () if option is None else ("--envforge", option)

    assert _new("./demo", "net", "--machine", "cpu", "--no-lock", *options) == 0

    expected = shlex.quote(recorded or pinned_requirement())
    assert (here / "net" / "setup.sh").read_text(encoding="utf-8") == f"pip install {expected}\n"
    record = read_project_file(here / "net")
    assert record is not None
    assert record.envforge_requirement == recorded


def test_update_keeps_recorded_requirement(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "demo" / "files").mkdir(parents=True)
    (here / "demo" / "template.yml").write_text("{name: demo, version: 1, summary: A demo}", encoding="utf-8")
    (here / "demo" / "files" / "setup.sh.jinja").write_text("{{ envforge_requirement }}\n", encoding="utf-8")
    assert _new("./demo", "net", "--machine", "cpu", "--no-lock", "--envforge", "1") == 0
    monkeypatch.setenv("ENVFORGE_REQUIREMENT", "2")

    assert main(["update", "--directory", "net", "--check"]) == 0
    assert main(["update", "--directory", "net", "--envforge", "3"]) == 0

    assert (here / "net" / "setup.sh").read_text(encoding="utf-8") == f"{NAME}==3\n"
    assert main(["update", "--directory", "net", "--check"]) == 0


@pytest.mark.parametrize(
    "value", ["", "torchvision==1", "--upgrade", "https://ada:secret@host.example/envforge.zip", "1\n2"]
)
def test_new_and_update_reject_a_bad_requirement(here: Path, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "demo" / "files").mkdir(parents=True)
    (here / "demo" / "template.yml").write_text("{name: demo, version: 1, summary: A demo}", encoding="utf-8")
    options = ("--machine", "cpu", "--no-lock")
    assert _new("./demo", "net", *options, f"--envforge={value}") == 2
    assert not (here / "net").exists()
    assert "in `--envforge`" in capsys.readouterr().err or not value.startswith("https")

    assert _new("./demo", "net", *options) == 0
    before = (here / "net" / "envforge.toml").read_bytes()
    assert main(["update", "--directory", "net", f"--envforge={value}"]) == 2
    assert (here / "net" / "envforge.toml").read_bytes() == before
    assert "secret" not in capsys.readouterr().err


def test_update_names_the_file_with_a_bad_requirement(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "demo" / "files").mkdir(parents=True)
    (here / "demo" / "template.yml").write_text("{name: demo, version: 1, summary: A demo}", encoding="utf-8")
    assert _new("./demo", "net", "--machine", "cpu", "--no-lock", "--envforge", "1") == 0
    record = here / "net" / "envforge.toml"
    record.write_text(record.read_text(encoding="utf-8").replace(f"{NAME}==1", "other==1"), encoding="utf-8")

    assert main(["update", "--directory", "net", "--check"]) == 2
    assert f"`envforge_requirement` in `{Path('net', 'envforge.toml')}`" in capsys.readouterr().err
    assert main(["update", "--directory", "net", "--envforge", "2"]) == 0
    assert f"{NAME}==2" in record.read_text(encoding="utf-8")


INNER = (
    Hint("to lock again", "envforge lock"),
    Hint("check the network connection"),
    Hint("to install", "envforge install"),
)


def test_hints_of_install_hold_after_new(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OutsideError("no route", hint=INNER, code="download-failed")

    monkeypatch.setattr("envforge.prefix.install.install", fail)
    assert _new(TEMPLATE, "my net", "--name", "net", "--machine", "cpu", "--cuda", "11.8", "--install") == 3
    assert capsys.readouterr().err.splitlines()[-1] == (
        "hint: the project is complete; to install its environment later, run `cd 'my net' && envforge install`; "
        "to lock again, run `cd 'my net' && envforge lock`; check the network connection"
    )


@pytest.mark.parametrize("part", ["prefix", "lock"])
def test_no_hint_passed_on_by_new_repeats_the_command(part: str) -> None:
    """A new project exists after its installation has failed, so `envforge new` can't be run again."""
    folder = Path(envforge.__file__).parent / part
    sources = [path for path in sorted(folder.rglob("*.py")) if path.name != "bundle.py"]  # new makes no bundle
    texts = {path.name: path.read_text(encoding="utf-8") for path in sources}
    found = [f"{name}: {line}" for name, text in texts.items() for line in re.findall(r".*the command again.*", text)]
    assert sources
    assert found == []


@pytest.mark.parametrize("command", ["new", "update"])
def test_hints_of_lock_enter_the_project(
    here: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise EnvforgeError("no solution", hint=INNER[:2], code="no-solution")

    words = ("--machine", "cpu", "--cuda", "cpu")
    assert command == "new" or _new(TEMPLATE, "net", *words) == 0
    monkeypatch.setattr("envforge.project.create.obtain_lock", fail)
    monkeypatch.setattr("envforge.cli.new.obtain_lock", fail)
    monkeypatch.setattr("envforge.project.create.unreachable_host", lambda *_: None)
    monkeypatch.setattr("envforge.project.create.find_lock", lambda *_: None)
    capsys.readouterr()
    if command == "new":
        assert _new(TEMPLATE, "net", *words) == 1
    else:
        assert main(["update", "--directory", "net", "--cuda", "11.8"]) == 1
    error = capsys.readouterr().err
    assert error.endswith(
        "then, in the project, to lock again, run `cd net && envforge lock`; check the network connection\n"
    )


def test_smoke_without_gpu_runs_the_cpu_part(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _write_smoke_template(here)

    assert _new("./demo", "net", "--machine", "a10g", "--cuda", "11.8", "--no-lock", "--smoke", "--trust") == 0

    assert "arguments: []" in capfd.readouterr().out


@pytest.mark.parametrize("tag", ["11.8", "cpu"])
def test_smoke_with_signs_of_nvidia_never_fails_or_passes_the_gpu(
    here: Path, tag: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A program that fails, as on a login node, is a sign for the project's smoke test, but no GPU for envforge."""
    _write_smoke_template(here, "--skip-gpu")
    package = here / "demo" / "files" / "__package__"
    (package / "smoke.py").write_text(
        "import sys\nfrom .engine.device import nvidia_signs\nprint('signs:', nvidia_signs(), sys.argv[1:])\n"
        "sys.exit(bool(nvidia_signs()) and '--skip-gpu' not in sys.argv)\n",
        encoding="utf-8",
    )
    shutil.copytree(templates_root() / "common" / "files" / "__package__" / "engine", package / "engine")
    program = here / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 9\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    assert _new("./demo", "net", "--cuda", tag, "--no-lock", "--smoke", "--trust") == 0

    assert f"nvidia-smi ({program})" in capfd.readouterr().out


@pytest.mark.parametrize("supports_skip", [True, False])
def test_smoke_with_other_build_never_fails_or_passes_the_gpu(
    here: Path, supports_skip: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _write_smoke_template(here, "--skip-gpu" if supports_skip else "")
    gpu_machine = load_machine("t4", {})
    monkeypatch.setattr("envforge.machine.record.load_machine", lambda spec, environment: gpu_machine)
    found = interpreter_torch()

    assert _new("./demo", "net", "--cuda", "11.8", "--no-lock", "--smoke", "--trust", "--json") == 0

    captured = capfd.readouterr()
    reason = f"this interpreter has {found}, environment.yml has torch 2.7.1+cu118"
    smoke = json.loads(captured.out)["result"]["smoke"]
    assert smoke == {"ran": supports_skip, "gpu": "not-run", "reason": reason}
    assert (f"arguments: {['--skip-gpu', reason]!r}" in captured.err) is supports_skip


def test_smoke_that_cannot_skip_gpu_shows_commands(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _write_smoke_template(here)
    gpu_machine = load_machine("t4", {})
    monkeypatch.setattr("envforge.machine.record.load_machine", lambda spec, environment: gpu_machine)

    assert _new("./demo", "net", "--cuda", "11.8", "--no-lock", "--smoke", "--trust") == 0

    out = capfd.readouterr().out
    assert "not run, because this interpreter has torch" in out
    assert out.endswith(
        "To run it in the locked environment:\n  cd net && envforge lock && envforge install\n"
        "  .conda/bin/python -m net.smoke\n"
    )


def _write_smoke_template(here: Path, note: str = "") -> None:
    package = here / "demo" / "files" / "__package__"
    package.mkdir(parents=True)
    (here / "demo" / "template.yml").write_text("{name: demo, version: 1, summary: A demo}", encoding="utf-8")
    (package / "__init__.py").touch()
    (package / "smoke.py").write_text(f"import sys\nprint('arguments:', sys.argv[1:])  # {note}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--no-lock",), "`--install` requires a lockfile, but `--no-lock` was provided"),
        (("-p", "osx-arm64"), "`--install` requires a project for `linux-64`"),
    ],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the platform of the message")
def test_install_that_is_impossible_writes_nothing(
    here: Path, options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _new(TEMPLATE, "net", "--machine", "cpu", "--install", *options) == 2

    assert words in capsys.readouterr().err
    assert tree(here) == {}


def test_several_platforms_share_one_environment(here: Path) -> None:
    platforms = ("-p", "linux-64", "-p", "osx-arm64")

    assert _new(*CU118, *platforms, "--no-lock") == 0

    text = (here / "net" / "environment.yml").read_text(encoding="utf-8")
    assert '"torch==2.7.1+cu118"  # [linux64]' in text
    assert '"torch==2.7.1"  # [arm64]' in text


def test_no_gpu_is_said_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    assert _new(TEMPLATE, "--machine", "cpu", "--no-lock") == 0

    captured = capsys.readouterr()
    assert "+cpu" in captured.out
    assert "GPU" in captured.out + captured.err


@pytest.mark.skipif(not (lockfiles_root() / INDEX_FILE).is_file(), reason="there is no catalogue")
def test_a_lock_of_the_catalogue_is_written_at_once_and_named_with_its_date(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _new(*CU118) == 0

    entry = next(e for e in list_entries(lockfiles_root()) if str(e.selection.tag) == "cu118")
    assert f"from the catalogue: {entry.template} {entry.variant}, with the packages of {entry.date}" in (
        " ".join(capsys.readouterr().out.split())
    )
    assert (here / "net" / "conda-lock.yml").read_bytes() == entry.path.read_bytes()
    assert main(["lock", "--check", "-f", "net/environment.yml"]) == 0


@pytest.mark.skipif(not (lockfiles_root() / INDEX_FILE).is_file(), reason="there is no catalogue")
def test_the_three_next_commands_are_those_of_a_locked_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert _new(*CU118) == 0

    out = capsys.readouterr().out
    assert out.endswith("\nNext:\n  cd net\n  envforge install\n  .conda/bin/python -m net.smoke\n")


@pytest.mark.skipif(not (lockfiles_root() / INDEX_FILE).is_file(), reason="there is no catalogue")
def test_a_lock_left_from_a_former_environment_is_said_aloud(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _new(*CU118) == 0

    assert _new(TEMPLATE, "net", "--machine", "cpu", "--no-lock", "--force") == 0

    assert "conda-lock.yml in net still belongs to the previous environment" in capsys.readouterr().err
    assert main(["lock", "--check", "-f", "net/environment.yml"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "no template was provided; expected one of `image-classification`"),
        (("image-clasification",), 2, "unknown template `image-clasification`"),
        ((TEMPLATE, "net", "--cuda", "11.9"), 2, "11.8"),
        ((TEMPLATE, "net", "--torch", "9.9"), 2, "9.9"),
        ((TEMPLATE, "net", "--python", "2.7"), 2, "2.7"),
        ((TEMPLATE, "net", "-p", "amiga-68k"), 2, "amiga-68k"),
        ((TEMPLATE, "net", "--machine", "t5"), 2, "t5"),
        ((TEMPLATE, "../net"), 2, "DIR `../net` contains `..`"),
        ((TEMPLATE, "a/../net"), 2, "contains `..`"),
        ((TEMPLATE, "net\n"), 2, "invisible characters"),
        ((TEMPLATE, "a\x1b[2J/net"), 2, "invisible characters"),
        ((TEMPLATE, "x" * 201, "--name", "net"), 2, "at most 200 bytes"),
        ((TEMPLATE, "aux", "--name", "net"), 2, "Windows reserves"),
        ((TEMPLATE, ""), 2, "DIR is empty: ``"),
        ((TEMPLATE, "net work"), 2, "DIR `net work` can't be the name of a project"),
        ((TEMPLATE, "net", "--name", "a/b"), 2, "--name `a/b` can't be the name of a project"),
        ((TEMPLATE, "net", "--name", "x" * 65), 2, "at most 64"),
        ((TEMPLATE, "nul"), 2, "Windows reserves"),
        ((TEMPLATE, "class"), 2, "keyword of Python"),
        ((TEMPLATE, "torch"), 2, "`import torch` already imports another package"),
        ((TEMPLATE, "test"), 2, "`import test` already imports another package"),
        ((TEMPLATE, "net", "--var", "nonsense"), 2, "`--var nonsense` is not of the form `KEY=VALUE`"),
        ((TEMPLATE, "net", "--var", "no_such=1"), 2, "unknown question `no_such` for `--var`"),
        ((TEMPLATE, "net", "--mirror", "nonsense"), 2, "`nonsense` is not a mirror rule"),
        ((TEMPLATE, "net", "--torch-index", "https://me:secret@host/whl"), 2, "credentials"),
        ((TEMPLATE, "no/such/folder/net"), 1, "does not exist"),
        ((TEMPLATE, "link"), 1, "symbolic link"),
        ((TEMPLATE, "link", "--force"), 1, "symbolic link"),
        ((TEMPLATE, "file"), 1, "is a file"),
        ((TEMPLATE, "full"), 1, "is not empty"),
        ((TEMPLATE, "net", "--machine", "b200", "--cuda", "11.8"), 1, "10.0"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    (here / "full").mkdir()
    (here / "full" / "thesis").write_text("mine\n", encoding="utf-8")
    (here / "link").symlink_to("full")
    (here / "file").write_text("mine\n", encoding="utf-8")
    before = tree(here)

    assert _new(*arguments, "--no-lock") == code

    captured = capsys.readouterr()
    assert words in captured.err
    assert "secret" not in captured.err.replace("'", " ").split()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert tree(here) == before


def test_a_failure_is_one_json_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert _new("nothing", "--json") == 2

    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["error"]["code"]) == (False, "no-such-template")


def test_force_keeps_what_is_yours(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _new(*CU118, "--no-lock") == 0
    (here / "net" / "net" / "train.py").write_text("my own loop\n", encoding="utf-8")
    (here / "net" / "thesis").write_text("mine\n", encoding="utf-8")
    capsys.readouterr()

    assert _new(TEMPLATE, "net", "--machine", "cpu", "--no-lock", "--force", "--json") == 0

    result = json.loads(capsys.readouterr().out)["result"]
    project = tree(here / "net")
    assert result["kept"] == [{"path": "net/train.py", "kept_as": "net/train.py.orig"}]
    assert project["net/train.py.orig"] == "my own loop\n"
    assert project["thesis"] == "mine\n"
    assert "+cpu" in project["environment.yml"]


def test_a_damaged_record_in_the_target_stops_force(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _new(*CU118, "--no-lock") == 0
    (here / "net" / "envforge.toml").write_text("[", encoding="utf-8")
    before = tree(here)

    assert _new(*CU118, "--no-lock", "--force") == 1

    assert "envforge.toml" in capsys.readouterr().err
    assert tree(here) == before


def test_a_solve_that_fails_leaves_no_project(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = "https://conda.anaconda.org=http://127.0.0.1:9"

    assert _new(*CU118, "--fresh", "--mirror", dead, "--mirror", "https://download.pytorch.org=http://127.0.0.1:9") in (
        1,
        3,
    )

    err = capsys.readouterr().err
    assert tree(here) == {}
    assert "--no-lock" in err
    assert "Traceback" not in err


def _interrupted(here: Path, number: int) -> subprocess.CompletedProcess[str]:
    """Run ``new`` in a process that gets Ctrl-C at the ``number``-th file operation below its folder."""
    code = (
        "import os, signal, sys\n"
        "from tests.project.trees import send, trap\n"
        "from pathlib import Path\n"
        "from envforge.cli import main\n"
        f"trap({number}, send(signal.SIGINT), Path({str(here)!r}))\n"
        f"sys.exit(main({['new', TEMPLATE, str(here / 'net'), '--machine', 'cpu', '--no-lock']!r}))\n"
    )
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", [1, 2, 5, 20, 40])
def test_ctrl_c_leaves_nothing_behind_and_exits_130(here: Path, number: int) -> None:
    done = _interrupted(here, number)

    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert tree(here) == {}


def test_smoke_needs_torch_before_anything_is_written(here: Path) -> None:
    hide = (
        "import sys\n"
        "sys.modules['torch'] = None  # as if it were not installed\n"
        "from envforge.cli import main\n"
        f"sys.exit(main({['new', TEMPLATE, str(here / 'net'), '--machine', 'cpu', '--no-lock', '--smoke']!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "[smoke]" in done.stderr
    assert tree(here) == {}


def test_without_a_terminal_nothing_is_asked(here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "envforge", "new", TEMPLATE, str(here / "net"), "--machine", "cpu", "--no-lock"],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
