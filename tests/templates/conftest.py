"""Render the image-classification project once with envforge's own planner, and write it to a temporary directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from envforge.base.data_files import templates_root
from envforge.lock.environment_spec import EnvironmentTexts
from envforge.project.plan import Project, plan_project
from envforge.project.templates import load_template
from tests.project import builds

PACKAGE = "digits"


def write_project(folder: Path, template: str = "image-classification", groups: tuple[str, ...] = ()) -> Path:
    """Render a template into ``folder`` for a CPU build of torch."""
    project = Project(
        template=load_template(templates_root(), template),
        name="digits",
        package=PACKAGE,
        answers=(),
        selections=(builds.CPU_LINUX,),
        texts=EnvironmentTexts(environment="", virtual_packages=""),
        groups=groups,
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
    return write_project(tmp_path_factory.mktemp("project"), groups=("benchmark", "engine-tests"))
