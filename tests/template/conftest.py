"""Render the image-classification project once with envforge's own planner, and write it to a temporary directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from envforge.project import Project, plan_project
from envforge.project.templates import load_template
from envforge.resources import templates_root
from envforge.spec import EnvironmentTexts
from tests.project import builds

PACKAGE = "digits"


def write_project(folder: Path, template: str = "image-classification") -> Path:
    """Render a template into ``folder`` for a CPU build of torch."""
    project = Project(
        template=load_template(templates_root(), template),
        name="digits",
        package=PACKAGE,
        answers=(),
        selections=(builds.CPU_LINUX,),
        texts=EnvironmentTexts(environment="", virtual_packages=""),
    )
    for file in plan_project(project, None):
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
    return folder


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    return write_project(tmp_path_factory.mktemp("project"))
