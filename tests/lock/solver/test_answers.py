"""Test the JSON of each call against recorded answers of conda 26.7.1 for the same packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from envforge.lock.condalock import solver_launcher
from envforge.lock.solver.__main__ import main
from tests.lock.solver.channel import package, virtual_channel
from tests.lock.solver.conftest import Ask
from tests.support.channel import Channel

FETCH_OF_CONDA = {
    "name", "version", "build", "build_number", "channel", "subdir", "fn", "md5", "url", "sha256", "depends",
    "constrains", "license", "timestamp", "size",
}  # fmt: skip
LINK_OF_CONDA = {
    "base_url", "build_number", "build_string", "channel", "dist_name", "name", "platform", "version",
}  # fmt: skip
SPECS = ("python 3.12.*", "pyhello", "libb >=1.0")


def installed(prefix: Path, channel: Path, **versions: str) -> Path:
    """A prefix as conda-lock writes it for ``--update``: no sizes, no channel objects, builds lost in depends."""
    repodata: dict[str, Any] = {}
    for subdir in ("linux-64", "noarch"):
        document = json.loads((channel / subdir / "repodata.json").read_text())
        repodata |= {**document["packages"], **document["packages.conda"]}
    (prefix / "conda-meta").mkdir(parents=True)
    for fn, entry in repodata.items():
        if versions.get(entry["name"]) == entry["version"]:
            home = f"{channel.as_uri()}/{entry['subdir']}"
            kept = {key: entry[key] for key in ("name", "md5", "sha256", "build", "build_number", "version", "subdir")}
            meta = {**kept, "channel": home, "url": f"{home}/{fn}", "fn": fn, "depends": entry["depends"]}
            (prefix / "conda-meta" / f"{fn.removesuffix('.conda')}.json").write_text(json.dumps(meta))
    return prefix


OLD = {"liba": "1.5", "libb": "1.0", "pyhello": "1.0.0", "python": "3.12.1", "tinydata": "2024b"}


def test_a_solve_has_the_entries_of_conda(create: Ask, channel: Path) -> None:
    answer = create(channel.as_uri(), *SPECS).json

    assert set(answer) == {"success", "actions", "prefix", "dry_run"}
    assert answer["success"] is True
    assert answer["prefix"] == answer["actions"]["PREFIX"] == "/nowhere/prefix"
    fetch = {entry["name"]: entry for entry in answer["actions"]["FETCH"]}
    assert sorted(fetch) == ["liba", "libb", "pyhello", "python", "tinydata"]
    assert all(set(entry) - {"noarch"} == FETCH_OF_CONDA for entry in fetch.values())
    written = json.loads((channel / "linux-64/repodata.json").read_text())["packages.conda"]["liba-1.5-h1_1.conda"]
    assert fetch["liba"] == {
        "name": "liba",
        "version": "1.5",
        "build": "h1_1",
        "build_number": 1,
        "channel": f"{channel.as_uri()}/linux-64",
        "subdir": "linux-64",
        "fn": "liba-1.5-h1_1.conda",
        "md5": written["md5"],
        "url": f"{channel.as_uri()}/linux-64/liba-1.5-h1_1.conda",
        "sha256": written["sha256"],
        "depends": [],
        "constrains": [],
        "license": "MIT",
        "timestamp": 1700000000000,
        "size": written["size"],
    }
    assert all(set(entry) == LINK_OF_CONDA for entry in answer["actions"]["LINK"])


def test_packages_are_linked_after_what_they_depend_on(create: Ask, channel: Path) -> None:
    order = [entry["name"] for entry in create(channel.as_uri(), *SPECS).json["actions"]["LINK"]]

    assert order.index("liba") < order.index("libb")
    assert order.index("tinydata") < order.index("python") < order.index("pyhello")


def test_the_same_call_gives_the_same_answer(create: Ask, channel: Path) -> None:
    assert create(channel.as_uri(), *SPECS) == create(channel.as_uri(), *SPECS)


def test_list_names_the_packages_of_a_prefix(ask: Ask, channel: Path, tmp_path: Path) -> None:
    prefix = installed(tmp_path / "prefix", channel, **OLD)

    answer = ask("list", "--no-pip", "-p", str(prefix), "--json")

    assert [(entry["name"], entry["version"]) for entry in answer.json] == sorted(OLD.items())
    assert answer.json[0] == {
        "base_url": channel.as_uri(),
        "build_number": 1,
        "build_string": "h1_1",
        "channel": "channel",
        "dist_name": "liba-1.5-h1_1",
        "name": "liba",
        "platform": "linux-64",
        "version": "1.5",
    }


@pytest.fixture
def update(ask: Ask, channel: Path, virtual: str) -> Ask:
    def update(prefix: Path, *specs: str, command: str = "install") -> Any:
        channels = ("--override-channels", "--channel", channel.as_uri(), "--channel", virtual)
        return ask(command, *channels, "-p", str(prefix), "--json", "--dry-run", *specs)

    return update


@pytest.mark.parametrize("command", ["install", "update"])
def test_an_update_moves_only_what_it_names(update: Ask, channel: Path, tmp_path: Path, command: str) -> None:
    prefix = installed(tmp_path / "prefix", channel, **OLD)

    answer = update(prefix, "libb >=1.0", command=command)

    actions = answer.json["actions"]
    assert answer.packages == {"libb": "1.1"}
    assert [(entry["name"], entry["version"]) for entry in actions["UNLINK"]] == [("libb", "1.0")]
    assert [(entry["name"], entry["version"]) for entry in actions["LINK"]] == [("libb", "1.1")]


def test_an_update_with_nothing_newer_answers_as_conda_does(update: Ask, channel: Path, tmp_path: Path) -> None:
    prefix = installed(tmp_path / "prefix", channel, **{**OLD, "libb": "1.1"})

    answer = update(prefix, "libb >=1.0")

    assert answer.json == {"success": True, "message": "All requested packages already installed."}


def test_an_update_never_moves_python_to_another_minor_version(update: Ask, channel: Path, tmp_path: Path) -> None:
    prefix = installed(tmp_path / "prefix", channel, **OLD, newpython="1.0")

    assert update(prefix, "newpython").json["message"] == "All requested packages already installed."
    assert update(prefix, "newpython", "python").packages == {"newpython": "2.0", "python": "3.13.0"}


def test_an_update_keeps_to_builds_that_a_lock_does_not_tell(ask: Ask, virtual: str, tmp_path: Path) -> None:
    """conda-lock writes ``dep`` where the channel says ``dep * b_*``: the channel's own record counts."""
    channel = Channel(tmp_path / "channel")
    channel.add(
        package("dep", "1.0", build="b_0"), package("dep", "2.0", build="a_0"), package("user", "1", "dep * b_*")
    )
    channel.index()
    prefix = installed(tmp_path / "prefix", channel.folder, dep="1.0", user="1")
    meta = prefix / "conda-meta/user-1-0.json"
    meta.write_text(meta.read_text().replace("dep * b_*", "dep"))
    words = ("-c", channel.folder.as_uri(), "-c", virtual, "-p", str(prefix), "--json", "--dry-run")

    assert ask("install", *words, "dep").json["message"] == "All requested packages already installed."


def test_an_update_of_a_prefix_that_is_none_is_refused(update: Ask, tmp_path: Path) -> None:
    assert "has no directory `conda-meta`" in update(tmp_path, "libb").message


def test_a_damaged_prefix_record_is_named(ask: Ask, channel: Path, tmp_path: Path) -> None:
    prefix = installed(tmp_path / "prefix", channel, **OLD)
    damaged = next((prefix / "conda-meta").glob("libb*"))
    damaged.write_text("{")

    assert str(damaged) in ask("list", "-p", str(prefix), "--json").message


def test_a_version_that_no_channel_has_is_named_with_what_there_is(create: Ask, channel: Path) -> None:
    answer = create(channel.as_uri(), "python 3.12.*", "libb >=9", "nosuchpackage")

    assert answer.message == (
        "these packages are not available for linux-64:\n"
        "  - libb >=9 (available: 1.1, 1.0)\n"
        "  - nosuchpackage\n"
        "channels searched:\n"
        f"  - {channel.as_uri()}\n\n"
        "hint: change the version constraint to one that matches"
    )
    assert answer.json["unknown"] == ["nosuchpackage"]
    assert answer.json["exception_name"] == "PackagesNotFoundInChannelsError"


@pytest.mark.parametrize(
    ("specs", "hints"),
    [
        (("lib-b >=1",), ["did you mean `libb`?"]),
        (
            ("pyhelo", "tinydatta"),
            ["did you mean `pyhello` instead of `pyhelo`?", "did you mean `tinydata` instead of "],
        ),
        (("nosuchpackage",), []),
    ],
)
def test_unknown_names_get_the_nearest_of_the_channel(
    create: Ask, channel: Path, specs: tuple[str, ...], hints: list[str]
) -> None:
    answer = create(channel.as_uri(), *specs)

    found = [hint["purpose"] for hint in answer.json["hints"]]
    assert len(found) == len(hints)
    assert all(text.startswith(wanted) for text, wanted in zip(found, hints, strict=True))


def test_a_conflict_is_explained(create: Ask, channel: Path) -> None:
    answer = create(channel.as_uri(), "libb", "liba 2.0.*")

    assert "libb 1.0 | 1.1 would require" in answer.message
    assert "liba >=1.0,<2.0a0" in answer.message
    assert answer.json["exception_name"] == "UnsatisfiableError"


def test_a_missing_virtual_package_is_explained_with_those_that_are_stated(create: Ask, channel: Path) -> None:
    message = create(channel.as_uri(), "libc-user >=2").message

    assert "__glibc >=2.35" in message
    assert "virtual packages of linux-64: __archspec 1=x86_64, __glibc 2.28=0" in message


@pytest.mark.parametrize(
    ("stated", "build"), [({"cuda": "12.4"}, "cuda_1"), ({"cuda": "11.4"}, "cpu_0"), ({}, "cpu_0")]
)
def test_the_stated_virtual_packages_decide_and_are_no_packages(
    create: Ask, channel: Path, tmp_path: Path, stated: dict[str, str], build: str
) -> None:
    virtual = virtual_channel(tmp_path / "stated", **stated)

    answer = create(channel.as_uri(), "cudaapp", virtual=virtual)

    assert [(entry["name"], entry["build"]) for entry in answer.json["actions"]["FETCH"]] == [("cudaapp", build)]


@pytest.mark.parametrize("spec", ["channel::libb 1.0", "{uri}::libb 1.0", "channel::libb[version='1.0']"])
def test_a_spec_may_name_its_channel(create: Ask, channel: Path, spec: str) -> None:
    answer = create(channel.as_uri(), spec.format(uri=channel.as_uri()))

    assert answer.packages == {"liba": "1.5", "libb": "1.0"}


def test_a_spec_that_cannot_be_read_is_named(create: Ask, channel: Path) -> None:
    assert "`libb ===` is not a valid package spec" in create(channel.as_uri(), "libb ===").message


def test_a_platform_that_conda_does_not_know_is_named(create: Ask, channel: Path) -> None:
    assert "`linux-65` is not a conda platform" in create(channel.as_uri(), "libb", CONDA_SUBDIR="linux-65").message


def test_a_solve_without_channels_is_refused(ask: Ask) -> None:
    assert "no channel is specified" in ask("create", "-p", "/nowhere", "--dry-run", "--json", "libb").message


def test_info_and_config_name_the_package_folder(ask: Ask) -> None:
    assert ask("info", "--json", CONDA_PKGS_DIRS="/tmp/pkgs").json["pkgs_dirs"] == ["/tmp/pkgs"]
    assert ask("config", "--json", "list", "pkgs_dirs", CONDA_PKGS_DIRS="/a").json == {"pkgs_dirs": ["/a"]}
    assert ask("config", "--json", "show", CONDA_PKGS_DIRS="/a").json["platform"] == "linux-64"


@pytest.mark.parametrize(
    "words",
    [
        "create --quiet --file explicit.txt --yes --prefix /p",
        "create --prefix /p libb",
        "env create --file environment.yml --prefix /p",
        "run --prefix /p pip install --no-deps -r requirements.txt",
        "install -p /p libb",
        "create --prefix /p --dry-run --json",
        "create --prefix /p --dry-run --unknown libb",
        "remove -p /p libb",
        "",
    ],
)
def test_every_other_call_is_refused_with_what_to_use(ask: Ask, words: str) -> None:
    answer = ask(*words.split())

    assert answer.json["success"] is False
    assert "the solver that envforge provides for conda-lock" in answer.message
    assert "`envforge install`" in answer.message


def test_each_solve_leaves_a_record_of_its_packages(create: Ask, channel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "records"

    create(channel.as_uri(), *SPECS, ENVFORGE_SOLVE_RECORDS=str(folder))
    create(channel.as_uri(), "liba 2.0", ENVFORGE_SOLVE_RECORDS=str(folder))

    documents = [json.loads(path.read_text()) for path in folder.iterdir()]
    by_specs = {tuple(document["specs"]): document for document in documents}
    assert set(by_specs) == {SPECS, ("liba 2.0",)}
    document = by_specs[SPECS]
    assert document["platform"] == "linux-64"
    assert [entry["name"] for entry in document["packages"]] == ["liba", "libb", "pyhello", "python", "tinydata"]
    pyhello = document["packages"][2]
    assert pyhello["noarch"] == "generic"
    assert pyhello["url"] == f"{channel.as_uri()}/noarch/pyhello-1.1.0-pyhd8ed1ab_0.conda"
    assert set(pyhello) == {
        "name", "version", "build", "url", "sha256", "md5", "depends", "size", "noarch",
        "timestamp",
    }  # fmt: skip


def test_the_record_of_an_update_holds_the_whole_environment(
    ask: Ask, channel: Path, virtual: str, tmp_path: Path
) -> None:
    prefix = installed(tmp_path / "prefix", channel, **OLD)
    words = ("-c", channel.as_uri(), "-c", virtual, "-p", str(prefix), "--json", "--dry-run", "libb")

    ask("install", *words, ENVFORGE_SOLVE_RECORDS=str(tmp_path / "records"))

    (path,) = (tmp_path / "records").iterdir()
    found = {entry["name"]: entry["version"] for entry in json.loads(path.read_text())["packages"]}
    assert found == {**OLD, "libb": "1.1"}


def test_a_record_that_cannot_be_written_fails_the_solve(create: Ask, channel: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    answer = create(channel.as_uri(), "libb", ENVFORGE_SOLVE_RECORDS=str(tmp_path / "file"))

    assert answer.message.startswith(f"cannot create the directory `{tmp_path / 'file'}`")


def test_a_priority_that_is_not_followed_is_said(
    create: Ask, channel: Path, capsys: pytest.CaptureFixture[str], virtual: str
) -> None:
    words = ["create", "-p", "/p", "--dry-run", "--json", "-c", channel.as_uri(), "-c", virtual, "libb"]

    assert main(words, {"CONDA_SUBDIR": "linux-64", "CONDA_CHANNEL_PRIORITY": "flexible"}) == 0

    assert capsys.readouterr().err.startswith("`CONDA_CHANNEL_PRIORITY=flexible` is treated as `strict`")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"packages": {', "is not valid repodata"),
        ('{"packages": {"x": {"package_type": "virtual_system"}}}', "is not valid repodata"),
        (
            '{"packages": {"x": {"package_type": "virtual_system", "name": "__x", "version": "1 !", "build": "0"}}}',
            "virtual package `__x 1 ! 0` is invalid",
        ),
    ],
)
def test_virtual_packages_that_cannot_be_read_are_named(
    create: Ask, channel: Path, tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "stated/linux-64").mkdir(parents=True)
    (tmp_path / "stated/linux-64/repodata.json").write_text(text)

    assert reason in create(channel.as_uri(), "libb", virtual=(tmp_path / "stated").as_uri()).message


def run(executable: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(executable), *words], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_the_launcher_cannot_be_led_astray_by_the_users_python_path(tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    for name in ("json", "argparse", "envforge", "rattler"):
        (elsewhere / f"{name}.py").write_text("raise SystemExit('led astray')")

    done = run(solver_launcher(elsewhere), "info", "--json", PYTHONPATH=str(elsewhere), PYTHONHOME="")

    assert (done.returncode, done.stderr) == (0, "")
    assert "pkgs_dirs" in json.loads(done.stdout)


def test_the_version_is_told_without_rattler() -> None:
    program = (
        "import sys; from envforge.lock.solver.__main__ import main; main(['--version'], {}); "
        "print(sorted({'rattler', 'asyncio', 'urllib.request'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    first, second = done.stdout.splitlines()
    assert first.startswith("envforge-solver ")
    assert second == "[]"


def test_the_process_ends_without_taking_the_interpreter_down(channel: Path, tmp_path: Path) -> None:
    """One call in four crashed after its answer, while rattler's threads met an interpreter that was going away."""
    program = (
        "import atexit, runpy; atexit.register(print, 'taken down');"
        "runpy.run_module('envforge.lock.solver', run_name='__main__', alter_sys=True)"
    )
    words = ["create", "-p", "/p", "--dry-run", "--json", "-c", channel.as_uri(), "libb"]

    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["success"] is True
