"""Test that each package comes from exactly one index, and that ``--conda-exe`` uses the user's own conda."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from envforge.errors import EnvforgeError, RequestError
from envforge.lock.condalock import solver_launcher
from tests.lock.conftest import CONDA_LIBRARIES, World, environment_text
from tests.lock.torchindex import PUBLIC, Wheel, wheel
from tests.support.loopback import Loopback, Request, Response

WANTED = wheel("wanted", "1.2", requires=["helper>=1", "numpy", "triton"])
HELPER = wheel("helper", "1.0")
FAKE_TORCH = wheel("torch", "99.0")
FAKE_TRITON = wheel("triton", "99.0")


def registry(*wheels: Wheel, yanked: tuple[str, ...] = ()) -> Loopback:
    """A Python registry that answers JSON (PEP 691) and, as such registries do, has files elsewhere."""
    files = {f"/files/{one.file_name}": one.data for one in wheels}
    files |= {f"/files/{one.file_name}.metadata": one.metadata for one in wheels}

    def answer(request: Request) -> Response | None:
        if request.path in files:
            return Response(body=files[request.path])
        name = request.path.strip("/").removeprefix("simple/")
        rows = [
            {
                "filename": one.file_name,
                "url": f"../../files/{one.file_name}",
                "hashes": {"sha256": one.sha256},
                "core-metadata": {"sha256": hashlib.sha256(one.metadata).hexdigest()},
                "size": len(one.data),
                "yanked": one.version in yanked,
            }
            for one in wheels
            if one.name == name
        ]
        body = json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": rows}).encode()
        return Response(body=body, headers={"Content-Type": "application/vnd.pypi.simple.v1+json"}) if rows else None

    return Loopback(answer)


def test_each_package_comes_from_its_one_index(world: World) -> None:
    """The registry offers newer torch and triton, the torch index a newer helper: neither is looked at."""
    world.index.add("cu118", wheel("helper", "99.0"), wheel("wanted", "99.0"))
    world.write(environment_text(pip=("torch==2.7.1+cu118", "wanted")))
    with registry(WANTED, HELPER, FAKE_TORCH, FAKE_TRITON) as server:
        world.lock(python_index=f"{server.url}/simple")
        asked = {path for path in server.paths() if path.startswith("/simple/")}
        found = {p.name: (p.version, p.url) for p in world.read().for_platform("linux-64", "pip")}
        assert asked == {"/simple/wanted/", "/simple/helper/"}
        assert found["wanted"] == ("1.2", f"{server.url}/files/{WANTED.file_name}")
        assert found["helper"] == ("1.0", f"{server.url}/files/{HELPER.file_name}")
    assert found["triton"][0] == "3.3.1"
    assert "numpy" not in found
    assert world.package("wanted").sha256 == WANTED.sha256


def test_the_users_own_conda_gives_the_conda_half(world: World) -> None:
    tools = world.folder.parent / "tools"
    tools.mkdir()
    calls = tools / "calls.txt"
    real = solver_launcher(tools)
    script = tools / "micromamba"
    script.write_text(
        f'#!/bin/sh\necho "$1" >> {calls}\nunset ENVFORGE_SOLVE_RECORDS\nexec {real} "$@"\n', encoding="utf-8"
    )
    script.chmod(0o755)
    report = world.lock(conda_exe=script)
    assert "create" in calls.read_text(encoding="utf-8").split()
    assert world.package("torch").version == "2.7.1+cu118"
    assert world.package("sympy").manager == "conda"
    assert report.warnings == (
        "`micromamba` ignores `--mirror` and `ENVFORGE_MIRRORS`; set up mirrors in its own configuration",
    )


def test_variables_in_an_http_channel_are_kept(
    world: World, conda_channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_USER", "ada")
    monkeypatch.setenv("FORGE_PASSWORD", "s3cret")
    channel = f"{conda_channel}/conda-forge".replace("://", "://$FORGE_USER:$FORGE_PASSWORD@")
    world.write(f"channels: ['{channel}']\nplatforms: [linux-64]\ndependencies: [sympy]\n")
    lock = world.lock().lock
    assert world.package("sympy").url.startswith("http://${FORGE_USER}:${FORGE_PASSWORD}@127.0.0.1")
    assert lock.access_variables == ("FORGE_PASSWORD", "FORGE_USER")
    assert "s3cret" not in world.lockfile.read_text()


@pytest.mark.parametrize(
    ("tag", "why", "hint"),
    [
        ("cp39-cp39-manylinux_2_17_x86_64", "for linux-64 only for cp39, but Python 3.10.18 is locked", "or of Python"),
        ("cp310-cp310-manylinux_2_39_x86_64", "for linux-64 only for glibc 2.39 or newer", '__glibc: "2.39"'),
        ("cp310-cp310-manylinux_2_17_aarch64", "only for manylinux_2_17_aarch64", "to remove `wanted` from"),
    ],
)
def test_wheel_for_another_machine_is_explained(world: World, tag: str, why: str, hint: str) -> None:
    world.write(environment_text(pip=("torch==2.7.1+cu118", "wanted")))
    with registry(wheel("wanted", "1.0", tag=tag)) as server, pytest.raises(EnvforgeError) as caught:
        world.lock(python_index=f"{server.url}/simple")
    assert f"/simple/wanted/` has wheels {why}" in caught.value.message
    assert hint in caught.value.hint


def test_requested_version_for_another_python_is_explained(world: World) -> None:
    world.write(environment_text(pip=("torch==2.7.1+cu118", "wanted>=2")))
    files = wheel("wanted", "1.0"), wheel("wanted", "2.0", tag="cp39-cp39-manylinux_2_17_x86_64")
    with registry(*files) as server, pytest.raises(EnvforgeError) as caught:
        world.lock(python_index=f"{server.url}/simple")
    assert "/simple/wanted/` has wheels for linux-64 only for cp39, but Python 3.10.18 is" in caught.value.message
    assert "- wanted: the requested version on" in caught.value.message
    assert caught.value.hint == "request another version of `wanted`, or of Python"


def test_yanked_wheel_needs_an_exact_pin(world: World) -> None:
    world.write(environment_text(pip=("torch==2.7.1+cu118", "wanted")))
    with registry(wheel("wanted", "1.0"), yanked=("1.0",)) as server:
        with pytest.raises(EnvforgeError) as caught:
            world.lock(python_index=f"{server.url}/simple")
        assert "to use a version that was yanked, pin it exactly, such as `wanted==1.0`" in caught.value.hint
        world.write(environment_text(pip=("torch==2.7.1+cu118", "wanted==1.0")))
        report = world.lock(python_index=f"{server.url}/simple")
    assert report.warnings == ("`wanted 1.0` was yanked by its publisher, but an exact pin requests it",)


def test_unknown_extra_is_an_error(world: World) -> None:
    world.write(environment_text(pip=("torch==2.7.1+cu118", "wanted[nope]")))
    with registry(wheel("wanted", "1.0")) as server, pytest.raises(EnvforgeError) as caught:
        world.lock(python_index=f"{server.url}/simple")
    assert (caught.value.code, caught.value.message) == (
        "no-such-extra",
        "`wanted 1.0` has no extra `nope`, which `wanted[nope]` requests; it has no extras",
    )


def test_a_conda_exe_that_is_not_there_is_a_usage_error(world: World) -> None:
    with pytest.raises(RequestError) as caught:
        world.lock(conda_exe=Path("/nowhere/conda"))
    assert caught.value.message == "`/nowhere/conda` is not an executable file"


def test_the_configured_registry_is_asked_with_its_password_which_no_address_keeps(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write(environment_text(pip=("torch==2.7.1+cu118", "wanted")))
    with registry(WANTED, HELPER) as server:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{server.url.replace('://', '://me:secret@')}/simple/")
        world.lock()
        accounts = {request.headers.get("authorization") for request in server.requests}
        assert world.package("wanted").url == f"{server.url}/files/{WANTED.file_name}"
    assert accounts == {"Basic bWU6c2VjcmV0"}
    assert "secret" not in world.lockfile.read_text(encoding="utf-8")


@pytest.mark.parametrize("variable", ["UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL", "pip.conf", "uv.toml"])
def test_extra_index_of_the_user_is_read(world: World, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    world.write(environment_text(pip=("torch==2.7.1+cu118", "wanted")))
    with registry(HELPER) as default, registry(WANTED) as extra:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{default.url}/simple")
        url, settings = f"{extra.url}/simple", world.folder.parent / variable
        if variable == "pip.conf":
            settings.write_text(f"[global]\nextra-index-url = file:///nowhere\n  {url}\n", encoding="utf-8")
            monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
        elif variable == "uv.toml":
            settings.write_text(f'[[index]]\nname = "lab"\nurl = "{url}"\n', encoding="utf-8")
            monkeypatch.delenv("UV_NO_CONFIG")
            monkeypatch.setenv("UV_CONFIG_FILE", str(settings))
        else:
            monkeypatch.setenv(variable, f"lab={url}" if variable == "UV_INDEX" else url)
        report = world.lock()
        assert world.package("wanted").url == f"{extra.url}/files/{WANTED.file_name}"
        assert world.package("helper").url == f"{default.url}/files/{HELPER.file_name}"
    unused = f"the package index `file:///nowhere` (configured in {settings}) is not used, because other machines can't"
    assert [line[: len(unused)] for line in report.warnings] == ([unused] if variable == "pip.conf" else [])


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        (wheel("wanted", "1.0", tag="cp39-cp39-manylinux_2_17_x86_64"), "has wheels for linux-64 only for cp39"),
        (replace(WANTED, file_name="wanted-1.2.tar.gz"), "has only source distributions"),
    ],
)
def test_package_that_an_index_lists_is_not_taken_from_a_later_one(
    world: World, monkeypatch: pytest.MonkeyPatch, listed: Wheel, why: str
) -> None:
    with registry(HELPER, WANTED) as public, registry(listed) as own:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{public.url}/simple")
        world.write(
            environment_text(pip=("torch==2.7.1+cu118", "wanted"), indexes=(f"{PUBLIC}/cu118", f"{own.url}/simple"))
        )
        with pytest.raises(EnvforgeError, match=rf"`{own.url}/simple/wanted/` {why}"):
            world.lock()
        assert "/simple/wanted/" not in public.paths()


def test_index_that_rejects_credentials_does_not_lead_to_a_later_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry(HELPER, WANTED) as public, Loopback(lambda _: Response(body=b"", status=403)) as own:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{public.url}/simple")
        indexes = (f"{PUBLIC}/cu118", f"{own.url}/simple")
        world.write(environment_text(pip=("torch==2.7.1+cu118", "wanted"), indexes=indexes))
        with pytest.raises(EnvforgeError, match=rf"`{own.url}/simple/wanted/` returned HTTP 403") as caught:
            world.lock()
        assert caught.value.hint == "add credentials for `127.0.0.1` to `~/.netrc` or the keyring"
        assert "/simple/wanted/" not in public.paths()


def direct(one: Wheel, extra: str = "") -> str:
    return f"{one.name}{extra} @ {PUBLIC}/cu118/{one.file_name}#sha256={one.sha256}"


def test_wheel_of_a_url_is_read_from_the_mirror_with_its_extras(world: World) -> None:
    """The real server is out of reach, so the file, its requirements, and those of an extra come from the mirror."""
    one = wheel("wanted", "1.2", requires=["helper", 'extra-helper; extra == "fast"'], extras=["fast"])
    world.index.add("cu118", one, HELPER, wheel("extra-helper", "1.0"), has_metadata=False)
    world.write(environment_text(pip=("torch==2.7.1+cu118", direct(one, "[fast]"), "helper")))
    for _ in range(2):  # the second lock keeps the wheel
        world.lock(python_index=f"{PUBLIC}/cu118", upgrade_packages=("torch",) if world.lockfile.exists() else ())
        found = {p.name: p.version for p in world.read().for_platform("linux-64", "pip")}
        assert (found["wanted"], found["helper"], found["extra-helper"]) == ("1.2", "1.0", "1.0")
    assert world.package("wanted").url == f"{PUBLIC}/cu118/{one.file_name}"
    assert world.package("wanted").sha256 == one.sha256
    assert world.lock(python_index=f"{PUBLIC}/cu118").is_unchanged


def test_wheel_of_a_url_that_does_not_fit_is_explained(world: World) -> None:
    for one, why in (
        (wheel("wanted", "1.2", tag="py3-none-win_amd64"), "has wheels only for win_amd64"),
        (wheel("wanted", "1.2", python=">=3.99"), "has wheels for linux-64 only for Python >=3.99"),
    ):
        world.index.add("cu118", one, has_metadata=False)
        world.write(environment_text(pip=("torch==2.7.1+cu118", direct(one))))
        with pytest.raises(EnvforgeError) as caught:
            world.lock()
        assert f"- wanted: `{PUBLIC}/cu118/{one.file_name}` {why}" in caught.value.message


def test_wheel_of_a_url_is_not_replaced_by_a_conda_package(world: World) -> None:
    one = wheel("numpy", CONDA_LIBRARIES["numpy"])
    world.index.add("cu118", one)
    world.write(environment_text(pip=("torch==2.7.1+cu118", direct(one))))
    with pytest.raises(EnvforgeError, match="`numpy` has two owners"):
        world.lock()
