#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.10.14"]
# ///
"""Tasks of this repository: ``nox`` runs the linters and the tests, ``nox --list`` lists all tasks."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"

QUICK = (
    "tests/base",
    "tests/machine",
    "tests/pytorch",
    "tests/catalogue/test_signing.py",  # py-minisign
    "tests/lock/test_lockfile.py",
    "tests/lock/test_pylock.py",  # tomlkit
    "tests/prefix/install/test_archive.py",  # py-rattler, filelock, uv
    "tests/project/test_templates.py",
    "tests/tools/test_fuzz.py",  # every reader
)
PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))


@nox.session(tags=["lint"])
def lint(session: nox.Session) -> None:
    """Run every linter: code, types on three systems, spelling, Markdown, workflows, repository."""
    session.install("-e", ".[test]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    for platform in ("linux", "win32", "darwin"):
        session.run("mypy", "--platform", platform)
    session.run("codespell")
    session.run("rumdl", "check", ".")
    session.run("zizmor", "--offline", "--no-progress", ".")
    session.run("repo-review", ".")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests; arguments after ``--`` go to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", *(session.posargs or ["-n", "auto", "--dist", "loadfile"]))


@nox.session(default=False, python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run a quick part of the tests with the lowest versions of the dependencies that pyproject.toml allows."""
    session.run_install("uv", "pip", "install", "--resolution", "lowest-direct", "-e", ".[sign]", external=True)
    session.install("pytest>=8.3", "hypothesis>=6.120", "-c", _constraints(session))
    # conda-lock's oldest version warns about its own modules
    session.run("pytest", "-W", "ignore::PendingDeprecationWarning", *(session.posargs or QUICK))


def _constraints(session: nox.Session) -> str:
    """Write the installed versions to a file, without envforge."""
    path = Path(session.create_tmp()) / "constraints.txt"
    words = ("uv", "pip", "freeze", "--exclude-editable")
    frozen = session.run(*words, external=True, silent=True, stderr=None)  # which names the environment
    path.write_text(str(frozen), encoding="utf-8")
    return str(path)


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Report known vulnerabilities of the dependencies."""
    session.install("-e", ".", "pip-audit")
    # with --strict, a skipped editable install would be an error
    session.run("pip-audit", "--strict", "--no-deps", "--disable-pip", "-r", _constraints(session), *session.posargs)


@nox.session(default=False, python="3.12")
def fuzz(session: nox.Session) -> None:
    """Fuzz the readers of documents; arguments after ``--`` go to ``tools.fuzz``."""
    session.install("-e", ".", "atheris>=3,<4")
    session.run("python", "-m", "tools.fuzz", *session.posargs)


@nox.session(default=False)
def network(session: nox.Session) -> None:
    """Run the tests that need the real package servers."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "network", "tests/network", *session.posargs)


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Run the tests that need an NVIDIA GPU."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "gpu", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the docs into ``site/``, or serve them with ``nox -s docs -- --serve``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", action="store_true", help="serve the docs and rebuild them after each change")
    serve = parser.parse_args(session.posargs).serve
    session.install("-e", ".[docs]")
    session.run("mkdocs", *(["serve"] if serve else ["build", "--strict"]))


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build the sdist and the wheel into ``dist/`` and check their metadata."""
    shutil.rmtree("dist", ignore_errors=True)
    session.install("build", "twine")
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *map(str, sorted(Path("dist").iterdir())))


if __name__ == "__main__":
    nox.main()
