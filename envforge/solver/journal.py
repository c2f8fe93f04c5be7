"""Record the packages of each solve as a JSON file in the directory ``ENVFORGE_SOLVE_RECORDS``.

``envforge.lock.solved`` reads it to find which packages conda provides. Files are written atomically.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from envforge.errors import OutsideError
from envforge.solver.channels import hide
from envforge.solver.records import Record

VARIABLE = "ENVFORGE_SOLVE_RECORDS"


def write(folder: Path, platform: str, specs: tuple[str, ...], records: tuple[Record, ...]) -> Path:
    """Write ``PLATFORM-DIGEST.json`` into ``folder`` and return its path; the same solve writes the same file."""
    document = {
        "version": 1,
        "platform": platform,
        "specs": [hide(spec) for spec in specs],
        "packages": [_package(record) for record in sorted(records, key=lambda record: record.name)],
    }
    text = json.dumps(document, indent=1) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"{platform}-{digest}.json"
    try:
        _write(path, text)
    except OSError as error:
        raise OutsideError(f"cannot write the record of the solve `{path}`: {error}", code="disk") from error
    return path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _package(record: Record) -> dict[str, object]:
    return {
        "name": record.name,
        "version": record.version,
        "build": record.build,
        "url": hide(record.url),
        "sha256": record.sha256,
        "md5": record.md5,
        "depends": list(record.depends),
        "size": record.size,
        "timestamp": record.indexed_timestamp or record.timestamp,
        "noarch": record.noarch,
    }
