"""``envforge clean`` removes what can be re-created, and keeps what is complete or in use."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from envforge.prefix.cache import in_use
from envforge.prefix.clean import Places, clean
from envforge.prefix.journal import lock_prefix, read_journal, write_journal
from tests.prefix.install.support import tree
from tests.prefix.use.conftest import hello, install
from tests.prefix.use.support import User

HOUR_S = 3600.0


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Everything that a clean looks at, apart from this user's own."""
    caches, temporary = tmp_path / "caches", tmp_path / "temporary"
    temporary.mkdir()
    return Places(packages=tmp_path / "made" / "cache", caches=caches, temporary=temporary, projects=(), prefixes=())


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A finished environment whose files are in the cache of ``places`` too."""
    return install(tmp_path / "made", tmp_path / "digits" / ".conda", hello())


def at_step(prefix: Path, step: Any, **changes: Any) -> Path:
    from msgspec.structs import replace

    journal = read_journal(prefix)
    assert journal is not None
    write_journal(prefix, replace(journal.at(step), **changes))
    return prefix


def test_cache_is_removed_and_the_environment_stays_whole(places: Places, prefix: Path) -> None:
    before = tree(prefix)
    done = clean(places, is_dry=False)
    assert {item.path.name for item in done.removed} == {"files", "pkgs"}
    assert not any((places.packages / name).exists() for name in ("files", "pkgs"))
    assert tree(prefix) == before


def test_the_lock_of_a_bundle_is_removed_and_the_environment_still_knows_its_own(
    places: Places, prefix: Path, user: User
) -> None:
    kept = places.packages / "bundles" / ("ab" * 32) / "conda-lock.yml"
    kept.parent.mkdir(parents=True)
    journal = read_journal(prefix)
    assert journal is not None
    Path(journal.lockfile).rename(kept)
    at_step(prefix, "verified", lockfile=str(kept))
    assert "bundles" in {item.path.name for item in clean(places, is_dry=False).removed}
    assert not kept.exists()
    assert user.envforge("audit", "--prefix", str(prefix)).returncode == 0


def test_dry_run_says_the_same_and_removes_nothing(places: Places, prefix: Path) -> None:
    before = tree(places.packages)
    said = clean(places, is_dry=True)
    assert {name: before[name] for name in before if name in tree(places.packages)} == before
    assert clean(places, is_dry=False) == said


def test_files_that_an_environment_shares_are_not_counted_as_freed(
    places: Places, prefix: Path, tmp_path: Path
) -> None:
    unpacked = next(item for item in clean(places, is_dry=True).removed if item.path.name == "pkgs")
    shared = sum(
        path.stat().st_size for path in unpacked.path.rglob("*") if path.is_file() and path.stat().st_nlink > 1
    )
    assert unpacked.size.bytes - unpacked.size.freed_bytes == shared > 0


def test_cache_that_an_install_uses_is_kept_with_its_process(places: Places, prefix: Path) -> None:
    before = tree(places.packages)
    with in_use(places.packages):
        done = clean(places, is_dry=False)
    assert done.removed == ()
    assert f"an install (PID {os.getpid()}) is using it" in done.kept[0].why
    assert set(before) <= set(tree(places.packages))


def test_cache_of_an_install_that_was_killed_is_removed(places: Places, prefix: Path) -> None:
    (places.packages / "in-use").mkdir(exist_ok=True)
    (places.packages / "in-use" / "999999-0.lock").touch()
    assert len(clean(places, is_dry=False).removed) == 2
    assert list((places.packages / "in-use").iterdir()) == []


def test_packages_that_conda_keeps_stay(places: Places) -> None:
    (places.packages / "pkgs").mkdir(parents=True)
    (places.packages / "pkgs" / "urls.txt").touch()
    (places.packages / "other").mkdir()
    done = clean(places, is_dry=False)
    assert [item.why for item in done.kept] == ["conda stores its own packages there"]
    assert (places.packages / "pkgs" / "urls.txt").exists()
    assert (places.packages / "other").exists()


def test_cleaning_that_was_cut_short_is_finished_by_the_next(places: Places) -> None:
    half = places.packages / ".envforge-removing-x" / "uv"
    half.mkdir(parents=True)
    (half / "file").write_text("12345")
    assert [item.size.bytes for item in clean(places, is_dry=False).removed] == [5]
    assert not half.parent.exists()


def test_links_are_removed_and_what_they_point_to_stays(places: Places, tmp_path: Path) -> None:
    (places.packages / "files").mkdir(parents=True)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("keep")
    (places.packages / "files" / "link").symlink_to(precious)
    clean(places, is_dry=False)
    assert not (places.packages / "files").exists()
    assert (precious / "data").read_text() == "keep"


@pytest.mark.parametrize("step", ["planned", "conda done", "wheels done"])
def test_unfinished_environment_is_removed(places: Places, prefix: Path, step: str) -> None:
    at_step(prefix, step)
    work = Places(
        packages=places.caches, caches=places.caches, temporary=places.temporary, projects=(), prefixes=(prefix,)
    )
    assert [item.kind for item in clean(work, is_dry=True).removed] == ["unfinished environment"]
    assert prefix.exists()
    clean(work, is_dry=False)
    assert not prefix.exists()


@pytest.mark.parametrize("case", ["finished", "foreign", "held"])
def test_environments_that_are_whole_or_in_use_or_not_ours_stay(places: Places, prefix: Path, case: str) -> None:
    if case != "finished":
        at_step(prefix, "planned", created=case == "held")
    work = Places(
        packages=places.caches, caches=places.caches, temporary=places.temporary, projects=(), prefixes=(prefix,)
    )
    before = tree(prefix)
    if case == "held":
        with lock_prefix(prefix):
            done = clean(work, is_dry=False)
    else:
        done = clean(work, is_dry=False)
    assert done.removed == ()
    assert len(done.kept) == (0 if case == "finished" else 1)
    assert tree(prefix) == before


def leftovers(places: Places, project: Path) -> list[Path]:
    folders = [places.temporary / "envforge-lock-abc", project / ".digits.envforge-xyz"]
    for folder in folders:
        (folder / "new").mkdir(parents=True)
        (folder / "new" / "file").write_text("left")
    return folders


def test_leftovers_are_removed_an_hour_after_their_last_change(places: Places, tmp_path: Path) -> None:
    folders = leftovers(places, tmp_path)
    (places.temporary / "envforge-of-another-kind").mkdir()
    work = Places(
        packages=places.caches, caches=places.caches, temporary=places.temporary, projects=(tmp_path,), prefixes=()
    )
    changed_s = folders[0].stat().st_mtime
    assert clean(work, is_dry=False, now_s=changed_s + HOUR_S - 60).removed == ()
    assert {item.path for item in clean(work, is_dry=False, now_s=changed_s + HOUR_S + 60).removed} == set(folders)
    assert not any(folder.exists() for folder in folders)
    assert [path.name for path in places.temporary.iterdir()] == ["envforge-of-another-kind"]


def test_nothing_of_a_lock_that_is_being_made_is_removed(places: Places) -> None:
    folder = places.temporary / "envforge-lock-abc"
    folder.mkdir()
    (places.caches / "repodata").mkdir(parents=True)
    (places.caches / "running").mkdir()
    late_s = folder.stat().st_mtime + 2 * HOUR_S
    with FileLock(places.caches / "running" / "x.lock"):
        done = clean(places, is_dry=False, now_s=late_s)
    assert (done.removed, {item.path.name for item in done.kept}) == ((), {"envforge-lock-abc", "repodata"})
    assert len(clean(places, is_dry=False, now_s=late_s).removed) == 2


def test_command_says_sizes_and_json_says_bytes(user: User, prefix: Path, tmp_path: Path) -> None:
    cache = tmp_path / "made" / "cache"
    dry = user.envforge("clean", "--dry-run", "--cache", str(cache))
    assert (dry.returncode, dry.stderr) == (0, "")
    assert dry.stdout.startswith("would remove ")
    assert f"package cache           {cache}/pkgs\n" in dry.stdout
    document = json.loads(user.envforge("clean", "--json", "--cache", str(cache)).stdout)["result"]
    assert document["dry_run"] is False
    assert {Path(item["path"]).name for item in document["removed"]} == {"files", "pkgs"}
    assert user.envforge("clean", "--cache", str(cache)).stdout == "nothing to remove\n"


def test_install_after_a_clean_works_from_the_servers(places: Places, prefix: Path, tmp_path: Path) -> None:
    clean(places, is_dry=False)
    assert tree(install(tmp_path / "made", tmp_path / "second" / ".conda", hello())) != {}
