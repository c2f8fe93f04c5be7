"""``envforge kernel`` registers the environment's own Python, activated as by ``envforge run``."""

from __future__ import annotations

import json
import os
import re
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest

from envforge.prefix.kernel import kernels_folder
from tests.prefix.use.conftest import hello, install, scripted
from tests.prefix.use.support import User
from tests.support.channel import SITE_PACKAGES, python_package, text_package

LAUNCHER = """
import json, os, sys
with open(sys.argv[sys.argv.index("-f") + 1], "w") as stream:
    json.dump({"variables": dict(os.environ), "executable": sys.executable, "process": os.getpid()}, stream)
"""


@pytest.fixture(scope="module", params=["plain", "scripted"])
def notebook(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A real Python with an ipykernel that writes what it was started with into its connection file."""
    folder = tmp_path_factory.mktemp("note $HOME dir")
    launcher = text_package("ipykernel", "6.0", {f"{SITE_PACKAGES}/ipykernel_launcher.py": LAUNCHER})
    more = (scripted(),) if request.param == "scripted" else ()
    return install(folder, folder / "digits" / ".conda", python_package(), launcher, hello("a $HOME"), *more)


def spec_of(user: User, name: str = "digits") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (user.home / ".local/share/jupyter/kernels" / name / "kernel.json").read_text(encoding="utf-8")
    )
    return found


def start(spec: dict[str, Any], connection_file: Path, environment: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Start a kernel as jupyter_client does: its words and variables filled in, no shell."""
    names = {"connection_file": str(connection_file)}
    words = [re.sub(r"\{(\w+)\}", lambda m: names.get(m[1], m[0]), word) for word in spec["argv"]]
    more = {name: string.Template(value).safe_substitute(environment) for name, value in spec["env"].items()}
    process = subprocess.Popen(words, env=environment | more, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert process.wait(60) == 0
    return process.pid, json.loads(connection_file.read_text(encoding="utf-8"))


def test_kernel_runs_the_environments_python_activated(user: User, notebook: Path, tmp_path: Path) -> None:
    done = user.envforge("kernel", "--prefix", str(notebook), "--display-name", "Digits ✓")
    assert (done.returncode, done.stderr) == (0, "")
    spec = spec_of(user)
    assert (spec["display_name"], spec["language"]) == ("Digits ✓", "python")
    process, started = start(spec, tmp_path / "connection.json", user.environment())
    assert started["process"] == process, "signals of Jupyter would not reach the kernel"
    assert Path(started["executable"]).is_relative_to(notebook)
    seen = started["variables"]
    assert seen["PATH"] == f"{notebook}/bin:{os.environ['PATH']}"
    assert (seen["CONDA_PREFIX"], seen["GREETING"]) == (str(notebook), "a $HOME")
    assert seen.get("ENTERED") == ("a $HOME" if list(notebook.glob("etc/conda/activate.d/*.sh")) else None)


def test_kernel_does_not_keep_what_was_active_where_it_was_registered(user: User, notebook: Path) -> None:
    env = user.environment(CONDA_PREFIX="/opt/base", CONDA_SHLVL="1", PATH="/opt/base/bin:/usr/bin:/bin")
    assert user.envforge("kernel", "--prefix", str(notebook), env=env).returncode == 0
    spec = spec_of(user)
    assert "/opt/base" not in json.dumps(spec)
    assert spec["env"]["CONDA_SHLVL"] == "1"


def test_registering_again_replaces_the_kernel_and_removing_takes_it_away(user: User, notebook: Path) -> None:
    words = ("kernel", "--prefix", str(notebook))
    assert user.envforge(*words).returncode == 0
    assert user.envforge(*words, "--display-name", "Second").returncode == 0
    assert spec_of(user)["display_name"] == "Second"
    kernels = user.home / ".local/share/jupyter/kernels"
    assert [path.name for path in kernels.rglob("*")] == ["digits", "kernel.json"]
    assert user.envforge(*words, "--remove").returncode == 0
    assert list(kernels.iterdir()) == []
    again = user.envforge(*words, "--remove")
    assert (again.returncode, "no kernel `digits` found" in again.stderr) == (1, True)


def test_kernel_of_an_environment_that_is_gone_can_be_removed(user: User, tmp_path: Path) -> None:
    prefix = tmp_path / "gone" / ".conda"
    folder = user.home / ".local/share/jupyter/kernels/gone"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({"metadata": {"envforge": {"prefix": str(prefix)}}}))
    assert user.envforge("kernel", "--remove", "--prefix", str(prefix)).returncode == 0
    assert not folder.exists()


@pytest.mark.parametrize(
    "text", ['{"argv": ["python"]}', "not JSON", '{"metadata": {"envforge": {"prefix": "/other"}}}']
)
def test_kernels_of_others_are_neither_replaced_nor_removed(user: User, notebook: Path, text: str) -> None:
    path = user.home / ".local/share/jupyter/kernels/digits/kernel.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    for more in ((), ("--remove",)):
        run = user.envforge("kernel", "--prefix", str(notebook), *more)
        assert (run.returncode, path.read_text()) == (1, text), run.stderr


def test_environment_without_ipykernel_is_told_how_to_get_it(user: User, plain: Path) -> None:
    run = user.envforge("kernel", here=plain.parent)
    assert run.returncode == 1
    assert (
        f"a kernel requires the package `ipykernel`, but the environment in `{plain}` does not contain it" in run.stderr
    )
    assert "hint: to add it, run `envforge add ipykernel && envforge install`\n" in run.stderr


def test_the_environment_yml_of_another_folder_is_named_in_the_hint(user: User, plain: Path, tmp_path: Path) -> None:
    made = tmp_path / "made-plain" / "environment.yml"
    made.write_text("dependencies: []\n", encoding="utf-8")
    run = user.envforge("kernel", "--prefix", str(plain))
    assert f"run `envforge add ipykernel --file {made} && envforge install --prefix {plain}`\n" in run.stderr
    assert not (user.home / ".local").exists()


def test_bad_kernel_name_is_refused_with_the_rule(user: User, notebook: Path) -> None:
    run = user.envforge("kernel", "--prefix", str(notebook), "--kernel", "../evil")
    assert (run.returncode, "invalid kernel name `../evil`" in run.stderr) == (2, True)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.local/share/jupyter/kernels"),
        ("linux", {"XDG_DATA_HOME": "data"}, "data/jupyter/kernels"),
        ("darwin", {"XDG_DATA_HOME": "data"}, "home/Library/Jupyter/kernels"),
        ("win32", {"APPDATA": "roaming"}, "roaming/jupyter/kernels"),
        ("linux", {"JUPYTER_DATA_DIR": "stated"}, "stated/kernels"),
    ],
)
def test_kernels_lie_where_jupyter_looks(platform: str, variables: dict[str, str], expected: str) -> None:
    assert kernels_folder(variables, Path("home"), platform) == Path(expected)
