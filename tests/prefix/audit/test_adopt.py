"""Test prefixes of conda and mamba: the records that they write, and ``audit --adopt``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from envforge.cli import main
from envforge.prefix.install import install
from envforge.prefix.journal import read_journal
from envforge.prefix.values import InstallRequest
from tests.prefix.audit.support import Audited, edit
from tests.prefix.install.support import LockWriter, Noted, tree
from tests.support.channel import SITE_PACKAGES, SUBDIR, Channel


@pytest.fixture
def own_digest(audited: Audited) -> str:
    return audited.audit().digest


@pytest.fixture
def foreign(audited: Audited) -> Audited:
    """A prefix as conda leaves it: no records of envforge, and the paths of the archive in those of noarch packages."""
    shutil.rmtree(audited.prefix / ".envforge")
    record = next((audited.prefix / "conda-meta").glob("jinja2-*.json"))
    document = json.loads(record.read_text())
    for row in document["paths_data"]["paths"]:
        row["_path"] = row["_path"].replace(SITE_PACKAGES, "site-packages")
    record.write_text(json.dumps(document))
    return audited


@pytest.fixture
def from_pip(foreign: Audited, channel: Channel) -> Audited:
    """The same prefix, with wheels that pip installed, as `conda-lock install` does."""
    words = ["--python", str(foreign.prefix / "bin/python"), "install", "--no-deps", "--no-index", "--force-reinstall"]
    words += ["--disable-pip-version-check", "--break-system-packages", "--no-cache-dir"]
    subprocess.run([sys.executable, "-m", "pip", *words, *locked_wheels(channel)], check=True, capture_output=True)
    return foreign


def locked_wheels(channel: Channel) -> list[Path]:
    return [path for path in sorted((channel.folder / "wheels").glob("t*.whl")) if "-2.0" not in path.name]


def test_noarch_files_are_found_where_conda_links_them(foreign: Audited) -> None:
    report = foreign.audit(lockfile=foreign.lockfile)
    assert report.drift == ()
    edit(foreign.site / "jinja2" / "utils.py")
    (found,) = foreign.audit(lockfile=foreign.lockfile).drift
    assert (found.kind, found.path) == ("file-changed", f"{SITE_PACKAGES}/jinja2/utils.py")


def test_digest_does_not_depend_on_the_installer(own_digest: str, from_pip: Audited) -> None:
    assert "sys.argv[0] = re.sub" in (from_pip.prefix / "bin" / "tool").read_text()
    assert from_pip.audit(lockfile=from_pip.lockfile).digest == own_digest


def test_adopted_prefix_is_unchanged_and_then_managed(from_pip: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    before, prefix = tree(from_pip.prefix), str(from_pip.prefix)
    assert main(["audit", str(from_pip.lockfile), "--adopt", "--prefix", prefix]) == 0
    assert f"envforge manages {prefix} from now on; no file of it was changed\n" in capsys.readouterr().out
    assert tree(from_pip.prefix) == before
    assert from_pip.audit().drift == ()
    assert from_pip.place.install(from_pip.lockfile).outcome == "unchanged"
    assert main(["audit", "--adopt", "--prefix", prefix]) == 1
    assert "manages" in capsys.readouterr().err


def test_prefix_that_differs_is_not_adopted(foreign: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    edit(foreign.prefix / "share" / "greeting.txt")
    assert main(["audit", str(foreign.lockfile), "--adopt", "--prefix", str(foreign.prefix)]) == 1
    captured = capsys.readouterr()
    assert "`share/greeting.txt` of `greeting 1.0` differs" in captured.out
    assert f"envforge install {foreign.lockfile} --prefix {foreign.prefix} --force" in captured.err
    assert not (foreign.prefix / ".envforge").exists()


def test_files_of_an_adopted_package_leave_with_it(foreign: Audited, channel: Channel) -> None:
    assert main(["audit", str(foreign.lockfile), "--adopt", "--prefix", str(foreign.prefix)]) == 0
    names = ("python", "markupsafe", "binary", "greeting", "scripted")
    writer = LockWriter(foreign.base).conda(*(channel.packages[name] for name in names))
    smaller = writer.wheel(*locked_wheels(channel)).write(foreign.place.folder / "smaller.yml")
    request = InstallRequest(lockfile=smaller, prefix=foreign.prefix, platform=SUBDIR, cache=foreign.place.cache)
    assert install(request, Noted()).removed == ("jinja2",)
    assert list(foreign.site.glob("jinja2*")) == []
    journal = read_journal(foreign.prefix)
    assert journal is not None
    assert (journal.adopted, foreign.audit().drift) == (True, ())
