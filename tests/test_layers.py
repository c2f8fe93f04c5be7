"""Hold the order of the packages: each imports only from those before it, type-checking imports included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "envforge"
LAYERS = (
    "errors",
    "base",
    "machine",
    "pytorch",
    "lock",
    "prefix",
    "catalogue",
    "project",
    "export",
    "verify",
    "api",
    "cli",
)
LOOSE = {"__init__", "__main__", "api", "errors"}


def imports_of(path: Path) -> Iterator[str]:
    """Return the names of the packages of envforge that a module imports, at any place in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("envforge"):
            below = (node.module or "").split(".")[1:2]
            yield from below or [alias.name for alias in node.names if alias.name in LAYERS]


def modules(layer: str) -> list[Path]:
    folder = PACKAGE / layer
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


@pytest.mark.parametrize("layer", LAYERS)
def test_package_imports_only_from_layers_before_it(layer: str) -> None:
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    assert {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in modules(layer)
        for name in imports_of(path)
        if name not in allowed
    } == set()


def test_every_package_has_a_layer() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(LAYERS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE
