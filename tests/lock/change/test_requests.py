"""Test that a lock holds what is requested, with real conda-lock and the real solver over loopback."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from envforge.errors import EnvforgeError
from envforge.lock.condalock import warnings_in
from envforge.lock.plan import make_plan
from tests.lock.change.conftest import ENVIRONMENT, Project


def write(project: Project, lines: str, name: str = "environment.yml", head: str = "") -> None:
    text = f"{head}channels: [conda-forge]\nplatforms: [linux-64]\ndependencies:\n  - python >=3.10\n{lines}"
    (project.folder / name).write_text(text, encoding="utf-8")


def test_pin_of_pip_holds_next_to_wheels(project: Project) -> None:
    write(project, "  - pip <26\n  - pip: [colours]\n")
    with pytest.raises(EnvforgeError, match=r"pip <26 \(available: 26\.0"):
        project.lock()


@pytest.mark.parametrize("is_reversed", [False, True])
def test_marker_is_evaluated_for_the_selected_python(project: Project, is_reversed: bool) -> None:
    lines = ["    - colours==1.0; python_version < '3.12'\n", "    - colours==2.0; python_version >= '3.12'\n"]
    write(project, "  - pip:\n" + "".join(reversed(lines) if is_reversed else lines))
    report = project.lock()
    assert project.versions() == {"python": "3.12.1", "colours": "2.0"}
    assert report.warnings == ()


def test_bounds_of_one_package_on_two_lines_both_hold(project: Project) -> None:
    write(project, "  - base >=1\n  - base <2\n")
    project.lock()
    assert project.versions() == {"python": "3.12.1", "base": "1.0"}


def test_two_files_and_their_categories_are_locked_together(project: Project) -> None:
    write(project, "  - base\n", "a.yml")
    write(project, "  - extra\n  - base <2\n", "b.yml", "category: docs\n")
    made = project.run("lock", "-f", "a.yml", "-f", "b.yml")
    assert made.returncode == 0, made.stderr
    assert project.versions() == {"python": "3.12.1", "base": "1.0", "extra": "2.0"}
    assert project.read().sources == ("a.yml", "b.yml")
    # without `--file`, the files that the lockfile records are used
    assert project.run("lock", "--check").stdout == "conda-lock.yml is up to date with a.yml\n"
    assert project.run("add", "-f", "b.yml", "-f", "a.yml", "late").returncode == 0
    assert (project.folder / "b.yml").read_text(encoding="utf-8").endswith("  - base <2\n  - late\n")
    assert {p.name for p in project.read().packages if p.category == "docs"} >= {"extra", "late"}
    elsewhere = json.loads(project.run("remove", "-f", "a.yml", "-f", "b.yml", "late", "--json").stdout)["error"]
    assert elsewhere["commands"] == ["envforge remove -f b.yml -f a.yml late"]
    (project.folder / "sub").mkdir()
    write(project, "  - only-there\n", "sub/c.yml")
    below = json.loads(project.run("remove", "-f", "a.yml", "-f", "sub/c.yml", "only-there", "--json").stdout)["error"]
    assert below["commands"] == ["envforge remove -f sub/c.yml -f a.yml --lockfile conda-lock.yml only-there"]
    fewer = json.loads(project.run("lock", "-f", "a.yml", "--check", "--json").stdout)["result"]["differences"]
    assert [one["code"] for one in fewer] == ["sources"]
    assert project.run("lock", "-f", "a.yml", "-f", "b.yml", "--variant", "cpu").returncode == 2


def test_missing_source_of_a_lockfile_is_an_error_with_working_ways_out(project: Project) -> None:
    write(project, "  - base\n", "a.yml")
    write(project, "  - extra\n", "b.yml", "category: docs\n")
    project.environment.unlink()
    assert project.run("lock", "-f", "a.yml", "-f", "b.yml").returncode == 0
    before = project.lockfile.read_bytes()
    for gone, renamed, left, commands in (
        ("a.yml", "-f new.yml -f b.yml", "-f b.yml", [["add", "late"]]),
        ("b.yml", "-f a.yml -f new.yml", "-f a.yml", [["remove", "base"], ["lock", "--check"], ["lock"]]),
    ):
        (project.folder / gone).rename(project.folder / "new.yml")
        for command in commands:
            error = json.loads(project.run(*command, "--json").stdout)["error"]
            message = f"`{gone}` does not exist, but `conda-lock.yml` was created from `a.yml`, `b.yml`"
            assert (error["code"], error["message"]) == ("source-missing", message)
            assert error["commands"] == [f"envforge lock {renamed}", f"envforge lock {left}"]
        assert project.lockfile.read_bytes() == before
        (project.folder / "new.yml").rename(project.folder / gone)
    (project.folder / "b.yml").unlink()
    assert project.run("lock", "-f", "a.yml").returncode == 0
    assert project.run("lock", "--check").returncode == 0
    (project.folder / "a.yml").unlink()
    assert "`a.yml` does not exist, but" in project.run("lock").stderr


def test_category_limits_the_lock_and_names_what_is_left_out(project: Project) -> None:
    write(project, "  - base\n")
    write(project, "  - extra\n", "docs.yml", "category: docs\n")
    files = ("-f", "environment.yml", "-f", "docs.yml")
    made = project.run("lock", *files, "--category", "main")
    assert made.stderr.endswith("warning: category `docs` is left out: python, extra\n")
    assert project.versions() == {"python": "3.12.1", "base": "2.0"}
    checked = json.loads(project.run("lock", *files, "--check", "--json").stdout)
    assert [one["code"] for one in checked["result"]["differences"]] == ["categories"]
    assert project.run("lock", *files, "--check", "--category", "main").returncode == 0
    assert project.run("lock", *files).returncode == 0
    lock = project.read()
    assert project.versions()["extra"] == "2.0"
    plan = make_plan(lock, "linux-64", project.lockfile)
    assert ([a.package.name for a in plan.conda], plan.warnings) == (
        ["base", "python"],
        ("category `docs` is left out: extra",),
    )
    every = make_plan(lock, "linux-64", project.lockfile, categories=("main", "docs"))
    assert {a.package.name for a in every.conda} == {"base", "python", "extra"}
    assert make_plan(lock, "linux-64", project.lockfile, categories=("docs",)) == every
    moved = replace(lock, packages=tuple(replace(p, category="docs") if p.name == "base" else p for p in lock.packages))
    base = next(p for p in lock.packages if p.name == "base")
    plot = replace(base, name="plot", url=base.url.replace("base-", "plot-"), dependencies=(("base", ""),))
    needed = make_plan(replace(moved, packages=(*moved.packages, plot)), "linux-64", project.lockfile)
    assert {a.package.name for a in needed.conda} == {"base", "plot", "python"}
    with pytest.raises(EnvforgeError, match="has no category `dev`; it has `docs`, `main`"):
        make_plan(lock, "linux-64", project.lockfile, categories=("dev",))


def test_environment_yaml_is_found_and_compared(project: Project) -> None:
    project.environment.rename(project.folder / "environment.yaml")
    assert project.run("lock").returncode == 0
    assert project.read().sources == ("environment.yaml",)
    (project.folder / "environment.yaml").write_text(ENVIRONMENT.replace("extra", "late"), encoding="utf-8")
    assert project.run("lock", "--check").returncode == 1
    locked = project.run("install", "--locked", "--dry-run")
    assert "needs to be updated to match `environment.yaml`" in locked.stderr


def test_variables_are_recorded(project: Project) -> None:
    write(project, "  - base\nvariables:\n  B: two words\n  A: 1\n")
    project.lock()
    assert project.read().variables == (("A", "1"), ("B", "two words"))
    project.write(project.environment.read_text(encoding="utf-8").replace("two", "three"))
    checked = project.run("lock", "--check", "--json")
    assert [one["code"] for one in json.loads(checked.stdout)["result"]["differences"]] == ["variables"]


def test_add_of_a_package_that_a_selector_hides_names_the_line(project: Project) -> None:
    write(project, "  - base\n  - late  # [win]\n  - extra  # [not win]\n")
    before = project.files()
    hidden = json.loads(project.run("add", "late", "--json").stdout)["error"]
    assert hidden["code"] == "limited-line"
    assert "already lists `late` on line 6, with a selector that excludes linux-64" in hidden["message"]
    assert project.files() == before
    assert project.run("add", "extra").stdout.startswith("environment.yml already lists these packages\n")
    assert project.versions() == {"python": "3.12.1", "base": "2.0", "extra": "2.0"}


def test_request_for_no_platform_is_a_warning(project: Project) -> None:
    write(project, "  - base\n  - late  # [win]\n")
    (warning,) = project.lock().warnings
    assert warning.endswith("line 6: `late` applies to none of the platforms linux-64")


def test_warnings_of_conda_lock_are_reported() -> None:
    log = (
        "Locking dependencies for ['linux-64']...\nINFO:conda_lock.conda_solver:using WARNING specs\n"
        "WARNING:conda_lock.src_parser.selectors:filtered out line `a`\n/x/common.py:67: UserWarning: odd marker\n"
    )
    assert warnings_in(log) == ("conda-lock: filtered out line `a`", "conda-lock: odd marker")
