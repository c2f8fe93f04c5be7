"""Read workflows and the action as GitHub does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
ACTION = ROOT / "action.yml"
WORKFLOWS = tuple(sorted((ROOT / ".github" / "workflows").glob("*.yml")))


def read(path: Path) -> Mapping[Any, Any]:
    """Return the document of a workflow or an action; YAML reads the key ``on`` as ``True``."""
    document: Mapping[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def steps(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of all jobs of a workflow, or of a composite action."""
    document = read(path)
    if "runs" in document:
        yield from document["runs"]["steps"]
    for job in document.get("jobs", {}).values():
        yield from job["steps"]


def step(path: Path, name: str) -> Mapping[str, Any]:
    """Return the step with a name."""
    (found,) = (each for each in steps(path) if each.get("name") == name)
    return found
