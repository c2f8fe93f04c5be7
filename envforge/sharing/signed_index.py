"""Sign and verify the index of a catalogue. The signature is a field of the index, so both change in one write.

The signature covers the index without that field, in the format of ``index_bytes``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envforge.catalogue import INDEX_FILE, entries
from envforge.errors import EnvforgeError
from envforge.sharing.signing import Signed, Signer, key_id, refused, verify

FIELD = "signature"
_COMMENT = f"file:{INDEX_FILE}"


def index_bytes(document: Mapping[str, Any]) -> bytes:
    """Return the serialized index."""
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def verify_index(root: Path, public_key: str) -> None:
    """Raise ``EnvforgeError`` unless the owner of ``public_key`` has signed this index."""
    entries(root)  # reports an invalid index as such
    document = json.loads((root / INDEX_FILE).read_text(encoding="utf-8"))
    signature = document.pop(FIELD, None)
    what = f"`{INDEX_FILE}`"
    if not isinstance(signature, str):
        raise refused(what, f"expected a signature by the key `{key_id(public_key)}`, found none")
    signed = Signed(data=index_bytes(document), comment=_COMMENT, signature=signature.encode())
    verify(what, signed, public_key)


def signed(root: Path, row: Mapping[str, Any], document: dict[str, Any], signer: Signer | None) -> dict[str, Any]:
    """Return the index ``document``, which is in ``root``, with one more row and a new signature.

    A signature covers every row, so ``EnvforgeError`` is raised if the current index isn't the one that this key
    signed.
    """
    was_signed = FIELD in document
    if signer is None:
        if was_signed:
            raise EnvforgeError(
                "the index of this catalogue is signed, so a new entry must be signed, too",
                hint="to sign the entry",
                command="envforge lockfiles publish --sign KEY",
                code="index-signed",
            )
        return {**document, "entries": [*document["entries"], dict(row)]}
    _, public_key = signer.sign(b"", _COMMENT)
    if was_signed:
        verify_index(root, public_key)
    elif any(entry.get("signed_by") == key_id(public_key) for entry in document["entries"]):
        raise refused(f"`{INDEX_FILE}`", "it lists lockfiles signed by this key, but its own signature is missing")
    whole = {name: value for name, value in document.items() if name != FIELD}
    whole["entries"] = [*whole["entries"], dict(row)]
    signature, _ = signer.sign(index_bytes(whole), _COMMENT)
    return {**whole, FIELD: signature.decode()}
