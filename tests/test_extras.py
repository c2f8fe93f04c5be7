"""Test that the extra ``smoke`` contains what a project's smoke test imports, for ``new --smoke`` right after pip."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from envforge.base import toml
from envforge.base.data_files import templates_root
from envforge.lock.environment_spec import split_conda_spec
from envforge.project.templates import list_templates, load_template
from tests.test_wheel import ROOT

PIP_NAMES = {"matplotlib-base": "matplotlib"}
NOT_FOR_THE_SMOKE_TEST = {"pytest", "torchvision"}


@pytest.mark.parametrize("name", list_templates(templates_root()))
def test_smoke_extra_has_what_each_template_needs(name: str) -> None:
    extras = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    offered = {Requirement(text).name for text in extras["smoke"]}
    needs = load_template(templates_root(), name).needs
    conda = {split_conda_spec(spec)[0] for spec in needs.conda}
    wanted = {PIP_NAMES.get(package, package) for package in conda} | set(needs.torch_family)
    transitive = {"numpy"}  # of matplotlib and scikit-learn
    assert wanted - offered - NOT_FOR_THE_SMOKE_TEST - transitive == set()
