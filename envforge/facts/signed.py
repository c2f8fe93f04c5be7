"""Read and write files of facts that a team has signed, such as ``facts.json`` in its catalogue.

The signature is next to the file, with the suffix ``.minisig``. Its trusted comment names the file and its date.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from envforge.base.files import regular, write_atomic
from envforge.catalogue.directory import open_catalogue
from envforge.catalogue.index import ChosenCatalogue
from envforge.catalogue.signing import IndexState, Signed, Signer, key_id, refuse_rollback, refused, verify
from envforge.errors import EnvforgeError
from envforge.pytorch.facts_file import FactsFile, facts_bytes, parse_facts

FACTS_FILE = "facts.json"
_SUFFIX = ".minisig"


def read_signed(path: Path, public_key: str | None) -> tuple[FactsFile, bytes]:
    """Return the facts in a file, and its bytes; raise ``EnvforgeError`` unless the owner of a key has signed them."""
    # one read, so the bytes that are used are those that were verified
    data = facts_bytes(path)
    facts, _ = parse_facts(data, path)
    if public_key is None:
        return facts, data
    try:
        signature = regular(signature_of(path)).read_bytes()
    except OSError as error:
        reason = f"expected a signature by the key `{key_id(public_key)}`, cannot read `{signature_of(path).name}`"
        raise refused(f"the facts `{path.name}`", f"{reason}: {error.strerror or error}") from error
    signed = Signed(data=data, comment=_comment(facts.checked), signature=signature)
    verify(f"the facts `{path.name}`", signed, public_key)
    return facts, data


def write_signed(path: Path, data: bytes, signer: Signer | None) -> None:
    """Write the bytes of a file of facts, and its signature if there is a signer."""
    facts, _ = parse_facts(data, path)
    if signer is not None:
        signature, _ = signer.sign(data, _comment(facts.checked))
        write_atomic(signature_of(path), signature)
    write_atomic(path, data)


def read_team_facts(chosen: ChosenCatalogue) -> FactsFile:
    """Return the facts of a team's catalogue; raise ``EnvforgeError`` if there are none, or if they aren't signed.

    Facts decide which build a machine gets, so a catalogue without a key isn't trusted with them.
    """
    if chosen.public_key is None:
        raise EnvforgeError(
            f"the facts of `{chosen.address.public}` aren't used, because its catalogue has no `public-key`",
            hint=f"add `public-key` below `[catalogue]` to `{chosen.source}`",
            code="no-public-key",
        )
    with open_catalogue(chosen.address, chosen.public_key) as catalogue:
        for name in (FACTS_FILE, FACTS_FILE + _SUFFIX):
            catalogue.bring(name)
        facts, _ = read_signed(catalogue.root / FACTS_FILE, chosen.public_key)
    refuse_rollback(chosen.address, chosen.public_key, IndexState(serial=_serial(facts.checked)), "facts file")
    return facts


def signature_of(path: Path) -> Path:
    """Return the path of the signature of a file."""
    return path.with_name(path.name + _SUFFIX)


def _serial(day: dt.date) -> int:
    return int(day.strftime("%Y%m%d"))


def _comment(day: dt.date) -> str:
    # without a path, because a team copies the file into its catalogue under another name
    return f"file:{FACTS_FILE} checked:{day.isoformat()}"
