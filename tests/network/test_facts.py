"""The public servers have the pages, wheels, and manifests that ``envforge facts refresh`` reads."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest

from envforge.facts.nvidia import read_toolkits
from envforge.facts.refresh import Refreshed, RefreshRequest, refresh
from envforge.facts.releases import find_builds
from envforge.facts.wheel import read_wheel
from envforge.lock.pages import Downloads
from envforge.lock.python_index import configured_index
from envforge.pytorch.facts_file import dump_facts, key_of, parse_facts
from envforge.pytorch.matrix import PYTORCH_INDEX, built_in_matrix

MATRIX = built_in_matrix()
TODAY = dt.datetime.now(dt.timezone.utc).date()


@pytest.fixture(scope="module")
def refreshed(downloads: Downloads) -> Refreshed:
    request = RefreshRequest(
        matrix=MATRIX,
        torch_index=PYTORCH_INDEX,
        registry=configured_index({}, Path("nowhere"), Path("nowhere")).simple_url,
        today=TODAY,
        before=None,
        team=None,
    )
    return refresh(request, downloads, lambda text: None)


def test_every_source_is_read(refreshed: Refreshed) -> None:
    assert refreshed.unread == []
    assert len(refreshed.read) == 3


def test_public_facts_are_a_valid_file(refreshed: Refreshed) -> None:
    facts, _ = parse_facts(dump_facts(refreshed.facts), "public facts")
    assert facts == refreshed.facts


def test_kernels_of_every_new_build_are_read(refreshed: Refreshed) -> None:
    unread = [row.key for row in refreshed.facts.builds if row.tag != "cpu" and row.kernels_source is None]
    assert unread == []


def test_no_public_fact_contradicts_a_pinned_row(refreshed: Refreshed) -> None:
    assert refreshed.rejected == []


def test_kernels_in_a_wheel_are_those_of_the_table(downloads: Downloads) -> None:
    builds = {key_of(b): b for b in MATRIX.builds if b.capabilities_stated and b.confirmed}
    for platform in ("linux-64", "win-64"):
        page = downloads.page(PYTORCH_INDEX, "torch")
        known = [each for each in find_builds(page.files, (platform,)) if each.tag != "cpu" and each.key in builds]
        newest = known[-1]
        read = read_wheel(downloads, newest.sample.file, kernels=True)
        assert set(read.capabilities) == set(builds[newest.key].capabilities), newest.key


def test_list_of_toolkits_has_every_toolkit_of_the_table(downloads: Downloads) -> None:
    found = {row.cuda: row for row in read_toolkits(downloads, (), TODAY)}
    newest = [str(row.cuda) for row in MATRIX.toolkits[-5:]]
    assert [cuda for cuda in newest if cuda not in found] == []
    assert all(re.fullmatch(r"\d+(\.\d+)+", row.linux) for row in found.values())
