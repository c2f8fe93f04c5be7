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
