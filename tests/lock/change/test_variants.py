"""Test the variants of a project, with real conda-lock and the real solver over loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envforge.base.terms import WheelTag
from envforge.errors import EnvforgeError
from envforge.lock.lockfile import list_variants, read_lockfile
from envforge.lock.needs import choose_variant
from envforge.lock.pylock import parse_pylock
from envforge.lock.variants import derive_variant, parse_variant
from envforge.machine.record import load_machine
from envforge.pytorch.matrix import load_matrix
from tests.lock.change.conftest import Project
from tests.lock.torchindex import PUBLIC, wheel

LINUX = "cp310-cp310-manylinux_2_28_x86_64"
ENVIRONMENT = f"""\
# about this project
channels:
  - conda-forge
platforms:
  - linux-64
dependencies:
  - "python =3.10"
  - extra  # ours
  - pip:
      - "torch==2.7.1+cu118"
pip-repositories:
  - "{PUBLIC}/cu118"
"""


@pytest.fixture
def torch_project(project: Project) -> Project:
    project.write(ENVIRONMENT)
    for tag in ("cpu", "cu118"):
        project.torch.add(tag, wheel("torch", f"2.7.1+{tag}", tag=LINUX))
    return project


def test_each_variant_is_a_lock_with_its_files_that_install_finds_and_chooses(torch_project: Project) -> None:
    made = torch_project.run("lock", "--variant", "cpu", "--variant", "cu118")
    assert made.returncode == 0, made.stderr
    assert sorted(torch_project.files()) == [
        "environment.yml",
        *(
            f"lockfiles/{tag}/{name}"
            for tag in ("cpu", "cu118")
            for name in ("conda-lock.yml", "environment.yml", "virtual-packages.yml")
        ),
    ]
    assert "requires: linux-64, glibc 2.28\n" in made.stdout
    assert "requires: linux-64, glibc 2.28, NVIDIA driver 450.80.02 (CUDA 11.8), compute capability" in made.stdout
    folder = torch_project.folder
    assert list_variants(folder) == ("cu118", "cpu")
    for tag in ("cpu", "cu118"):
        lock = read_lockfile(folder / "lockfiles" / tag / "conda-lock.yml")
        assert [p.version for p in lock.packages if p.name == "torch"] == [f"2.7.1+{tag}"]
    assert choose_variant(folder, load_machine("t4", {})).name == "cu118"
    assert choose_variant(folder, load_machine("b200", {})).name == "cpu"
    assert torch_project.run("lock", "--check", "--variant", "cpu", "--variant", "cu118").returncode == 0


def test_a_variant_behind_its_project_is_told(torch_project: Project) -> None:
    assert torch_project.run("lock", "--variant", "cpu").returncode == 0
    torch_project.write(ENVIRONMENT.replace("extra  # ours", "base"))
    checked = torch_project.run("lock", "--check", "--variant", "cpu", "--json")
    codes = [difference["code"] for difference in json.loads(checked.stdout)["result"]["differences"]]
    assert (checked.returncode, codes) == (1, ["variant-changed"])
    locked = torch_project.run("lock")
    behind = "variant cpu is not up to date with environment.yml; to update it, run `envforge lock --variant cpu`"
    assert locked.stderr.endswith(f"warning: {behind}\n"), locked.stderr
    assert torch_project.run("lock", "--variant", "cpu").returncode == 0
    assert "base" in (torch_project.folder / "lockfiles/cpu/environment.yml").read_text(encoding="utf-8")


def test_each_variant_has_its_own_pylock(torch_project: Project) -> None:
    variants = ("--variant", "cpu", "--variant", "cu118")
    made = torch_project.run("lock", *variants, "--pylock")
    assert made.returncode == 0, made.stderr
    for tag in ("cpu", "cu118"):
        path = torch_project.folder / "lockfiles" / tag / f"pylock.{tag}.toml"
        text = path.read_text(encoding="utf-8")
        assert f"{path.relative_to(torch_project.folder)} written, with a SHA-256" in made.stdout
        assert f"#     envforge lock --variant {tag} --pylock\n" in text
        assert f"#     uv pip sync lockfiles/{tag}/pylock.{tag}.toml\n" in text
        found = {package.name: package.version for package in parse_pylock(text, str(path)).packages}
        assert found == {"torch": f"2.7.1+{tag}"}
    assert torch_project.run("lock", "--check", *variants).returncode == 0
    torch_project.write(ENVIRONMENT.replace('"torch==', 'colours\n      - "torch=='))
    behind = torch_project.run("lock").stderr
    assert "run `envforge lock --variant cu118 --variant cpu --pylock`\n" in behind
    stale = torch_project.run("lock", "--variant", "cpu").stderr
    assert "lockfiles/cpu/pylock.cpu.toml is not up to date with lockfiles/cpu/conda-lock.yml" in stale
    assert "run `envforge lock --variant cpu --pylock`\n" in stale
    checked = torch_project.run("lock", "--check", "--variant", "cpu", "--json")
    codes = [difference["code"] for difference in json.loads(checked.stdout)["result"]["differences"]]
    assert (checked.returncode, codes) == (1, ["pylock-stale"])


def test_a_variant_that_cannot_be_locked_leaves_nothing(torch_project: Project) -> None:
    before = torch_project.files()
    failed = torch_project.run("lock", "--variant", "cu126")
    assert failed.returncode == 1
    # a slow solve prints further lines of progress
    assert any(
        line.startswith("error: variant cu126: no solution for linux-64: ") for line in failed.stderr.splitlines()
    )
    assert torch_project.files() == before
    assert not (torch_project.folder / "lockfiles").exists()


def derived(folder: Path, text: str, tag: str) -> str:
    path = folder / "environment.yml"
    path.write_text(text, encoding="utf-8")
    return derive_variant(path, parse_variant(tag), load_matrix()).environment


def test_only_what_depends_on_the_build_differs(tmp_path: Path) -> None:
    text = ENVIRONMENT.replace("extra  # ours", '"setuptools <82,!=80"\n  - networkx  # ours')
    lines = derived(tmp_path, text, "cu130").splitlines()
    assert lines[0].startswith("# The variant cu130 of ../../environment.yml, with PyTorch 2.1")
    gone = [line for line in text.splitlines() if line not in lines]
    came = [line for line in lines[2:] if line not in text.splitlines()]
    assert gone == [
        "# about this project",
        '  - "setuptools <82,!=80"',
        "  - networkx  # ours",
        '      - "torch==2.7.1+cu118"',
        f'  - "{PUBLIC}/cu118"',
    ]
    assert '  - "setuptools >=77.0.3,!=80"' in came
    assert '  - "networkx >=2.5.1"  # ours' in came
    assert f'  - "{PUBLIC}/cu130"' in came


def test_a_platform_without_wheels_of_the_tag_keeps_its_own_build(tmp_path: Path) -> None:
    text = ENVIRONMENT.replace("  - linux-64\n", "  - linux-64\n  - osx-arm64\n").replace(
        '      - "torch==2.7.1+cu118"\n', '      - "torch==2.7.1+cu118"  # [linux64]\n      - "torch==2.7.1"  # [osx]\n'
    )
    text = text.replace(f'  - "{PUBLIC}/cu118"\n', f'  - "{PUBLIC}/cu118"\n  - "{PUBLIC}/cpu"\n')
    cpu = derived(tmp_path, text, "cpu")
    assert '- "torch==2.7.1+cpu"  # [linux64]' in cpu
    assert '- "torch==2.7.1"  # [osx]' in cpu
    assert cpu.count(f"{PUBLIC}/cpu") == 1
    newer = derived(tmp_path, text, "cu126")
    assert '- "torch==2.7.1+cu126"  # [linux64]' in newer
    assert '- "torch==2.7.1"  # [osx]' in newer
    assert newer.endswith(f'pip-repositories:\n  - "{PUBLIC}/cu126"\n  - "{PUBLIC}/cpu"\n')


@pytest.mark.parametrize(
    ("name", "near"),
    [("xyz", None), ("11.8", "cu118"), ("../cpu", "cpu"), ("CU118", "cu118"), ("cu125", "cu12"), ("12", None)],
)
def test_unknown_variant_gets_a_tag_that_exists(name: str, near: str | None) -> None:
    with pytest.raises(EnvforgeError) as caught:
        parse_variant(name)
    assert caught.value.code == "bad-variant"
    assert caught.value.hint.startswith(f"did you mean `--variant {near}" if near else "")
    suggested = caught.value.hint.removeprefix("did you mean `--variant ").removesuffix("`?")
    assert not suggested or str(parse_variant(suggested)) == suggested


def test_variant_without_a_build_lists_the_variants_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(EnvforgeError) as caught:
        derived(tmp_path, ENVIRONMENT.replace("=3.10", "=3.8"), "cu130")
    listed = caught.value.message.rpartition("variants with a build: ")[2].split(", ")
    assert "cu118" in listed
    for tag in listed:
        assert derived(tmp_path, ENVIRONMENT.replace("=3.10", "=3.8"), tag)


def test_a_python_without_builds_of_the_tag_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvforgeError) as caught:
        derived(tmp_path, ENVIRONMENT.replace("=3.10", "=3.7"), "cu130")
    assert caught.value.message.startswith("no PyTorch build for `cu130` supports linux-64 with Python 3.7 (from ")


def test_a_project_without_torch_has_no_variants(tmp_path: Path) -> None:
    with pytest.raises(EnvforgeError) as caught:
        derived(tmp_path, ENVIRONMENT.replace("torch==2.7.1+cu118", "rich"), "cpu")
    assert caught.value.code == "no-torch"


def test_a_file_that_people_wrote_is_not_overwritten(torch_project: Project) -> None:
    folder = torch_project.folder / "lockfiles" / str(WheelTag(None))
    folder.mkdir(parents=True)
    (folder / "environment.yml").write_text("channels: []\n", encoding="utf-8")
    before = torch_project.files()
    failed = torch_project.run("lock", "--variant", "cpu")
    assert failed.returncode == 1
    assert "was not created by `envforge lock --variant`" in failed.stderr
    assert torch_project.files() == before
