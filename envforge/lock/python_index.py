"""Find the package index that uv and pip are configured for, and the URL of a file on it."""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from msgspec import Struct

from envforge.base.documents import Document
from envforge.base.net import Client, NetworkError
from envforge.base.urls import show_url, without_user
from envforge.errors import EnvforgeError, Hint, OutsideError

if TYPE_CHECKING:
    from envforge.lock.pages import IndexFile

VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_TIMEOUT_S = 20.0
_WITHOUT_FILES = "fix the file; to use a package index without reading it, set `PIP_INDEX_URL=https://INDEX/simple`"


class PythonIndex(Struct, frozen=True, kw_only=True):
    """A package index: its simple index (PEP 503), where that URL is configured, and where its files are, if known.

    ``simple_url`` may contain credentials; ``public_url`` never does.
    """

    simple_url: str
    source: str
    files_url: str | None = None

    @property
    def public_url(self) -> str:
        """Return the URL of the simple index without user name and password."""
        return show_url(self.simple_url)

    @property
    def is_served(self) -> bool:
        """Return whether this is a server, which other machines can reach, and not a directory."""
        return self.simple_url.startswith(("https://", "http://"))

    @property
    def other_index_hint(self) -> Hint:
        """Return how to use another index: by the variable that is set, or by one that overrides the files."""
        variable = self.source if self.source in VARIABLES else "PIP_INDEX_URL"
        return Hint(f"to use another package index, set `{variable}=https://INDEX/simple`")


class Located(Struct, frozen=True, kw_only=True):
    """The URL of one file on a package index, without credentials, and how it was found."""

    url: str
    how: str


def configured_index(environment: Mapping[str, str], home: Path, prefix: Path) -> PythonIndex:
    """Return the configured index: from variables, then files of uv, then files of pip, then PyPI.

    ``prefix`` is ``sys.prefix`` of the running interpreter, where pip looks for the file of the environment.
    """
    for variable in VARIABLES:
        if environment.get(variable, "").strip():
            return _stated(environment[variable], variable)
    for path in uv_configuration_files(environment, home):
        url = _index_of_uv(path)
        if url:
            return _stated(url, str(path))
    for path in pip_configuration_files(environment, home, prefix):
        url = _index_of_pip(path)
        if url:
            return _stated(url, str(path))
    return _default_index()


def extra_indexes(environment: Mapping[str, str], home: Path, prefix: Path) -> tuple[PythonIndex, ...]:
    """Return the further indexes that uv and pip are configured for, in order; those of variables come first."""
    found = [
        _stated(word, variable)
        for variable in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL")
        for word in environment.get(variable, "").split()
    ]
    for path in uv_configuration_files(environment, home):
        found += [_stated(url, str(path)) for url in _extra_of_uv(path)]
    for path in pip_configuration_files(environment, home, prefix):
        found += [_stated(url, str(path)) for url in _extra_of_pip(path)]
    # the first mention of an index decides its place
    return tuple({index.simple_url: index for index in reversed(found)}.values())[::-1]


def uv_configuration_files(environment: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Return the files that uv reads, highest precedence first (uv documentation, "Configuration files")."""
    if environment.get("UV_NO_CONFIG"):
        return ()
    if environment.get("UV_CONFIG_FILE"):
        return (Path(environment["UV_CONFIG_FILE"]),)
    folders = (*_user_folders(environment, home), *_shared_folders(environment), Path("/etc"))
    return tuple(folder / "uv" / "uv.toml" for folder in folders)


def pip_configuration_files(environment: Mapping[str, str], home: Path, prefix: Path) -> tuple[Path, ...]:
    """Return the files that pip reads, highest precedence first (pip documentation, "Configuration").

    ``PIP_CONFIG_FILE`` replaces the user's files; the null device disables all files.
    """
    name = "pip.ini" if sys.platform == "win32" else "pip.conf"
    stated = environment.get("PIP_CONFIG_FILE", "")
    if stated == os.devnull:
        return ()
    users = [folder / "pip" / name for folder in _user_folders(environment, home)]
    users.append(home / ("pip" if sys.platform == "win32" else ".pip") / name)
    shared = [folder / "pip" / name for folder in _shared_folders(environment)]
    first = [Path(stated), prefix / name] if stated else [prefix / name, *users]
    return (*first, Path("/etc") / name, *shared)


def _user_folders(environment: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    folders: tuple[Path, ...] = (Path(environment.get("XDG_CONFIG_HOME") or home / ".config"),)
    if sys.platform == "win32":
        folders = (Path(environment.get("APPDATA") or home / "AppData" / "Roaming"),)
    elif sys.platform == "darwin":
        folders = (home / "Library" / "Application Support", *folders)
    return folders


def _shared_folders(environment: Mapping[str, str]) -> tuple[Path, ...]:
    folders = (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    if sys.platform == "win32":
        folders = [environment.get("PROGRAMDATA") or "C:/ProgramData"]
    return tuple(Path(folder) for folder in folders if folder)


def locate(relative: str, sha256: str, index: PythonIndex, pages: SimplePages) -> Located:
    """Return the URL of ``relative`` (such as ``ab/cd/…/name.whl``) on ``index``.

    PyPI has every file at exactly this path. For another index, the project's page is read, and the file there must
    have this SHA-256. If the page can't be read, or doesn't list the file, assume the usual layout of mirrors:
    ``packages/`` next to the simple index. Raises ``EnvforgeError`` if the page lists the file with another hash.
    """
    if index.files_url is not None:
        return Located(url=index.files_url + relative, how="its known layout")
    common = urljoin(without_user(index.simple_url).rstrip("/") + "/", f"../packages/{relative}")
    file_name = relative.rsplit("/", 1)[-1]
    try:
        files = pages.files(index, _project(file_name))
    except OutsideError as error:
        return Located(url=common, how=f"the usual layout of mirrors, not checked: {error.message}")
    found = files.get(file_name)
    if found is None:
        return Located(url=common, how=f"the usual layout of mirrors, because it doesn't list `{file_name}`")
    if found.sha256 not in {None, sha256}:
        raise EnvforgeError(
            f"`{file_name}` differs between the catalogue and the package index {index.public_url} "
            f"(configured in {index.source}): expected SHA-256 `{sha256}`, found `{found.sha256}`",
            hint=(index.other_index_hint,),
            code="index-disagrees",
        )
    return Located(url=without_user(found.url), how="its pages")


class SimplePages:
    """Read the simple pages of projects, each once; an index that didn't respond is not requested again."""

    def __init__(self, timeout_s: float = _TIMEOUT_S) -> None:
        self._client = Client(timeout_s=timeout_s)
        self._files: dict[tuple[str, str], Mapping[str, IndexFile]] = {}
        self._silent: dict[str, OutsideError] = {}

    def files(self, index: PythonIndex, project: str) -> Mapping[str, IndexFile]:
        """Return the files on the page of ``project`` by their names; raise ``OutsideError`` on failure."""
        if index.simple_url in self._silent:
            raise self._silent[index.simple_url]
        key = (index.simple_url, project)
        if key not in self._files:
            self._files[key] = self._read(index, project)
        return self._files[key]

    def _read(self, index: PythonIndex, project: str) -> Mapping[str, IndexFile]:
        from envforge.lock.pages import parse_page  # noqa: PLC0415 - most lockfiles need no page

        try:
            with self._client.send(f"{index.simple_url.rstrip('/')}/{project}/", {"Accept": "text/html"}) as answer:
                if answer.status != HTTPStatus.OK:  # the index responds, so its other pages are still worth a request
                    raise self._no_answer(index, project, f"HTTP {answer.status}")
                base = answer.url.without_user().reveal()
                found = parse_page(answer.text(), answer.header("Content-Type"), base)
        except (NetworkError, ValueError) as error:
            failure = self._no_answer(index, project, str(error))
            self._silent[index.simple_url] = failure
            raise failure from error
        return {file.file_name: file for file in found}

    def _no_answer(self, index: PythonIndex, project: str, why: str) -> OutsideError:
        return OutsideError(
            f"cannot read the page of `{project}` on the package index {index.public_url} (configured in "
            f"{index.source}): {why}",
            hint=(index.other_index_hint,),
            code="index-unreachable",
        )


def _index_of_uv(path: Path) -> str | None:
    """Return the default ``[[index]]`` in a configuration file of uv, or the older ``index-url``."""
    read = _configuration_of_uv(path)
    defaults = [entry.url for entry in read.index if entry.default]
    return _first([*defaults, read.index_url, read.pip.index_url])


def _extra_of_uv(path: Path) -> list[str]:
    """Return each other ``[[index]]`` in a configuration file of uv, and the older ``extra-index-url``."""
    read = _configuration_of_uv(path)
    # uv uses an explicit index only for packages that name it
    named = [entry.url for entry in read.index if not entry.default and not entry.explicit]
    return [url for url in (*named, *read.extra_index_url, *read.pip.extra_index_url) if url]


# these classes are the format of the file, whose keys have `-` instead of `_`
class _IndexOfUv(Struct, frozen=True):
    url: str = ""
    default: bool = False
    explicit: bool = False


class _PipOfUv(Struct, frozen=True):
    index_url: str = ""
    extra_index_url: tuple[str, ...] = ()


class _ConfigurationOfUv(_PipOfUv, frozen=True):
    index: tuple[_IndexOfUv, ...] = ()
    pip: _PipOfUv = _PipOfUv()


def _configuration_of_uv(path: Path) -> _ConfigurationOfUv:
    if not path.is_file():
        return _ConfigurationOfUv()
    document = Document(
        damaged=f"the configuration file `{path}` is invalid",
        error=EnvforgeError,
        code="bad-index-configuration",
        hint=_WITHOUT_FILES,
    )
    try:
        text = document.read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from error
    return document.convert(_underscored(document.read_toml(text, dict[str, Any])), _ConfigurationOfUv)


def _underscored(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key.replace("-", "_"): _underscored(item) for key, item in value.items()}


def _index_of_pip(path: Path) -> str | None:
    """Return ``index-url`` in a configuration file of pip: ``[install]`` overrides ``[global]``."""
    return _first(_values_of_pip(path, "index-url"))


def _extra_of_pip(path: Path) -> list[str]:
    return " ".join(_values_of_pip(path, "extra-index-url")).split()


def _values_of_pip(path: Path, key: str) -> list[str]:
    if not path.is_file():
        return []
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise _unreadable(path, error) from error
    names = (key, key.replace("-", "_"))
    return [parser.get(s, name) for s in ("install", "global") for name in names if parser.has_option(s, name)]


def _first(values: Iterable[str]) -> str | None:
    return next((value.strip() for value in values if value.strip()), None)


def _unreadable(path: Path, error: Exception) -> EnvforgeError:
    return EnvforgeError(
        f"cannot read the configuration file `{path}`: {' '.join(str(error).split())}",
        hint=_WITHOUT_FILES,
        code="bad-index-configuration",
    )


def _stated(text: str, source: str) -> PythonIndex:
    """Return a configured index; uv allows a name before the URL, as in ``internal=https://…``."""
    text = text.strip()
    name, equals, rest = text.partition("=")
    url = rest if equals and "/" not in name and ":" not in name else text
    return PythonIndex(simple_url=url.rstrip("/"), source=source)


def _default_index() -> PythonIndex:
    """Return PyPI, from the constants of pip, or from conda-lock's Poetry if pip is not installed."""
    # an environment of uv has no pip
    if importlib.util.find_spec("pip") is None:
        return PythonIndex(simple_url=_registry_of_poetry(), source="the default of conda-lock")
    from pip._internal.models.index import PyPI  # noqa: PLC0415 - pip is slow to import and often not needed

    return PythonIndex(
        simple_url=PyPI.simple_url,
        source="the default of pip",
        files_url=f"https://{PyPI.file_storage_domain}/packages/",
    )


def _registry_of_poetry() -> str:
    # read, not imported: the import takes a second, which `new` with a lockfile of the catalogue has no use for
    found = importlib.util.find_spec("conda_lock")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("conda_lock, which envforge requires, is not installed")
    path = Path(found.origin).parent / "_vendor" / "poetry" / "repositories" / "pypi_repository.py"
    source = path.read_text(encoding="utf-8")
    (url,) = re.findall(r'url: str = "(https://[^"]+)"', source)
    return f"{url.rstrip('/')}/simple"


def _project(file_name: str) -> str:
    return file_name.split("-", 1)[0].lower().replace("_", "-").replace(".", "-")
