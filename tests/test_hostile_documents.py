"""Test that any bytes in any document end in a value or in an error that names the file, within 5 s.

Each row of ``DOCUMENTS`` is a document that envforge reads, and a command line that reads it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from envforge.base.net import from_netrc
from envforge.catalogue.signing import key_id, read_public_key
from envforge.cli import main
from envforge.errors import EnvforgeError
from envforge.lock.inputs import read_inputs, virtual_packages_of
from envforge.lock.lockfile import parse_lockfile
from envforge.lock.python_index import configured_index
from envforge.machine.nvidia_text import (
    parse_compute_capabilities,
    parse_smi_csv,
    parse_smi_list,
    parse_smi_query,
    parse_smi_table,
    parse_smi_versions,
    parse_smi_xml,
)
from envforge.machine.record import machine_from_json
from envforge.machine.values import TextFormatError, parse_proc_version, parse_version
from envforge.prefix.installed import read_conda
from envforge.project.record import parse_project_file
from envforge.project.templates import parse_manifest
from envforge.pytorch.matrix import load_matrix
from envforge.verify.record import read_record, read_record_file

assert sys.platform != "win32"

LIMIT_S = 5
HUGE = b"9" * 5000
SURROGATE = rb'"\ud800"'
BOMB = b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(
    b"%c: &%c [%s]\n" % (96 + n, 96 + n, b",".join([b"*%c" % (95 + n)] * 9)) for n in range(2, 11)
)
CONTENTS = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "mapping": b"{}",
    "number": b"7",
    "huge number": HUGE,
    "huge number in a field": b"version: " + HUGE,
    "huge number in a json field": b'{"schema_version": ' + HUGE + b"}",
    "huge number in a toml field": b"schema_version = " + HUGE,
    "deep json": b"[" * 100_000,
    "deep yaml": b"- " * 5_000,
    "deep toml": b"a = " + b"[" * 100_000,
    "alias bomb": BOMB,
    "alias of itself": b"&a [*a]",
    "integer tag": b'version: !!int "x"',
    "impossible date": b"version: 2026-13-45",
    "unknown tag": b"!!python/object/apply:os.system ['true']",
    "lone surrogate": b'{"schema_version": 1, "x": ' + SURROGATE + b"}",
    "NUL": b"\0" * 100,
    "no UTF-8": b"\xff\xfe\xfd",
    "wrong types": b'{"schema_version": {}, "version": [], "name": {}, "metadata": 3, "package": "x", "result": []}',
    "wrong types in toml": b"index-url = 3\nindex = 3\ncatalogue = 3\nschema_version = []\nrequires-python = 3\n",
    "number as a key": b"version: 1\n4: x\nmetadata: {5: x}\n",
    "many values": b"[" + b"{}," * 3_000_001 + b"{}]",
    "many lines": b"a = 1\n" * 600_000,
    "CSV without end": b'"' + b"a,\n" * 1000,
}


class Case(Struct, frozen=True, kw_only=True):
    """A document below the project or the home directory, and the command that reads it. ``base`` is its neighbor."""

    path: str
    command: str | Callable[[Path], object]
    accepted: tuple[str, ...] = ()  # contents that are no error of this document; a loop of links is no file
    prepare: Callable[[Path], object] = lambda folder: None


def _project(folder: Path) -> None:
    with _in(folder):
        assert main(["new", "tabular", "net", "--machine", "cpu", "--no-lock", "--defaults"]) == 0
    shutil.copytree(folder / "net", folder, dirs_exist_ok=True)


def _template(folder: Path) -> None:
    (folder / "t" / "files").mkdir(parents=True)


LOCK = (
    "version: 1\nmetadata:\n  content_hash: {linux-64: x}\n  channels: [{url: conda-forge}]\n  platforms: [linux-64]\n"
    "package: []\n"
)
ENVIRONMENT = "channels: [conda-forge]\nplatforms: [linux-64]\ndependencies: [zlib]\n"


def _environment(folder: Path) -> None:
    (folder / "environment.yml").write_text(ENVIRONMENT)


def _lockfile(folder: Path) -> None:
    _environment(folder)
    (folder / "conda-lock.yml").write_text(LOCK)


def _virtual(path: Path) -> object:
    return virtual_packages_of(read_inputs(path.with_name("environment.yml"), None))


def _prefix(folder: Path) -> None:
    (folder / "p" / "conda-meta").mkdir(parents=True)
    (folder / "p" / "conda-meta" / "history").touch()
    (folder / "p" / ".envforge").mkdir()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, _in(path.parent):  # a path of a socket has at most 107 bytes
        server.bind(path.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


KINDS: dict[str, Callable[[Path], object]] = {
    "directory": Path.mkdir,
    "FIFO": os.mkfifo,
    "socket": _socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
}
NOT_THERE = tuple(KINDS)  # the command line is wrong then
EVERY = (*CONTENTS, *NOT_THERE)


def _facts_in_use(path: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENVFORGE_FACTS", str(path))
        return load_matrix()


DOCUMENTS = (
    Case(path="conda-lock.yml", command="diff conda-lock.yml conda-lock.yml"),
    Case(path="conda-lock.yml", command="install --frozen"),
    Case(path="conda-lock.yml", command="export explicit"),
    Case(path="conda-lock.yml", command="lock --check", prepare=_environment),
    Case(path="pylock.toml", command="install pylock.toml --frozen", accepted=("directory",)),
    Case(path="environment.yml", command="lock --check", prepare=_lockfile),
    Case(path="environment.yml", command="add zlib --dry-run"),
    Case(
        path="virtual-packages.yml",
        command=_virtual,
        prepare=_environment,
        accepted=("empty", "null", "mapping", "wrong types", *NOT_THERE),
    ),
    Case(path="machine.json", command="explain --machine machine.json"),
    Case(path="machine.json", command="detect --machine machine.json"),
    Case(path="node.yaml", command="explain --machine node.yaml"),
    Case(path="facts.json", command="facts import facts.json --yes", accepted=("directory",)),
    Case(path="home/.local/share/envforge/facts.json", command=_facts_in_use),
    Case(path="nvidia-smi.txt", command="detect --machine nvidia-smi.txt", accepted=NOT_THERE),
    Case(path="record.json", command="verify --from record.json", accepted=("directory",)),
    Case(path="record.json", command=read_record_file),
    Case(path="t/template.yml", command="templates show ./t", prepare=_template, accepted=NOT_THERE),
    Case(
        path="t/template.yml",
        command="new ./t out --machine cpu --no-lock --defaults",
        prepare=_template,
        accepted=NOT_THERE,
    ),
    Case(path="envforge.toml", command="update --dry-run --no-lock"),
    Case(path=".envforge/baseline.json", command="update --dry-run --no-lock", prepare=_project),
    Case(path=".envforge-new/journal.json", command="update --no-lock", prepare=_project, accepted=NOT_THERE),
    Case(path="p/.envforge/journal.json", command="audit --prefix p", prepare=_prefix, accepted=("loop",)),
    Case(path="p/conda-meta/x-1.0-0.json", command=lambda path: read_conda(path.parents[1])),
    Case(
        path="p/conda-meta/state",
        command="shell --prefix p --shell bash --print",
        prepare=_prefix,
        accepted=("mapping", "wrong types", "loop"),
    ),
    Case(
        path="p/etc/conda/env_vars.d/x.json",
        command="shell --prefix p --shell bash --print",
        prepare=_prefix,
        accepted=("mapping",),
    ),
    Case(path="locks/index.json", command="lockfiles list --catalogue locks"),
    Case(path="bundle.tar", command="install --bundle bundle.tar", accepted=("directory", "loop")),
    Case(path="home/.config/envforge/config.toml", command="lockfiles list", accepted=("empty", "loop")),
    Case(
        path="home/.config/pip/pip.conf",
        command=lambda _: configured_index(os.environ, Path.home(), Path()),
        accepted=EVERY,
    ),
    Case(
        path="home/.config/uv/uv.toml",
        command=lambda _: configured_index(os.environ, Path.home(), Path()),
        accepted=EVERY,
    ),
    Case(path="home/.netrc", command=lambda _: from_netrc("example.org", os.environ), accepted=EVERY),
    Case(path="key.pub", command=lambda path: key_id(read_public_key(str(path))), accepted=NOT_THERE),
)


@contextmanager
def _in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"not finished within {seconds} s")

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def _run(case: Case, capsys: pytest.CaptureFixture[str]) -> bool:
    """Run the command of a case, and return whether it failed with an error that names the document."""
    capsys.readouterr()
    with _limit(LIMIT_S * 4):  # of wall time, on a machine under load
        if not isinstance(case.command, str):
            return _names(case.command, Path(case.path))
        code = main(case.command.split())
    said = capsys.readouterr().err
    assert code in (0, 1, 2, 3), said
    return code == 1 and Path(case.path).name in said


def _names(read: Callable[[Path], object], path: Path) -> bool:
    try:
        read(path)
    except EnvforgeError as error:
        return path.name in error.message
    return False


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with a home directory and caches in it."""
    (tmp_path / "home").mkdir()
    for name in [each for each in os.environ if each.startswith(("XDG_", "ENVFORGE_", "UV_", "PIP_", "CONDA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _ids(case: Case) -> str:
    reader = case.command.split()[0] if isinstance(case.command, str) else "read"
    return f"{reader}-{case.path.rpartition('/')[2]}"


@pytest.mark.parametrize("case", DOCUMENTS, ids=_ids)
def test_hostile_document_is_an_error_that_names_it(
    case: Case, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case.prepare(place)
    path = place / case.path
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {}
    for name, content in CONTENTS.items():
        path.write_bytes(content)
        named[name] = _run(case, capsys)
    for name, make in KINDS.items():
        _remove(path)
        make(path)
        named[name] = _run(case, capsys)
    assert not [name for name, is_named in named.items() if not is_named and name not in case.accepted]


# files that are written, and a command that writes each
WRITTEN = {
    "p/.envforge/lock": "install --prefix p --offline conda-lock.yml",
    "p/.envforge/holder": "install --prefix p --offline conda-lock.yml",
    "p/.envforge/writers": "install --prefix p --offline conda-lock.yml",
    "home/cache/cleaning.lock": "bundle conda-lock.yml --output out.tar --offline --cache home/cache",
    "home/cache/in-use/1-x.lock": "clean --cache home/cache",
    "out.txt": "export explicit --output out.txt --force",
    "bundle.out": "bundle conda-lock.yml --output bundle.out --offline --cache home/cache",
    "report.html": "verify --machine t4 --html report.html",
}
WRITTEN_THROUGH_LINKS = ("out.txt", "bundle.out", "report.html")


@pytest.mark.parametrize("name", WRITTEN)
def test_other_kind_of_file_in_a_place_that_is_written_is_an_error(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = place / "kept"
    kept.write_text("kept")
    kinds: dict[str, Callable[[Path], object]] = {**KINDS, "link": lambda path: path.symlink_to(kept)}
    for kind, make in kinds.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        _remove(place / name)
        make(place / name)
        (place / "conda-lock.yml").write_text(LOCK)
        with _limit(LIMIT_S * 4):
            code = main(WRITTEN[name].split())
        said = capsys.readouterr().err
        assert code in (0, 1, 2, 3), (kind, said)
        assert code == 0 or name.rpartition("/")[2] in said, (kind, said)
        assert kept.read_text() == "kept" or name in WRITTEN_THROUGH_LINKS, kind


# names of fields that some document has, so that generated documents get past the first check
FIELDS = (
    "schema_version",
    "record",
    "ok",
    "result",
    "version",
    "metadata",
    "package",
    "name",
    "url",
    "hash",
    "platforms",
)
MORE_FIELDS = ("channels", "gpus", "driver", "machine", "summary", "questions", "groups", "selection", "files", "text")
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from((1, 2, "conda", "linux-64", "envforge-machine", "535.1", "8.6", "\0", "\x1b[31m", "../x")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS + MORE_FIELDS) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=20,
)
READERS: dict[str, Callable[[object], object]] = {
    "lockfile": lambda value: parse_lockfile(json.dumps(value), "x.yml"),
    "machine": lambda value: machine_from_json(value, "x.json"),
    "record": lambda value: read_record(json.dumps(value), "x.json"),
    "template": lambda value: parse_manifest(json.dumps(value), Path("x/template.yml")),
    "project": lambda value: parse_project_file(f"x = {json.dumps(value)}\nschema_version = 1", "envforge.toml"),
}


@pytest.mark.parametrize("name", READERS)
@given(value=values)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_structure_is_a_value_or_an_error(name: str, value: object) -> None:
    with contextlib.suppress(EnvforgeError):
        READERS[name](value)


OUTPUTS = ("9" * 5000, "9" * 5000 + ".1", "\u00b2, 8.6", "9" * 5000 + ", 8.6", "\0", "Kernel Module 535." + "9" * 5000)
XML_BOMB = (
    '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]><nvidia_smi_log><gpu><product_name>&i;</product_name></gpu></nvidia_smi_log>"
)
TABLE = "NVIDIA-SMI {0} Driver Version: {0} CUDA Version: {0}\n|   {0}  NVIDIA A  Off | 0 |\n|  {0}MiB / {0}MiB |\n"


_OF_THE_DRIVER = (
    parse_version,
    parse_smi_csv,
    parse_smi_list,
    parse_smi_query,
    parse_smi_table,
    parse_smi_versions,
    parse_smi_xml,
    parse_compute_capabilities,
)


@pytest.mark.parametrize("read", _OF_THE_DRIVER)
@given(
    text=st.sampled_from((*OUTPUTS, XML_BOMB, *map(TABLE.format, OUTPUTS)))
    | st.text(alphabet="0123456789.,| \nM<>/&iB²")
)
@settings(max_examples=100, deadline=None)
def test_any_output_of_nvidia_smi_is_a_value_or_an_error(read: Callable[[str], object], text: str) -> None:
    with contextlib.suppress(TextFormatError), _limit(LIMIT_S):
        read(text)
    with contextlib.suppress(TextFormatError):
        parse_proc_version(text)
