"""Read the environment with conda-lock's own parser, then run conda-lock, in a process of its own.

The argument is a JSON file with ``environment``, ``platforms``, ``virtual_packages``, ``mapping``, ``specification``
(the file to write), and ``arguments`` (conda-lock's command line; without it, only the specification is written).
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any


def main(job_file: str) -> None:
    """Run the job that is described in ``job_file``."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    _write(Path(job["specification"]), _specification(job))
    if job.get("arguments"):
        from conda_lock.conda_lock import main as conda_lock  # noqa: PLC0415 - only a lock needs it, not a check

        sys.argv = ["conda-lock", *job["arguments"]]
        conda_lock()


def _specification(job: dict[str, Any]) -> dict[str, Any]:
    logging.getLogger("conda_lock").setLevel(logging.ERROR)
    from conda_lock.content_hash import compute_content_hashes  # noqa: PLC0415
    from conda_lock.src_parser import make_lock_spec  # noqa: PLC0415
    from conda_lock.virtual_package import virtual_package_repo_from_specification  # noqa: PLC0415

    specification = make_lock_spec(
        src_files=[Path(job["environment"])], platform_overrides=job["platforms"], mapping_url=job["mapping"]
    )
    virtual = virtual_package_repo_from_specification(Path(job["virtual_packages"]))
    return {
        "content_hash": compute_content_hashes(specification, virtual),
        "requests": {
            platform: [dependency.model_dump(mode="json") for dependency in dependencies]
            for platform, dependencies in specification.dependencies.items()
        },
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, default=str), encoding="utf-8")
