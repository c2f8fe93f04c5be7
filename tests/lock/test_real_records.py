"""Lock the image-classification environment with real records: 199 conda-forge packages, torch 2.7.1+cu118.

The records are next to the checkout, not in it. Without them, the test is skipped with a reason.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envforge.base.urls import Mirrors
from envforge.lock.lockfile import read_lockfile
from envforge.lock.locking import lock
from envforge.lock.request import LockRequest
from tests.lock.torchindex import PUBLIC, SHARED, TorchIndex, Wheel, metadata
from tests.support.loopback import Loopback

RECORDS = SHARED / "pytorch" / "cu118_torch-2.7.1_cp310_linux-64.json"
REQUIREMENTS = SHARED / "pytorch" / "pip_reports" / "torch-2.7.1.json"
CONDA = [
    "python 3.10.*", "filelock", "fsspec", "jinja2", "jupyterlab", "matplotlib-base", "networkx", "numpy", "pandas",
    "pillow", "pip", "scikit-learn", "setuptools", "sympy", "tqdm", "typing_extensions",
]  # fmt: skip


def real_index() -> TorchIndex:
    """Every wheel of the CUDA 11.8 build with its recorded address and hash. No bytes: none may be asked for."""
    rows = json.loads(RECORDS.read_text(encoding="utf-8"))
    report = json.loads(REQUIREMENTS.read_text(encoding="utf-8"))
    plain = next(one["metadata"] for one in report["install"] if one["metadata"]["name"] == "torch")
    on_linux = 'platform_system == "Linux" and platform_machine == "x86_64"'
    beside = [row for row in rows if row["package"] not in {"torch", "torchvision"}]
    needs = [text for text in plain["requires_dist"] if not text.startswith(("nvidia-", "triton"))]
    needs += [f"{row['package']}=={row['version']}; {on_linux}" for row in beside]
    requirements = {"torch": needs, "torchvision": ["numpy", "torch==2.7.1", "pillow!=8.3.*,>=5.3.0"]}
    index = TorchIndex()
    for row in rows:
        text = metadata(row["package"], row["version"], requirements.get(row["package"], []))
        one = Wheel(
            name=row["package"],
            version=row["version"],
            file_name=row["file"],
            metadata=text,
            stated_sha256=row["sha256"],
        )
        href = row["url"] if "/cu118/" not in row["url"] else None
        index.add("cu118", one, href=href)
        index.files[row["url"].removeprefix("https://download.pytorch.org") + ".metadata"] = text
    return index


@pytest.mark.skipif(not RECORDS.is_file(), reason=f"needs {RECORDS.name} and conda-forge's records beside the checkout")
def test_image_classification_locks_with_every_recorded_address_and_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lines = ["channels: [conda-forge]", "platforms: [linux-64]", "dependencies:", *(f'  - "{one}"' for one in CONDA)]
    lines += ["  - pip:", '      - "torch==2.7.1+cu118"', '      - "torchvision==0.22.1+cu118"']
    lines += ["pip-repositories:", f'  - "{PUBLIC}/cu118"', ""]
    environment, lockfile = tmp_path / "environment.yml", tmp_path / "conda-lock.yml"
    environment.write_text("\n".join(lines), encoding="utf-8")
    with Loopback(real_index().answer) as wheels, Loopback(SHARED) as conda:
        mirrors = Mirrors((("https://download.pytorch.org", wheels.url), ("https://conda.anaconda.org", conda.url)))
        report = lock(LockRequest(environment=environment, lockfile=lockfile, mirrors=mirrors))
    found = read_lockfile(lockfile)
    recorded = {row["package"]: (row["url"], row["sha256"]) for row in json.loads(RECORDS.read_text(encoding="utf-8"))}
    assert {p.name: (p.url, p.sha256) for p in found.for_platform("linux-64", "pip")} == recorded
    assert report.platforms[0].conda == 199
    public = "https://conda.anaconda.org/conda-forge/"
    assert [p.name for p in found.for_platform("linux-64", "conda") if not p.url.startswith(public)] == []
