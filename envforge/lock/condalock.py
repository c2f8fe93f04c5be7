"""Run conda-lock in child processes, and reduce its output to its warnings, or to the cause of a failure.

All processes have ended when a function returns or raises, and all files are in the directories of the jobs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from packaging.version import Version

from envforge.base.documents import Document
from envforge.base.envelope import fields_to_json
from envforge.base.files import write_atomic
from envforge.base.urls import MIRRORS_VARIABLE, Mirrors
from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.lock.inputs import Inputs, conda_lock_files
from envforge.lock.names import NameMapping
from envforge.lock.solver import PREFERENCES_VARIABLE, RECORDS_VARIABLE, Wishes

_CONDA = re.compile(r"^ {4}STDOUT:\n(?P<answer>\{.*?^\})", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"^\S*(?:SolverProblemError|ResolutionError): (?P<why>.+)", re.MULTILINE | re.DOTALL)
_RAISED = re.compile(r"^[\w.]+(?:Error|Exception)(?:: |$).*", re.MULTILINE)
_SYSTEM = re.compile(r"^(?:OSError|PermissionError|FileNotFoundError|BlockingIOError|MemoryError)\b")
_ABSENT = re.compile(r"nothing provides requested|does not exist")  # libmamba
_ROOT = re.compile(r"[-_]dummy[-_]package[-_](?: \(0\.0\.0\))?")
_UNREACHED = "channel-unreachable"
_UNREAD = frozenset({"repodata-unreadable", "CondaHTTPError", "CondaSSLError", "UnavailableInvalidChannel"})
_UNSATISFIABLE = frozenset({"unsatisfiable", "UnsatisfiableError", "LibMambaUnsatisfiableError"})
_NOT_FOUND = frozenset({"packages-not-found", "PackagesNotFoundError", "PackagesNotFoundInChannelsError"})
# of the `logging` and the `warnings` of Python
_WARNING = re.compile(r"^(?:WARNING:[\w.]+:|\S+:\d+: (?:User|Runtime)Warning: |Warning: )\s*(.+)", re.MULTILINE)
_OUTPUT = Document(damaged="the output of conda-lock or conda is invalid", error=OutsideError, code="conda-lock-failed")
_LOOSEN = Hint("loosen one of the conflicting constraints in `environment.yml`")


class NoSuchPackageError(EnvforgeError):
    """A requested conda package doesn't exist in any channel: ``names`` lists all such packages."""

    def __init__(self, message: str, *, hint: str | Iterable[Hint] = "", code: str, names: Iterable[str] = ()) -> None:
        super().__init__(message, hint=hint, code=code)
        self.names = tuple(names)


def explain(log: str, platform: str) -> EnvforgeError:
    """Return the reason from the solver, or else the last error in the log."""
    match = _CONDA.search(log)
    if match is not None:
        return _conda(_OUTPUT.read_json(match["answer"], dict[str, Any]), platform)
    match = _PYTHON.search(log)
    if match is not None:
        return _no_solution(platform, _ROOT.sub("environment.yml", match["why"]), (_LOOSEN,))
    raised = _RAISED.findall(log)
    if raised and _SYSTEM.match(raised[-1]):
        return OutsideError(f"conda-lock failed for {platform}: {raised[-1]}", code="conda-lock-failed")
    lines = raised[-1:] or [line for line in log.splitlines() if line.strip()][-5:]
    reason = "\n".join(lines) or "it printed no message"
    return EnvforgeError(f"conda-lock failed for {platform}: {reason}", code="conda-lock-failed")


def _conda(answer: Mapping[str, Any], platform: str) -> EnvforgeError:
    """Read the answer of the embedded solver, of conda, or of mamba (``solver_problems``)."""
    problems = answer.get("solver_problems")
    listed = "\n".join(map(str, problems)) if isinstance(problems, list) else ""
    message = str(answer.get("reason") or answer.get("message") or answer.get("error") or listed)
    hints = tuple(Hint(**hint) for hint in answer.get("hints", ()))
    signs = {answer.get("code"), answer.get("exception_name")}
    if _UNREACHED in signs:
        return OutsideError(message.strip(), hint=hints, code=_UNREACHED)
    if signs & _UNREAD:
        return OutsideError(message.strip(), hint=hints, code="channel-unreadable")
    if signs & _NOT_FOUND or _ABSENT.search(listed):
        return _not_found(answer, message.strip(), hints)
    if signs & _UNSATISFIABLE or listed:
        return _no_solution(platform, message, hints or (_LOOSEN,))
    code = str(answer.get("code") or "conda-lock-failed")
    return EnvforgeError(f"the solver failed for {platform}: {message.strip()}", hint=hints, code=code)


def _not_found(answer: Mapping[str, Any], message: str, hints: tuple[Hint, ...]) -> EnvforgeError:
    """Return the error for a package without a match: the embedded solver lists the names that are ``unknown``."""
    names = tuple(answer.get("unknown", ()))
    if "unknown" in answer and not names:
        return EnvforgeError(message, hint=hints, code="no-solution")
    return NoSuchPackageError(message, hint=hints, code="no-such-package", names=names)


def _no_solution(platform: str, reason: str, hints: tuple[Hint, ...]) -> EnvforgeError:
    return EnvforgeError(f"no solution for {platform}: {reason.strip()}", hint=hints, code="no-solution")


_CUT = ("POETRY_", "CONDA_LOCK_", "PIP_", "CONDA_OVERRIDE_", "RUNNER_TEMP")


class LockJob(Struct, frozen=True, kw_only=True):
    """One platform: its private directory, the conda executable for conda-lock, and the URL of its lock-time index.

    ``wishes`` are passed to the embedded solver. ``seed`` is the lockfile whose wheels Poetry keeps if possible.
    ``python`` is the version for which markers are evaluated; ``None`` before the conda packages are solved.
    """

    platform: str
    folder: Path
    conda: Path
    mirrors: Mirrors
    index: str
    wishes: Wishes = field(default_factory=Wishes)
    seed: str | None = None
    python: Version | None = None

    @property
    def records(self) -> Path:
        """The directory to which the solver writes the solved conda packages."""
        return self.folder / "records"

    @property
    def output(self) -> Path:
        """The lockfile that conda-lock writes."""
        return self.folder / "out" / "conda-lock.yml"


def content_hashes(
    inputs: Inputs,
    virtual_packages: str | None,
    pythons: Mapping[str, Version | None],
    folder: Path,
    *,
    is_foreign: bool = False,
) -> dict[str, tuple[str, ...]]:
    """Return conda-lock's hashes of the input of each platform with a Python, without solving or downloading.

    Without ``virtual_packages``, there are two: for the virtual packages that conda-lock assumes, with and without
    CUDA. If the lockfile ``is_foreign``, because conda-lock made it itself, the hashes are those of the files as they
    are.
    """
    job = _write_inputs(inputs, virtual_packages, folder, pythons)
    if is_foreign:
        files = _write(folder / "hashed", "as-it-is", [file.text for file in inputs.files])
        job["hashed"] = dict.fromkeys(pythons, files)
    with _running([(job, dict(os.environ), folder)]) as processes:
        _wait(processes[0], folder, next(iter(pythons)))
    return _read_hashes(folder)


def run_conda_lock(inputs: Inputs, virtual_packages: str, jobs: Sequence[LockJob]) -> tuple[str, ...]:
    """Run conda-lock for every job and return its warnings; raise ``EnvforgeError`` with the solver's explanation."""
    # one process per platform, because Poetry caches the metadata of `name:version` for all platforms of a run, and the
    # wheels of one version differ (decision 0040)
    prepared = [(_prepare(inputs, virtual_packages, job), _environment(job), job.folder) for job in jobs]
    with _running(prepared) as processes:
        logs = [_wait(process, job.folder, job.platform) for process, job in zip(processes, jobs, strict=True)]
    return tuple(dict.fromkeys(line for log in logs for line in warnings_in(log)))


def hashes_of(jobs: Sequence[LockJob]) -> tuple[tuple[str, str], ...]:
    """Return conda-lock's hashes of the inputs of all jobs."""
    return tuple((platform, one) for job in jobs for platform, (one,) in sorted(_read_hashes(job.folder).items()))


def warnings_in(log: str) -> tuple[str, ...]:
    """Return the warnings in a log of conda-lock."""
    return tuple(f"conda-lock: {text}" for text in _WARNING.findall(log))


def _write_inputs(
    inputs: Inputs, virtual_packages: str | None, folder: Path, pythons: Mapping[str, Version | None]
) -> dict[str, Any]:
    # conda-lock and Poetry get directories of their own, so that nothing of the user's settings or caches is read
    for name in ("hashed", "out", "records", "config", "cache", "temporary"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    mapping, virtual = folder / "mapping.json", folder / "virtual.yml"
    if virtual_packages is not None:
        virtual.write_text(virtual_packages, encoding="utf-8")
    NameMapping.bundled().write(mapping)
    return {
        "hashed": {
            platform: _write(folder / "hashed", platform, conda_lock_files(inputs, platform, python, is_complete=True))
            for platform, python in pythons.items()
        },
        "virtual_packages": None if virtual_packages is None else str(virtual),
        "mapping": str(mapping),
        "hashes": str(folder / "hashes.json"),
    }


def _write(folder: Path, name: str, texts: Sequence[str]) -> list[str]:
    paths = [folder / f"{name}-{number}.yml" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return list(map(str, paths))


def _prepare(inputs: Inputs, virtual_packages: str, job: LockJob) -> dict[str, Any]:
    document = _write_inputs(inputs, virtual_packages, job.folder, {job.platform: job.python})
    files = _write(job.folder / "out", "environment", conda_lock_files(inputs, job.platform, job.python))
    (job.folder / "wishes.json").write_text(json.dumps(fields_to_json(job.wishes)), encoding="utf-8")
    # conda-lock would update the file of an earlier attempt
    job.output.unlink(missing_ok=True)
    if job.seed is not None:
        job.output.write_text(job.seed, encoding="utf-8")
    (job.folder / "config" / "config.toml").write_text(
        # without `lazy-wheel`, Poetry doesn't try for 8 s whether the index supports HEAD
        f'[solver]\nlazy-wheel = false\n[repositories.envforge]\nurl = "{job.index}"\n',
        encoding="utf-8",
    )
    document["arguments"] = [
        "lock",
        *("--conda", str(job.conda)),
        *(word for path in files for word in ("--file", path)),
        *("--platform", job.platform),
        *("--lockfile", str(job.output)),
        *("--virtual-package-spec", document["virtual_packages"]),
        *("--pypi_to_conda_lookup_file", document["mapping"]),
    ]
    return document


def _environment(job: LockJob) -> dict[str, str]:
    # settings of the user must not change what conda-lock does here, and loopback must not go through a proxy
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_CUT)}
    direct = ",".join(filter(None, [kept.get("no_proxy") or kept.get("NO_PROXY"), "127.0.0.1", "localhost"]))
    return {
        **kept,
        MIRRORS_VARIABLE: job.mirrors.to_environment(),
        RECORDS_VARIABLE: str(job.records),
        PREFERENCES_VARIABLE: str(job.folder / "wishes.json"),
        "NO_PROXY": direct,
        "no_proxy": direct,
        "POETRY_CACHE_DIR": str(job.folder / "cache"),
        "POETRY_CONFIG_DIR": str(job.folder / "config"),
        "POETRY_KEYRING_ENABLED": "false",  # a keyring may prompt, and the index on loopback needs no password
        "PYTHONUTF8": "1",
        "TMPDIR": str(job.folder / "temporary"),
        "TEMP": str(job.folder / "temporary"),
        "TMP": str(job.folder / "temporary"),
    }


Prepared = tuple[dict[str, Any], dict[str, str], Path]


@contextlib.contextmanager
def _running(prepared: Sequence[Prepared]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start all processes, and kill those that still run when the block ends, with their children."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for document, environment, folder in prepared:
            job_file = folder / "job.json"
            job_file.write_text(json.dumps(document), encoding="utf-8")
            call = f"child({str(job_file)!r})"
            program = _with_modules(f"from envforge.lock.condalock import child; {call}")
            with (folder / "log.txt").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-c", program],
                        cwd=folder / "out",
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # so that the whole process group can be killed
                    )
                )
        yield processes
    finally:
        for process in processes:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        if sys.platform == "win32":
            process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait(process: subprocess.Popen[bytes], folder: Path, platform: str) -> str:
    code = process.wait()
    log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    if code != 0:
        raise explain(log, platform)
    return log


def _read_hashes(folder: Path) -> dict[str, tuple[str, ...]]:
    return _OUTPUT.read_json((folder / "hashes.json").read_bytes(), dict[str, tuple[str, ...]])


def child(job_file: str) -> None:
    """Run one job in a process of its own: hash its input with conda-lock's parser, then run conda-lock.

    ``job_file`` is a JSON file with ``hashed`` (files by platform), ``virtual_packages`` (a file, or null for those of
    conda-lock), ``mapping``, ``hashes`` (the file to write), and ``arguments`` (conda-lock's command line; without it,
    only the hashes are written).
    """
    job = _OUTPUT.read_json(Path(job_file).read_bytes(), dict[str, Any])
    # of the markers of which conda-lock warns here, none is in the files that it solves
    with contextlib.redirect_stderr(io.StringIO()):
        hashes = {platform: _hashes(job, platform, files) for platform, files in job["hashed"].items()}
    Path(job["hashes"]).write_text(json.dumps(hashes), encoding="utf-8")
    if job.get("arguments"):
        from conda_lock.conda_lock import main as conda_lock  # noqa: PLC0415 - only a lock needs it, not a check

        sys.argv = ["conda-lock", *job["arguments"]]
        conda_lock()


def _hashes(job: Mapping[str, Any], platform: str, files: Sequence[str]) -> list[str]:
    from conda_lock.content_hash import compute_content_hashes  # noqa: PLC0415 - conda-lock takes a second to import
    from conda_lock.src_parser import make_lock_spec  # noqa: PLC0415
    from conda_lock.virtual_package import (  # noqa: PLC0415
        default_virtual_package_repodata,
        virtual_package_repo_from_specification,
    )

    specification = make_lock_spec(
        src_files=list(map(Path, files)), platform_overrides=[platform], mapping_url=job["mapping"]
    )
    # conda-lock assumes CUDA or none by an option that the lockfile doesn't record, so either is accepted
    if job["virtual_packages"] is None:
        assumed = [default_virtual_package_repodata(), default_virtual_package_repodata(cuda_version="")]
    else:
        assumed = [virtual_package_repo_from_specification(Path(job["virtual_packages"]))]
    return [str(compute_content_hashes(specification, virtual)[platform]) for virtual in assumed]


def solver_launcher(directory: Path) -> Path:
    """Write the executable ``conda`` into ``directory``, which runs the embedded solver."""
    run = "runpy.run_module('envforge.lock.solver', run_name='__main__', alter_sys=True)"
    return _write_launcher(directory, "conda", f"import runpy; {run}")


def conda_launcher(directory: Path, conda_exe: Path) -> Path:
    """Write an executable that runs ``conda_exe`` and records the packages of each solve, as the solver does."""
    call = f"run_conda({str(conda_exe)!r}, sys.argv[1:])"
    # conda-lock recognizes micromamba by the name of the file, so the launcher has the same name
    name = conda_exe.stem if os.name == "nt" else conda_exe.name
    return _write_launcher(directory, name, f"from envforge.lock.condalock import run_conda; {call}")


def _write_launcher(directory: Path, name: str, statements: str) -> Path:
    """Write a program for this interpreter in isolated mode, so that ``PYTHONPATH`` can't replace a module."""
    program = _with_modules(statements)
    if os.name == "nt":
        path, text = directory / f"{name}.bat", f'@"{sys.executable}" -I -c "{program.replace("%", "%%")}" %*\r\n'
    else:
        path = directory / name
        text = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -c {shlex.quote(program)} "$@"\n'
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def _with_modules(statements: str) -> str:
    """Return a program that imports from where this process does, from any directory and from a source checkout."""
    places = [*filter(None, sys.path), str(Path(__file__).resolve().parents[2])]
    return f"import sys; sys.path[:] = {places!r}; {statements}"


def run_conda(conda_exe: str, words: Sequence[str]) -> None:
    """Run one call of the user's own conda, with its output, and exit with its code."""
    answer = subprocess.run([conda_exe, *words], stdout=subprocess.PIPE, check=False)
    folder = os.environ.get(RECORDS_VARIABLE)
    if folder and "--json" in words and words[0] in {"create", "install", "update"} and answer.returncode == 0:
        _record(Path(folder), answer.stdout.decode("utf-8", "replace"))
    sys.stdout.buffer.write(answer.stdout)
    sys.stdout.flush()
    raise SystemExit(answer.returncode)


def _record(folder: Path, text: str) -> None:
    # conda and mamba may print other text before and after the JSON document
    answer = _OUTPUT.read_json(text[text.index("{") : text.rindex("}") + 1], dict[str, Any])
    document = json.dumps({"version": 1, "packages": answer.get("actions", {}).get("FETCH", [])})
    name = hashlib.sha256(document.encode()).hexdigest()[:16]
    write_atomic(folder / f"{name}.json", document)


class SolvedPackage(Struct, frozen=True, kw_only=True):
    """One solved conda package, as the solver or conda records it."""

    name: str
    version: str
    url: str
    size: int | None = None
    depends: tuple[str, ...] = ()
    timestamp: float | None = None

    @property
    def is_python_package(self) -> bool:
        """Return whether conda-lock treats it as a Python package, because it depends on Python."""
        return any(wanted.split(" ", 1)[0] == "python" for wanted in self.depends)


class Solve(Struct, frozen=True, kw_only=True):
    """The solved conda packages of one platform."""

    packages: tuple[SolvedPackage, ...]

    @property
    def python(self) -> Version:
        """The Python version of the environment; raises ``EnvforgeError`` if there is none."""
        for package in self.packages:
            if package.name == "python":
                return Version(package.version)
        raise EnvforgeError(
            "`environment.yml` lists packages under `pip:`, but doesn't list `python`",
            hint="add a line such as `- python 3.12.*` to `dependencies:`",
            code="no-python",
        )

    def provided(self, mapping: NameMapping) -> dict[str, SolvedPackage]:
        """Return the Python packages that conda installs, by their normalized Python name."""
        found: dict[str, SolvedPackage] = {}
        for package in self.packages:
            if package.is_python_package and _is_version(package.version):
                python_name = mapping.to_python(package.name)
                # if two conda packages have one Python name, the one in the mapping wins
                if python_name not in found or python_name != package.name:
                    found[python_name] = package
        return found


def read_solve(folder: Path) -> Solve | None:
    """Return the newest solve recorded in ``folder``, or ``None`` if no solve is complete."""
    records = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not records:
        return None
    document = Document(damaged=f"the record `{records[-1]}` is invalid", error=EnvforgeError, code="bad-solve-record")
    return document.read_json(document.read_bytes(records[-1]), Solve)


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except ValueError:
        return False
    return True
