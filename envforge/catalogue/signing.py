"""Sign and verify lockfiles and catalogue indexes with minisign.

The trusted comment is signed too. It contains the entry of a lockfile and the hash of its input, so the signature isn't
valid for another entry.

The signature covers the index without that field, in the format of ``index_bytes``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib
import json
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from envforge.base.documents import Document, Natural, Sha256
from envforge.base.files import regular, write_atomic
from envforge.base.urls import hide_secrets
from envforge.catalogue.address import Address
from envforge.catalogue.index import INDEX_FILE, CatalogueEntry, CatalogueId, index_of, read_document, read_index
from envforge.errors import EnvforgeError, Hint, RequestError, printable

_KEY_LENGTH = 56
_KEY_HINT = "use the second line of the .pub file (56 characters that start with RW), or the path of the file"


class Signer(Struct, frozen=True, kw_only=True):
    """A minisign secret key and its password."""

    secret_key: bytes
    password: str | None

    def sign(self, data: bytes, comment: str) -> tuple[bytes, str]:
        """Return the signature in the format of ``minisign -S``, and the public key that verifies it."""
        minisign = _library()
        try:
            key = minisign.SecretKey.from_bytes(self.secret_key)
            with key:
                if key.is_encrypted():
                    key.decrypt(self.password or "")
                public = minisign.PublicKey.from_secret_key(key)
                signature = key.sign(data, trusted_comment=comment)
        except minisign.Error as error:
            raise RequestError(
                f"cannot use the secret key: {error}",
                hint=(
                    Hint("check the password, which is read from a prompt or from `ENVFORGE_SIGNING_PASSWORD`"),
                    Hint("to create a secret key", "minisign -G"),
                ),
                code="bad-secret-key",
            ) from error
        return bytes(signature) + b"\n", public.to_base64().decode()

    def public_key(self) -> str:
        """Return the public key that verifies the signatures."""
        return self.sign(b"", "")[1]

    def check_is(self, public_key: str) -> None:
        """Raise ``RequestError`` if this is not the secret key of ``public_key``."""
        found = self.public_key()
        if found != public_key:
            raise RequestError(
                f"`--sign` is not the key of this catalogue: expected `{key_id(public_key)}`, found `{key_id(found)}`",
                hint="to sign with that key, pass `--sign KEY`; to change the key of the catalogue, edit `public-key` "
                "below `[catalogue]` in the settings",
                code="other-key",
            )


def sign_lock(data: bytes, entry: CatalogueEntry, signer: Signer) -> tuple[bytes, str]:
    """Return the signature of a lockfile, and the ID of the key."""
    signature, public = signer.sign(data, _comment(entry))
    return signature, key_id(public)


def needs_password(secret_key: bytes) -> bool:
    """Return whether a secret key is encrypted; raise ``RequestError`` if it is invalid."""
    minisign = _library()
    try:
        return bool(minisign.SecretKey.from_bytes(secret_key).is_encrypted())
    except minisign.Error as error:
        raise RequestError(
            f"cannot read the secret key: {error}",
            hint="to create a secret key",
            command="minisign -G",
            code="bad-secret-key",
        ) from error


def verify_signature(entry: CatalogueEntry, data: bytes, public_key: str) -> None:
    """Raise ``EnvforgeError`` if a lockfile isn't signed with ``public_key``, or was signed as another entry."""
    what = f"the lockfile `{entry.name}`"
    if entry.signed_by is None:
        raise refused(what, f"expected a signature by the key `{key_id(public_key)}`, found none")
    try:
        signature = regular(entry.root / entry.signature).read_bytes()
    except OSError as error:
        raise refused(what, f"cannot read its signature: {error.strerror or error}") from error
    verify(what, Signed(data=data, comment=_comment(entry), signature=signature), public_key)


class Signed(Struct, frozen=True, kw_only=True):
    """Bytes with their signature, and the trusted comment that it must have."""

    data: bytes
    comment: str
    signature: bytes


def verify(what: str, signed: Signed, public_key: str) -> None:
    """Raise ``EnvforgeError`` if a signature isn't from ``public_key``, or signs something else."""
    minisign = _library()
    try:
        signature = minisign.Signature.from_bytes(signed.signature.rstrip(b"\n"))
        minisign.PublicKey.from_base64(public_key).verify(signed.data, signature)
    except minisign.Error as error:
        found = f"found one by `{_signer_id(signed.signature)}`: {error}"
        raise refused(what, f"expected a signature by the key `{key_id(public_key)}`, {found}") from error
    # a valid signature of another entry doesn't prove anything about this one
    if signature.trusted_comment != signed.comment:
        shown = printable(signature.trusted_comment)
        raise refused(what, f"expected a signature of `{signed.comment}`, found one of `{shown}`")


def key_id(public_key: str) -> str:
    """Return the ID of a public key, as minisign prints it; raise ``RequestError`` if the key is invalid."""
    try:
        raw = base64.b64decode(public_key, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _no_key(public_key) from error
    if len(raw) != 42 or not raw.startswith(b"Ed"):
        raise _no_key(public_key)
    return raw[2:10][::-1].hex().upper()


def _signer_id(signature: bytes) -> str:
    """Return the ID of the key that a signature names."""
    lines = signature.splitlines()
    try:
        raw = base64.b64decode(lines[1], validate=True)
    except (IndexError, binascii.Error, ValueError):
        return "an unknown key"
    return raw[2:10][::-1].hex().upper()


def read_public_key(text: str) -> str:
    """Return a public key given as text or as a ``.pub`` file."""
    path = Path(text)
    if not path.is_file():
        return text
    lines = [line.strip() for line in regular(path).read_bytes().split(b"\n") if line.strip()]
    key = lines[-1].decode("ascii", "replace") if lines else ""
    if len(key) != _KEY_LENGTH:
        raise EnvforgeError(
            f"`{path}` is not a minisign public key: expected {_KEY_LENGTH} characters in its last line, "
            f"found {len(key)}",
            hint=_KEY_HINT,
            code="bad-public-key",
        )
    return key


def _comment(entry: CatalogueEntry) -> str:
    return f"file:{entry.file} input_sha256:{entry.input_sha256}"


def _library() -> ModuleType:
    try:
        return importlib.import_module("minisign")
    except ImportError as error:
        from envforge.base.distribution import extra_command  # noqa: PLC0415 - only for hints

        raise EnvforgeError(
            "signatures require the Python package `py-minisign`, which is not installed",
            hint="to install it",
            command=extra_command("sign"),
            code="no-minisign",
        ) from error


def _no_key(text: str) -> RequestError:
    return RequestError(
        f"`{printable(hide_secrets(text))}` is not a minisign public key",
        hint=_KEY_HINT,
        code="bad-public-key",
    )


def refused(what: str, reason: str) -> EnvforgeError:
    """Return the error for a missing or invalid signature."""
    return EnvforgeError(
        f"cannot verify {what}: {reason}",
        hint="nothing was written; to sign it, ask its publisher to publish with the key",
        command="envforge lockfiles publish --sign KEY",
        code="bad-signature",
    )


FIELD = "signature"
_COMMENT = f"file:{INDEX_FILE}"


def index_bytes(document: Mapping[str, Any]) -> bytes:
    """Return the serialized index."""
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


class IndexState(Struct, frozen=True, kw_only=True):
    """What identifies the state of an index: its serial, its catalogue, and the SHA-256 of what is signed."""

    serial: Natural = 0
    id: CatalogueId | None = None
    sha256: Sha256 | None = None


def verify_index(root: Path, public_key: str) -> IndexState:
    """Return the state of an index; raise ``EnvforgeError`` unless the owner of ``public_key`` has signed it."""
    document = read_document(root)  # once, because it may change in between
    index = index_of(document, root)
    signature = document.pop(FIELD, None)
    what = f"`{INDEX_FILE}`"
    if not isinstance(signature, str):
        raise refused(what, f"expected a signature by the key `{key_id(public_key)}`, found none")
    data = index_bytes(document)
    verify(what, Signed(data=data, comment=_COMMENT, signature=signature.encode()), public_key)
    return IndexState(serial=index.serial, id=index.id, sha256=hashlib.sha256(data).hexdigest())


class _SeenIndex(IndexState, frozen=True, kw_only=True):
    """The newest index of a signed catalogue that this computer has read."""

    catalogue: str


def refuse_rollback(address: Address, public_key: str, state: IndexState, what: str = "index") -> None:
    """Raise ``EnvforgeError`` if an index is older than the last one that was read, else remember its state.

    The serial grows with each signed publication. Without it, whoever controls the server could present an old state of
    the catalogue, whose signature is valid, or another catalogue that the same key has signed. ``what`` names another
    signed file of the catalogue, with its own serial.
    """
    from platformdirs import user_data_path  # noqa: PLC0415 - only with a key

    # another key starts again, because the owner of the catalogue may have lost the old one
    suffix = "" if what == "index" else f"\n{what}"
    name = hashlib.sha256(f"{address.place}\n{public_key}{suffix}".encode()).hexdigest()[:24]
    path = user_data_path("envforge", appauthor=False) / "catalogues" / f"{name}.json"
    document = Document(
        damaged=f"the record `{path}` of a signed catalogue is invalid",
        error=EnvforgeError,
        code="catalogue-record-damaged",
        hint="to accept the current state of the catalogue",
        command=shlex.join(["rm", str(path)]),
    )
    seen = document.read_json(document.read_bytes(path), _SeenIndex) if path.exists() else None
    if seen is not None and (fault := _fault(seen, state)):
        raise EnvforgeError(
            f"the {what} of `{address.public}` {fault}",
            hint="ask the owner of the catalogue; if it was replaced on purpose",
            command=shlex.join(["rm", str(path)]),
            code="catalogue-rolled-back",
        )
    # without a serial, it was signed before envforge counted publications
    new = _SeenIndex(catalogue=address.public, serial=state.serial, id=state.id, sha256=state.sha256)
    if state.serial and new != seen:
        write_atomic(path, json.dumps(asdict(new), indent=1) + "\n")


def _fault(seen: IndexState, state: IndexState) -> str | None:
    """Return why an index can't follow the last one that was read, or None."""
    if state.serial < seen.serial:
        return f"is older than the last one read here: expected serial {seen.serial} or newer, found {state.serial}"
    if seen.id not in {None, state.id}:
        return f"is the one of another catalogue: expected the ID `{seen.id}`, found `{state.id or 'none'}`"
    if state.serial == seen.serial and seen.sha256 not in {None, state.sha256}:
        return (
            f"differs from the last one read here, which has the same serial {seen.serial}: expected SHA-256 "
            f"`{seen.sha256}`, found `{state.sha256}`"
        )
    return None


def check_index(address: Address, root: Path, public_key: str) -> IndexState:
    """Return the state of an index; raise ``EnvforgeError`` if it isn't signed, or older than the last one read."""
    state = verify_index(root, public_key)
    refuse_rollback(address, public_key, state)
    return state


def check_extensible(address: Address, root: Path, signer: Signer | None, public_key: str | None) -> IndexState:
    """Return the state of an index that gets one more row; raise ``EnvforgeError`` if a reader would reject it.

    A signature covers every row, so the current index must be the one that this key signed. ``public_key`` is the
    configured key of the catalogue.
    """
    is_there = (root / INDEX_FILE).exists()
    is_signed = is_there and FIELD in read_document(root)
    if signer is None:
        if is_signed or public_key is not None:
            raise EnvforgeError(
                "the index of this catalogue is signed, so a new entry must be signed, too",
                hint="to sign the entry",
                command="envforge lockfiles publish --sign KEY",
                code="index-signed",
            )
        return IndexState()
    own_key = signer.public_key()
    if is_signed or (is_there and public_key is not None):
        return check_index(address, root, own_key)
    if is_there and any(entry.signed_by == key_id(own_key) for entry in read_index(root).entries):
        raise refused(f"`{INDEX_FILE}`", "it lists lockfiles signed by this key, but its own signature is missing")
    refuse_rollback(address, own_key, IndexState())
    return IndexState()


def signed(document: Mapping[str, Any], state: IndexState, signer: Signer) -> dict[str, Any]:
    """Return the index with the ID of its catalogue, a new serial, and a new signature."""
    whole = {name: value for name, value in document.items() if name != FIELD}
    whole |= {"id": state.id or secrets.token_hex(16), "serial": state.serial + 1}
    signature, _ = signer.sign(index_bytes(whole), _COMMENT)
    return {**whole, FIELD: signature.decode()}
