"""Entries without a signature of the configured key, or signed as something else, are rejected."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from envforge.base.data_files import user_file
from envforge.catalogue.address import parse_address
from envforge.catalogue.directory import lock_text, open_catalogue
from envforge.catalogue.index import chosen_catalogue, list_entries
from envforge.catalogue.signing import Signer, index_bytes, key_id
from envforge.cli import main
from envforge.errors import EnvforgeError, RequestError
from tests.catalogue.support import project

minisign = pytest.importorskip("minisign", reason="py-minisign (the extra `sign`) is not installed")

NAME = "demo/cpu-linux-64"


class Keys:
    """A key pair in files, as ``minisign -G`` writes them."""

    def __init__(self, folder: Path, name: str, password: str | None = None) -> None:
        pair = minisign.KeyPair.generate()
        self.public_text = pair.public_key.to_base64().decode()
        self.public, self.secret = folder / f"{name}.pub", folder / f"{name}.key"
        self.public.write_bytes(bytes(pair.public_key))
        if password is not None:
            pair.secret_key.encrypt(password, opslimit=1 << 15, memlimit=1 << 24)
        self.secret.write_bytes(bytes(pair.secret_key))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("ENVFORGE_CATALOGUE", str(tmp_path / "catalogue"))
    folder = project(tmp_path / "demo")
    monkeypatch.chdir(folder)
    return folder


def _pull(keys: Keys) -> int:
    return main(["lockfiles", "pull", NAME, "-o", "pulled.yml", "--public-key", str(keys.public)])


def test_a_signed_lock_is_pulled_by_who_has_the_public_key(home: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path, "team")
    assert main(["lockfiles", "publish", "--sign", str(keys.secret)]) == 0
    assert _pull(keys) == 0
    assert (home / "pulled.yml").read_bytes() == (home / "conda-lock.yml").read_bytes()
    assert main(["lockfiles", "verify", "--public-key", keys.public_text]) == 0


def test_a_lock_signed_by_another_key_or_by_none_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, others = Keys(tmp_path, "team"), Keys(tmp_path, "others")
    assert main(["lockfiles", "publish", "--name", "demo/bare"]) == 0
    assert main(["lockfiles", "publish", "--sign", str(others.secret)]) == 0
    assert _pull(keys) == 1
    assert not (home / "pulled.yml").exists()
    wanted, found = key_id(keys.public_text), key_id(others.public_text)
    said = f"cannot verify `index.json`: expected a signature by the key `{wanted}`, found one by `{found}`: "
    assert said in capsys.readouterr().err
    assert main(["lockfiles", "verify", "--public-key", keys.public_text]) == 1
    capsys.readouterr()
    assert main(["lockfiles", "pull", "demo/bare", "-o", "pulled.yml", "--public-key", others.public_text]) == 1
    assert (
        f"cannot verify the lockfile `demo/bare`: expected a signature by the key `{found}`, found none"
        in capsys.readouterr().err
    )
    assert main(["lockfiles", "verify", "--public-key", others.public_text]) == 1
    assert "1 of 2 lockfiles valid" in capsys.readouterr().out


def _lock_text(root: Path, public_key: str) -> str:
    """The only lock of a catalogue, with its own signature checked and not that of the index."""
    with open_catalogue(parse_address(str(root), root)) as source:
        return lock_text(source, list_entries(root)[0], public_key)


def _rewrite(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((root / "index.json").read_text(encoding="utf-8"))
    change(document)
    (root / "index.json").write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda index: index["entries"].clear(), "signature verification failed"),
        (lambda index: index["entries"][0]["requirements"].update(words="nothing"), "signature verification failed"),
        (lambda index: index["entries"][0]["published"].update(by="Mallory"), "signature verification failed"),
        (lambda index: index.pop("signature"), "found none"),
        (lambda index: index.update(signature=3), "found none"),
        (lambda index: index.update(signature="text"), "found one by `an unknown key`"),
    ],
    ids=["entries", "needs", "publisher", "stripped", "number", "text"],
)
def test_an_index_that_the_configured_key_has_not_signed_as_it_is_is_refused_by_all_that_read_it(
    home: Path, tmp_path: Path, change: Any, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, root = Keys(tmp_path, "team"), tmp_path / "catalogue"
    assert main(["lockfiles", "publish", "--sign", str(keys.secret)]) == 0
    _rewrite(root, change)
    (home / "envforge.toml").write_text(f'[catalogue]\naddress = "{root}"\npublic-key = "{keys.public_text}"\n')
    capsys.readouterr()
    for words in (["list"], ["show", NAME], ["pull", NAME, "-o", "pulled.yml"], ["verify"]):
        assert main(["lockfiles", *words]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert "cannot verify `index.json`: expected a signature by the key" in said.err
        assert reason in said.err
    assert not (home / "pulled.yml").exists()


def test_an_index_of_another_layout_is_the_same_index(home: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path, "team")
    assert main(["lockfiles", "publish", "--sign", str(keys.secret)]) == 0
    _rewrite(tmp_path / "catalogue", lambda index: None)
    assert _pull(keys) == 0


def test_who_publishes_into_a_signed_index_has_its_key_and_finds_it_as_it_was_left(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, others, root = Keys(tmp_path, "team"), Keys(tmp_path, "others"), tmp_path / "catalogue"
    assert main(["lockfiles", "publish", "--sign", str(keys.secret)]) == 0
    left = (root / "index.json").read_bytes()
    assert main(["lockfiles", "publish", "--name", "demo/two"]) == 1
    assert "hint: to sign the entry, run `envforge lockfiles publish --sign KEY`" in capsys.readouterr().err
    assert main(["lockfiles", "publish", "--name", "demo/two", "--sign", str(others.secret)]) == 1
    assert (root / "index.json").read_bytes() == left
    assert sorted(path.name for path in (root / "demo").iterdir()) == [
        "cpu-linux-64.conda-lock.yml",
        "cpu-linux-64.conda-lock.yml.minisig",
    ]
    assert main(["lockfiles", "publish", "--name", "demo/two", "--sign", str(keys.secret)]) == 0
    assert main(["lockfiles", "verify", "--public-key", keys.public_text]) == 0


def test_a_publisher_does_not_sign_an_index_whose_signature_is_gone_or_whose_rows_were_changed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, root = Keys(tmp_path, "team"), tmp_path / "catalogue"
    publish = ["lockfiles", "publish", "--name", "demo/two", "--sign", str(keys.secret)]
    assert main(["lockfiles", "publish", "--sign", str(keys.secret)]) == 0
    left = (root / "index.json").read_bytes()
    _rewrite(root, lambda index: index.pop("signature"))
    assert main(publish) == 1
    assert "its own signature is missing" in capsys.readouterr().err
    (root / "index.json").write_bytes(left)
    _rewrite(root, lambda index: index["entries"][0]["requirements"].update(words="nothing"))
    assert main(publish) == 1
    assert "signature verification failed" in capsys.readouterr().err


def test_a_publisher_with_another_key_than_the_catalogues_is_stopped(home: Path, tmp_path: Path) -> None:
    keys, others, root = Keys(tmp_path, "team"), Keys(tmp_path, "others"), tmp_path / "catalogue"
    (home / "envforge.toml").write_text(f'[catalogue]\naddress = "{root}"\npublic-key = "{keys.public_text}"\n')
    assert main(["lockfiles", "publish", "--sign", str(others.secret)]) == 2
    assert not root.exists()
    assert main(["lockfiles", "publish", "--sign", str(keys.secret)]) == 0


def test_a_signed_lock_that_is_shown_as_another_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, root = Keys(tmp_path, "team"), tmp_path / "catalogue"
    assert main(["lockfiles", "publish", "--sign", str(keys.secret), "--name", "demo/old"]) == 0
    for end in ("", ".minisig"):
        shutil.copy(root / f"demo/old.conda-lock.yml{end}", root / f"{NAME}.conda-lock.yml{end}")
    document = json.loads((root / "index.json").read_text())
    document["entries"][0]["file"] = f"{NAME}.conda-lock.yml"
    (root / "index.json").write_text(json.dumps(document))
    assert _pull(keys) == 1
    assert "cannot verify `index.json`" in capsys.readouterr().err
    with pytest.raises(EnvforgeError, match=r"found one of `file:demo/old\.conda-lock\.yml"):
        _lock_text(root, keys.public_text)


def test_a_changed_lock_with_a_fitting_index_is_refused(home: Path, tmp_path: Path) -> None:
    import hashlib

    keys, root = Keys(tmp_path, "team"), tmp_path / "catalogue"
    assert main(["lockfiles", "publish", "--sign", str(keys.secret)]) == 0
    stored = root / f"{NAME}.conda-lock.yml"
    stored.write_bytes(stored.read_bytes() + b"# evil\n")
    document = json.loads((root / "index.json").read_text())
    document["entries"][0]["sha256"] = hashlib.sha256(stored.read_bytes()).hexdigest()
    (root / "index.json").write_text(json.dumps(document))
    assert _pull(keys) == 1
    assert not (home / "pulled.yml").exists()
    with pytest.raises(EnvforgeError, match=f"cannot verify the lockfile `{re.escape(NAME)}`: expected a signature"):
        _lock_text(root, keys.public_text)


def test_the_key_of_the_settings_counts_for_its_own_catalogue(home: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path, "team")
    assert main(["lockfiles", "publish"]) == 0
    (home / "envforge.toml").write_text(
        f'[catalogue]\naddress = "{tmp_path}/catalogue"\npublic-key = "{keys.public_text}"\n'
    )
    assert main(["lockfiles", "pull", NAME, "-o", "pulled.yml"]) == 1


@pytest.mark.parametrize(
    "spelling",
    ["../catalogue", "{root}/", "{root}/../catalogue", "file://{root}", "file://localhost{root}/", "{root}/../link",
     "file://{parent}/c%61talogue", "git+file://{root}/.git/.."],
)  # fmt: skip
@pytest.mark.parametrize("source", ["option", "variable", "project"])
def test_key_applies_to_every_spelling_of_its_catalogue(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str, source: str
) -> None:
    keys, root = Keys(tmp_path, "team"), tmp_path / "catalogue"
    assert main(["lockfiles", "publish"]) == 0
    (tmp_path / "link").symlink_to(root)
    _configure(user_file(), root, keys)
    address = spelling.format(root=root, parent=tmp_path)
    monkeypatch.setenv("ENVFORGE_CATALOGUE", address if source == "variable" else "")
    if source == "project":  # without a key, it doesn't disable the one of the user
        (home / "envforge.toml").write_text(f'[catalogue]\naddress = "{address}"\n')

    chosen = chosen_catalogue(address if source == "option" else None, home, os.environ)
    assert chosen is not None
    assert chosen.public_key == keys.public_text
    option = ["--catalogue", address] if source == "option" else []
    assert main(["lockfiles", "pull", NAME, "-o", "pulled.yml", *option]) != 0
    assert not (home / "pulled.yml").exists()


@pytest.mark.parametrize(
    ("configured", "spelling"),
    [
        ("https://host.example/locks", "HTTPS://user:pw@HOST.example.:443//team/../locks/"),
        ("https://host.example/locks", "http://host.example/lock%73"),
        ("https://xn--hst-sna.example/locks", "https://h\u00f6st.example/locks"),
        ("git+https://host.example/team/locks.git@main", "git+ssh://git@host.example/team/locks"),
        (
            "git+https://host.example/team/locks.git#subdirectory=a",
            "git+http://host.example/Team/locks@v1#subdirectory=a",
        ),
        ("gs://bucket/locks", "gcs://bucket/locks/"),
        ("ssh://host.example/locks", "sftp://host.example/locks"),
        ("abfs://box/locks", "abfss://box/locks"),
        ("http://[::1]:8971/locks", "http://[0:0::1]:8971/locks"),
        ("http://127.0.0.77/locks", "http://[::ffff:127.0.0.77]/locks"),
        ("http://127.0.0.77/locks", "http://[::ffff:7f00:4d]/locks"),
        ("/abs/locks", "git+file:///abs#subdirectory=locks"),
        ("az://team/locks", "abfss://team@account.dfs.core.windows.net/locks"),
        ("sftp://host.example/locks", "ssh://me@host.example/locks"),
        ("https://[::1]/locks", "https://[0:0:0:0:0:0:0:1]/locks"),
        ("https://10.0.0.1/locks", "https://[::ffff:a00:1]/locks"),
    ],
)
def test_place_is_the_same_for_every_spelling_of_a_url(tmp_path: Path, configured: str, spelling: str) -> None:
    assert parse_address(configured, tmp_path).place == parse_address(spelling, tmp_path).place


@pytest.mark.parametrize(
    "text",
    ["https://2130706433/locks", "https://0x7f.1/locks", "https://host/locks?x", "https://host/locks#x", "local:///locks",
     "simplecache::s3://bucket/locks", "zip://x/y::file:///locks.zip", "git+https://host/x?y", "http://[::1",
     "git+http://[::1", "https://h/\ud800", "http://127.0.0.77\\/../locks", "http://127.0.0.7%37/locks",
     "http://localhos%74/locks", "http://\uff11\uff12\uff17.1/x", "http://[fe80::1%25eth0]/locks", "http://[v1.x]/locks",
     "git+ssh://h\\x/y"],
)  # fmt: skip
def test_ambiguous_address_is_rejected(tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_address(text, tmp_path)
    assert caught.value.code == "bad-catalogue-address"


def test_two_keys_for_one_catalogue_are_rejected(home: Path, tmp_path: Path) -> None:
    _configure(user_file(), tmp_path / "catalogue", Keys(tmp_path, "team"))
    _configure(home / "envforge.toml", tmp_path / "catalogue", Keys(tmp_path, "other"))
    with pytest.raises(RequestError, match="have different keys"):
        chosen_catalogue("../catalogue", home, {})


def test_key_without_an_address_is_rejected(home: Path) -> None:
    (home / "envforge.toml").write_text('[catalogue]\npublic-key = "RW"\n')
    with pytest.raises(EnvforgeError, match="expected `address`"):
        chosen_catalogue(None, home, {})


def test_older_index_of_a_signed_catalogue_is_rejected(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, root = Keys(tmp_path, "team"), tmp_path / "catalogue"
    assert main(["lockfiles", "publish", "--sign", str(keys.secret)]) == 0
    older = (root / "index.json").read_bytes()
    assert main(["lockfiles", "publish", "--sign", str(keys.secret), "--name", "demo/newer"]) == 0
    assert _pull(keys) == 0

    (root / "index.json").write_bytes(older)
    assert _pull(keys) == 1
    said = capsys.readouterr().err
    assert "is older than the last one read here: expected serial 2 or newer, found 1" in said
    assert _pull(Keys(tmp_path, "another")) == 1
    (record,) = (tmp_path / "data" / "envforge" / "catalogues").iterdir()
    record.unlink()
    assert _pull(keys) == 0


def _configure(path: Path, root: Path, keys: Keys) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'[catalogue]\naddress = "{root}"\npublic-key = "{keys.public_text}"\n')


def test_an_encrypted_key_asks_for_its_password(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(tmp_path, "team", password="correct horse")
    monkeypatch.setenv("ENVFORGE_SIGNING_PASSWORD", "wrong")
    assert main(["lockfiles", "publish", "--sign", str(keys.secret)]) == 2
    monkeypatch.setenv("ENVFORGE_SIGNING_PASSWORD", "correct horse")
    assert main(["lockfiles", "publish", "--sign", str(keys.secret)]) == 0
    assert _pull(keys) == 0


@pytest.mark.skipif(shutil.which("minisign") is None, reason="the program minisign is not installed")
def test_the_program_minisign_verifies_our_signature(home: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path, "team")
    assert main(["lockfiles", "publish", "--sign", str(keys.secret)]) == 0
    stored = tmp_path / "catalogue" / f"{NAME}.conda-lock.yml"
    subprocess.run(["minisign", "-V", "-P", keys.public_text, "-m", stored], check=True)


@pytest.fixture
def team(home: Path, tmp_path: Path) -> Keys:
    """The configured key of a catalogue with two publications, of which this computer has read both."""
    keys = Keys(tmp_path, "team")
    _configure(user_file(), tmp_path / "catalogue", keys)
    for name in ("demo/a", "demo/b"):
        assert main(["lockfiles", "publish", "--name", name, "--sign", str(keys.secret)]) == 0
        shutil.copytree(tmp_path / "catalogue", tmp_path / name.replace("/", "-"))
    assert main(["lockfiles", "list"]) == 0
    return keys


def _replace(tmp_path: Path, other: Path | None) -> None:
    shutil.rmtree(tmp_path / "catalogue")
    if other is not None:
        shutil.copytree(other, tmp_path / "catalogue")


def _published(keys: Keys, name: str, *more: str) -> int:
    return main(["lockfiles", "publish", "--name", name, "--sign", str(keys.secret), *more])


@pytest.mark.parametrize("is_configured", [True, False])
@pytest.mark.parametrize("state", ["older", "unsigned", "gone"])
def test_publisher_does_not_extend_an_older_index(
    tmp_path: Path, team: Keys, capsys: pytest.CaptureFixture[str], state: str, is_configured: bool
) -> None:
    _replace(tmp_path, None if state == "gone" else tmp_path / "demo-a")
    if state == "unsigned":
        _rewrite(tmp_path / "catalogue", lambda index: (index.pop("signature"), index["entries"].clear()))
    if not is_configured:
        user_file().unlink()
    before = _files(tmp_path / "catalogue")
    assert _published(team, "demo/c") == 1
    said = capsys.readouterr().err
    is_older = state != "unsigned" or not is_configured
    assert ("is older than the last one read here" if is_older else "found none") in said
    assert _files(tmp_path / "catalogue") == before


def _files(root: Path) -> dict[str, bytes]:
    found = [path for path in root.rglob("*") if path.is_file() and path.name != ".index.lock"]
    return {str(path): path.read_bytes() for path in found}


def test_publisher_remembers_what_was_published(tmp_path: Path, team: Keys) -> None:
    assert _published(team, "demo/c") == 0
    _replace(tmp_path, tmp_path / "demo-b")
    assert main(["lockfiles", "list"]) == 1


def test_other_index_with_the_same_serial_is_rejected(
    tmp_path: Path, team: Keys, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _published(team, "demo/c") == 0
    _replace(tmp_path, tmp_path / "demo-b")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "other computer"))
    assert _published(team, "demo/d") == 0
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    capsys.readouterr()
    for words in (["list"], ["publish", "--name", "demo/e", "--sign", str(team.secret)]):
        assert main(["lockfiles", *words]) == 1
        assert "differs from the last one read here, which has the same serial 3" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["index", "no index"])
def test_unsigned_entry_is_not_added_to_a_catalogue_with_a_key(
    tmp_path: Path, team: Keys, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    _replace(tmp_path, tmp_path / "demo-b" if content == "index" else None)
    if content == "index":
        _rewrite(tmp_path / "catalogue", lambda index: index.pop("signature"))
    before = _files(tmp_path / "catalogue")
    assert main(["lockfiles", "publish", "--name", "demo/c"]) == 1
    assert "a new entry must be signed, too" in capsys.readouterr().err
    assert _files(tmp_path / "catalogue") == before


def test_index_of_another_catalogue_with_the_same_key_is_rejected(
    tmp_path: Path, team: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    staging = tmp_path / "staging"
    for name in ("demo/x", "demo/y", "demo/z"):
        assert _published(team, name, "--catalogue", str(staging)) == 0
    _replace(tmp_path, staging)
    capsys.readouterr()
    for words in (["list"], ["pull", "demo/z", "-o", "z.yml"], ["publish", "--name", "a", "--sign", str(team.secret)]):
        assert main(["lockfiles", *words]) == 1
        assert "is the one of another catalogue: expected the ID" in capsys.readouterr().err


def test_catalogue_that_was_signed_without_an_id_gets_one(tmp_path: Path, team: Keys) -> None:
    """Such an index is read, too, until the computer has read one with an ID."""
    signer = Signer(secret_key=team.secret.read_bytes(), password="")
    root = tmp_path / "catalogue"

    def sign_without_id(index: dict[str, Any]) -> None:
        for name in ("id", "signature"):
            index.pop(name)
        index["serial"] += 1
        index["signature"] = signer.sign(index_bytes(index), "file:index.json")[0].decode()

    shutil.rmtree(tmp_path / "data")
    _rewrite(root, sign_without_id)
    assert main(["lockfiles", "list"]) == 0
    assert _published(team, "demo/c") == 0
    assert main(["lockfiles", "list"]) == 0
    assert re.fullmatch("[0-9a-f]{32}", json.loads((root / "index.json").read_text())["id"])
    _rewrite(root, sign_without_id)
    assert main(["lockfiles", "list"]) == 1
