"""Hold the order of the packages: each imports only from those before it, type-checking imports included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "envforge"
LAYERS = (
    "errors",
    "base",
    "programs",
    "machine",
    "pytorch",
    "lock",
    "prefix",
    "catalogue",
    "facts",
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


_NOT_CONVERTED = (
    "cli/info.py",
    "machine/record.py",
    "project/trial.py",
)
# what only one module of `base` may do; the others are listed with their reason, and the list may only become shorter
OWNERS: dict[str, dict[str, str]] = {
    "rename": {
        "base/files.py": "the owner",
        "base/staging.py": "the owner of changes of a whole directory, which it undoes",
        "lock/project.py": "its journal lists the temporary files, which a later process renames",
        "prefix/cache.py": "a verified download is moved within the cache",
        "prefix/clean.py": "moves a directory away before it is removed",
        "prefix/audit.py": "moves a file of the user away",
        "prefix/own_files.py": "moves files of the user away and back",
        "prefix/conda_packages.py": "moves an unpacked package into its place after its check",
        "project/plan.py": "moves a new project into its place, and fails if there is one",
    },
    "connect": {
        "base/net.py": "the owner",
        "base/distribution.py": "`url2pathname` opens no connection",
        "prefix/relay.py": "serves uv over the loopback interface",
        "machine/world.py": "reads the name of this computer",
        "base/redact.py": "reads the name of this computer, to remove it",
    },
    "git": {"base/git.py": "the owner"},
    "user info": {
        "base/urls.py": "the owner",
        "base/net.py": "`.username` of the keyring",
        "lock/check.py": "compares the host, and is being replaced",
    },
    "parse": {
        "base/documents.py": "the owner",
        "base/confined.py": "lines between this process and its child",
        "base/data_files.py": "tables of envforge itself, whose reading must be fast",
        "base/distribution.py": "a file of the installer (PEP 610), and pyproject.toml of this checkout",
        "base/process.py": "lines of a child process, of which an incomplete one is ignored",
        "machine/evidence.py": "lines of a child process",
        "lock/python_index.py": "configuration files of uv, whose keys are not names of Python",
        "programs/envforge_measures/__init__.py": "runs without envforge",
        **dict.fromkeys(_NOT_CONVERTED, "its package is not converted to documents.py yet"),
    },
}
_CONNECTING = {"requests", "urllib3", "http.client", "urllib.request", "socket", "httpx", "aiohttp", "ftplib"}
_PARSERS = {("json", "load"), ("json", "loads"), ("yaml", "load"), ("yaml", "safe_load"), ("toml", "loads")}


def deeds_of(tree: ast.AST) -> Iterator[str]:
    """Yield the keys of ``OWNERS`` that a module does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ("connect" for alias in node.names if alias.name in _CONNECTING)
        elif isinstance(node, ast.ImportFrom):
            yield from ("connect" for name in _CONNECTING if (node.module or "").startswith(name))
        elif isinstance(node, ast.Attribute) and node.attr in {"netloc", "username"}:
            yield "user info"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if (owner, node.func.attr) in _PARSERS | {("tomllib", "loads"), ("tomllib", "load")}:
                yield "parse"
            # `str.replace` has two arguments, and `msgspec.structs.replace` is a name
            is_rename = node.func.attr == "rename" or (node.func.attr == "replace" and len(node.args) == 1)
            if (is_rename and not node.keywords) or (owner == "os" and node.func.attr in {"replace", "rename"}):
                yield "rename"
        elif isinstance(node, ast.List) and [getattr(item, "value", "") for item in node.elts[:1]] == ["git"]:
            yield "git"


@cache
def deeds() -> dict[str, set[str]]:
    """Return what each module does."""
    return {
        path.relative_to(PACKAGE).as_posix(): set(deeds_of(ast.parse(path.read_text(encoding="utf-8"))))
        for path in PACKAGE.rglob("*.py")
    }


@pytest.mark.parametrize("deed", OWNERS)
def test_each_idea_has_one_owner(deed: str) -> None:
    assert {path for path, found in deeds().items() if deed in found} - set(OWNERS[deed]) == set()


@pytest.mark.parametrize(
    ("code", "deed"),
    [
        ("import requests", "connect"),
        ("from urllib.request import urlopen", "connect"),
        ("aside.replace(path)", "rename"),
        ("os.replace(a, b)", "rename"),
        ("subprocess.run(['git', 'status'])", "git"),
        ("urlsplit(url).netloc", "user info"),
        ("json.loads(text)", "parse"),
    ],
)
def test_deed_is_recognized(code: str, deed: str) -> None:
    assert list(deeds_of(ast.parse(code))) == [deed]


def names_of(path: Path) -> Iterator[str]:
    """Yield the names of the classes and types of a module, without the underscore of private ones."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_")
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [each.id.lstrip("_") for each in targets if isinstance(each, ast.Name)]
            yield from (name for name in names if name[:1].isupper() and not name.isupper() and len(name) > 1)


def test_each_name_of_a_class_or_type_has_one_meaning() -> None:
    found: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name in names_of(path):
            found.setdefault(name, []).append(path.relative_to(PACKAGE).as_posix())
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}
