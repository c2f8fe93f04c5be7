"""Test that commands that upgrade, extend, or reinstall envforge match how this copy was installed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import platformdirs  # noqa: F401 - before its directory leaves sys.path
import pytest

from envforge import __version__
from envforge.base import distribution
from envforge.base.data_files import user_file
from envforge.errors import EnvforgeError, RequestError
from tests.support.commands import check_command

NAME = "our-name"
Installed = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_cache() -> Iterator[None]:
    distribution._distribution.cache_clear()
    yield
    distribution._distribution.cache_clear()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Put a distribution with our command first on ``sys.path``, in an environment of its own."""
    site, bin_folder = tmp_path / "env" / "site-packages", tmp_path / "env" / "bin"

    def install(*, installer: str = "pip", direct_url: object = None, tool_file: str = "", active: bool = True) -> Path:
        info = site / f"{NAME.replace('-', '_')}-{__version__}.dist-info"
        info.mkdir(parents=True)
        bin_folder.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {__version__}\n")
        (info / "entry_points.txt").write_text(f"[console_scripts]\nenvforge = {distribution._ENTRY_POINT}\n")
        (info / "INSTALLER").write_text(f"{installer}\n")
        if direct_url is not None:
            (info / "direct_url.json").write_text(json.dumps(direct_url))
        if tool_file:
            (tmp_path / "env" / tool_file).write_text("")
        for program in ("python", "pip"):
            (bin_folder / program).write_text("#!/bin/sh\n")
            (bin_folder / program).chmod(0o755)
        monkeypatch.setattr(sys, "path", [str(site), *(entry for entry in sys.path if not _has_ours(entry))])
        monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
        monkeypatch.setattr(sys, "executable", str(bin_folder / "python"))
        monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin" if active else "/usr/bin:/bin")
        monkeypatch.delenv("VIRTUAL_ENV", raising=False)
        if active:
            monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "env"))
        return tmp_path

    return install


def _has_ours(entry: str) -> bool:
    scripts = metadata.entry_points(group="console_scripts", name="envforge")
    return any(str(script.dist.locate_file("")) == entry for script in scripts if script.dist is not None)


def commands() -> tuple[str, str, str]:
    found = distribution.upgrade_command(), distribution.extra_command("sign"), distribution.reinstall_command()
    for command in found:
        check_command(command)
    return found


def test_name_is_that_of_the_installed_distribution(installed: Installed) -> None:
    installed()
    assert distribution.distribution_name() == NAME
    assert distribution.pinned_requirement() == f"{NAME}=={__version__}"


def test_name_of_a_bare_checkout_is_read_from_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not _has_ours(entry)])
    root = Path(distribution.__file__).parents[2]
    assert f'name = "{distribution.distribution_name()}"' in (root / "pyproject.toml").read_text(encoding="utf-8")
    assert distribution.installed_by() == f"pip (not installed, editable, from {root})"
    assert distribution.extra_command("sign").endswith(f"pip install -e '{root}[sign]'")


def test_pip_from_an_index(installed: Installed) -> None:
    installed()
    assert distribution.installed_by() == "pip"
    assert commands() == (
        f"pip install --upgrade {NAME}",
        f"pip install '{NAME}[sign]'",
        f"pip install --force-reinstall --no-deps {NAME}=={__version__}",
    )


def test_pip_of_an_environment_that_is_not_active_is_named_by_its_python(installed: Installed) -> None:
    folder = installed(active=False)
    assert distribution.upgrade_command() == f"{folder}/env/bin/python -m pip install --upgrade {NAME}"


def test_uv_pip(installed: Installed) -> None:
    installed(installer="uv")
    assert distribution.installed_by() == "uv pip"
    assert commands() == (
        f"uv pip install --upgrade {NAME}",
        f"uv pip install '{NAME}[sign]'",
        f"uv pip install --reinstall --no-deps {NAME}=={__version__}",
    )


def test_uv_pip_of_an_environment_that_is_not_active(installed: Installed) -> None:
    folder = installed(installer="uv", active=False)
    assert distribution.upgrade_command() == f"uv pip install --python {folder}/env/bin/python --upgrade {NAME}"


@pytest.mark.parametrize(("tool", "file"), [("uv tool", "uv-receipt.toml"), ("pipx", "pipx_metadata.json")])
def test_tool_environments(installed: Installed, tool: str, file: str) -> None:
    installed(tool_file=file)
    assert distribution.installed_by() == tool
    assert commands() == (
        f"{tool} upgrade {NAME}",
        f"{tool} install --force '{NAME}[sign]'",
        f"{tool} install --force {NAME}=={__version__}",
    )


def test_editable_git_checkout_is_pulled(installed: Installed, tmp_path: Path) -> None:
    checkout = tmp_path / "my checkout"
    (checkout / ".git").mkdir(parents=True)
    installed(direct_url={"url": checkout.as_uri(), "dir_info": {"editable": True}})
    assert distribution.installed_by() == f"pip (editable, from {checkout})"
    assert commands() == (
        f"git -C '{checkout}' pull",
        f"pip install -e '{checkout}[sign]'",
        f"git -C '{checkout}' status",
    )


def test_editable_directory_without_git_stays_editable(installed: Installed, tmp_path: Path) -> None:
    checkout = tmp_path / "unpacked"
    checkout.mkdir()
    installed(direct_url={"url": checkout.as_uri(), "dir_info": {"editable": True}})
    assert commands()[2] == f"pip install --force-reinstall --no-deps -e {checkout}"


def test_editable_tool_stays_editable(installed: Installed, tmp_path: Path) -> None:
    installed(direct_url={"url": tmp_path.as_uri(), "dir_info": {"editable": True}}, tool_file="uv-receipt.toml")
    assert distribution.extra_command("sign") == f"uv tool install --force -e '{tmp_path}[sign]'"


def test_local_directory(installed: Installed, tmp_path: Path) -> None:
    installed(direct_url={"url": (tmp_path / "a b").as_uri(), "dir_info": {}})
    assert distribution.installed_by() == f"pip (from {tmp_path}/a b)"
    assert commands()[1:] == (
        f"pip install '{tmp_path}/a b[sign]'",
        f"pip install --force-reinstall --no-deps '{tmp_path}/a b'",
    )


GIT = {"url": "https://host.example/envforge.git"}
BRANCH = {**GIT, "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": "ab" * 20}}


@pytest.mark.parametrize(
    ("vcs", "end"),
    [
        ({"vcs": "git", "commit_id": "ab" * 20}, ""),
        ({"vcs": "git", "requested_revision": "main", "commit_id": "ab" * 20}, "@main"),
    ],
)
def test_git_url_keeps_its_branch(installed: Installed, vcs: dict[str, str], end: str) -> None:
    installed(direct_url={**GIT, "vcs_info": vcs})
    place = f"git+https://host.example/envforge.git{end}"
    assert distribution.installed_by() == f"pip (from {place})"
    assert commands()[:2] == (
        f"pip install --upgrade --force-reinstall '{NAME} @ {place}'",
        f"pip install '{NAME}[sign] @ {place}'",
    )


@pytest.mark.parametrize(
    ("installer", "tool_file", "command"),
    [
        ("uv", "", f"uv pip install --upgrade --reinstall-package {NAME} 'PLACE'"),
        ("uv", "uv-receipt.toml", f"uv tool upgrade --reinstall {NAME}"),
        ("pip", "pipx_metadata.json", "pipx install --force 'PLACE'"),
    ],
)
def test_branch_is_upgraded_if_its_version_is_the_same(
    installed: Installed, installer: str, tool_file: str, command: str
) -> None:
    installed(installer=installer, tool_file=tool_file, direct_url=BRANCH)
    place = f"{NAME} @ git+https://host.example/envforge.git@main"
    assert commands()[0] == command.replace("PLACE", place)


def test_subdirectory_of_a_repository_is_kept(installed: Installed) -> None:
    source = {"url": "https://host.example/mono.git", "vcs_info": {"vcs": "git"}, "subdirectory": "tools/envforge"}
    installed(direct_url=source)
    assert "git+https://host.example/mono.git#subdirectory=tools/envforge" in distribution.upgrade_command()


WHEEL = {"url": "https://host.example/our_name-1.0-py3-none-any.whl", "archive_info": {}}


@pytest.mark.parametrize(
    "source",
    [
        WHEEL,
        {"url": "file:///tmp/our_name-1.0-py3-none-any.whl", "archive_info": {}},
        *(
            {**GIT, "vcs_info": {"vcs": "git", "requested_revision": revision, "commit_id": "ab" * 20}}
            for revision in ("v1.2.3", "1.2", "ab" * 20, "abababa", "refs/tags/first")
        ),
        {"url": "file:///nonexistent/unpacked", "dir_info": {}},
        {"url": "file:///nonexistent/unpacked", "dir_info": {"editable": True}},
    ],
)
def test_copy_of_what_never_changes_is_upgraded_from_the_index(installed: Installed, source: object) -> None:
    installed(direct_url=source)
    assert commands()[0] == f"pip install --upgrade {NAME}"


@pytest.mark.parametrize(
    ("tool_file", "command"),
    [
        ("uv-receipt.toml", f"uv tool install --upgrade {NAME}"),
        ("pipx_metadata.json", f"pipx install --force {NAME}"),
    ],
)
def test_tool_from_a_wheel_is_upgraded_from_the_index(installed: Installed, tool_file: str, command: str) -> None:
    installed(tool_file=tool_file, direct_url=WHEEL)
    assert commands()[0] == command


@pytest.mark.parametrize(
    ("installer", "command"),
    [
        ("pip", "pip install --upgrade --force-reinstall DIR"),
        ("uv", f"uv pip install --upgrade --reinstall-package {NAME} DIR"),
    ],
)
def test_copy_of_a_checkout_is_pulled_and_installed_again(
    installed: Installed, tmp_path: Path, installer: str, command: str
) -> None:
    (tmp_path / "src" / ".git").mkdir(parents=True)
    installed(installer=installer, direct_url={"url": (tmp_path / "src").as_uri(), "dir_info": {}})
    assert commands()[0] == f"git -C {tmp_path}/src pull && {command.replace('DIR', str(tmp_path / 'src'))}"


ACCEPTED = [
    ("1.2.3", f"{NAME}==1.2.3"),
    (" 1.2.3rc1 ", f"{NAME}==1.2.3rc1"),
    *(
        (value, value)
        for value in (
            NAME,
            f"{NAME}==1.2.3",
            "Our_Name[smoke,sign]>=1,<2",
            f"{NAME}[smoke] @ git+https://host.example/x.git@main",
            f"{NAME}@https://host.example/our_name-1.0-py3-none-any.whl",
            f"{NAME} @ file:///opt/envforge",
            "git+https://host.example/x.git@v1#subdirectory=tool",
            "git+ssh://git@host.example/team/x.git",
            "git+file:///srv/x.git",
            "https://host.example/a/archive/refs/tags/v1.tar.gz",
            "https://host.example/our_name-1.0-py3-none-any.whl#sha256=00",
            "file:///opt/envforge",
            "our_name-1.0-py3-none-any.whl",
            "./dist/our_name-1.0-py3-none-any.whl[smoke]",
            "/opt/my envforge",
            r"C:\wheels\our_name-1.0-py3-none-any.whl",
            "../envforge[smoke]",
            ".",
        )
    ),
]


@pytest.mark.parametrize(("value", "written"), ACCEPTED)
def test_requirement_is_written_so_that_pip_accepts_it(installed: Installed, value: str, written: str) -> None:
    installed()
    assert distribution.fleet_requirement(value, {}) == written


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "-r x", "--index-url=https://host.example", "~/envforge", "1.2.3\n", "a\x1bb", "1 \u202e2"),
        *("torchvision==1", "envforge", "tool", f"{NAME}==", f"{NAME} 1.2", f"{NAME}==1 torchvision", ">=1"),
        *("torch @ git+https://host.example/x.git", f"{NAME} @ ./dist", f"{NAME} @ https://host.example/page"),
        *(
            "https://host.example/page",
            "https://",
            "http://[x/y.whl",
            "ftp://host.example/x.whl",
            "hg+https://h.example/x",
        ),
        *("git+https://", "git+git@host.example:x/y", "git@host.example:x/y.git", "git+./x"),
        *("torch-2.0-py3-none-any.whl", "./dist/tool.whl", "https://host.example/torch-2.0-py3-none-any.whl"),
    ],
)
def test_what_does_not_install_envforge_is_rejected(installed: Installed, value: str) -> None:
    installed()
    with pytest.raises(RequestError, match=r"^`--envforge` is not a requirement of envforge: expected") as caught:
        distribution.fleet_requirement(value, {})
    assert caught.value.message.isprintable()
    assert f"such as `--envforge {__version__}`" in caught.value.hint


@pytest.mark.parametrize(
    "value",
    [
        "git+https://ada:secret@host.example/x.git",
        f"{NAME} @ git+https://secret@host.example/x.git",
        "https://$USER:secret@host.example/x.whl",
        "git+ssh://git:secret@host.example/x.git",
        "https://host.example/x.whl?token=secret",
        "--index-url=https://ada:secret@host.example",
    ],
)
def test_requirement_with_credentials_is_rejected_without_them(installed: Installed, value: str) -> None:
    installed()
    with pytest.raises(RequestError, match=r"^the URL in `ENVFORGE_REQUIREMENT` contains") as caught:
        distribution.fleet_requirement(None, {distribution.REQUIREMENT_VARIABLE: value})
    assert "secret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ('[envforge]\nrequirement = "tool==1"', "`requirement` in `FILE` is not"),
        ('[envforge]\nrequirement = ""', "`requirement` in `FILE` is not"),
        ("[envforge]\nrequirement = 1", "`FILE` is invalid at `envforge.requirement`: expected a string, found `1`"),
        ('[envforge]\nrequire = "1"', "`FILE` is invalid at `envforge.require`: expected only `requirement`, found"),
        ('envforge = "1"', "`FILE` is invalid at `envforge`: expected a table, found `1`"),
    ],
)
def test_settings_that_state_no_requirement_are_named(
    installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, place: str
) -> None:
    installed()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    user_file().parent.mkdir(parents=True, exist_ok=True)
    user_file().write_text(settings, encoding="utf-8")
    with pytest.raises(EnvforgeError, match=re.escape(place.replace("FILE", str(user_file())))):
        distribution.fleet_requirement(None, {})


def test_fleet_requirement_prefers_the_option(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    installed()
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")
    variable = {distribution.REQUIREMENT_VARIABLE: "./from-variable"}
    assert distribution.fleet_requirement("./from-option", variable) == "./from-option"
    assert distribution.fleet_requirement(None, variable) == "./from-variable"
    assert distribution.fleet_requirement(None, {}) == f"{NAME}=={__version__}"
