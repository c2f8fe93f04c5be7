"""Test which package index is used, and the URL of a file on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.lock.python_index import PythonIndex, SimplePages, configured_index, locate
from tests.support.loopback import Fault, Loopback

RELATIVE = "ab/cd/0123/nvidia_nccl_cu12-2.29.3-py3-none-manylinux_2_18_x86_64.whl"
FILE = RELATIVE.rsplit("/", 1)[-1]
SHA256 = "35" * 32
NO_FILES = {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}


def index_of(url: str) -> PythonIndex:
    return PythonIndex(simple_url=url, source="PIP_INDEX_URL")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    page = f'<a href="../../files/{FILE}#sha256={SHA256}">{FILE}</a>'
    return write(tmp_path / "mirror" / "simple" / "nvidia-nccl-cu12" / "index.html", page).parents[2]


def test_variables_of_uv_count_before_those_of_pip(tmp_path: Path) -> None:
    environment = {
        "PIP_INDEX_URL": "https://pip.example/simple",
        "UV_INDEX_URL": "https://old.example/simple",
        "UV_DEFAULT_INDEX": "https://uv.example/simple",
    }
    found = configured_index(environment, tmp_path, tmp_path)
    assert (found.simple_url, found.source) == ("https://uv.example/simple", "UV_DEFAULT_INDEX")


def test_name_before_an_index_of_uv_is_not_part_of_its_address(tmp_path: Path) -> None:
    environment = {"UV_DEFAULT_INDEX": "internal=https://uv.example/simple?a=b"}
    assert configured_index(environment, tmp_path, tmp_path).simple_url == "https://uv.example/simple?a=b"


def test_file_of_the_environment_counts_before_the_users_file(tmp_path: Path) -> None:
    write(tmp_path / "home" / ".config" / "pip" / "pip.conf", "[global]\nindex-url = https://user.example/simple\n")
    of_prefix = write(tmp_path / "prefix" / "pip.conf", "[global]\nindex-url = https://prefix.example/simple\n")
    found = configured_index({}, tmp_path / "home", tmp_path / "prefix")
    assert (found.simple_url, found.source) == ("https://prefix.example/simple", str(of_prefix))


def test_stated_configuration_file_of_pip_is_read_and_its_install_section_counts_first(tmp_path: Path) -> None:
    text = (
        "[global]\nindex-url = https://global.example/simple\n[install]\nindex_url = https://install.example/simple\n"
    )
    stated = write(tmp_path / "my.conf", text)
    found = configured_index({"PIP_CONFIG_FILE": str(stated)}, tmp_path, tmp_path)
    assert found.simple_url == "https://install.example/simple"


def test_without_configuration_the_default_of_pip_is_the_registry_and_its_layout_is_known(tmp_path: Path) -> None:
    from pip._internal.models.index import PyPI

    found = configured_index(NO_FILES, tmp_path, tmp_path)
    assert (found.simple_url, found.source) == (PyPI.simple_url, "the default of pip")
    located = locate(RELATIVE, SHA256, found, SimplePages())
    assert located.url == f"https://{PyPI.file_storage_domain}/packages/{RELATIVE}"


def test_without_pip_the_registry_is_the_constant_of_conda_lock_and_the_environment_stays(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from envforge.lock.python_index import configured_index\n"
        "sys.modules['pip'] = None\n"
        "before = dict(os.environ)\n"
        "here = Path('.')\n"
        "print(configured_index({'PIP_CONFIG_FILE': os.devnull, 'UV_NO_CONFIG': '1'}, here, here))\n"
        "assert dict(os.environ) == before\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    with_pip = configured_index(NO_FILES, tmp_path, tmp_path)
    assert f"simple_url='{with_pip.simple_url}', source='the default of conda-lock'" in answer.stdout


def test_files_of_uv_count_before_those_of_pip(tmp_path: Path) -> None:
    write(tmp_path / ".config" / "pip" / "pip.conf", "[global]\nindex-url = https://pip.example/simple/\n")
    assert configured_index({}, tmp_path, tmp_path).simple_url == "https://pip.example/simple"
    text = '[[index]]\nurl = "https://a.example/simple"\n[[index]]\nurl = "https://b.example/simple"\ndefault = true\n'
    of_uv = write(tmp_path / ".config" / "uv" / "uv.toml", text)
    found = configured_index({}, tmp_path, tmp_path)
    assert (found.simple_url, found.source) == ("https://b.example/simple", str(of_uv))
    assert configured_index({"UV_NO_CONFIG": "1"}, tmp_path, tmp_path).simple_url == "https://pip.example/simple"
    other = write(tmp_path / "other.toml", 'index-url = "https://c.example/simple"\n')
    assert configured_index({"UV_CONFIG_FILE": str(other)}, tmp_path, tmp_path).simple_url == "https://c.example/simple"


@pytest.mark.parametrize(
    ("variable", "name", "text"),
    [("PIP_CONFIG_FILE", "pip.conf", "index-url without a section\n"), ("UV_CONFIG_FILE", "uv.toml", "index = [\n")],
)
def test_damaged_configuration_is_named(tmp_path: Path, variable: str, name: str, text: str) -> None:
    stated = write(tmp_path / name, text)
    with pytest.raises(EnvforgeError) as caught:
        configured_index({variable: str(stated)}, tmp_path, tmp_path)
    assert caught.value.code == "bad-index-configuration"
    assert f"the configuration file `{stated}`" in caught.value.message


def test_page_of_a_mirror_gives_the_address(mirror: Path) -> None:
    with Loopback(mirror) as server:
        located = locate(RELATIVE, SHA256, index_of(f"{server.url}/simple"), SimplePages())
    assert located.url == f"{server.url}/files/{FILE}"
    assert located.how == "its pages"


def test_mirror_with_another_hash_is_refused_with_both_hashes(mirror: Path) -> None:
    with Loopback(mirror) as server, pytest.raises(EnvforgeError) as caught:
        locate(RELATIVE, "0" * 64, index_of(f"{server.url}/simple/"), SimplePages())
    assert caught.value.code == "index-disagrees"
    assert f"expected SHA-256 `{'0' * 64}`, found `{SHA256}`" in caught.value.message


def test_page_that_lacks_the_file_leads_to_the_layout_of_mirrors(mirror: Path) -> None:
    with Loopback(mirror) as server:
        other = RELATIVE.replace("2.29.3", "2.29.4")
        located = locate(other, SHA256, index_of(f"{server.url}/simple"), SimplePages())
        assert located.url == f"{server.url}/packages/{other}"
        assert "doesn't list" in located.how


def test_project_that_a_mirror_does_not_have_leads_to_the_layout_of_mirrors(mirror: Path) -> None:
    with Loopback(mirror) as server:
        server.fail("/simple/nvidia-nccl-cu12/", Fault(status=404))
        located = locate(RELATIVE, SHA256, index_of(f"{server.url}/simple"), SimplePages())
        assert located.url == f"{server.url}/packages/{RELATIVE}"
        assert "HTTP 404" in located.how


def test_silent_mirror_is_asked_once_only(mirror: Path) -> None:
    with Loopback(mirror) as server:
        url = server.url
    pages = SimplePages()
    first = locate(RELATIVE, SHA256, index_of(f"{url}/simple"), pages)
    second = locate(RELATIVE.replace("nccl", "cufft"), SHA256, index_of(f"{url}/simple"), pages)
    assert first.url == f"{url}/packages/{RELATIVE}"
    assert first.how == second.how


def test_credentials_reach_the_mirror_and_no_address_or_message(mirror: Path) -> None:
    with Loopback(mirror) as server:
        private = server.url.replace("http://", "http://me:s%20ecret@") + "/simple"
        located = locate(RELATIVE, SHA256, index_of(private), SimplePages())
        (request,) = server.requests
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert headers["authorization"] == "Basic bWU6cyBlY3JldA=="
    assert "ecret" not in located.url + located.how


def test_one_page_serves_all_files_of_a_project(mirror: Path) -> None:
    pages = SimplePages()
    with Loopback(mirror) as server:
        for _ in range(3):
            locate(RELATIVE, SHA256, index_of(f"{server.url}/simple"), pages)
        assert len(server.requests) == 1
