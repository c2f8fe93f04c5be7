"""The commands work together over loopback: new → lock → install into a prefix → train in that prefix.

The same for people without conda: lock --pylock → install into a virtual environment → train in it.

The conda channel is built from the Python that runs the tests and the libraries next to it. The PyTorch index serves
the real torch wheel. torchvision has no CPU build for every machine, and nothing in the project imports it, so its
wheel contains only its name, version, and requirement.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote

import pytest
from msgspec import Struct
from packaging.utils import canonicalize_name
from uv import find_uv_bin

from envforge.base import toml
from envforge.lock.lockfile import read_lockfile
from tests.support.channel import PYTHON, SUBDIR, Channel, pip_package, python_package, renamed, requested_closure
from tests.support.loopback import Loopback, Request, Response
from tests.support.scripts import shebang
from tests.support.transcripts import ROOT, steps_of
from tests.support.wheel import rebuild_wheel, sha256_of, text_wheel

pytestmark = pytest.mark.slow

TORCH = metadata.version("torch")
SMOKE_PASSED = "smoke test: the CPU part passed"
RELEASE = TORCH.split("+")[0]
TORCHVISION = {"2.13.0": "0.28.0"}[RELEASE]
CONDA_FORGE = "https://conda.anaconda.org/conda-forge"
PYTORCH = "https://download.pytorch.org/whl"
BESIDE_TORCH = (
    "filelock",
    "sympy",
    "networkx",
    "jinja2",
    "fsspec",
    "typing-extensions",
    "setuptools",
    "numpy",
    "pillow",
)
OF_THE_TEMPLATE = ("scikit-learn", "tqdm", "pytest")


CONDA = """{shebang}\
# What `conda-lock install` asks of conda: `create --file EXPLICIT` and `run pip install -r FILE`, both real.
# Only the network is renamed: pip knows no mirrors.
import subprocess, sys
from pathlib import Path
words = sys.argv[1:]
prefix, file = words[words.index("--prefix") + 1], next((word for word in words if Path(word).is_file()), "")
if words[0] == "create":
    command = [{python!r}, "-m", "envforge", "install", file, "--prefix", prefix]
else:
    text = Path(file).read_text()
    Path(file).write_text(text.replace({pytorch!r}, {served!r}))
    command = [prefix + "/bin/python", "-m", *words[words.index("pip"):]]
sys.exit(subprocess.run(command).returncode)
"""


class World(Struct, frozen=True):
    """What stands in for the network, and the environment that sends envforge there."""

    server: Loopback
    environment: dict[str, str]
    torch_sha256: str
    registry: Path

    def envforge(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "envforge", *arguments, cwd=cwd)

    def run(self, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conda-forge")
    channel = Channel(folder)
    matplotlib = [
        renamed(package, name="matplotlib-base") if package.name == "matplotlib" else package
        for package in requested_closure("matplotlib", *BESIDE_TORCH, *OF_THE_TEMPLATE)
    ]
    channel.add(python_package(), pip_package(), *(p for p in matplotlib if p.name != "pip"))
    channel.index()
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    return {
        "torch": rebuild_wheel("torch", folder),
        "torchvision": text_wheel("torchvision", f"{TORCHVISION}+cpu", {}, folder),
    }


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of the packages that the conda channel has, too."""
    folder = tmp_path_factory.mktemp("registry")
    for package in requested_closure("matplotlib", "pip", *BESIDE_TORCH, *OF_THE_TEMPLATE):
        rebuild_wheel(package.name, folder)
    return folder


@pytest.fixture(scope="module")
def world(
    channel: Path, wheels: dict[str, Path], registry: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with serving("cpu", channel, wheels, registry, tmp_path_factory.mktemp("home")) as made:
        yield made


@contextmanager
def serving(tag: str, channel: Path, wheels: dict[str, Path], registry: Path, home: Path) -> Iterator[World]:
    """Serve conda-forge, the index of PyTorch for one CUDA tag, and the registry."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    digests = {name: sha256_of(wheel) for name, wheel in wheels.items()}

    def answer(request: Request) -> Response | None:
        path = unquote(request.path).strip("/")
        if path.startswith("conda-forge/"):
            file = channel / path.removeprefix("conda-forge/")
            return Response(body=file) if file.is_file() else None
        if path.startswith("registry/"):
            return _registry_answer(registry, path.removeprefix("registry/"))
        for name, wheel in wheels.items():
            if path == f"whl/{tag}/{name}":
                link = f'<a href="../{wheel.name.replace("+", "%2B")}#sha256={digests[name]}">{wheel.name}</a>'
                return Response(
                    body=f"<html><body>{link}</body></html>".encode(), headers={"Content-Type": "text/html"}
                )
            if path == f"whl/{tag}/{wheel.name}":
                return Response(body=wheel)
        return None

    with Loopback(answer) as server:
        mirrors = f"{CONDA_FORGE}={server.url}/conda-forge {PYTORCH}={server.url}/whl"
        environment = kept | {"HOME": str(home), "ENVFORGE_MIRRORS": mirrors, "NO_COLOR": "1"}
        environment |= {"PIP_INDEX_URL": f"{server.url}/registry/simple", "CONDA_OVERRIDE_GLIBC": "2.36"}
        environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        yield World(server=server, environment=environment, torch_sha256=digests["torch"], registry=registry)


def _registry_answer(registry: Path, path: str) -> Response | None:
    kind, _, name = path.partition("/")
    if kind == "files":
        return Response(body=registry / name) if (registry / name).is_file() else None
    files = [file for file in registry.iterdir() if canonicalize_name(file.name.split("-")[0]) == name]
    links = [f'<a href="../../files/{file.name}#sha256={sha256_of(file)}">{file.name}</a>' for file in files]
    body = f"<html><body>{''.join(links)}</body></html>".encode()
    return Response(body=body, headers={"Content-Type": "text/html"}) if files else None


@pytest.fixture(scope="module")
def project(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    world.envforge(
        *("new", "image-classification", "digits", "--cuda", "cpu", "--torch", RELEASE, "--python", PYTHON),
        *("--fresh", "--defaults", "--pylock"),
        cwd=folder,
    )
    return folder / "digits"


@pytest.fixture(scope="module")
def prefix(world: World, project: Path) -> Path:
    world.envforge("install", "--prefix", str(project / ".env"), cwd=project)
    return project / ".env"


def test_lock_names_the_public_addresses_and_the_real_hash(world: World, project: Path) -> None:
    lockfile = read_lockfile(project / "conda-lock.yml")
    assert lockfile.platforms == (SUBDIR,)
    torch = {p.name: p for p in lockfile.for_platform(SUBDIR, "pip")}["torch"]
    assert (torch.version, torch.sha256) == (f"{RELEASE}+cpu", world.torch_sha256)
    assert {p.name for p in lockfile.for_platform(SUBDIR, "pip")} == {"torch", "torchvision"}
    hosts = {p.url.rsplit("/", 2)[0] for p in lockfile.packages}
    assert hosts <= {CONDA_FORGE, f"{PYTORCH}/cpu", PYTORCH}


def test_lock_of_the_new_project_agrees_with_its_environment(world: World, project: Path) -> None:
    assert "up to date" in world.envforge("lock", "--check", cwd=project).stdout


def test_installed_prefix_runs_its_own_python_with_the_locked_torch(world: World, prefix: Path) -> None:
    program = "import json, sys, torch; print(json.dumps([sys.prefix, torch.__version__, torch.__file__]))"
    done = world.run(str(prefix / "bin" / "python"), "-I", "-c", program, cwd=prefix)
    where, version, file = json.loads(done.stdout)
    assert (Path(where), version) == (prefix, f"{RELEASE}+cpu")
    assert Path(file).is_relative_to(prefix)


def test_smoke_test_of_the_project_passes_inside_the_installed_prefix(
    world: World, project: Path, prefix: Path
) -> None:
    done = world.run(str(prefix / "bin" / "python"), "-m", "digits.smoke", cwd=project)
    assert SMOKE_PASSED in done.stdout


def test_tests_of_the_project_pass_inside_the_installed_prefix(world: World, project: Path, prefix: Path) -> None:
    done = world.run(str(prefix / "bin" / "python"), "-m", "pytest", "-q", "tests/test_train.py", cwd=project)
    assert " passed" in done.stdout


def test_conda_lock_itself_installs_the_lock_with_the_same_packages(
    world: World, project: Path, prefix: Path, tmp_path: Path
) -> None:
    conda, other = tmp_path / "conda", tmp_path / "by conda-lock"
    served = f"{world.server.url}/whl"
    conda.write_text(
        CONDA.format(shebang=shebang(sys.executable), python=sys.executable, pytorch=PYTORCH, served=served),
        encoding="utf-8",
    )
    conda.chmod(0o755)
    words = ("install", "--conda", str(conda), "--prefix", str(other), str(project / "conda-lock.yml"))
    world.run(sys.executable, "-m", "conda_lock", *words, cwd=tmp_path)
    ours, theirs = (sorted(path.name for path in (p / "conda-meta").glob("*.json")) for p in (prefix, other))
    assert ours == theirs
    program = "import torch, torch.nn; print(torch.__version__)"
    assert world.run(str(other / "bin" / "python"), "-c", program, cwd=tmp_path).stdout.strip() == f"{RELEASE}+cpu"


@pytest.fixture(scope="module")
def venv(world: World, project: Path) -> Path:
    of_new = (project / "pylock.toml").read_bytes()
    (project / "pylock.toml").unlink()
    for step in steps_of((ROOT / "docs" / "guides" / "without-conda.md").read_text(encoding="utf-8")):
        printed = world.run(sys.executable, "-m", *shlex.split(step.command), cwd=project).stdout
        assert step.matches(printed), f"$ {step.command}\n{printed}\n--- expected ---\n{step.expected}"
    assert (project / "pylock.toml").read_bytes() == of_new
    return project / ".venv"


def test_pylock_has_all_packages_at_the_versions_of_conda(world: World, project: Path, venv: Path) -> None:
    rows = toml.loads((project / "pylock.toml").read_text(encoding="utf-8"))["packages"]
    lock = read_lockfile(project / "conda-lock.yml")
    locked = {canonicalize_name(p.name).replace("matplotlib-base", "matplotlib"): p.version for p in lock.packages}
    versions = {row["name"]: row["version"] for row in rows}
    assert versions.items() <= locked.items()
    assert {"numpy", "torch", "torchvision", "scikit-learn", "matplotlib"} <= versions.keys()
    assert "up to date" in world.envforge("lock", "--check", cwd=project).stdout


def test_smoke_test_passes_in_the_virtual_environment(world: World, project: Path, venv: Path) -> None:
    words = ("run", "--prefix", str(venv), "python", "-m", "digits.smoke")
    assert SMOKE_PASSED in world.envforge(*words, cwd=project).stdout


def test_audit_and_verify_work_in_the_virtual_environment(world: World, project: Path, venv: Path) -> None:
    audited = world.envforge("audit", "--prefix", str(venv), "--json", cwd=project)
    assert json.loads(audited.stdout)["result"]["drift"] == []
    verified = world.envforge("verify", "env", "--prefix", str(venv), "--json", cwd=project)
    findings = {found["check"]: found["verdict"] for found in json.loads(verified.stdout)["result"]["findings"]}
    assert (findings["environment-drift"], findings["files-changed"]) == ("pass", "pass")


def test_uv_syncs_pylock_to_an_environment_that_trains(world: World, project: Path, venv: Path, tmp_path: Path) -> None:
    uv, other = find_uv_bin(), tmp_path / "other"
    text = (project / "pylock.toml").read_text(encoding="utf-8").replace(PYTORCH, f"{world.server.url}/whl")
    (tmp_path / "pylock.toml").write_text(text, encoding="utf-8")
    world.run(uv, "venv", "--python", sys.executable, str(other), cwd=tmp_path)
    python = str(other / "bin" / "python")
    world.run(uv, "pip", "sync", "--python", python, str(tmp_path / "pylock.toml"), cwd=tmp_path)
    assert SMOKE_PASSED in world.run(python, "-m", "digits.smoke", cwd=project).stdout


def test_no_request_left_the_loopback_servers_known_paths(world: World, prefix: Path) -> None:
    asked = {request.path.split("/")[1] for request in world.server.requests}
    assert asked <= {"conda-forge", "whl", "registry"}
