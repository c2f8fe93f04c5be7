"""The requirements of a lockfile are compared with the machine before anything is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from packaging.version import Version

from envforge.errors import EnvforgeError
from envforge.lock.lockfile import LockedPackage, Lockfile, list_variants
from envforge.lock.needs import choose_variant, concerns, describe, read_needs, unmet, variant_lock
from envforge.lock.plan import Plan, make_plan, read_any_lock
from envforge.machine.record import load_machine
from envforge.machine.values import Driver, Machine
from envforge.pytorch.matrix import load_matrix
from tests.prefix.install.support import LockWriter, Noted, Place
from tests.support.channel import SUBDIR, Channel
from tests.support.loopback import Loopback

MATRIX = load_matrix()
LOCKS = Path(__file__).parents[4] / "shared" / "data" / "lockfiles"
TORCH = "torch-2.7.1%2Bcu118-cp311-cp311-manylinux_2_28_x86_64.whl"


def _package(name: str, version: str, file_name: str, **fields: object) -> LockedPackage:
    base = LockedPackage(
        name=name,
        version=version,
        manager="pip" if file_name.endswith(".whl") else "conda",
        platform="linux-64",
        url=f"https://packages.example/linux-64/{file_name}",
        sha256="0" * 64,
        md5=None,
        category="main",
        optional=False,
        dependencies=(),
    )
    return replace(base, **fields)


def _plan(*packages: LockedPackage) -> Plan:
    lock = Lockfile(platforms=("linux-64",), channels=(), content_hash=(), packages=packages)
    return make_plan(lock, "linux-64", Path("conda-lock.yml"))


PYTHON = _package("python", "3.11.9", "python-3.11.9-h0_0_cpython.conda", dependencies=(("__glibc", ">=2.17,<3.0.a0"),))
CU118 = _plan(PYTHON, _package("torch", "2.7.1+cu118", TORCH))


def _with_driver(name: str, version: str) -> Machine:
    machine = load_machine(name, {})
    return replace(machine, driver=Driver(kernel_version=Version(version), user_version=Version(version)))


def _unmet(plan: Plan, machine: Machine) -> tuple[str, ...]:
    return unmet(read_needs(plan, MATRIX), machine, MATRIX)


def test_the_needs_of_a_cuda_lock_are_said_in_one_line() -> None:
    assert describe(read_needs(CU118, MATRIX), MATRIX) == (
        "linux-64, glibc 2.28, NVIDIA driver 450.80.02 (CUDA 11.8), "
        "compute capability 3.7, 5.0, 6.0, 7.0, 7.5, 8.0, 8.6, 9.0"
    )


def test_a_machine_that_has_all_has_nothing_unmet() -> None:
    assert _unmet(CU118, _with_driver("t4", "535.216.01")) == ()


def test_an_old_driver_is_refused_with_both_versions() -> None:
    (reason,) = _unmet(CU118, _with_driver("t4", "440.33.01"))
    assert "450.80.02" in reason
    assert "440.33.01" in reason


def test_a_gpu_newer_than_the_build_is_refused_with_its_capability() -> None:
    (reason,) = _unmet(CU118, load_machine("b200", {}))
    assert "compute capability 10.0" in reason


def test_an_old_glibc_is_refused_with_the_package_that_needs_a_newer() -> None:
    (reason,) = _unmet(CU118, replace(load_machine("t4", {}), glibc=Version("2.17")))
    assert reason == "`torch 2.7.1+cu118` requires glibc 2.28 or later, but this machine has glibc 2.17"


def test_the_glibc_of_conda_packages_counts_too() -> None:
    (reason,) = _unmet(_plan(PYTHON), replace(load_machine("cpu", {}), glibc=Version("2.12")))
    assert reason == "`python 3.11.9` requires glibc 2.17 or later, but this machine has glibc 2.12"


def test_another_platform_is_refused() -> None:
    (reason,) = _unmet(CU118, load_machine("gh200", {}))
    assert reason == "the lockfile is for `linux-64`, but this machine is `linux-aarch64`"


def test_a_machine_without_a_driver_is_told_and_not_refused() -> None:
    machine = load_machine("cpu", {})
    assert _unmet(CU118, machine) == ()
    (concern,) = concerns(read_needs(CU118, MATRIX), machine)
    assert "CUDA 11.8" in concern


def test_the_cuda_of_a_torch_without_a_local_version_is_that_of_its_runtime() -> None:
    plain = _package("torch", "2.7.1", "torch-2.7.1-cp311-cp311-manylinux_2_28_x86_64.whl")
    name = "nvidia_cuda_runtime_cu12-12.6.77-py3-none-manylinux2014_x86_64.whl"
    plan = _plan(PYTHON, plain, _package("nvidia-cuda-runtime-cu12", "12.6.77", name))
    needs = read_needs(plan, MATRIX)
    assert needs.cuda is not None
    assert needs.cuda.version == Version("12.6")
    assert needs.build is not None
    assert str(needs.build.tag) == "cu126"


def test_the_cuda_of_conda_packages_is_read() -> None:
    plan = _plan(PYTHON, _package("pytorch-cuda", "12.4", "pytorch-cuda-12.4-h0_7.tar.bz2"))
    (reason,) = _unmet(plan, _with_driver("t4", "450.80.02"))
    assert "`pytorch-cuda 12.4`" in reason


@pytest.mark.parametrize(
    ("file_name", "cuda"),
    [
        ("pytorch-2.1.2-cuda120_py311h2667f23_304.conda", "12.0"),
        ("pytorch-2.5.1-py3.11_cuda12.1_cudnn9.1.0_0.tar.bz2", "12.1"),
        ("pytorch-1.7.1-py3.9_cuda11.0.221_cudnn8.0.5_0.tar.bz2", "11.0"),
        ("pytorch-2.8.0-cuda129_mkl_py312_h1234567_300.conda", "12.9"),
        ("pytorch-2.7.1-cpu_mkl_py311_h91c9543_103.conda", None),
        ("pytorch-2.2.2-py3.11_0.tar.bz2", None),
        ("pytorch-1.4.0-cuda_py37h1234567_0.tar.bz2", "12.5"),  # the build lacks the version, the runtime has it
    ],
)
def test_cuda_of_conda_torch_is_that_of_its_build(file_name: str, cuda: str | None) -> None:
    runtime = _package("cuda-cudart", "12.5.82", "cuda-cudart-12.5.82-he02047a_0.conda")
    torch = _package("pytorch", file_name.split("-")[1], file_name)
    for packages in ((runtime, torch), (torch, runtime)):
        needs = read_needs(_plan(PYTHON, *packages), MATRIX)
        assert cuda == (str(needs.cuda.version) if needs.cuda else None)


@pytest.mark.parametrize(
    ("file_name", "words"),
    [
        ("x-1.0-cp310-cp310-manylinux_2_17_x86_64.whl", "doesn't support Python 3.11"),
        ("x-1.0-cp312-abi3-manylinux_2_17_x86_64.whl", "doesn't support Python 3.11"),
        ("x-1.0-py2-none-any.whl", "doesn't support Python 3.11"),
        ("x-1.0-cp311-cp311-manylinux_2_17_aarch64.whl", "doesn't support `linux-64`"),
        ("x-1.0-cp311-cp311-win_amd64.whl", "doesn't support `linux-64`"),
        ("x-1.0-cp311-cp311-macosx_11_0_x86_64.whl", "doesn't support `linux-64`"),
    ],
)
def test_a_wheel_for_another_python_or_platform_is_refused(file_name: str, words: str) -> None:
    (reason,) = _unmet(_plan(PYTHON, _package("x", "1.0", file_name)), load_machine("cpu", {}))
    assert words in reason


@pytest.mark.parametrize(
    "file_name",
    [
        "x-1.0-py3-none-any.whl",
        "x-1.0-py2.py3-none-any.whl",
        "x-1.0-cp38-abi3-manylinux2014_x86_64.whl",
        "x-1.0-cp311-cp311-linux_x86_64.whl",
        "x-1.0-cp310.cp311-none-manylinux_2_5_x86_64.manylinux1_x86_64.whl",
    ],
)
def test_wheels_that_fit_are_accepted(file_name: str) -> None:
    assert _unmet(_plan(PYTHON, _package("x", "1.0", file_name)), load_machine("cpu", {})) == ()


@pytest.fixture
def beyond(lock: LockWriter, channel: Channel, tmp_path: Path) -> Path:
    needs = {"__glibc": ">=9.9"}
    return lock.conda(channel.packages["greeting"], dependencies=needs).write(tmp_path / "conda-lock.yml")


def _here(*, driver: bool) -> Machine:
    return replace(load_machine("cpu", {}), platform=SUBDIR)


def test_an_install_that_the_machine_cannot_run_is_refused_before_any_download(
    beyond: Path, place: Place, server: Loopback
) -> None:
    with pytest.raises(EnvforgeError) as caught:
        place.install(beyond, machine=_here)
    assert caught.value.code == "machine-unfit"
    assert "requires glibc 9.9" in caught.value.message
    assert "--ignore-machine" in caught.value.hint
    assert server.requests == ()
    assert not place.prefix.exists()


def test_the_driver_counts_for_a_lock_with_cuda_and_is_not_asked_for_one_without(
    lock: LockWriter, channel: Channel, place: Place, server: Loopback, tmp_path: Path
) -> None:
    asked = []

    def old_driver(*, driver: bool) -> Machine:
        asked.append(driver)
        return replace(_with_driver("t4", "450.80.02"), platform=SUBDIR)

    place.install(lock.conda(channel.packages["greeting"]).write(tmp_path / "plain.yml"), machine=old_driver)
    assert asked == [False]
    url = f"{server.url}/{SUBDIR}/pytorch-cuda-12.4-h0_7.conda"
    cuda = lock.conda(channel.packages["extra"], name="pytorch-cuda", version="12.4", url=url)
    requests = len(server.requests)
    with pytest.raises(EnvforgeError) as caught:
        place.install(cuda.write(tmp_path / "cuda.yml"), machine=old_driver)
    assert caught.value.code == "machine-unfit"
    assert "`pytorch-cuda 12.4`" in caught.value.message
    assert asked == [False, True]
    assert len(server.requests) == requests


def test_ignore_machine_installs_it_with_a_warning(beyond: Path, place: Place) -> None:
    progress = Noted()
    place.install(beyond, progress, machine=_here, ignore_machine=True)
    assert any(note.startswith("warning:") and "glibc 9.9" in note for note in progress.notes)
    assert (place.prefix / "share" / "greeting.txt").exists()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a variant for each of three CUDAs and one without."""
    tags = {"cpu": "cpu", "cu118": "cu118", "cu126": "cu126", "cu130": "cu130"}
    for name, tag in tags.items():
        torch = "2.9.0" if tag in {"cu126", "cu130", "cpu"} else "2.7.1"
        lock = LockWriter("https://packages.example")
        wheel = f"torch-{torch}%2B{tag}-cp311-cp311-manylinux_2_28_x86_64.whl"
        row: dict[str, Any] = {"name": "torch", "version": f"{torch}+{tag}", "manager": "pip", "platform": "linux-64"}
        row |= {"url": f"{lock.base}/{wheel}", "hash": {"sha256": "0" * 64}, "category": "main", "dependencies": {}}
        python: dict[str, Any] = {
            "name": "python",
            "version": "3.11.9",
            "manager": "conda",
            "platform": "linux-64",
            "dependencies": {},
        }
        python |= {"url": f"{lock.base}/python-3.11.9-0.conda", "hash": {"sha256": "0" * 64}, "category": "main"}
        lock.rows += [python, row]
        folder = tmp_path / "lockfiles" / name
        folder.mkdir(parents=True)
        lock.write(folder / "conda-lock.yml")
    return tmp_path


@pytest.mark.skipif(SUBDIR != "linux-64", reason="the locks of this test are for linux-64")
@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (load_machine("h100", {}), "cu130"),
        (load_machine("v100", {}), "cu126"),
        (_with_driver("t4", "470.57.02"), "cu118"),
        (load_machine("cpu", {}), "cpu"),
    ],
)
def test_the_first_variant_that_fits_the_machine_is_chosen(project: Path, machine: Machine, name: str) -> None:
    assert list_variants(project) == ("cu130", "cu126", "cu118", "cpu")
    choice = choose_variant(project, machine)
    assert choice.name == name
    assert choice.lockfile == project / "lockfiles" / name / "conda-lock.yml"


@pytest.mark.skipif(SUBDIR != "linux-64", reason="the locks of this test are for linux-64")
@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (load_machine("h100", {}), "cu130"),
        (load_machine("v100", {}), "cu126 (conda-lock.yml)"),
        (_with_driver("t4", "470.57.02"), "cu118"),
        (load_machine("cpu", {}), "cpu"),
    ],
)
def test_the_lock_of_the_project_takes_part_under_the_name_of_its_build(
    project: Path, machine: Machine, name: str
) -> None:
    (project / "lockfiles" / "cu126" / "conda-lock.yml").rename(project / "conda-lock.yml")
    choice = choose_variant(project, machine)
    assert choice.name == name
    assert choice.lockfile == (project / "lockfiles" / name if "(" not in name else project) / "conda-lock.yml"
    assert variant_lock(project, "cu126", SUBDIR) == project / "conda-lock.yml"


@pytest.mark.skipif(SUBDIR != "linux-64", reason="the locks of this test are for linux-64")
def test_of_two_locks_with_one_name_the_machine_gets_the_projects_own_and_the_option_the_variant(project: Path) -> None:
    variant = project / "lockfiles" / "cu130" / "conda-lock.yml"
    (project / "conda-lock.yml").write_bytes(variant.read_bytes())
    assert choose_variant(project, load_machine("h100", {})).lockfile == project / "conda-lock.yml"
    assert variant_lock(project, "cu130", SUBDIR) == variant


@pytest.mark.skipif(SUBDIR != "linux-64", reason="the locks of this test are for linux-64")
def test_a_lock_of_the_project_that_cannot_be_read_is_passed_over_aloud(project: Path) -> None:
    (project / "conda-lock.yml").write_text("version: 1\n", encoding="utf-8")
    choice = choose_variant(project, load_machine("cpu", {}))
    assert choice.name == "cpu"
    assert "not conda-lock.yml: " in choice.reason


@pytest.mark.skipif(SUBDIR != "linux-64", reason="the locks of this test are for linux-64")
def test_where_no_variant_fits_each_says_why(project: Path) -> None:
    with pytest.raises(EnvforgeError) as caught:
        choose_variant(project, replace(load_machine("t4", {}), glibc=Version("2.17")))
    assert caught.value.code == "no-variant-fits"
    for name in ("cpu", "cu118", "cu126", "cu130"):
        assert f"{name}: " in caught.value.message


def test_a_variant_that_does_not_exist_lists_those_that_do(project: Path) -> None:
    with pytest.raises(EnvforgeError) as caught:
        variant_lock(project, "cu999", SUBDIR)
    assert caught.value.exit_code == 2
    assert "`cu130`, `cu126`, `cu118`, `cpu`" in caught.value.message
    assert caught.value.hint == "to create it, run `envforge lock --variant cu999`"


@pytest.mark.skipif(not LOCKS.is_dir(), reason="the real locks are not here")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Clay-foundation__model", "linux-64, glibc 2.17, NVIDIA driver 525.60.13 (CUDA 12.0)"),
        ("FSadrieh__BERTchen", "linux-64, glibc 2.17, NVIDIA driver 450.80.02 (CUDA 11.8)"),
    ],
)
def test_real_locks_say_what_they_need(name: str, said: str) -> None:
    path = LOCKS / f"{name}__conda-lock.yml"
    plan = make_plan(read_any_lock(path, "linux-64"), "linux-64", path)
    assert describe(read_needs(plan, MATRIX), MATRIX) == said
