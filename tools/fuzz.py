"""Fuzz the readers with atheris, guided by coverage: ``python -m tools.fuzz [READER …]``.

A reader fails if it raises anything but an error that envforge expects, or if it needs more than 5 s or 500 MB. The
input is then in ``CORPUS/READER-crash-…``, which ``--input`` reads again. Its kind belongs in a test: a row of
``CONTENTS`` in ``tests/test_hostile_documents.py``, or of ``FOUND`` in ``tests/tools/test_fuzz.py``.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import hashlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from msgspec import Struct

_CHILD = "--child"
_WATCHED = ["envforge", "configparser", "html", "netrc", "packaging", "tomllib"]


def _instrumented() -> contextlib.AbstractContextManager[object]:
    """Return a context in which imported modules report their coverage, in a child process that fuzzes."""
    if _CHILD not in sys.argv:
        return contextlib.nullcontext()
    return cast("contextlib.AbstractContextManager[object]", _atheris().instrument_imports(include=_WATCHED))


def _atheris() -> ModuleType:
    try:
        return importlib.import_module("atheris")
    except ImportError:
        sys.exit("error: the Python package `atheris` is not installed; to install it, run `pip install atheris`")


with _instrumented():
    from envforge.base.net import from_netrc
    from envforge.base.redact import Identity, redactor
    from envforge.base.staging import settle_interrupted
    from envforge.base.urls import Url, has_secrets, hide_secrets, show_url, without_user
    from envforge.catalogue.address import parse_address
    from envforge.catalogue.index import read_index
    from envforge.catalogue.signing import Signed, key_id, read_public_key, verify
    from envforge.cli import without_controls
    from envforge.errors import EnvforgeError
    from envforge.lock.inputs import read_inputs, virtual_packages_of
    from envforge.lock.lockfile import LockedPackage
    from envforge.lock.pages import parse_page
    from envforge.lock.plan import Artifact, Digest, make_plan, read_any_lock
    from envforge.lock.project import complete_transaction
    from envforge.lock.python_index import configured_index, extra_indexes
    from envforge.machine.evidence import read_report
    from envforge.machine.nvidia_text import parse_compute_capabilities, parse_smi_table, parse_smi_xml
    from envforge.machine.record import read_machine
    from envforge.machine.values import TextFormatError, parse_proc_version
    from envforge.machine.world import ProgramResult
    from envforge.prefix.activation import variables
    from envforge.prefix.bundle import read_bundle, write_bundle
    from envforge.prefix.cache import Store
    from envforge.prefix.conda_packages import unpack
    from envforge.prefix.fetch import Fetched
    from envforge.prefix.installed import editable_installs, read_conda, read_distributions
    from envforge.prefix.journal import read_journal
    from envforge.prefix.package_checks import check_wheel
    from envforge.prefix.values import Silent
    from envforge.project.record import ProjectRecord, read_baseline, read_project_file
    from envforge.project.templates import load_foreign
    from envforge.pytorch.facts_file import changes, contradictions, dump_facts, layered, read_facts_file
    from envforge.pytorch.matrix import built_in_matrix
    from envforge.verify.checks import checks_for, judge
    from envforge.verify.record import Asked, read_record, read_record_file, redact
    from envforge.verify.reports import (
        comparison_html,
        comparison_markdown,
        comparison_to_json,
        report_html,
        report_junit,
        report_markdown,
        report_to_json,
    )
    from envforge.verify.reports.compare import compare
    from envforge.verify.reports.presentation import present
    from tests.support.wheel import text_wheel

ROOT = Path(__file__).parents[1]
PLATFORM = "linux-64"
TIMEOUT_S = 5
MEMORY_MB = 600  # the imports need 100 MB
LONGEST = 20_000  # bytes of an input
SECONDS = 60
KEY = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
CONTROLS = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f]")


class Reader(Struct, frozen=True, kw_only=True):
    """``read`` gets the path of the input, which is ``path`` in a directory.

    ``seeds`` are the first inputs: a text, files of this repository, ``project:`` and a file of a project, or a call.
    """

    path: str
    read: Callable[[Path], object]
    seeds: Sequence[str | Callable[[], bytes]]


def _text(read: Callable[[str], object]) -> Callable[[Path], object]:
    return lambda path: read(path.read_text(encoding="utf-8", errors="replace"))


def _lockfile(path: Path) -> object:
    return make_plan(read_any_lock(path, PLATFORM), PLATFORM, path)


def _environment(path: Path) -> object:
    inputs = read_inputs(path, None)
    return [inputs.wanted(platform) for platform in inputs.platforms], tuple(inputs.unused()), inputs.variables


def _virtual_packages(path: Path) -> object:
    environment = path.with_name("environment.yml")
    environment.write_text("channels: [x]\nplatforms: [linux-64]\ndependencies: [zlib]\n")
    return virtual_packages_of(read_inputs(environment, None))


def _record(path: Path) -> object:
    report = judge(read_record_file(path), checks_for(Asked()))
    shown = present(redact(report, Identity(user="erika", hosts=("node7.example.org",), home="/data/erika")))
    _check_printable(report_html(shown) + report_markdown(shown) + report_junit(shown))
    return report_to_json(report)


def _fleet(path: Path) -> object:
    report = judge(read_record_file(path), checks_for(Asked()))
    known = judge(read_record(_project()["record.json"].decode(), "known"), checks_for(Asked()))
    compared = compare({"a": report, "b": known, "c": report}, tolerance=0.1)
    _check_printable(comparison_html(compared) + comparison_markdown(compared))
    return comparison_to_json(compared)


def _facts(path: Path) -> object:
    found, _ = read_facts_file(path)
    matrix = built_in_matrix()
    return [*contradictions(matrix, found)], [*changes(None, found)], layered(matrix, found, None), dump_facts(found)


def _baseline(path: Path) -> object:
    record = ProjectRecord(
        envforge_version="1",
        template="x",
        template_version="1",
        project="x",
        package="x",
        answers=(),
        selections=(),
        input_sha256="",
        files=(),
    )
    return read_baseline(path.parents[1], record)


def _staging(path: Path) -> object:
    return settle_interrupted(path.parents[1])


def _transaction(path: Path) -> object:
    return complete_transaction(path.with_name("conda-lock.yml"))


def _signature(path: Path) -> None:
    verify("x", Signed(data=b"", comment="", signature=path.read_bytes()), KEY)


def _netrc(path: Path) -> object:
    return from_netrc("example.org", {"NETRC": str(path)})


def _python_index(path: Path) -> object:
    home = path.parents[2]
    return configured_index({}, home, home), extra_indexes({}, home, home)


def _wheel_record(path: Path) -> object:
    return read_distributions(path.parents[4], "lib/python3.12/site-packages", ())


def _artifact(path: Path, kind: Any) -> Artifact:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    package = LockedPackage(
        name="x",
        version="1.0",
        manager=kind,
        platform=PLATFORM,
        url=path.as_uri(),
        sha256=sha256,
        md5=None,
        category="main",
        optional=False,
        dependencies=(),
    )
    return Artifact(package=package, digest=Digest(algorithm="sha256", hex=sha256))


INDEX = """{"name": "x", "version": "1.0", "build": "0", "build_number": 0, "depends": ["a >=1"], "noarch": "python",
 "subdir": "noarch", "timestamp": 1700000000000}"""


def _member(path: Path) -> object:
    """Read a conda package whose file ``path.name`` below ``info`` is the input."""
    files = {
        "index.json": INDEX.encode(),
        "paths.json": b'{"paths": [], "paths_version": 1}',
        path.name: path.read_bytes(),
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"info/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return _archive(path.with_name("x-1.0-0.tar.bz2"), bz2.compress(stream.getvalue(), 1))


def _archive(path: Path, data: bytes) -> object:
    path.write_bytes(data)
    fetched = Fetched(artifact=_artifact(path, "conda"), path=path, downloaded_bytes=0)
    return unpack(fetched, Store(path.with_name("cache")), PLATFORM)


def _url(text: str) -> None:
    with contextlib.suppress(ValueError):
        url = Url.parse(text)
        _ = str(url), url.origin, url.file_name, url.file_path, url.credentials({}), url.without_user().reveal()
    with contextlib.suppress(EnvforgeError):
        address = parse_address(text, ROOT)
        _ = address.place, address.public
    _ = hide_secrets(text), show_url(text), has_secrets(text), without_user(text)


def _nvidia(text: str) -> object:
    for read in (parse_smi_table, parse_smi_xml, parse_compute_capabilities, parse_proc_version):
        with contextlib.suppress(TextFormatError):
            read(text)
    return read_report(ProgramResult(exit_code=0, stdout=text, stderr=text))


def _bundle() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder) / "bundle.tar", b"version: 1\n", PLATFORM, {}, Silent())
        return (Path(folder) / "bundle.tar").read_bytes()


def _wheel() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return text_wheel("x", "1.0", {"x/__init__.py": ""}, Path(folder), scripts=("x = x:main",)).read_bytes()


def _check_printable(text: str) -> None:
    found = CONTROLS.search(re.sub(r"\x1b\[[0-9;]*m", "", without_controls(text) if len(text) <= LONGEST else text))
    if found is not None:
        raise ValueError(f"the control character {found[0]!r} is left")


@lru_cache(maxsize=1)
def _project() -> dict[str, bytes]:
    """Return the contents of files that envforge writes: of a project, and of records."""
    with tempfile.TemporaryDirectory() as folder:
        for words, output in (
            ("new tabular net --machine t4 --defaults --no-lock", "new.txt"),
            ("detect --machine t4 --json", "net/machine.json"),
            ("verify --machine t4 --json", "net/record.json"),
        ):
            command = [sys.executable, "-m", "envforge", *words.split()]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
            (Path(folder) / output).write_bytes(done.stdout)
        return {path.name: path.read_bytes() for path in Path(folder, "net").iterdir() if path.is_file()}


LOCKFILE = """version: 1
metadata:
  content_hash: {linux-64: x}
  channels: [{url: conda-forge, used_env_vars: [TOKEN]}]
  platforms: [linux-64]
  sources: [environment.yml]
  custom_metadata: {envforge_variables: '{"A": "1"}'}
package:
- {name: python, version: '3.12.0', manager: conda, platform: linux-64, dependencies: {x: ''}, category: main,
   url: 'https://example.org/linux-64/python-3.12.0-0.conda', hash: {md5: '00000000000000000000000000000000'}}
- {name: y, version: '1.0', manager: pip, platform: linux-64, dependencies: {}, optional: false,
   url: 'https://example.org/y-1.0-py3-none-any.whl#x', hash: {sha256: SHA}}
""".replace("SHA", "a" * 64)
PYLOCK = """lock-version = "1.0"
requires-python = "==3.12.*"
created-by = "envforge"
environments = ["sys_platform == 'linux' and platform_machine == 'x86_64'"]
[[packages]]
name = "y"
version = "1.0"
marker = "python_version < '4'"
[[packages.wheels]]
name = "y-1.0-py3-none-any.whl"
url = "https://example.org/y-1.0-py3-none-any.whl"
size = 3
hashes = {sha256 = "SHA"}
[tool.envforge]
lock-sha256 = "x"
""".replace("SHA", "a" * 64)
ENVIRONMENT = """name: x
channels: [conda-forge, nodefaults]
platforms: [linux-64, osx-arm64]
variables: {A: "1"}
category: dev
pip-repositories: [https://example.org/simple]
dependencies:
  - python 3.12.*
  - conda-forge::numpy >=2,<3 py312*  # [linux64]
  - pkg[version='>=1', build=x*]
  - pip:
      - "torch==2.7.1+cu118; python_version < '3.13' and sys_platform == 'linux'"
      - x @ https://example.org/x-1.0-py3-none-any.whl#sha256=SHA
""".replace("SHA", "a" * 64)
JOURNAL = {
    "step": "verified",
    "fingerprint": "x",
    "lockfile": "/x/conda-lock.yml",
    "platform": PLATFORM,
    "created": True,
    "wheels": [{"name": "y", "version": "1.0", "sha256": "a"}],
    "variables": [["A", "1"]],
    "schema_version": 1,
}
CONDA_RECORD = {
    "name": "x",
    "version": "1.0",
    "url": "https://example.org/x.conda",
    "noarch": "python",
    "python_site_packages_path": "lib/python3.12/site-packages",
    "paths_data": {"paths": [{"_path": "site-packages/x.py", "path_type": "hardlink", "sha256": "a"}]},
    "files": ["x"],
}
FACTS = {
    "schema_version": 1,
    "checked": "2026-01-01",
    "builds": [
        {
            "torch": "2.99.0",
            "tag": "cu130",
            "platform": "linux-64",
            "pythons": ["3.12"],
            "capabilities": ["7.5", "8.6"],
            "ptx": ["9.0"],
            "kernels_source": "https://example.org/x",
            "source": "https://example.org/y",
            "checked": "2026-01-01",
        }
    ],
    "toolkits": [
        {"cuda": "13.9", "linux": "999.1", "windows": "999", "source": "https://example.org/", "checked": "2026-01-01"}
    ],
}
CHANGE = {"created": ["a/b"], "replaced": ["c"], "folders": ["a"], "kept": {"d": "d.orig"}, "removed": []}
HTML = '<base href="x"><a href="y-1.0.whl#sha256=aa" data-core-metadata="sha256=bb" data-requires-python="&gt;=3">y</a>'
PAGE = {
    "meta": {"api-version": "1.1"},
    "name": "y",
    "files": [
        {
            "filename": "y.whl",
            "url": "y.whl",
            "hashes": {"sha256": "a"},
            "yanked": False,
            "core-metadata": {"sha256": "b"},
            "upload-time": "2026-01-01T00:00:00Z",
            "size": 3,
            "requires-python": ">=3",
        }
    ],
}
SMI_TABLE = (
    "| NVIDIA-SMI 535.104.05   Driver Version: 535.104.05   CUDA Version: 12.2 |\n"
    "|   0  Tesla T4            Off | 00000000:00:1E.0 Off |  0 |\n| N/A   31C  P8  9W / 70W |  2MiB / 15360MiB |\n"
)
SMI_XML = (
    "<nvidia_smi_log><driver_version>535.1</driver_version><cuda_version>12.2</cuda_version><gpu id='0'>"
    "<product_name>T4</product_name><uuid>GPU-1</uuid><fb_memory_usage><total>3 MiB</total></fb_memory_usage>"
    "<mig_mode><current_mig>Enabled</current_mig></mig_mode></gpu></nvidia_smi_log>"
)
SLURM = (
    "NodeName=n1 Arch=x86_64\n   ActiveFeatures=a100,ib\n   Gres=gpu:a100:4(S:0-1),gpu:2\n   CfgTRES=gres/gpu:a100=4\n"
    "NODELIST GRES\nn2 gpu:h100:8\n"
)
SLURM_JSON = (
    '{"nodes": [{"name": "n1", "architecture": "x86_64", "gres": "gpu:a100:4", "features": ["a100"], "tres": "x"}]}'
)
KUBERNETES = (
    "kind: List\nitems:\n- kind: Node\n  metadata: {labels: {nvidia.com/gpu.product: Tesla-T4,"
    " nvidia.com/gpu.count: '2',"
    " nvidia.com/cuda.driver.major: '535', nvidia.com/cuda.driver.minor: '1', kubernetes.io/arch: amd64}}\n"
    "  status: {capacity: {nvidia.com/gpu: '2'}, allocatable: {amd.com/gpu: '1'}}\n"
)
CHILD = (
    '{"library": "nvml", "file": "/usr/lib/libnvidia-ml.so.535.1", "driver_version": "535.1", "cuda": 12020, '
    '"gpus": [{"index": 0, "name": "T4", "uuid": "GPU-1", "memory_bytes": 3, "compute_capability": [7, 5]}]}\n'
    '{"library": "libcuda", "cuda": 12020}\n'
)
SITE = "lib/python3.12/site-packages/x-1.0.dist-info"
CONDA_META = "conda-meta/x-1.0-0.json"

READERS: Mapping[str, Reader] = {
    "lockfile": Reader(path="conda-lock.yml", read=_lockfile, seeds=[LOCKFILE]),
    "pylock": Reader(path="pylock.toml", read=_lockfile, seeds=[PYLOCK]),
    "environment": Reader(path="environment.yml", read=_environment, seeds=[ENVIRONMENT, "tests/project/golden/*.yml"]),
    "virtual-packages": Reader(
        path="virtual-packages.yml", read=_virtual_packages, seeds=["tests/project/golden/*virtual*"]
    ),
    "machine": Reader(
        path="machine.json", read=read_machine, seeds=["project:machine.json", SLURM, SLURM_JSON, KUBERNETES, SMI_TABLE]
    ),
    "facts": Reader(path="facts.json", read=_facts, seeds=[json.dumps(FACTS)]),
    "fleet": Reader(path="record.json", read=_fleet, seeds=["project:record.json"]),
    "record": Reader(path="record.json", read=_record, seeds=["project:record.json"]),
    "template": Reader(
        path="t/template.yml",
        read=lambda path: load_foreign(path.parent, ROOT / "templates" / "common"),
        seeds=["templates/*/template.yml"],
    ),
    "project": Reader(
        path="envforge.toml", read=lambda path: read_project_file(path.parent), seeds=["project:envforge.toml"]
    ),
    "baseline": Reader(
        path=".envforge/baseline.json",
        read=_baseline,
        seeds=['{"a/b.txt": {"text": "x"}, "c": {"base64": "AA==", "executable": true}}'],
    ),
    "staging": Reader(path=".envforge-new/journal.json", read=_staging, seeds=[json.dumps(CHANGE)]),
    "transaction": Reader(
        path=".conda-lock.yml.envforge-change",
        read=_transaction,
        seeds=['{"files": [{"path": "conda-lock.yml", "old": null, "new": "aa"}], "version": 1}'],
    ),
    "index": Reader(path="index.json", read=lambda path: read_index(path.parent), seeds=["lockfiles/index.json"]),
    "signature": Reader(
        path="x.minisig",
        read=_signature,
        seeds=[f"untrusted comment: x\n{'RUQf6LRCGA9i5' + '3' * 87}\ntrusted comment: y\n{'A' * 88}\n"],
    ),
    "key": Reader(
        path="key.pub", read=lambda path: key_id(read_public_key(str(path))), seeds=[f"untrusted comment: x\n{KEY}\n"]
    ),
    "bundle": Reader(path="bundle.tar", read=read_bundle, seeds=[_bundle]),
    "journal": Reader(
        path=".envforge/journal.json", read=lambda path: read_journal(path.parents[1]), seeds=[json.dumps(JOURNAL)]
    ),
    "conda-record": Reader(
        path=CONDA_META, read=lambda path: read_conda(path.parents[1]), seeds=[json.dumps(CONDA_RECORD)]
    ),
    "wheel-record": Reader(
        path=f"{SITE}/RECORD",
        read=_wheel_record,
        seeds=["x/__init__.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n../../../bin/x,,\n"],
    ),
    "origin": Reader(
        path=f"{SITE}/direct_url.json",
        read=lambda path: editable_installs(path.parents[4]),
        seeds=['{"url": "file:///x", "dir_info": {"editable": true}, "archive_info": {"hashes": {"sha256": "a"}}}'],
    ),
    "variables": Reader(
        path="conda-meta/state",
        read=lambda path: variables(path.parents[1]),
        seeds=['{"env_vars": {"A": "1", "B": "***unset***"}}'],
    ),
    "wheel": Reader(
        path="x-1.0-py3-none-any.whl",
        read=lambda path: check_wheel(path, _artifact(path, "pip")),
        seeds=[_wheel],
    ),
    "package": Reader(
        path="in", read=lambda path: _archive(path.with_name("x-1.0-0.conda"), path.read_bytes()), seeds=["PK\x05\x06"]
    ),
    "paths": Reader(
        path="paths.json",
        read=_member,
        seeds=['{"paths": [{"_path": "a", "path_type": "hardlink", "sha256": "a"}], "paths_version": 1}'],
    ),
    "files": Reader(path="files", read=_member, seeds=["a\nb/c\n"]),
    "link": Reader(
        path="link.json",
        read=_member,
        seeds=['{"noarch": {"type": "python", "entry_points": ["x = a:b"]}, "package_metadata_version": 1}'],
    ),
    "index-json": Reader(
        path="index.json",
        read=_member,
        seeds=[INDEX],
    ),
    "nvidia": Reader(path="nvidia-smi.txt", read=_text(_nvidia), seeds=[SMI_TABLE, SMI_XML, "0, 7.5\n", CHILD]),
    "netrc": Reader(
        path=".netrc", read=_netrc, seeds=["machine example.org login a password b\nmacdef x\n y\n\ndefault\n"]
    ),
    "pip-conf": Reader(
        path=".config/pip/pip.conf",
        read=_python_index,
        seeds=["[global]\nindex-url = https://example.org/simple\nextra-index-url =\n  a\n  b\n"],
    ),
    "uv-toml": Reader(
        path=".config/uv/uv.toml",
        read=_python_index,
        seeds=['index-url = "x"\nextra-index-url = ["y"]\n[[index]]\nname = "a"\nurl = "z"\ndefault = true\n[pip]\n'],
    ),
    "page": Reader(
        path="page.html", read=_text(lambda text: parse_page(text, "text/html", "https://example.org/")), seeds=[HTML]
    ),
    "page-json": Reader(
        path="page.json",
        read=_text(lambda text: parse_page(text, "application/json", "https://example.org/")),
        seeds=[json.dumps(PAGE)],
    ),
    "url": Reader(
        path="url.txt",
        read=_text(_url),
        seeds=["git+https://a:b@example.org/x.git@v1#subdirectory=y", "see http://u:p@[::1]:80/t/k/x?token=1."],
    ),
    "redact": Reader(
        path="text.txt",
        read=_text(redactor(Identity(user="erika", hosts=("node7.example.org",), home="/data/erika"))),
        seeds=[
            "erika@node7 /home/x/y GPU-11111111-2222-3333-4444-555555555555 10.1.2.3 fe80::1 00:11:22:33:44:55",
            '\x1b[31merika\x1b[0m@node7 serial: ABCDEFG /home/lab/x/y guid: b859:9f03:0012:3456 "x y"@z.org',
            """{"token": "x y"} {\\"token\\": \\"x\\"} --password x1 token='x'""",
            "Authorization: Bearer x SECRET is x1, <token>x</token>",
        ],
    ),
    "output": Reader(path="output.txt", read=_text(_check_printable), seeds=["\x1b[1mx\x1b[0m\x1b[2J\x9b"]),
}


def seeds(reader: Reader) -> list[bytes]:
    """Return the contents of the first inputs of a reader."""
    found: list[bytes] = []
    for seed in reader.seeds:
        if not isinstance(seed, str):
            found.append(seed())
        elif seed.startswith("project:"):
            found.append(_project()[seed.removeprefix("project:")])
        else:
            files = sorted(ROOT.glob(seed)) if re.fullmatch(r"[\w./*-]+", seed) else []
            found += [path.read_bytes() for path in files] or [seed.encode()]
    return found


def run(reader: Reader, data: bytes, folder: Path) -> None:
    """Read one input below ``folder``; raise if the reader raises another error than ``EnvforgeError``."""
    path = folder / reader.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    with contextlib.suppress(EnvforgeError):
        reader.read(path)


def fuzz(name: str, arguments: Sequence[str]) -> None:
    """Fuzz one reader in this process, which ends at the first failure."""
    with tempfile.TemporaryDirectory(prefix="envforge-fuzz-") as folder:
        os.environ |= {"HOME": folder, "PATH": ""}  # no hint starts git
        atheris = _atheris()
        atheris.Setup([sys.argv[0], *arguments], lambda data: run(READERS[name], data, Path(folder)))
        atheris.Fuzz()


def main() -> None:
    """Fuzz each reader in a process of its own, and exit with 1 if any of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"one of {', '.join(READERS)}")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="how long to fuzz each reader [default: 60]")
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "envforge-corpus")
    parser.add_argument("--input", type=Path, help="run the reader once, on this file")
    parser.add_argument(_CHILD, action="store_true", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.child:
        fuzz(options.readers[0], rest)
        return
    failed = []
    for name in options.readers or READERS:
        folder = options.corpus / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds(READERS[name])):
            (folder / f"seed-{number}").write_bytes(seed)
        limits = [f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={LONGEST}", "-print_final_stats=1"]
        work = [str(options.input)] if options.input else [str(folder), f"-max_total_time={options.seconds}"]
        artifacts = f"-artifact_prefix={folder}-"
        print(f"{name}: ", end="", flush=True)
        command = [sys.executable, "-m", "tools.fuzz", name, _CHILD, *work, *limits, artifacts]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
        runs = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
        if done.returncode == 0:
            print(f"{runs[1] if runs else '?'} inputs")
        else:
            failed.append(name)
            print(f"FAILED\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
