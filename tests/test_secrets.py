"""Test that a secret in any place that can hold one is in no output and in no file of any command."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from keyring.credentials import SimpleCredential

from envforge.cli import main
from tests.support.loopback import Loopback, Request, Response

assert sys.platform != "win32"

SECRET = "S3CRETp4ss"
FORMS = (SECRET, base64.b64encode(f"user:{SECRET}".encode()).decode()[4:-4], "S3CRET%70")
HOME = "home"
ENVIRONMENT = "channels: [conda-forge]\nplatforms: [linux-64]\ndependencies: [zlib]\n"


def _addresses(host: str) -> dict[str, str]:
    """Return URLs with the secret in each form of a URL, by a name of the form."""
    return {
        "user": f"http://user:{SECRET}@{host}/x",
        "at": f"http://user:x@{SECRET}@{host}/x",
        "slash": f"http://user:a/{SECRET}@{host}/x",
        "mail": f"http://a@example.org:{SECRET}@{host}/x",
        "token": f"http://{SECRET}@{host}/x",
        "query": f"http://{host}/x?token={SECRET}",
        "conda": f"http://{host}/t/{SECRET}/x",
        "encoded": f"http://user:S3CRET%70{SECRET[7:]}@{host}/x",
        "broken": f"http://user:{SECRET}@[::1/x",
        "port": f"http://user:{SECRET}@{host}:x/x",
        "dots": f"http://user:{SECRET}@{host}/x/..%2Fevil",
    }


def _lock(url: str) -> str:
    kind, name = ("pip", "x-1.0-py3-none-any.whl") if "whl" in url else ("conda", "x-1.0-0.conda")
    head, mark, rest = url.partition("?")
    address = head if url.startswith("git+") else f"{head}/{name}{mark}{rest}"
    return (
        "version: 1\nmetadata:\n  content_hash: {linux-64: x}\n  channels: [{url: conda-forge}]\n"
        "  platforms: [linux-64]\npackage:\n"
        f"- {{name: x, version: '1.0', manager: {kind}, platform: linux-64, url: '{address}', "
        f"hash: {{sha256: {'a' * 64}}}, dependencies: {{}}}}\n"
    )


@pytest.fixture
def server() -> Iterator[Loopback]:
    """A server that refuses every request."""

    def refuse(request: Request) -> Response:
        return Response(body=b"no", status=401, headers={"WWW-Authenticate": "Basic"})

    with Loopback(refuse) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Loopback) -> Path:
    """A project, a home directory, and an environment with secrets in each place that can hold one."""
    host = f"127.0.0.1:{server.port}"
    index = f"http://user:{SECRET}@{host}/simple"
    home = tmp_path / HOME
    for path, text in {
        ".netrc": f"machine 127.0.0.1 login user password {SECRET}\n",
        ".config/pip/pip.conf": f"[global]\nindex-url = {index}\nextra-index-url = {index}2\n",
        ".config/uv/uv.toml": f'index-url = "{index}"\n',
        ".gitconfig": f'[url "http://user:{SECRET}@{host}/"]\n\tinsteadOf = http://{host}/\n',
    }.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(text)
    (home / ".netrc").chmod(0o600)
    for name in [each for each in os.environ if each.startswith(("XDG_", "ENVFORGE_", "UV_", "PIP_", "CONDA_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "HOME": str(home),
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "GITHUB_TOKEN": SECRET,
        "ENVFORGE_SIGNING_PASSWORD": SECRET,
        "HTTPS_PROXY": f"http://user:{SECRET}@{host}",
        "NO_PROXY": "127.0.0.1",
        "PIP_INDEX_URL": index,
        "UV_INDEX_URL": index,
        "ENVFORGE_MIRRORS": f"https://conda.anaconda.org/=http://user:{SECRET}@{host}/",
        "ENVFORGE_CATALOGUE": f"http://user:{SECRET}@{host}/locks",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    project = tmp_path / "project"
    project.mkdir()
    (project / "environment.yml").write_text(ENVIRONMENT)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run(["git", "remote", "add", "origin", f"http://user:{SECRET}@{host}/x.git"], cwd=project, check=True)
    monkeypatch.chdir(project)
    return project


def _leaks(folder: Path, said: str, planted: frozenset[Path]) -> list[str]:
    """Return the lines and the files with a secret."""
    lines = [line for line in said.splitlines() if any(form in line for form in FORMS)]
    files = [path for path in folder.rglob("*") if path.is_file() and path not in planted]
    return lines + [str(path) for path in files if any(form.encode() in path.read_bytes() for form in FORMS)]


COMMANDS = (
    "info",
    "info --json",
    "detect",
    "verify --machine",
    "lock --check",
    "lock --dry-run",
    "lockfiles list",
    "lockfiles pull x",
    "lockfiles publish",
    "install --offline",
    "audit",
    "bundle",
    "clean --dry-run",
    "new tabular net --cuda cpu --no-lock --defaults",
    "new tabular net2 --cuda cpu --defaults",
    "update --directory net --dry-run",
    f"new user:{SECRET}@host.example:repository net3 --defaults --no-lock",
    f"templates show user:{SECRET}@host.example:repository",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_shows_no_secret_of_its_surroundings(
    command: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    planted = frozenset(path for path in place.parent.rglob("*") if path.is_file())
    assert main(command.split()) in (0, 1, 2, 3)
    out, err = capfd.readouterr()
    assert _leaks(place.parent, out + err, planted) == []


def test_secret_in_the_keyring_is_not_shown(
    place: Path, server: Loopback, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (place.parent / HOME / ".netrc").unlink()
    monkeypatch.setattr("keyring.get_credential", lambda service, user: SimpleCredential("user", SECRET))
    planted = frozenset(path for path in place.parent.rglob("*") if path.is_file())
    assert main(["lockfiles", "list", "--catalogue", f"http://127.0.0.1:{server.port}/x"]) in (1, 3)
    out, err = capfd.readouterr()
    assert _leaks(place.parent, out + err, planted) == []
    word = base64.b64encode(f"user:{SECRET}".encode()).decode()
    assert f"Basic {word}" in {value for request in server.requests for value in request.headers.values()}


READING = (
    "install --frozen",
    "install --frozen --json",
    "diff conda-lock.yml conda-lock.yml --json",
    "bundle",
    "lock --check",
    "verify --json",
    "export dockerfile",
    "export requirements",
)
FORM_NAMES = tuple(_addresses(""))


@pytest.mark.parametrize("form", FORM_NAMES)
def test_secret_in_a_lockfile_is_not_shown(
    form: str, place: Path, server: Loopback, capfd: pytest.CaptureFixture[str]
) -> None:
    url = _addresses(f"127.0.0.1:{server.port}")[form]
    for prefix in ("", "git+"):
        (place / "conda-lock.yml").write_text(_lock(prefix + url))
        planted = frozenset(path for path in place.parent.rglob("*") if path.is_file())
        for command in READING[: 1 if prefix else None]:
            assert main(command.split()) in (0, 1, 2, 3), command
            out, err = capfd.readouterr()
            assert _leaks(place.parent, out + err, planted) == [], command
    if form == "user":  # the secret is used, so its place is one that counts
        word = base64.b64encode(f"user:{SECRET}".encode()).decode()
        assert f"Basic {word}" in {value for request in server.requests for value in request.headers.values()}


ADDRESSED = (
    "new git+{} out --machine t4 --no-lock --defaults",
    "templates show git+{}",
    "lockfiles list --catalogue {}",
    "lockfiles list --catalogue git+{}",
    "lockfiles pull x --catalogue {} --json",
    "install --frozen --mirror https://conda.anaconda.org/={}",
    "lock --mirror https://conda.anaconda.org/={} --dry-run --json",
    "explain --torch-index {}",
    # in the place of a file, a directory, or a name
    "install {}",
    "add {}::zlib",
    "detect --machine {}",
    "explain --machine {}",
    "facts import {}",
    "update --directory {}",
    "lock --lockfile {}",
    "lock --file {}",
    "audit --prefix {}",
    "verify --from {}",
    "install --variant {}",
)


@pytest.mark.parametrize("form", FORM_NAMES)
def test_secret_in_an_address_is_not_shown(
    form: str, place: Path, server: Loopback, capfd: pytest.CaptureFixture[str]
) -> None:
    url = _addresses(f"127.0.0.1:{server.port}")[form]
    planted = frozenset(path for path in place.parent.rglob("*") if path.is_file())
    for command in ADDRESSED:
        assert main(command.format(url).split()) in (0, 1, 2, 3), command
        out, err = capfd.readouterr()
        assert _leaks(place.parent, out + err, planted) == [], command


FIELDS = {
    "variable": ("  platforms:", '  custom_metadata: {{envforge_variables: \'{{"A": "{}"}}\'}}\n  platforms:'),
    "category": ("dependencies: {{}}", "category: '{}', dependencies: {{}}"),
    "dependency": ("dependencies: {{}}", "dependencies: {{'{}': '*'}}"),
    "constraint": ("dependencies: {{}}", "dependencies: {{y: '{}'}}"),
    "channel variable": ("conda-forge}}]", "conda-forge, used_env_vars: ['{}']}}]"),
    "version": ("version: '1.0'", "version: '{}'"),
    "name": ("{{name: x", "{{name: '{}'"),
}
SHOWING = (
    "diff ../plain.yml conda-lock.yml",
    "diff ../plain.yml conda-lock.yml --markdown",
    "diff ../plain.yml conda-lock.yml --json",
    "lock --check",
    "lock --check --json",
    "verify --no-redact --json --html r.html --markdown r.md --junit r.xml",
    "verify --no-redact --markdown -",
    "verify",
)


@pytest.mark.parametrize("field", FIELDS)
def test_secret_in_any_field_of_a_lockfile_is_not_shown(
    field: str, place: Path, server: Loopback, capfd: pytest.CaptureFixture[str]
) -> None:
    url = _addresses(f"127.0.0.1:{server.port}")["user"]
    before, after = (text.format(url) for text in FIELDS[field])
    (place.parent / "plain.yml").write_text(_lock("http://x.example"))
    text = _lock("http://x.example").replace(before, after)
    assert SECRET in text
    (place / "conda-lock.yml").write_text(text)
    planted = frozenset(path for path in place.parent.rglob("*") if path.is_file())
    for command in SHOWING:
        assert main(command.split()) in (0, 1, 2, 3), command
        out, err = capfd.readouterr()
        assert _leaks(place.parent, out + err, planted) == [], command


PYLOCK = """lock-version = "1.0"
created-by = "envforge"
requires-python = "==3.12.*"
[[packages]]
name = "x"
version = "1.0"
wheels = [{name = "y.whl", url = "URL", hashes = {sha256 = "DIGEST"}}]
"""
WITH_WHEEL = (
    "install --frozen --dry-run --json",
    "install pylock.toml --frozen --dry-run",
    "export explicit",
    "bundle",
)


def test_token_of_a_wheel_is_not_shown(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = "x-1.0-py3-none-any.whl"
    url = f"https://h.example/{name}?token={SECRET}"
    (place / "conda-lock.yml").write_text(_lock("https://h.example/whl").replace(f"https://h.example/whl/{name}", url))
    (place / "pylock.toml").write_text(PYLOCK.replace("URL", url).replace("DIGEST", "a" * 64))
    planted = frozenset(path for path in place.parent.rglob("*") if path.is_file())
    assert {place / "conda-lock.yml", place / "pylock.toml"} <= set(map(Path, _leaks(place.parent, "", frozenset())))
    for command in WITH_WHEEL:
        assert main(command.split()) in (0, 1, 2, 3), command
        out, err = capfd.readouterr()
        assert _leaks(place.parent, out + err, planted) == [], command
