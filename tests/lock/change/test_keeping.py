"""Test what a second ``lock`` changes and keeps, with real conda-lock and the real solver over loopback."""

from __future__ import annotations

import pytest
import yaml

from envforge.base.documents import load_yaml
from envforge.errors import EnvforgeError
from envforge.lock.check import check_lock
from envforge.lock.request import Cutoff
from tests.lock.change.conftest import ENVIRONMENT, MIDWAY, Project

AGED = {"python": "3.10.1", "base": "1.0", "plot": "1.0", "extra": "1.0", "colours": "1.0"}


def test_a_lock_that_still_fits_is_left_alone_and_nothing_is_asked(aged: Project) -> None:
    before, asked = aged.lockfile.stat(), len(aged.server.requests if aged.server else ())
    report = aged.lock()
    assert (report.is_unchanged, report.changes) == (True, ())
    assert aged.lockfile.stat().st_mtime_ns == before.st_mtime_ns
    assert aged.server is not None
    assert len(aged.server.requests) == asked


def test_an_edited_remark_renews_the_digest_and_no_package(aged: Project) -> None:
    before = aged.read()
    aged.write(ENVIRONMENT.replace("the ground", "the floor"))
    assert aged.lock().is_unchanged
    after = aged.read()
    assert after.packages == before.packages
    assert after.custom_metadata != before.custom_metadata


@pytest.mark.parametrize("name", ["base", "extra", "colours", "shapes"])
def test_package_that_was_lost_from_the_lockfile_is_reported_and_locked_again(project: Project, name: str) -> None:
    project.write(ENVIRONMENT.replace("  - base   # the ground\n", "").replace("colours", "shapes"))
    project.lock(exclude_newer=MIDWAY)
    before = project.lockfile.read_text(encoding="utf-8")
    document = load_yaml(before)
    document["package"] = [row for row in document["package"] if row["name"] != name]
    project.lockfile.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    found = {one.code for one in check_lock(project.environment, project.lockfile)}
    assert ("dependency-missing" if name in {"base", "colours"} else "not-locked") in found
    assert project.lock().changes == (f"+ {name} 1.0",)
    assert project.lockfile.read_text(encoding="utf-8") == before
    assert check_lock(project.environment, project.lockfile) == ()


def test_a_new_package_moves_nothing_where_it_goes_with_what_is_locked(aged: Project) -> None:
    aged.write(ENVIRONMENT.replace("  - extra\n", "  - extra\n  - late\n") + '      - "shapes"\n')
    report = aged.lock()
    assert aged.versions() == {**AGED, "late": "1.0", "shapes": "1.0"}
    assert report.changes == ("+ late 1.0", "+ shapes 1.0")


def test_a_new_package_moves_what_it_must_and_only_that(aged: Project) -> None:
    aged.write(ENVIRONMENT.replace("  - extra\n", "  - extra\n  - wants-new-base\n"))
    aged.lock()
    assert aged.versions() == {**AGED, "base": "2.0", "wants-new-base": "1.0"}


def test_a_changed_bound_wins_over_what_is_locked(aged: Project) -> None:
    aged.write(ENVIRONMENT.replace("- plot", '- "plot >=2"'))
    aged.lock()
    assert aged.versions() == {**AGED, "base": "2.0", "plot": "2.0"}


def test_upgrade_chooses_every_version_anew(aged: Project) -> None:
    report = aged.lock(upgrade=True)
    assert aged.versions() == {"python": "3.12.1", "base": "2.0", "plot": "2.0", "extra": "2.0", "colours": "2.0"}
    assert report.changes == (
        "~ base 1.0 -> 2.0",
        "~ colours 1.0 -> 2.0",
        "~ extra 1.0 -> 2.0",
        "~ plot 1.0 -> 2.0",
        "~ python 3.10.1 -> 3.12.1",
    )


def test_upgrade_package_moves_that_package_with_what_it_needs_and_nothing_else(aged: Project) -> None:
    aged.lock(upgrade_packages=("plot",))
    assert aged.versions() == {**AGED, "plot": "2.0", "base": "2.0"}


def test_upgrade_package_moves_a_wheel_alone(aged: Project) -> None:
    aged.lock(upgrade_packages=("Colours",))
    assert aged.versions() == {**AGED, "colours": "2.0"}


def test_a_locked_wheel_that_does_not_go_with_a_new_one_gives_way(aged: Project) -> None:
    aged.write(ENVIRONMENT + '      - "new-shapes"\n')
    aged.lock()
    assert aged.versions() == {**AGED, "colours": "2.0", "new-shapes": "1.0"}


def test_a_locked_wheel_that_its_index_has_no_more_gives_way(aged: Project) -> None:
    del aged.wheels["colours"][0]
    aged.write(ENVIRONMENT + '      - "shapes"\n')
    aged.lock()
    assert aged.versions() == {**AGED, "colours": "2.0", "shapes": "1.0"}


def test_a_package_that_is_not_locked_cannot_be_upgraded(aged: Project) -> None:
    before = aged.files()
    with pytest.raises(EnvforgeError) as caught:
        aged.lock(upgrade_packages=("plott",))
    assert (caught.value.message, caught.value.hint) == (
        f"`--upgrade-package plott`: `{aged.lockfile}` does not contain `plott`",
        "did you mean `--upgrade-package plot`?",
    )
    assert aged.files() == before


def test_a_date_leaves_out_newer_packages_and_wheels_and_stays_in_force(project: Project) -> None:
    report = project.lock(exclude_newer=MIDWAY)
    assert project.versions() == AGED
    assert report.warnings == ()
    assert dict(project.read().custom_metadata)["envforge_exclude_newer"] == "2025-01-01T00:00:00Z"
    project.lock(upgrade=True)
    assert project.versions() == AGED
    freed = project.lock(upgrade=True, exclude_newer=Cutoff(at=None))
    assert project.versions()["base"] == "2.0"
    assert freed.exclude_newer == Cutoff(at=None)
    assert "envforge_exclude_newer" not in dict(project.read().custom_metadata)


def test_packages_without_a_date_are_named(project: Project) -> None:
    project.write(ENVIRONMENT.replace("  - extra\n", "  - undated\n") + '      - "unknown-age"\n')
    report = project.lock(exclude_newer=MIDWAY)
    assert report.warnings == (
        "no date is known for undated, unknown-age; they may be newer than 2025-01-01T00:00:00Z",
    )


def test_what_is_too_new_is_named_with_the_date(project: Project) -> None:
    project.write(ENVIRONMENT.replace('"colours"', '"colours >=2"'))
    with pytest.raises(EnvforgeError) as caught:
        project.lock(exclude_newer=MIDWAY)
    assert "has 1 wheel newer than 2025-01-01T00:00:00Z" in caught.value.message
    project.write(ENVIRONMENT.replace("- extra", "- late"))
    with pytest.raises(EnvforgeError) as caught:
        project.lock(exclude_newer=MIDWAY)
    assert "late" in caught.value.message
    assert not project.lockfile.exists()
