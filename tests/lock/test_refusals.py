"""Test errors of ``lock``: the old lockfile is kept, no file is left behind, and the hint fits the cause."""

from __future__ import annotations

from typing import Any

import pytest

from envforge.base.files import exclusive_lock
from envforge.errors import EnvforgeError, OutsideError
from tests.lock.conftest import CUBLAS, TORCH, TRITON, VISION, World, environment_text
from tests.lock.torchindex import PUBLIC, TorchIndex

OLD = "version: 1\nmetadata:\n  content_hash: {}\n  channels: []\n  platforms: []\n  sources: []\npackage: []\n"


def refused(world: World, **changes: Any) -> EnvforgeError:
    """Run a lock that must stop; the old lock must stay as it was."""
    if not world.lockfile.exists():
        world.lockfile.write_text(OLD, encoding="utf-8")
    before = world.lockfile.read_bytes()
    with pytest.raises(EnvforgeError) as caught:
        world.lock(**changes)
    assert world.lockfile.read_bytes() == before
    assert [name for name in world.left_behind() if name.startswith(".")] == []
    assert "Traceback" not in caught.value.message
    assert "127.0.0.1" not in caught.value.message
    return caught.value


def test_a_hash_that_is_not_that_of_the_bytes_stops_the_lock(world: World) -> None:
    world.index = TorchIndex()
    world.index.add("cu118", TORCH, sha256="ab" * 32)
    world.index.add("cu118", VISION, CUBLAS, TRITON)
    error = refused(world, verify_hashes=True)
    assert error.code == "hash-mismatch"
    assert error.message == (
        f"checksum mismatch for `{PUBLIC}/cu118/{TORCH.file_name.replace('+', '%2B')}`: "
        f"expected sha256 `{'ab' * 32}` (package index), found `{TORCH.sha256}`"
    )


def test_a_file_that_changed_behind_its_address_stops_the_lock(world: World) -> None:
    world.lock()
    world.index = TorchIndex()
    world.index.add("cu118", TORCH, sha256="cd" * 32)
    world.index.add("cu118", VISION, CUBLAS, TRITON)
    error = refused(world, upgrade=True)
    assert error.code == "hash-changed"
    assert f"expected SHA-256 `{TORCH.sha256}` (`{world.lockfile}`), found `{'cd' * 32}`" in error.message
    assert error.commands == (f"rm {world.lockfile} && envforge lock -f {world.environment} --verify-hashes",)


def test_a_second_run_does_not_mix_with_the_first(world: World) -> None:
    with exclusive_lock(world.lockfile):
        error = refused(world)
    assert (error.code, error.exit_code) == ("lock-busy", 3)


def test_an_unknown_tag_is_named_with_what_the_index_answered(world: World) -> None:
    world.write(environment_text(pip=("torch==2.7.1+cu119",), indexes=(f"{PUBLIC}/cu119",)))
    error = refused(world)
    assert f"- torch: `{PUBLIC}/cu119/torch/` returned HTTP 403" in error.message
    assert error.commands == ("envforge explain",)


def test_an_unsatisfiable_conda_spec_shows_the_solvers_words(world: World) -> None:
    world.write(environment_text(conda=('"numpy >=3"',)))
    error = refused(world)
    assert error.message.startswith("these packages are not available for linux-64:")
    assert "numpy >=3 (available: 2.2.6)" in error.message
    assert error.hint == "change the version constraint to one that matches"


def test_an_unsatisfiable_pip_pin_shows_which_versions_there_are(world: World) -> None:
    world.write(environment_text(pip=("torch==2.9.9+cu118",)))
    error = refused(world)
    assert "environment.yml depends on torch (==2.9.9+cu118) which doesn't match any versions" in error.message
    assert f"- torch: `{PUBLIC}/cu118` has 2.7.1+cu118, 2.7.0+cu118" in error.message


def test_a_library_that_conda_does_not_provide_is_not_taken_from_anywhere(world: World) -> None:
    world.write(environment_text(without=("sympy",)))
    error = refused(world)
    assert "- sympy: the environment requests it neither from conda nor under `pip:`" in error.message
    assert error.commands == (f"envforge add -f {world.environment} sympy",)


def test_torch_without_a_torch_index_is_not_taken_from_the_registry(world: World) -> None:
    world.write(environment_text(pip=("torch==2.7.1",), indexes=()).replace("pip-repositories:\n", ""))
    error = refused(world)
    assert "- torch: only a PyTorch index may provide it, and `pip-repositories` lists none" in error.message
    assert f'`pip-repositories: ["{PUBLIC}/cu128"]`' in error.hint
    assert error.commands == ("envforge explain",)


def test_a_package_with_two_owners_is_refused(world: World) -> None:
    world.write(environment_text(conda=("pytorch",)))
    error = refused(world)
    assert error.code == "two-owners"
    assert error.message == (
        "`torch` has two owners on linux-64: `torch==2.7.1+cu118` under `pip:`, and conda package `pytorch 2.5.1`"
    )


@pytest.mark.parametrize(
    "address", ["https://user:secret@mirror.example/whl/cu118", "https://mirror.example/t/ab-0123456789/whl/cu118"]
)
def test_credentials_in_an_address_stop_the_lock_and_are_not_repeated(world: World, address: str) -> None:
    world.write(environment_text(indexes=(address,)))
    error = refused(world)
    assert error.code == "credentials"
    assert "secret" not in error.message
    assert "0123456789" not in error.message


def test_a_damaged_lock_stops_the_lock_before_anything_is_asked(world: World) -> None:
    world.lockfile.write_text("package: [", encoding="utf-8")
    error = refused(world)
    assert error.code == "lockfile-damaged"
    assert world.server is not None
    assert world.server.requests == ()


def test_an_index_option_under_pip_is_refused_with_the_form_that_works(world: World) -> None:
    world.write(environment_text(pip=("--extra-index-url https://download.pytorch.org/whl/cu118", "torch")))
    error = refused(world)
    assert error.code == "pip-option"
    assert "pip-repositories:" in error.hint


@pytest.mark.parametrize(
    "line", ["-e .", "mine @ file:///home/me/mine", "mine @ https://host.example/mine-1.0-py3-none-any.whl", "a b"]
)
def test_what_a_lock_cannot_hold_under_pip_is_refused(world: World, line: str) -> None:
    world.write(environment_text(pip=("torch==2.7.1+cu118", line)))
    error = refused(world)
    assert f"`{line}`" in error.message
    assert error.code in {"pip-option", "bad-requirement"}


def test_an_environment_without_platforms_is_refused(world: World) -> None:
    world.write(environment_text().replace("platforms:\n  - linux-64\n", ""))
    assert refused(world).hint == f"add a line such as `platforms: [linux-64]` to `{world.environment}`"


def test_an_index_that_cannot_be_reached_is_named_with_its_public_address(world: World) -> None:
    from envforge.base.urls import Mirrors

    nowhere = "http://127.0.0.1:9"
    mirrors = Mirrors((("https://download.pytorch.org", nowhere), ("https://conda.anaconda.org", world.conda_url)))
    with pytest.raises(OutsideError) as caught:
        world.lock(mirrors=mirrors)
    assert caught.value.message.startswith(f"cannot reach `{PUBLIC}/cu118/torch")
    assert caught.value.message.endswith("could not connect to the host")
    assert caught.value.hint.startswith(f"check the mirror URL `{nowhere}/whl/cu118/torch")


def test_a_channel_that_cannot_be_reached_is_a_fault_of_the_outside_world(world: World) -> None:
    from envforge.base.urls import Mirrors

    with pytest.raises(OutsideError) as caught:
        world.lock(mirrors=Mirrors((("https://conda.anaconda.org", "http://127.0.0.1:9"),)))
    assert caught.value.code == "channel-unreachable"
    assert "loosen" not in caught.value.hint
    assert "conda-forge" in caught.value.message


def test_unreachable_package_index_is_named_with_its_source(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    world.write(environment_text(pip=("torch==2.7.1+cu118", "rich")))
    with pytest.raises(OutsideError) as caught:
        world.lock()
    assert caught.value.code == "unreachable"
    assert caught.value.message.startswith(
        "cannot read the package index `http://127.0.0.1:9/simple` (configured in UV"
    )
    assert "`--mirror http://127.0.0.1:9=https://MIRROR`" in caught.value.hint
    assert caught.value.hint.endswith("to use another package index, set `UV_DEFAULT_INDEX=https://INDEX/simple`")
    assert "download.pytorch.org" not in caught.value.hint


def test_package_index_with_another_scheme_is_not_blamed_on_the_network(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "htp://registry.example/simple")
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    monkeypatch.delenv("UV_INDEX_URL", raising=False)
    world.write(environment_text(pip=("torch==2.7.1+cu118", "rich")))
    error = refused(world)
    assert error.code == "bad-url"
    assert error.hint == "to use another package index, set `PIP_INDEX_URL=https://INDEX/simple`"


def test_temporary_directory_without_programs_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envforge.lock.locking.os.access", lambda path, mode: False)
    error = refused(world)
    assert (error.code, error.exit_code) == ("noexec-tmp", 3)
    assert f"`{world.folder.parent / 'tmp'}`" in error.message
    assert error.hint == "to use another directory for temporary files, set `TMPDIR=DIR`"


def test_sizes_of_wheels_are_read_without_a_download_and_gaps_are_named(world: World) -> None:
    world.index.files.pop(f"/whl/cu118/{TRITON.file_name}")
    (one,) = world.lock().platforms
    assert one.unsized == ("triton",)
    assert one.bytes > len(TORCH.data) + len(VISION.data) + len(CUBLAS.data)
    assert world.server is not None
    assert [r for r in world.server.requests if r.path.endswith(".whl") and r.method != "HEAD"] == []
