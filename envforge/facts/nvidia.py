"""Read the driver of each CUDA toolkit from NVIDIA's list of redistributable packages.

The directory has one ``redistrib_VERSION.json`` for each release of the toolkit. Its ``nvidia_driver`` is the driver
that comes with the toolkit on Linux. There is no such file for Windows, where the branch has the same number.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterator
from typing import Annotated

from msgspec import Struct
from packaging.version import Version

from envforge.base.documents import Document, matching
from envforge.base.urls import show_url
from envforge.errors import OutsideError
from envforge.lock.pages import Downloads, IndexFile
from envforge.pytorch.facts_file import ToolkitRow

REDIST = "https://developer.download.nvidia.com/compute/cuda"
_MANIFEST = re.compile(r"redistrib_(\d{1,2}\.\d)\.(\d{1,2})\.json")
_LARGEST = 4_000_000  # bytes of a manifest; real ones have 60,000


class _ToolkitDriver(Struct, frozen=True, kw_only=True):
    version: Annotated[str, matching(r"\d{3,4}(\.\d{1,3}){1,2}", "a driver version such as `580.65.06`")]


class _Redistrib(Struct, frozen=True, kw_only=True):
    nvidia_driver: _ToolkitDriver | None = None


def read_toolkits(downloads: Downloads, known: Collection[str], today: dt.date) -> Iterator[ToolkitRow]:
    """Yield the toolkits that ``known`` lacks, oldest first; raise ``EnvforgeError`` if the list can't be read."""
    page = downloads.page(REDIST, "redist")
    if page.status != 200:
        raise OutsideError(f"`{show_url(page.url)}` returned HTTP {page.status}", code="http-status")
    first: dict[str, tuple[int, IndexFile]] = {}
    for file in page.files:
        match = _MANIFEST.fullmatch(file.file_name)
        # the first release of a toolkit has the oldest driver that supports all of it
        if match is not None and (match[1] not in first or int(match[2]) < first[match[1]][0]):
            first[match[1]] = int(match[2]), file
    for cuda in sorted(first.keys() - set(known), key=Version):
        row = _row(downloads, cuda, first[cuda][1], today)
        if row is not None:
            yield row


def _row(downloads: Downloads, cuda: str, file: IndexFile, today: dt.date) -> ToolkitRow | None:
    document = Document(
        damaged=f"the list of packages `{show_url(file.url)}` is invalid", error=OutsideError, code="bad-redistrib"
    )
    driver = document.read_json(downloads.small(file, _LARGEST), _Redistrib).nvidia_driver
    if driver is None:
        return None
    return ToolkitRow(
        cuda=cuda, linux=driver.version, windows=driver.version.split(".")[0], source=show_url(file.url), checked=today
    )
