"""``envforge lockfiles``: list, pull, publish, and verify the lockfiles of a team's catalogue."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from envforge.cli.options import (
    Argument,
    JsonOption,
    Option,
    fail_on_incomplete_change,
    takes,
    warn_of_incomplete_environment,
)
from envforge.cli.progress import counted

if TYPE_CHECKING:
    from envforge.base.envelope import Json
    from envforge.catalogue.address import Chosen
    from envforge.catalogue.index import Entry
    from envforge.catalogue.publish import PublishRequest
    from envforge.catalogue.signing import Signer
    from envforge.lock.plan import Artifact

_PublicKeyOption = Annotated[
    str | None,
    Option("Require signatures by this minisign key.  [default: [catalogue] public-key]", metavar="KEY|FILE"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogueOptions:
    """The catalogue that a command reads or changes, and the format of its output."""

    catalogue: Annotated[
        str | None,
        Option(
            "Use this catalogue: a directory, git+https://…@BRANCH, https://…, s3://…, gs://…, or another URL that "
            "fsspec supports.  [default: [catalogue] address in envforge.toml, then in your config.toml]",
            metavar="URL",
            envvar="ENVFORGE_CATALOGUE",
            show_envvar=True,
        ),
    ]
    as_json: JsonOption

    def chosen(self) -> Chosen:
        """Return the catalogue that the option, or else a configuration file, names."""
        from envforge.catalogue.address import need_catalogue

        return need_catalogue(self.catalogue, Path(), os.environ)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowEntryOptions:
    """The command line of ``envforge lockfiles show``."""

    name: Annotated[str, Argument()]
    source: CatalogueOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class PullOptions:
    """The command line of ``envforge lockfiles pull``."""

    name: Annotated[str, Argument()]
    output: Annotated[Path, Option("Write to this file.", "-o", "--output")] = Path("conda-lock.yml")
    force: Annotated[bool, Option("Overwrite a file with other content.")]
    public_key: _PublicKeyOption
    source: CatalogueOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishOptions:
    """The command line of ``envforge lockfiles publish``."""

    lock: Annotated[Path, Argument()] = Path("conda-lock.yml")
    name: Annotated[str | None, Option("Publish under this name.  [default: TEMPLATE/VARIANT-PLATFORM]")]
    publisher: Annotated[str | None, Option("Record this publisher.  [default: git's user.name, then your user name]")]
    secret_key: Annotated[
        Path | None,
        Option(
            "Sign with this minisign secret key. Prompts for its password, or reads ENVFORGE_SIGNING_PASSWORD.",
            "--sign",
            type=click.Path(path_type=Path, dir_okay=False, exists=True),
            metavar="KEY",
        ),
    ]
    target: CatalogueOptions

    def request(self) -> PublishRequest:
        """Return the request to publish; raise ``EnvforgeError`` if a change of the lockfile is incomplete."""
        import datetime as dt
        import getpass

        from envforge.catalogue.address import project_template
        from envforge.catalogue.git import identity
        from envforge.catalogue.publish import PublishRequest

        fail_on_incomplete_change(self.lock)
        warn_of_incomplete_environment()
        return PublishRequest(
            lockfile=self.lock,
            template=project_template(self.lock.parent) or self.lock.absolute().parent.name,
            name=self.name,
            publisher=self.publisher or identity() or getpass.getuser(),
            at=dt.datetime.now(dt.timezone.utc),
            size_of=_cached_size,
            signer=_signer(self.secret_key),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyOptions:
    """The command line of ``envforge lockfiles verify``."""

    public_key: _PublicKeyOption
    source: CatalogueOptions


@click.group("lockfiles")
def lockfiles() -> None:
    """Share lockfiles in a catalogue: a directory, a git repository, a web server, or an object store."""


@lockfiles.command("list")
@takes(CatalogueOptions)
def list_entries(options: CatalogueOptions) -> None:
    """List the lockfiles of the catalogue."""
    from envforge.base.envelope import success
    from envforge.catalogue.directory import open_catalogue
    from envforge.catalogue.index import list_entries

    chosen = options.chosen()
    with open_catalogue(chosen.address, chosen.public_key) as source:
        found = list_entries(source.root)
    if options.as_json:
        click.echo(success("lockfiles list", {"catalogue": chosen.address.public, "entries": [_row(e) for e in found]}))
        return
    click.echo(f"{chosen.address.public} (from {chosen.source}): {_count(len(found))}")
    width = max((len(entry.name) for entry in found), default=0)
    for entry in found:
        torch = f"torch {entry.selection.torch} {entry.selection.tag}, Python {entry.selection.python}"
        click.echo(f"  {entry.name:<{width}}  {torch}, {_when(entry)}")


@lockfiles.command("show", short_help="Show the contents, requirements, and publisher of a lockfile.")
@takes(ShowEntryOptions)
def show_entry(options: ShowEntryOptions) -> None:
    """Show the contents of the lockfile NAME, its requirements, and its publisher."""
    from envforge.base.envelope import success
    from envforge.catalogue.directory import entry_named, open_catalogue

    chosen = options.source.chosen()
    with open_catalogue(chosen.address, chosen.public_key) as source:
        entry = entry_named(source, options.name)
    if options.source.as_json:
        click.echo(success("lockfiles show", _row(entry)))
        return
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
    for label, text in rows.items():
        click.echo(f"{label:<10} {text}")


@lockfiles.command("pull", short_help="Verify a lockfile and copy it to conda-lock.yml.")
@takes(PullOptions)
def pull(options: PullOptions) -> None:
    """Verify the lockfile NAME against the index, and copy it to conda-lock.yml."""
    from envforge.base.envelope import success
    from envforge.base.files import write_atomic
    from envforge.catalogue.directory import entry_named, lock_text, open_catalogue
    from envforge.errors import RequestError

    output = options.output
    fail_on_incomplete_change(output)
    chosen = options.source.chosen()
    key = _key(options.public_key, chosen)
    with open_catalogue(chosen.address, key) as source:
        entry = entry_named(source, options.name)
        text = _filled(lock_text(source, entry, key), entry)
    data = text.encode()
    if output.exists() and output.read_bytes() != data and not options.force:
        raise RequestError(
            f"`{output}` already exists, with other content",
            hint=f"to overwrite it, pass `--force`; to write another file, pass `--output {output.stem}-new.yml`",
            code="file-exists",
        )
    write_atomic(output, data)
    if options.source.as_json:
        click.echo(success("lockfiles pull", {"file": str(output), **_row(entry)}))
        return
    click.echo(f"wrote {entry.name} to {output}, with the SHA-256 of the index: {entry.sha256}")
    click.echo(f"requires: {entry.requirements.words}")


@lockfiles.command("publish", short_help="Add a lockfile to the catalogue.")
@takes(PublishOptions)
def publish(options: PublishOptions) -> None:
    """Add LOCK to the catalogue. An existing entry with other content is never overwritten."""
    from envforge.base.envelope import success
    from envforge.catalogue.directory import opened_to_publish

    chosen, request = options.target.chosen(), options.request()
    if request.signer is not None and chosen.public_key is not None:
        request.signer.check_is(chosen.public_key)
    from envforge.catalogue.publish import make_addition

    addition = make_addition(request)
    with opened_to_publish(chosen.address) as source:
        added = source.publish(addition)
    name = str(addition.row["file"]).removesuffix(".conda-lock.yml")
    if options.target.as_json:
        click.echo(success("lockfiles publish", {"name": name, "added": added, "sha256": str(addition.row["sha256"])}))
    elif added:
        click.echo(f"published {name} to {chosen.address.public} as {request.publisher}")
    else:
        click.echo(f"{chosen.address.public} already has this {name}")


@lockfiles.command("verify", short_help="Compare every lockfile of the catalogue with the index.")
@takes(VerifyOptions)
def verify(options: VerifyOptions) -> None:
    """Compare every lockfile of the catalogue with the index. Exits with 1 if one differs."""
    from envforge.base.envelope import finding, success
    from envforge.catalogue.directory import lock_text, open_catalogue
    from envforge.catalogue.index import list_entries
    from envforge.errors import EnvforgeError
    from envforge.lock.lockfile import parse_lockfile

    chosen = options.source.chosen()
    key = _key(options.public_key, chosen)
    faults = []
    with open_catalogue(chosen.address, key) as source:
        found = list_entries(source.root)
        for entry in found:
            try:
                parse_lockfile(lock_text(source, entry, key), str(entry.file))
            except EnvforgeError as error:  # noqa: PERF203 - every lockfile is checked
                faults.append((entry.name, error.message))
    if options.source.as_json:
        listed: list[Json] = [{"name": name, "message": message} for name, message in faults]
        body: Json = {"entries": len(found), "signatures_checked": key is not None, "faults": listed}
        click.echo((finding if faults else success)("lockfiles verify", body))
    else:
        for name, message in faults:
            click.echo(f"{name}: {message}")
        how = "SHA-256 and signature" if key else "SHA-256"
        click.echo(f"{chosen.address.public}: {len(found) - len(faults)} of {_count(len(found))} valid (checked {how})")
    if faults:
        raise click.exceptions.Exit(1)


def _key(option: str | None, chosen: Chosen) -> str | None:
    if option is None:
        return chosen.public_key
    from envforge.catalogue.signing import key_id, read_public_key

    key = read_public_key(option)
    key_id(key)
    return key


def _filled(text: str, entry: Entry) -> str:
    """Return the lockfile with the URLs of the user's package index in place of placeholders."""
    from envforge.catalogue.stored import filled

    return filled(text, str(entry.file), lambda said: click.echo(said, err=True))


def _signer(path: Path | None) -> Signer | None:
    if path is None:
        return None
    from envforge.catalogue.signing import Signer, needs_password

    key = path.read_bytes()
    password = os.environ.get("ENVFORGE_SIGNING_PASSWORD") if needs_password(key) else ""
    if password is None:
        password = str(click.prompt("Password of the secret key", hide_input=True, err=True))
    return Signer(secret_key=key, password=password)


def _cached_size(artifact: Artifact) -> int | None:
    """Return the size of a package's file in bytes; None if the cache doesn't have it."""
    from envforge.prefix.cache import Store, default_root
    from envforge.prefix.clean import file_bytes

    root = os.environ.get("ENVFORGE_CACHE")
    return file_bytes(Store(Path(root) if root else default_root()).path(artifact))


def _count(number: int) -> str:
    return counted(number, "lockfile")


def _when(entry: Entry) -> str:
    if entry.published is None:
        return f"packages from {entry.date}"
    return f"published {entry.published.at:%Y-%m-%d %H:%M} UTC by {entry.published.by}"


def _row(entry: Entry) -> dict[str, Json]:
    build, published = entry.selection, entry.published
    return {
        "name": entry.name,
        "template": entry.template,
        "variant": entry.variant,
        "platforms": list(entry.platforms),
        "sha256": entry.sha256,
        "size_bytes": entry.size_bytes,
        "input_sha256": entry.input_sha256,
        "date": entry.date.isoformat(),
        "torch": str(build.torch),
        "torchvision": str(build.torchvision) if build.torchvision else None,
        "tag": str(build.tag),
        "python": str(build.python),
        "requirements": entry.requirements.words,
        "published": {"by": published.by, "at": published.at.isoformat()} if published else None,
        "signed_by": entry.signed_by,
    }
