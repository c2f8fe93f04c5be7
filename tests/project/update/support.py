"""Create a small template in a directory, a project from it, and updates of that project."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from envforge.lock.environment_spec import render_texts
from envforge.project.plan import Project, place, plan_project
from envforge.project.record import TemplateOrigin, need_project_file
from envforge.project.templates import open_template
from envforge.project.update import Locks, Update, UpdateRequest, apply, plan_update
from tests.catalogue.support import git
from tests.project import builds

MANIFEST = """
name: demo
version: {version}
summary: A demo
questions:
  - {{name: size, type: choice, choices: [small, large], default: small, help: Which}}
groups:
  - {{name: notes, help: Notes, files: [NOTES]}}
environment: {{torch: [torch], conda: [numpy]}}
"""
LINES = "".join(f"line {number}\n" for number in range(1, 13))
FILES: Mapping[str, bytes] = {
    "README": LINES.encode(),
    "size.jinja": b"{{ answers.size }}\n",
    "NOTES": b"notes\n",
    "__package__/train.py": b"train = 1\n",
    "logo.png": b"\x89PNG\x00\x01",
}


class World(Struct, frozen=True):
    """``template`` and ``project`` are folders below ``root``; the project records the template relative to itself."""

    root: Path

    @property
    def template(self) -> Path:
        return self.root / "demo"

    @property
    def project(self) -> Path:
        return self.root / "net"

    def write_template(self, files: Mapping[str, bytes], version: int = 1, manifest: str = MANIFEST) -> None:
        """Replace the template by these files."""
        shutil.rmtree(self.template, ignore_errors=True)
        for name, content in {"NOTES": b"notes\n", **files}.items():
            path = self.template / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.template.mkdir(exist_ok=True)
        (self.template / "template.yml").write_text(manifest.format(version=version), encoding="utf-8")

    def create(self, *groups: str, size: str = "small") -> None:
        """Make the project from the template as it is now."""
        with open_template(str(self.template), self.root) as opened:
            needs = opened.template.needs_with(groups)
            project = Project(
                template=opened.template,
                name="net",
                package="net",
                answers=(("size", size),),
                selections=(builds.CPU_LINUX,),
                texts=render_texts((builds.CPU_LINUX,), needs, opened.template.common_root.parent),
                groups=groups,
                origin=TemplateOrigin(source="../demo"),
            )
            place(plan_project(project, None), self.project, force=False, written_before={})

    def plan(self, wishes: UpdateRequest | None = None) -> Update:
        """What an update would do."""
        record = need_project_file(self.project)
        with open_template(record.origin.source, self.project) as opened:
            return plan_update(self.project, record, opened, wishes or UpdateRequest())

    def update(self, wishes: UpdateRequest | None = None) -> Update:
        """Plan an update and apply it."""
        planned = self.plan(wishes)
        apply(planned, Locks())
        return planned

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the project, as a user does."""
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def read(self, name: str) -> str:
        return (self.project / name).read_bytes().decode()

    def contents(self) -> dict[str, bytes]:
        """Every file of the project by its path."""
        return {
            path.relative_to(self.project).as_posix(): path.read_bytes()
            for path in sorted(self.project.rglob("*"))
            if path.is_file()
        }


def made(root: Path, files: Mapping[str, bytes] = FILES, *groups: str) -> World:
    """A template and a project of it."""
    world = World(root)
    world.write_template(files)
    world.create(*groups)
    return world


def actions(update: Update) -> dict[str, str]:
    """What happens to each file, by its path."""
    return {str(change.path): change.action for change in update.changes}


def commit(world: World, tag: str) -> str:
    """Commit the template with a tag, and return the commit."""
    git(world.template, "add", "--all")
    git(world.template, "commit", "--quiet", "-m", tag)
    git(world.template, "tag", tag)
    return git(world.template, "rev-parse", "HEAD")
