"""Join conda-lock's documents of all platforms into one conda-lock.yml with public URLs.

The same packages always produce the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

INPUT_SHA256 = "envforge_input_sha256"
EXCLUDE_NEWER = "envforge_exclude_newer"
_HEADER = """\
# Made by envforge with conda-lock (https://github.com/conda/conda-lock). Do not edit: change environment.yml, then run
#     envforge lock
# Every package of every platform with its address and sha256. To make the environment NAME from it:
#     micromamba create -n NAME -f {name}
#     conda-lock install -n NAME {name}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """The public URL and the checked SHA-256 of a wheel that conda-lock selected."""

    url: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The metadata of a lockfile."""

    content_hash: tuple[tuple[str, str], ...]
    channels: Sequence[Any]
    platforms: tuple[str, ...]
    source: str
    input_sha256: str
    exclude_newer: str | None = None


def load(path: Path) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the channels and the packages that conda-lock wrote for one platform."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - a safe loader in either case
    return document["metadata"]["channels"], list(document["package"])


def with_public_addresses(
    rows: Sequence[Mapping[str, Any]], resolve: Callable[[str], Resolved | None]
) -> list[dict[str, Any]]:
    """Replace each loopback URL with the public URL; ``resolve`` returns ``None`` for other URLs."""
    found = []
    for row in rows:
        resolved = resolve(row["url"])
        if resolved is None:
            found.append(dict(row))
        else:
            found.append({**row, "url": resolved.url, "hash": {"sha256": resolved.sha256}})
    return found


def render(frame: Frame, rows: Sequence[Mapping[str, Any]], lockfile_name: str) -> str:
    """Return the text of the lockfile, in conda-lock's format v1 and order."""
    custom = {INPUT_SHA256: frame.input_sha256}
    if frame.exclude_newer is not None:
        custom[EXCLUDE_NEWER] = frame.exclude_newer
    document = {
        "version": 1,
        "metadata": {
            "content_hash": dict(sorted(frame.content_hash)),
            "channels": list(frame.channels),
            "platforms": list(frame.platforms),
            "sources": [frame.source],
            "custom_metadata": custom,
        },
        "package": sorted(rows, key=lambda row: (row["manager"], row["name"], row["platform"])),
    }
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    # 4096: a line is never folded, so a diff shows each URL as one line
    body = yaml.dump(document, Dumper=dumper, sort_keys=False, width=4096, allow_unicode=True)
    return _HEADER.format(name=lockfile_name) + body
