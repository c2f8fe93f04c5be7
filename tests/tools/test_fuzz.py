"""Test that each reader of ``tools.fuzz`` accepts its first inputs, and inputs on which a reader failed once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import fuzz

assert sys.platform == "linux"

# found by fuzzing, or while the readers were written for it
FOUND = {
    "lockfile": (b"version: 1\n4: x\n",),
    "pylock": (
        fuzz.PYLOCK.replace("python_version < '4'", "os_name ~= 'x'").encode(),
        fuzz.PYLOCK.replace("lock-sha256", "").replace("[tool.envforge]", "[tool]\nenvforge").encode(),
    ),
    "environment": (
        fuzz.ENVIRONMENT.replace("python_version < '3.13'", "os_name ~= 'x'").encode(),
        fuzz.ENVIRONMENT.replace(">=2,<3", ">=1," * 5000).encode(),
        b"# x\n" * 60_000,
    ),
    "uv-toml": (b"index = 3\n", b"[[index]]\nurl = 3\n", b"pip = 3\n", b"index-url = 3\n"),
    "nvidia": (
        b'{"library": "nvml", "gpus": [{}]}',
        b'{"library": "nvml", "gpus": 3, "cuda": "x"}',
        b'{"library": []}',
        b'{"library": "libcuda", "cuda": 1e999, "error": 3}',
        b"[" * 20_000,
        b'{"library": "nvml", "cuda": ' + b"9" * 5000 + b"}",
    ),
    "page": (b"<![x[", b"<a href='http://[::1/x'>", b"<base href='http://[x]/'>"),
    "staging": (b'{"created": ["a/../../x"], "replaced": [], "folders": [], "kept": {}, "removed": []}',),
}


@pytest.mark.parametrize("name", fuzz.READERS)
def test_reader_returns_or_raises_an_expected_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for data in (*fuzz.seeds(fuzz.READERS[name]), *FOUND.get(name, ())):
        fuzz.run(fuzz.READERS[name], data, tmp_path)


def test_valid_inputs_are_read(tmp_path: Path) -> None:
    for name in ("lockfile", "pylock", "environment", "template", "journal", "wheel", "index-json", "machine"):
        reader = fuzz.READERS[name]
        path = tmp_path / name / reader.path
        path.parent.mkdir(parents=True)
        path.write_bytes(fuzz.seeds(reader)[0])
        reader.read(path)
