"""Test ``envforge new --install --smoke`` end to end, over loopback only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.channel import PYTHON, Channel, pip_package, python_package, text_package
from tests.support.loopback import Loopback, Request, Response
from tests.support.wheel import sha256_of, text_wheel

pytestmark = pytest.mark.slow

RELEASE = "2.13.0"
VERSIONS = {"sympy": "1.13.3", "setuptools": "80.0", "pillow": "10.0", "numpy": "2.0"}
CONDA = ("filelock", "fsspec", "jinja2", "networkx", "pillow", "setuptools", "sympy", "typing_extensions", "numpy")
MANIFEST = """
name: demo
version: 1
summary: A demo
environment: {torch: [torch], conda: [numpy]}
"""
SMOKE = """
import sys, torch
print("smoke", sys.prefix, torch.__version__, sys.argv[1:])
sys.exit(0 if "--fail" not in open("verdict").read() else 7)
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    channel = Channel(folder / "conda-forge")
    channel.add(python_package(), pip_package(), *(text_package(n, VERSIONS.get(n, "9.0"), {}) for n in CONDA))
    channel.index()
    torch = text_wheel("torch", f"{RELEASE}+cpu", {"torch/__init__.py": f"__version__ = '{RELEASE}+cpu'\n"}, folder)

    def answer(request: Request) -> Response | None:
        path = unquote(request.path).strip("/")
        if path == "whl/cpu/torch":
            link = f'<a href="../{torch.name.replace("+", "%2B")}#sha256={sha256_of(torch)}">{torch.name}</a>'
            return Response(body=f"<html><body>{link}</body></html>".encode(), headers={"Content-Type": "text/html"})
        if path == f"whl/cpu/{torch.name}":
            return Response(body=torch)
        file = folder / path
        return Response(body=file) if path.startswith("conda-forge/") and file.is_file() else None

    with Loopback(answer) as server:
        yield server.url


@pytest.fixture
def run(served: str, tmp_path: Path) -> Run:
    template = tmp_path / "demo"
    (template / "files" / "__package__").mkdir(parents=True)
    (template / "template.yml").write_text(MANIFEST, encoding="utf-8")
    (template / "files" / "verdict").write_text("ok", encoding="utf-8")
    (template / "files" / "__package__" / "__init__.py").touch()
    (template / "files" / "__package__" / "smoke.py").write_text(SMOKE, encoding="utf-8")
    (template / "files" / "__package__" / "train.py").touch()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    mirrors = (
        f"https://conda.anaconda.org/conda-forge={served}/conda-forge https://download.pytorch.org/whl={served}/whl"
    )
    variables = {"HOME": str(tmp_path / "home"), "ENVFORGE_MIRRORS": mirrors, "CONDA_OVERRIDE_GLIBC": "2.36"}
    variables["PIP_INDEX_URL"] = f"{served}/no-such-index/simple"

    def new(*options: str, **more: str) -> subprocess.CompletedProcess[str]:
        build = ("--cuda", "cpu", "--torch", RELEASE, "--python", PYTHON)
        return subprocess.run(
            [sys.executable, "-m", "envforge", "new", "./demo", "net", *build, "--install", "--trust", *options],
            cwd=tmp_path,
            env={**kept, **variables, **more},
            capture_output=True,
            text=True,
            check=False,
        )

    return new


def test_new_installs_and_tests_in_the_environment(run: Run, tmp_path: Path) -> None:
    done = run("--smoke")

    assert done.returncode == 0, done.stderr
    prefix = (tmp_path / "net" / ".conda").resolve()
    assert f"smoke {prefix} {RELEASE}+cpu []" in done.stdout
    assert "installed 11 packages in " in done.stdout or "installed 12 packages in " in done.stdout
    assert done.stdout.endswith("\nNext:\n  cd net\n  .conda/bin/python -m net.train\n")


def test_new_reports_install_and_smoke_as_json(run: Run, tmp_path: Path) -> None:
    done = run("--smoke", "--json")

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["install"]["prefix"] == str(tmp_path / "net" / ".conda")
    assert result["smoke"] == {
        "ran": True,
        "gpu": "not-run",
        "reason": "envforge detects no NVIDIA GPU on this machine",
    }
    assert result["next"] == ["cd net", ".conda/bin/python -m net.train"]


def test_failed_smoke_fails_the_command(run: Run, tmp_path: Path) -> None:
    (tmp_path / "demo" / "files" / "verdict").write_text("--fail", encoding="utf-8")

    done = run("--smoke")

    assert done.returncode == 1
    python = tmp_path / "net" / ".conda" / "bin" / "python"
    assert f"run `cd net && {python} -m net.smoke`" in done.stderr
    assert python.exists()


def test_failed_install_keeps_the_project(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a directory", encoding="utf-8")

    done = run("--smoke", ENVFORGE_CACHE=str(tmp_path / "cache"))

    assert done.returncode != 0
    assert (tmp_path / "net" / "conda-lock.yml").is_file()
    assert "the project is complete" in done.stderr
    assert "cd net && envforge install" in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_shows_install_and_changes_nothing(run: Run, tmp_path: Path) -> None:
    done = run("--smoke", "--dry-run")

    assert done.returncode == 0, done.stderr
    assert "install     would install the lockfile into net/.conda" in done.stdout
    assert "smoke test  would run with net/.conda/bin/python" in done.stdout
    assert not (tmp_path / "net").exists()
