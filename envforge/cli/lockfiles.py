"""``envforge lockfiles``: list, pull, publish, and verify the lockfiles of a team's catalogue."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct
from msgspec.structs import replace

from envforge.base.envelope import Json, fields_to_json
from envforge.cli import print_result
from envforge.cli.options import (
    Argument,
    JsonOption,
    Option,
    cached_size,
    catalogue_option,
    fail_on_incomplete_change,
    sign_option,
    takes,
    warn_of_incomplete_environment,
)
from envforge.cli.progress import counted
from envforge.errors import EnvforgeError, RequestError

if TYPE_CHECKING:
    from envforge.catalogue.index import CatalogueEntry, ChosenCatalogue
    from envforge.catalogue.publish import PublishRequest
    from envforge.catalogue.signing import Signer

PublicKeyOption = Annotated[
    str | None,
    Option("Require signatures by this minisign key.  [default: [catalogue] public-key]", metavar="KEY|FILE"),
]


class CatalogueOptions(Struct, frozen=True, kw_only=True):
    """The catalogue that a command reads or changes, and the format of its output."""

    catalogue: Annotated[
        str | None,
        catalogue_option(
            "Use this catalogue: a directory, git+https://…@BRANCH, https://…, s3://…, gs://…, or another URL that "
            "fsspec supports.  [default: [catalogue] address in envforge.toml, then in your config.toml]"
        ),
    ]
    as_json: JsonOption

    def chosen(self) -> ChosenCatalogue:
        """Return the catalogue that the option, or else a configuration file, names."""
        from envforge.catalogue.index import need_catalogue

        return need_catalogue(self.catalogue, Path(), os.environ)


class ShowEntryOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge lockfiles show``."""

    name: Annotated[str, Argument()]
    source: CatalogueOptions


class PullOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge lockfiles pull``."""

    name: Annotated[str, Argument()]
    output: Annotated[Path, Option("Write to this file.", "-o", "--output")] = Path("conda-lock.yml")
    force: Annotated[bool, Option("Overwrite a file with other content.")]
    public_key: PublicKeyOption
    source: CatalogueOptions


class PublishOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge lockfiles publish``."""

    lock: Annotated[Path, Argument()] = Path("conda-lock.yml")
    name: Annotated[str | None, Option("Publish under this name.  [default: TEMPLATE/VARIANT-PLATFORM]")]
    publisher: Annotated[str | None, Option("Record this publisher.  [default: git's user.name, then your user name]")]
    secret_key: Annotated[Path | None, sign_option("Sign with this minisign secret key")]
    target: CatalogueOptions

    def request(self) -> PublishRequest:
        """Return the request to publish; raise ``EnvforgeError`` if a change of the lockfile is incomplete."""
        import datetime as dt
        import getpass

        from envforge.catalogue.git import identity
        from envforge.catalogue.index import project_template
        from envforge.catalogue.publish import PublishRequest

        fail_on_incomplete_change(self.lock)
        warn_of_incomplete_environment()
        return PublishRequest(
            lockfile=self.lock,
            template=project_template(self.lock.parent) or self.lock.absolute().parent.name,
            name=self.name,
            publisher=self.publisher or identity() or getpass.getuser(),
            at=dt.datetime.now(dt.timezone.utc),
            size_of=cached_size,
            signer=chosen_signer(self.secret_key),
        )


class VerifyCatalogueOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge lockfiles verify``."""

    public_key: PublicKeyOption
    source: CatalogueOptions


@click.group("lockfiles")
def lockfiles() -> None:
    """Share lockfiles in a catalogue: a directory, a git repository, a web server, or an object store."""


@lockfiles.command("list")
@takes(CatalogueOptions)
def list_entries(options: CatalogueOptions) -> None:
    """List the lockfiles of the catalogue."""
    from envforge.catalogue.directory import open_catalogue
    from envforge.catalogue.index import list_entries

    chosen = options.chosen()
    with open_catalogue(chosen.address, chosen.public_key) as source:
        found = list_entries(source.root)
    lines = [f"{chosen.address.public} (from {chosen.source}): {counted(len(found), 'lockfile')}"]
    width = max((len(entry.name) for entry in found), default=0)
    for entry in found:
        torch = f"torch {entry.selection.torch} {entry.selection.tag}, Python {entry.selection.python}"
        lines.append(f"  {entry.name:<{width}}  {torch}, {_when(entry)}")
    result = {"catalogue": chosen.address.public, "entries": [_row(entry) for entry in found]}
    print_result("lockfiles list", result, "\n".join(lines), as_json=options.as_json)


@lockfiles.command("show", short_help="Show the contents, requirements, and publisher of a lockfile.")
@takes(ShowEntryOptions)
def show_entry(options: ShowEntryOptions) -> None:
    """Show the contents of the lockfile NAME, its requirements, and its publisher."""
    from envforge.catalogue.directory import entry_named, open_catalogue

    chosen = options.source.chosen()
    with open_catalogue(chosen.address, chosen.public_key) as source:
        entry = entry_named(source, options.name)
    build = entry.selection
    vision = f", torchvision {build.torchvision}" if build.torchvision else ""
    rows = {
        "name": entry.name,
        "contains": f"torch {build.torch}{vision} for {build.tag}, Python {build.python}",
        "platforms": ", ".join(entry.platforms),
        "requires": entry.requirements.words,
        "dated": _when(entry),
        "sha256": entry.sha256,
        "signed": f"by the minisign key {entry.signed_by}, not verified here" if entry.signed_by else "no",
    }
    text = "\n".join(f"{label:<10} {value}" for label, value in rows.items())
    print_result("lockfiles show", _row(entry), text, as_json=options.source.as_json)


@lockfiles.command("pull", short_help="Verify a lockfile and copy it to conda-lock.yml.")
@takes(PullOptions)
def pull(options: PullOptions) -> None:
    """Verify the lockfile NAME against the index, and copy it to conda-lock.yml."""
    from envforge.base.files import regular, write_atomic
    from envforge.catalogue.directory import entry_named, lock_text, open_catalogue
    from envforge.catalogue.index import filled
    from envforge.lock.project import lock_command
    from envforge.lock.pylock import has_own_pylock, pylock_of

    output = options.output
    fail_on_incomplete_change(output)
    chosen = options.source.chosen()
    key = key_or_configured(options.public_key, chosen)
    with open_catalogue(chosen.address, key) as source:
        entry = entry_named(source, options.name)
        stored = lock_text(source, entry, key)
        data = filled(stored, str(entry.file), lambda said: click.echo(said, err=True)).encode()
    if output.exists() and regular(output).read_bytes() != data and not options.force:
        raise RequestError(
            f"`{output}` already exists, with other content",
            hint=f"to overwrite it, pass `--force`; to write another file, pass `--output {output.stem}-new.yml`",
            code="file-exists",
        )
    write_atomic(output, data)
    text = f"wrote {entry.name} to {output}, with the SHA-256 of the index: {entry.sha256}\n"
    text += f"requires: {entry.requirements.words}"
    print_result("lockfiles pull", {"file": output, **_row(entry)}, text, as_json=options.source.as_json)
    if has_own_pylock(output) and (command := lock_command(pylock_of(output))):
        click.echo(f"warning: {pylock_of(output)} belongs to another lockfile; to update it, run `{command}`", err=True)


@lockfiles.command("publish", short_help="Add a lockfile to the catalogue.")
@takes(PublishOptions)
def publish(options: PublishOptions) -> None:
    """Add LOCK to the catalogue. An existing entry with other content is never overwritten."""
    from envforge.catalogue import directory
    from envforge.catalogue.publish import make_addition

    chosen, request = options.target.chosen(), options.request()
    if request.signer is not None and chosen.public_key is not None:
        request.signer.check_is(chosen.public_key)
    addition = replace(make_addition(request), public_key=chosen.public_key)
    added = directory.publish(chosen.address, addition)
    name = str(addition.row["file"]).removesuffix(".conda-lock.yml")
    public = chosen.address.public
    text = f"published {name} to {public} as {request.publisher}" if added else f"{public} already has this {name}"
    result = {"name": name, "added": added, "sha256": addition.row["sha256"]}
    print_result("lockfiles publish", result, text, as_json=options.target.as_json)


@lockfiles.command("verify", short_help="Compare every lockfile of the catalogue with the index.")
@takes(VerifyCatalogueOptions)
def verify(options: VerifyCatalogueOptions) -> None:
    """Compare every lockfile of the catalogue with the index. Exits with 1 if one differs."""
    from envforge.catalogue.directory import lock_text, open_catalogue
    from envforge.catalogue.index import list_entries
    from envforge.lock.lockfile import parse_lockfile

    chosen = options.source.chosen()
    key = key_or_configured(options.public_key, chosen)
    faults = []
    with open_catalogue(chosen.address, key) as source:
        found = list_entries(source.root)
        for entry in found:
            try:
                parse_lockfile(lock_text(source, entry, key), str(entry.file))
            except EnvforgeError as error:  # noqa: PERF203 - every lockfile is checked
                faults.append((entry.name, error.message))
    listed = [{"name": name, "message": message} for name, message in faults]
    result = {"entries": len(found), "signatures_checked": key is not None, "faults": listed}
    how = "SHA-256 and signature" if key else "SHA-256"
    count = f"{len(found) - len(faults)} of {counted(len(found), 'lockfile')} valid (checked {how})"
    text = "\n".join([*(f"{name}: {message}" for name, message in faults), f"{chosen.address.public}: {count}"])
    print_result("lockfiles verify", result, text, as_json=options.source.as_json, is_ok=not faults)


def key_or_configured(option: str | None, chosen: ChosenCatalogue | None) -> str | None:
    """Return the key of ``--public-key``, or else the one that is configured for the catalogue."""
    if option is not None:
        return chosen_key(option)
    return None if chosen is None else chosen.public_key


def chosen_key(option: str) -> str:
    """Return the key of ``--public-key``; raise ``EnvforgeError`` if it is invalid."""
    from envforge.catalogue.signing import key_id, read_public_key

    key = read_public_key(option)
    key_id(key)
    return key


def chosen_signer(path: Path | None) -> Signer | None:
    """Return the key of ``--sign``, with its password."""
    if path is None:
        return None
    from envforge.base.files import regular
    from envforge.catalogue.signing import Signer, needs_password

    key = regular(path).read_bytes()
    password = os.environ.get("ENVFORGE_SIGNING_PASSWORD") if needs_password(key) else ""
    if password is None:
        password = str(click.prompt("Password of the secret key", hide_input=True, err=True))
    return Signer(secret_key=key, password=password)


def _when(entry: CatalogueEntry) -> str:
    if entry.published is None:
        return f"packages from {entry.date}"
    return f"published {entry.published.at:%Y-%m-%d %H:%M} UTC by {entry.published.by}"


def _row(entry: CatalogueEntry) -> dict[str, Json]:
    return {
        "name": entry.name,
        **fields_to_json(entry, "file", "root", "selection"),
        **fields_to_json(entry.selection, "index_url"),
        "requirements": entry.requirements.words,
        "published": {"by": entry.published.by, "at": entry.published.at.isoformat()} if entry.published else None,
    }
