"""The tool of each format reads the export: pip, uv, packaging, and envforge itself, only over loopback."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct
from uv import find_uv_bin

from envforge.base import toml
from envforge.cli import main
from tests.prefix.install.support import LockWriter
from tests.support.channel import Channel, text_package
from tests.support.loopback import Loopback
from tests.support.wheel import rebuild_wheel, text_wheel

TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


class Place(Struct, frozen=True):
    """A lock with a channel and wheels behind it, and a folder to export to."""

    folder: Path
    lock: Path

    def export(self, kind: str, name: str) -> Path:
        output = self.folder / name
        assert main(["export", kind, "--lockfile", str(self.lock), "-o", str(output)]) == 0
        return output

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        quiet = {"UV_NO_CONFIG": "1", "UV_CACHE_DIR": str(self.folder / "uv"), "PIP_CONFIG_FILE": os.devnull}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PIP_"))}
        environment = {**kept, **quiet, "PIP_CACHE_DIR": str(self.folder / "pip"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Channel, Loopback]]:
    channel = Channel(tmp_path_factory.mktemp("channel"))
    python = f"{sys.version_info.major}.{sys.version_info.minor}.0"
    channel.add(text_package("python", python, {"share/python.txt": "stands for Python\n"}))
    channel.add(text_package("greeting", "1.0", {"share/greeting.txt": "hello\n"}))
    channel.add(text_package("pip", "26.0", {"share/pip.txt": "stands for pip\n"}))
    wheels = channel.folder / "wheels"
    wheels.mkdir()
    rebuild_wheel("typing_extensions", wheels)
    text_wheel("tool", "1.0+cu118", {"tool/__init__.py": "NAME = 'tool'\n"}, wheels)
    with Loopback(channel.folder) as server:
        yield channel, server


@pytest.fixture
def place(served: tuple[Channel, Loopback], tmp_path: Path) -> Place:
    channel, server = served
    writer = (
        LockWriter(server.url).conda(*channel.packages.values()).wheel(*sorted((channel.folder / "wheels").iterdir()))
    )
    return Place(folder=tmp_path, lock=writer.write(tmp_path / "conda-lock.yml"))


def _pip(place: Place, requirements: Path, *more: str) -> subprocess.CompletedProcess[str]:
    options = ("--no-deps", "--require-hashes", "--no-index", "--target", str(place.folder / "target"))
    return place.run(sys.executable, "-m", "pip", "install", *options, *more, "-r", str(requirements))


def _uv(place: Place, file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    options = ("--no-deps", "--no-index", "--python", sys.executable, "--target", str(place.folder / "target"))
    return place.run(find_uv_bin(), "pip", *(more or ("install", "--require-hashes")), *options, "-r", str(file))


def _installed(place: Place) -> set[str]:
    return {path.name for path in (place.folder / "target").glob("*.dist-info")}


def _spoil(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"(sha256\s*[:=]\s*\"?)[0-9a-f]{4}", r"\g<1>0123", text), encoding="utf-8")


def test_pip_installs_the_requirements_with_hashes_required(place: Place) -> None:
    done = _pip(place, place.export("requirements", "requirements.txt"))
    assert done.returncode == 0, done.stderr
    assert "tool-1.0+cu118.dist-info" in _installed(place)
    assert len(_installed(place)) == 2


def test_uv_installs_the_requirements_with_hashes_required(place: Place) -> None:
    done = _uv(place, place.export("requirements", "requirements.txt"))
    assert done.returncode == 0, done.stderr
    assert len(_installed(place)) == 2


def test_uv_installs_pylock(place: Place) -> None:
    done = _uv(place, place.export("pylock", "pylock.toml"), "install")
    assert done.returncode == 0, done.stderr
    assert len(_installed(place)) == 2


def test_uv_syncs_to_pylock_without_a_complaint(place: Place) -> None:
    file = place.export("pylock", "pylock.toml")
    words = ("sync", "--dry-run", "--no-index", "--python", sys.executable, "--target", str(place.folder / "target"))
    done = place.run(find_uv_bin(), "pip", *words, str(file))
    assert done.returncode == 0, done.stderr
    assert "Would install 2 packages" in done.stderr


@pytest.mark.parametrize(("kind", "name"), [("requirements", "requirements.txt"), ("pylock", "pylock.toml")])
def test_uv_refuses_a_wheel_that_is_not_the_exported_one(place: Place, kind: str, name: str) -> None:
    file = place.export(kind, name)
    _spoil(file)
    done = _uv(place, file, "install")
    assert done.returncode != 0
    assert "Hash mismatch" in done.stderr
    assert _installed(place) == set()


def test_pip_refuses_a_wheel_that_is_not_the_exported_one(place: Place) -> None:
    file = place.export("requirements", "requirements.txt")
    _spoil(file)
    done = _pip(place, file)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_packaging_reads_pylock_and_selects_every_wheel(place: Place) -> None:
    module = pytest.importorskip("packaging.pylock", reason="packaging is older than 26")
    document = toml.loads(place.export("pylock", "pylock.toml").read_text(encoding="utf-8"))
    lock = module.Pylock.from_dict(document)
    assert {package.name for package, _ in lock.select()} == {"tool", "typing-extensions"}


def test_envforge_installs_the_explicit_file(place: Place) -> None:
    output = place.export("explicit", "explicit.txt")
    # the python of this channel is a text, so that no wheel can be installed for it
    lines = [line for line in output.read_text(encoding="utf-8").splitlines() if not line.startswith("# pip")]
    output.write_text("\n".join(lines), encoding="utf-8")
    words = ["--prefix", str(place.folder / "prefix"), "--cache", str(place.folder / "cache"), "--ignore-machine"]
    assert main(["install", str(output), *words]) == 0
    assert (place.folder / "prefix" / "share" / "greeting.txt").read_text(encoding="utf-8") == "hello\n"


def test_the_envforge_command_in_the_dockerfile_installs_the_lock(
    served: tuple[Channel, Loopback], tmp_path: Path
) -> None:
    channel, server = served
    lock = LockWriter(server.url).conda(*channel.packages.values()).write(tmp_path / "conda-lock.yml")
    output = tmp_path / "Dockerfile"
    assert main(["export", "dockerfile", "--lockfile", str(lock), "-o", str(output)]) == 0
    (command,) = re.findall(r"^#   RUN envforge (.*)$", output.read_text(encoding="utf-8"), re.MULTILINE)
    places = {"/tmp/lock/": f"{tmp_path}/", "/opt/env": f"{tmp_path}/env", "/tmp/cache": f"{tmp_path}/cache"}
    for inside, here in places.items():
        command = command.replace(inside, here)
    assert main(shlex.split(command)) == 0
    assert (tmp_path / "env" / "share" / "greeting.txt").exists()


@pytest.mark.skipif(shutil.which("hadolint", path=TOOLS) is None, reason="hadolint is not installed")
def test_hadolint_has_no_remark_on_the_dockerfile(place: Place) -> None:
    file = place.export("dockerfile", "Dockerfile")
    hadolint = str(shutil.which("hadolint", path=TOOLS))
    assert place.run(hadolint, "--no-color", str(file)).stdout == ""
    spoilt = place.folder / "spoilt"
    spoilt.write_text(file.read_text(encoding="utf-8") + "RUN cd /tmp\n", encoding="utf-8")
    assert "DL3003" in place.run(hadolint, "--no-color", str(spoilt)).stdout
