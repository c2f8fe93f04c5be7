"""Test the errors of an invalid lockfile: the path of the value, what was expected, and what was found."""

from __future__ import annotations

import pytest

from envforge.errors import EnvforgeError
from envforge.lock.lockfile import parse_lockfile
from envforge.lock.plan import parse_any_lock

PACKAGE = """\
- name: a
  version: '1'
  manager: conda
  platform: linux-64
  url: https://example.org/a.conda
  hash: {md5: '00000000000000000000000000000000'}
  dependencies: {}
"""
LOCK = (
    "version: 1\nmetadata:\n  content_hash: {linux-64: x}\n  channels: [{url: conda-forge}]\n  platforms: [linux-64]\n"
    "package:\n" + PACKAGE
)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("version: 1\n", "version: 2\n", " at `version`: expected `1`, found `2`"),
        ("manager: conda", "manager: cargo", " at `package[0].manager`: expected `conda`, `pip`, found `cargo`"),
        ("name: a", "name: 12", " at `package[0].name`: expected a string, found `12`"),
        ("{md5: '0", "{md5: 'z", " at `package[0].hash.md5`: expected 32 hexadecimal digits, found `z00"),
        ("{linux-64: x}", "{linux-64: 3}", " at `metadata.content_hash.linux-64`: expected a string, found `3`"),
        ("[{url: conda-forge}]", "[[]]", " at `metadata.channels[0]`: expected a string or a mapping, found `[]`"),
        ("platforms: [linux-64]", "platforms: linux-64", " at `metadata.platforms`: expected a list, found `linux-64`"),
        (
            "dependencies: {}",
            "dependencies: [b]",
            ' at `package[0].dependencies`: expected a mapping or null, found `["b"]`',
        ),
        ("version: 1\n", "[", ": expected YAML, found `while parsing"),
    ],
)
def test_a_damaged_lockfile_names_file_and_place(old: str, new: str, fault: str) -> None:
    assert parse_lockfile(LOCK, "my.yml").packages[0].md5 == "0" * 32
    assert old in LOCK
    with pytest.raises(EnvforgeError) as caught:
        parse_lockfile(LOCK.replace(old, new, 1), "my.yml")
    assert caught.value.message.startswith(f"the lockfile `my.yml` is invalid{fault}")
    assert caught.value.code == "lockfile-damaged"


def test_an_empty_file_is_not_a_lockfile() -> None:
    with pytest.raises(EnvforgeError, match=r"`my\.yml` is not a lockfile"):
        parse_lockfile("", "my.yml")


def test_wheel_with_many_tags_is_not_parsed() -> None:
    tags = ".".join("abcdefghijk")
    url = f"https://example.org/x-1-{tags}-{tags}-{tags}.whl"
    pylock = f"""lock-version = "1.0"
created-by = "envforge"
requires-python = "==3.11.*"
environments = ["sys_platform == 'linux' and platform_machine == 'x86_64'"]
[[packages]]
name = "x"
version = "1"
wheels = [{{url = "{url}", hashes = {{sha256 = "{"a" * 64}"}}}}]
"""
    for text, name in (
        (LOCK.replace("https://example.org/a.conda", url), "conda-lock.yml"),
        (f"@EXPLICIT\n# pip x @ {url} --hash=sha256:{'a' * 64}\n", "explicit.txt"),
        (pylock, "pylock.toml"),
    ):
        with pytest.raises(EnvforgeError, match=r"its file name has more than 1,000 tags"):
            parse_any_lock(text, name, "linux-64")


@pytest.mark.parametrize("url", ["http://[::1/src-1.0-0.conda", "http://user:S3CRETp4ss@host:port/x.conda", "x.conda"])
def test_invalid_url_is_an_error_before_any_download(url: str) -> None:
    expected = r"`conda-lock\.yml` is invalid at `package\[0\]\.url`: expected a URL"
    with pytest.raises(EnvforgeError, match=expected) as caught:
        parse_lockfile(LOCK.replace("https://example.org/a.conda", f'"{url}"'), "conda-lock.yml")
    assert "S3CRETp4ss" not in caught.value.message


def test_variables_that_activation_sets_are_an_error() -> None:
    text = LOCK.replace("package:", '  custom_metadata: {envforge_variables: \'{"NAME": "/x"}\'}\npackage:', 1)
    allowed = parse_lockfile(text.replace("NAME", "LD_LIBRARY_PATH"), "my.yml")
    assert allowed.variables == (("LD_LIBRARY_PATH", "/x"),)
    for name in ("PATH", "CONDA_PREFIX"):
        with pytest.raises(EnvforgeError, match="expected the name of a variable that activation does not set"):
            _ = parse_lockfile(text.replace("NAME", name), "my.yml").variables
