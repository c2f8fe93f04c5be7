"""The published CUDA 13 build of torch works in an environment that envforge locked and installed, without a GPU.

It downloads 3 GB and writes 12 GB: ``python -m pytest -m real_size tests/end_to_end/test_real_torch.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from envforge.pytorch.matrix import load_matrix
from tests.end_to_end.test_whole_line import BESIDE_TORCH, OF_THE_TEMPLATE, World, serving
from tests.support.channel import Channel, pip_package, python_package, renamed, requested_closure
from tests.support.real_wheels import PYTHON, TAG, TORCH, download_wheels

pytestmark = pytest.mark.real_size


@pytest.fixture(scope="module", autouse=True)
def wanted(request: pytest.FixtureRequest) -> None:
    if "real_size" not in request.config.getoption("markexpr"):
        pytest.skip("downloads 3 GB: pass `-m real_size`")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if sys.version_info[:2] != PYTHON:
        pytest.skip("the wheels are for Python 3.11")
    folder = tmp_path_factory.mktemp("real")
    channel = Channel(folder / "conda-forge")
    closure = requested_closure("matplotlib", *BESIDE_TORCH, *OF_THE_TEMPLATE)
    packages = [renamed(p, name="matplotlib-base") if p.name == "matplotlib" else p for p in closure]
    channel.add(python_package(), pip_package(), *(package for package in packages if package.name != "pip"))
    channel.index()
    stored = Path(os.environ.get("ENVFORGE_REAL_WHEELS") or folder / "wheels")
    stored.mkdir(exist_ok=True)
    files = sorted(stored.glob("*.whl")) or download_wheels(stored)
    wheels: dict[str, Path] = {canonicalize_name(file.name.split("-")[0]): file for file in files}
    with serving(TAG, channel.folder, wheels, folder, folder) as made:
        yield made


@pytest.fixture(scope="module")
def project(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    words = ("new", "image-classification", "digits", "--cuda", "13.0", "--torch", TORCH, "--python", "3.11")
    world.envforge(*words, "--fresh", "--defaults", cwd=folder)
    world.envforge("install", cwd=folder / "digits")
    return folder / "digits"


def test_real_torch_has_the_cuda_and_architectures_of_the_matrix(world: World, project: Path) -> None:
    # in some releases, `torch.cuda.get_arch_list()` is empty without a GPU
    program = (
        "import json, torch\nprint(json.dumps([torch.__version__, torch.version.cuda, torch._C._cuda_getArchFlags()]))"
    )
    ran = world.run(str(project / ".conda" / "bin" / "python"), "-c", program, cwd=project)
    version, cuda, architectures = json.loads(ran.stdout)
    assert (version, cuda) == (f"{TORCH}+{TAG}", "13.0")
    [build] = [
        build
        for build in load_matrix().builds
        if (str(build.torch), str(build.tag), build.platform) == (TORCH, TAG, "linux-64")
    ]
    kernels = {f"sm_{capability.major}{capability.minor}" for capability in build.capabilities}
    assert set(architectures.split()) == kernels | {f"compute_{ptx.major}{ptx.minor}" for ptx in build.ptx}


def test_verify_of_real_torch_reports_only_the_missing_gpu(world: World, project: Path) -> None:
    words = [sys.executable, "-m", "envforge", "verify", "--json"]
    done = subprocess.run(words, cwd=project, env=world.environment, capture_output=True, text=True, check=False)
    findings = json.loads(done.stdout)["result"]["findings"]
    failed = {
        found["check"]: found["observed"] for found in findings if found["verdict"] not in {"pass", "info", "skip"}
    }
    # what the machine, torch, and a training run each say about it
    assert failed.keys() == {"gpu-missing", "torch-sees-no-gpu", "trains-on-gpu"}, failed
