"""A catalogue in an object store: moto's S3 server on loopback, accessed through s3fs as a bucket would be."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from envforge.catalogue.address import parse_address
from envforge.catalogue.directory import Addition, open_catalogue, opened_to_publish
from envforge.catalogue.index import list_entries
from envforge.cli import main
from tests.catalogue.support import addition, project

for name in ("moto", "flask", "flask_cors", "s3fs"):
    pytest.importorskip(name, reason=f"{name} (the extra `s3test`) is not installed")

BUCKET = "s3://locks/team"
NAME = "demo/cpu-linux-64"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server with an empty account."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = importlib.import_module("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    yield f"http://{host}:{port}"
    made.stop()


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The store as s3fs sees it, with one empty bucket; envforge finds it by the variables that every S3 tool reads."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "ada",
        "AWS_SECRET_ACCESS_KEY": "s3cret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "ENVFORGE_CATALOGUE": BUCKET,
    }.items():
        monkeypatch.setenv(name, value)
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    s3fs = importlib.import_module("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(use_listings_cache=False)
    files.mkdir("locks")
    yield files
    files.rm("locks", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = project(tmp_path / "demo")
    monkeypatch.chdir(folder)
    return folder


def test_what_one_publishes_into_a_bucket_another_lists_verifies_and_pulls(
    store: Any, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lockfiles", "publish", "--publisher", "Ada"]) == 0
    assert sorted(path for path in store.find("locks")) == [
        f"locks/team/{NAME}.conda-lock.yml",
        "locks/team/index.json",
    ]
    capsys.readouterr()
    assert main(["lockfiles", "list"]) == 0
    assert f"  {NAME}  torch " in capsys.readouterr().out
    assert main(["lockfiles", "verify"]) == 0
    assert main(["lockfiles", "pull", NAME, "-o", "pulled.yml"]) == 0
    assert (home / "pulled.yml").read_bytes() == (home / "conda-lock.yml").read_bytes()
    assert main(["lockfiles", "publish", "--publisher", "Grace"]) == 0
    assert "already has this" in capsys.readouterr().out


def test_publishers_into_a_bucket_at_the_same_time_lose_no_entry(store: Any, home: Path, tmp_path: Path) -> None:
    names = [f"demo/lock-{number}" for number in range(4)]
    address = parse_address(BUCKET, tmp_path)

    def publish(one: Addition) -> bool:
        with opened_to_publish(address) as catalogue:
            return catalogue.publish(one)

    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(publish, [addition(home, name) for name in names])) == [True] * len(names)
    with open_catalogue(address) as catalogue:
        assert sorted(entry.name for entry in list_entries(catalogue.root)) == names
    assert not store.exists("locks/team/.index.lock")


def test_a_changed_object_is_not_pulled_and_verify_names_it(
    store: Any, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lockfiles", "publish"]) == 0
    path = f"locks/team/{NAME}.conda-lock.yml"
    store.pipe_file(path, store.cat_file(path) + b"# evil\n")
    assert main(["lockfiles", "pull", NAME, "-o", "pulled.yml"]) == 1
    assert not (home / "pulled.yml").exists()
    assert main(["lockfiles", "verify"]) == 1
    assert "0 of 1 lockfile valid" in capsys.readouterr().out


def test_a_bucket_that_is_not_there_is_told_without_the_keys(
    store: Any, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lockfiles", "list", "--catalogue", "s3://nowhere/team"]) == 3
    said = capsys.readouterr().err
    assert "failed to read `index.json` of the catalogue `s3://nowhere/team`" in said
    assert "s3cret-key" not in said
    assert main(["lockfiles", "list", "--catalogue", "s3://locks/empty"]) == 3
    assert "the object does not exist" in capsys.readouterr().err
