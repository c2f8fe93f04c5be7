"""Create projects with a lockfile to publish, and catalogues of each kind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from envforge.base.data_files import lockfiles_root
from envforge.catalogue.directory import Addition
from envforge.lock.inputs import read_inputs
from envforge.lock.lockfile import INPUT_SHA256
from tests.support.channel import SUBDIR

STORED = lockfiles_root() / "image-classification" / "cpu-linux-64.conda-lock.yml"


def project(folder: Path, note: str = "") -> Path:
    """A folder with environment.yml and three packages of a real lock of the shipped catalogue.

    ``note`` makes it another lock of another environment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "environment.yml").write_text(
        f"channels: [conda-forge]\nplatforms: [{SUBDIR}]\ndependencies: [python, jinja2, pip: [torch]]\n# {note}\n",
        encoding="utf-8",
    )
    document = yaml.load(STORED.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    inputs = read_inputs(folder / "environment.yml", None, ())
    document["metadata"]["custom_metadata"] = {INPUT_SHA256: inputs.sha256}
    wanted = {"python", "torch", "jinja2"}
    document["package"] = [
        {**package, "dependencies": {name: each for name, each in package["dependencies"].items() if name in wanted}}
        for package in document["package"]
        if package["name"] in wanted
    ]
    (folder / "conda-lock.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder


def git(folder: Path, *words: str) -> str:
    """Run real git."""
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t.invalid", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def repository(folder: Path) -> Path:
    """A bare repository whose branch main has one commit."""
    bare, work = folder / "locks.git", folder / "seed"
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    git(folder, "clone", "--quiet", str(bare), str(work))
    git(work, "checkout", "--quiet", "-B", "main")
    (work / "README.md").write_text("locks\n", encoding="utf-8")
    git(work, "add", "README.md")
    git(work, "commit", "--quiet", "-m", "Begin")
    git(work, "push", "--quiet", "origin", "main")
    return bare


def addition(folder: Path, name: str) -> Addition:
    import datetime as dt

    from envforge.catalogue.publish import PublishRequest, make_addition

    return make_addition(
        PublishRequest(
            lockfile=folder / "conda-lock.yml",
            template="demo",
            name=name,
            publisher="late",
            at=dt.datetime(2026, 8, 1, tzinfo=dt.timezone.utc),
            size_of=lambda artifact: 5,
        )
    )
