"""Parse URLs, replace them by mirrors, and show them without user names, passwords, tokens, queries, and fragments.

``str``, ``repr``, and ``format`` of a ``Url`` contain no secret; only ``reveal`` and ``credentials`` return one.
``show_url`` and ``hide_secrets`` accept any text, because a text that isn't a valid URL may still contain a password.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from envforge.errors import RequestError, printable

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_NAMES = r"[\w.-]*(?:token|key|secret|passw|auth(?!or)|sig|credential|x-amz-)[\w.-]*="
_SECRET_QUERY = re.compile(rf"[?&;#]{_NAMES}(?!\$)", re.IGNORECASE)
_SECRET_VALUE = re.compile(rf"([?&;#]{_NAMES})[^\s\"'`<>&;]+", re.IGNORECASE)
_ISSUED_TOKEN = re.compile(r"^[^/]*/t/+[^/$]+|/t/+[a-z]{2}-[0-9a-f]{8}-[0-9a-f-]+", re.IGNORECASE)
_TOKEN = re.compile(r"(/t/+(?:\./+)*)[^/?#<>]+", re.IGNORECASE)
_TOKEN_WITHOUT_SCHEME = re.compile(r"(?<![\w./~-])((?:[\w-]+\.)+[\w-]+(?::\d+)?/t/+)[^/\s?#<>]+", re.IGNORECASE)

_SCHEME = re.compile(r"\W*[A-Za-z][\w+.-]*:[/\\]{2}|//")
_START = re.compile(r"(?:(?<=[A-Za-z0-9]):|(?<![^\s\"'`=(,]))//|(?<=[A-Za-z0-9][A-Za-z0-9]):[/\\]{2}")
_END = re.compile(r"[\s\"`<>\0-\x1f\x7f-\x9f]")
_PARAMETERS = re.compile(r"[;?#]")
_SCHEME_CHARACTERS = f"{string.ascii_letters}{string.digits}+.-"
_PUNCTUATION = ".,;:!?'\")]}*|"
_PARTS = re.compile(
    r"(?P<user>[^/?#\\]*@)?(?P<host>\[[\w:.%]+\]|[\w-]+(?:\.[\w-]+)*\.?|)(?::\d{1,5})?(?:/[^?#;\\]*)?(?P<rest>[?#;].*)?",
    re.DOTALL,
)
_LONG_HOST = r"(?:localhost|\[[\w:.%]+\]|(?:\d+\.){3}\d+|(?:[\w-]+\.)+[A-Za-z][\w-]*)"
_IS_LONG_HOST = re.compile(_LONG_HOST)
_HOST_IN_PATH = re.compile(rf"(?<!\.git)@{_LONG_HOST}(?::\d+)?(?:[/?#]|$)")
_AS_PATH = re.compile(r"\b((?:git\+)?(?:https?|ssh|ftp|s3|gs):/)(?=[\w\[])")  # `Path` removes the second slash
_TOKEN_START = re.compile(r"/t/", re.IGNORECASE)
_PARENT = re.compile(r"/\.\.(?:/|$)")
_DRIVE = re.compile(r"/?[A-Za-z]:(?=[/\\])")
_WORD = re.compile(r"[^ \r\n\"`<>]+")
_PREFIX = re.compile(r"[\"'(\[{,]*(?:[\w.-]+=(?![=:]))?[\"'(]*")
_LOGIN = re.compile(r"[^\s/:@]+:(?! ).*@", re.DOTALL)
_UNQUOTED = re.compile(r"[^\s\"'`<>]+")
_UNSAFE = re.compile(r"[\s\"'`<>]")
_ROUNDS = 8
_MORE = re.compile(r"(?:(?!://|\n\n)[^@])*@[^\s\"`<>]*")
HIDDEN = "\u2026"
_SCP = re.compile(r"(?P<user>[^/:@\s][^/\s]*)@(?P<host>[\w.-]+|\[[\w:.]+\]):(?!//)(?P<path>.+)", re.DOTALL)


class Url(Struct, frozen=True):
    """A valid URL, or the form ``user@host:path`` of git, whose scheme is then ``ssh``.

    ``host`` is lower case and without brackets; ``user_info`` and ``path`` are as written, with percent escapes.
    """

    _raw: str
    scheme: str
    user_info: str | None
    host: str
    port: int | None
    path: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """Parse a URL; raise ``ValueError``, whose message contains no part of ``text``, if it isn't one."""
        if not text.isprintable():  # the standard library would drop some of these characters silently
            raise ValueError("it contains a control character or another invisible character")
        match = _SCP.fullmatch(text)
        if match is not None and "://" not in text:
            return cls(text, "ssh", match["user"], match["host"].strip("[]").lower(), None, match["path"])
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError:  # the message would contain the password if the URL has a `/` in it
            raise ValueError("it has no valid host or port") from None
        if not parts.scheme or not (parts.netloc or parts.path.startswith("/")):
            raise ValueError("it doesn't start with a scheme and a host")
        if re.search(r"[\s\\]", host) or not (host or parts.scheme.lower().endswith("file")):
            raise ValueError("it has no valid host")
        user = parts.netloc.rpartition("@")[0] if "@" in parts.netloc else None
        return cls(text, parts.scheme.lower(), user, host, port, parts.path)

    def __str__(self) -> str:
        return show_url(self._raw)

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def reveal(self) -> str:
        """Return the text of the URL with its secrets, for a request."""
        return self._raw

    def without_user(self) -> Url:
        """Return the URL without the user info; a query with a token remains."""
        if self.user_info is None:
            return self
        return replace(self, _raw=self._raw.replace(f"{self.user_info}@", "", 1), user_info=None)

    def credentials(
        self, environment: Mapping[str, str], allowed: Collection[str] | None = None
    ) -> tuple[str, str] | None:
        """Return the user and the password; None if there is no user.

        ``$NAME`` and ``${NAME}`` are replaced, here and in no other part of a URL, because a lockfile could otherwise
        send any variable to a server in a path. With ``allowed``, only these variables are replaced.
        """
        if not self.user_info:
            return None

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            return environment.get(name, match[0]) if allowed is None or name in allowed else match[0]

        user, colon, password = self.user_info.partition(":")
        user, password = VARIABLE.sub(value, user), VARIABLE.sub(value, password)
        if not colon:  # one variable may contain both
            user, _, password = user.partition(":")
        return unquote(user), unquote(password)

    @property
    def origin(self) -> str:
        """The scheme, the host, and the port, without the default port of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}.get(self.scheme)
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port not in {None, default} else "")

    @property
    def file_name(self) -> str:
        """The unquoted name at the end of the path."""
        return unquote(self.path.rsplit("/", 1)[-1])

    @property
    def file_path(self) -> Path | None:
        """The path of a ``file:`` URL on this computer; None for any other URL."""
        if self.scheme != "file" or self.host not in {"", "localhost"}:
            return None
        path = unquote(self.path)
        return Path(path[1:] if re.match(r"/[A-Za-z]:", path) else path)  # `file:///C:/…` on Windows


def show_url(text: str) -> str:
    """Return a URL without its secrets; ``text`` may also be a path, a name, or an invalid URL."""
    if _SCHEME.match(text):
        return printable(_hidden(text, is_alone=True))
    git, login = _SCP.fullmatch(text), _LOGIN.match(text)
    if "://" not in text and git is not None and git["user"] != "git":
        text = text[git.end("user") + 1 :]
    elif "://" not in text and login is not None and not _is_no_login(text, login.end()):  # it may contain spaces
        text = text[login.end() :]
    return printable(hide_secrets(text))


def without_user(text: str) -> str:
    """Return a URL as a lockfile records it: without the user info, but with its query.

    From a text that isn't a valid URL, every secret is removed.
    """
    try:
        return Url.parse(text).without_user().reveal()
    except ValueError:
        return show_url(text)


def hide_secrets(text: str) -> str:
    """Return a text, such as the output of another tool, with every URL in it shown without its secrets.

    Of a URL, only the scheme, the host, the port, and the path are shown, and the token in a path is not. What looks
    like a URL but isn't a valid one is hidden, because no one knows which part of it is a password. The same applies
    to what the text means without percent escapes and with plain letters in place of their variants.
    """
    return _hidden(text, is_alone=False)


def has_secrets(text: str) -> bool:
    """Return whether a URL in ``text`` contains a secret that must not be stored; ``$VARIABLE`` is none."""
    text = _AS_PATH.sub(r"\1/", text)
    return _has_secrets(text) or _has_secrets(_decoded(text))


def _has_secrets(text: str) -> bool:
    others, end = [], 0
    for found in _urls(text, is_alone=_SCHEME.match(text) is not None):
        user, is_ssh = found.user.rpartition("@")[0], text.endswith("ssh://", 0, found.start)
        if user and not (is_ssh and ":" not in user) and _is_literal(user):
            return True
        if _ISSUED_TOKEN.search(found.place) or _SECRET_QUERY.search(found.rest):
            return True
        others.append(text[end : found.start])
        end = found.end
    return any(_without_logins(other) != other for other in (VARIABLE.sub("", each) for each in (*others, text[end:])))


class _Found(Struct, frozen=True):
    """The parts of a URL between ``start``, after its ``//``, and ``end``; ``user`` has its ``@``.

    Of a text that isn't a valid URL, every part is in ``user``.
    """

    start: int
    end: int
    user: str
    place: str
    rest: str

    @property
    def shown(self) -> str:
        if not self.place and not self.rest:
            return HIDDEN if self.user else ""
        user = "git@" if self.user == "git@" else ""  # everyone's name for ssh, and the command needs it
        return user + _TOKEN.sub(r"\1<TOKEN>", self.place) + self.rest[len(self.rest.rstrip(_PUNCTUATION)) :]


def _hidden(text: str, *, is_alone: bool) -> str:
    text = _AS_PATH.sub(r"\1/", text)
    shown = _hidden_as_written(text, is_alone=is_alone)
    if is_alone:
        return _hidden_if_decoded(shown)
    return _UNQUOTED.sub(lambda match: _hidden_if_decoded(match[0]), shown)


def _hidden_if_decoded(word: str) -> str:
    if "%" not in word and word.isascii():
        return word
    plain = _decoded(word)
    if plain == word:
        return word
    hidden = _hidden_as_written(plain, is_alone=_SCHEME.match(plain) is not None)
    return word if hidden == plain else hidden


def _hidden_as_written(text: str, *, is_alone: bool) -> str:
    shown, end = "", 0
    for found in _urls(text, is_alone=is_alone):
        shown += _without_logins(text[end : found.start]) + found.shown
        end = found.end
    return shown + _without_logins(text[end:])


def _decoded(text: str) -> str:
    """Return a text without percent escapes, even repeated ones, and without variants of letters such as ``\uff20``."""
    for _ in range(_ROUNDS):
        plain = unicodedata.normalize("NFKC", unquote(text))
        if plain == text:
            return text
        text = _UNSAFE.sub("_", plain)
    return HIDDEN


def _urls(text: str, *, is_alone: bool) -> Iterator[_Found]:
    """Yield the parts of each URL in a text; only another URL ends one that is alone."""
    end = until = 0
    while scheme := _START.search(text, end):
        if is_alone:
            until = len(text)
        elif until < scheme.end():  # not for each URL of a long word, which would take its length squared
            last = _END.search(text, scheme.end())
            until = last.start() if last else len(text)
        found = _parsed(text, scheme.end(), until, is_alone=is_alone)
        if found is None:  # such as `// a comment`
            end, is_alone = scheme.end(), False
            continue
        yield found
        end = found.end


def _parsed(text: str, start: int, end: int, *, is_alone: bool) -> _Found | None:
    is_file = text.endswith("file://", 0, start)
    nested = text.find("://", start, end)
    if nested > 0 and not _PARAMETERS.search(text, start, nested):
        before = text[start:nested].rstrip(_SCHEME_CHARACTERS).rstrip("=")
        found = _split(before, start, is_alone=False, is_file=is_file)
        if found is not None:  # in a path, or in a rule such as `FROM=TO`
            return found
    word = text[start:end]
    found = _split(word, start, is_alone=is_alone, is_file=is_file)
    is_odd_end = text[end : end + 1] not in {"", " ", "\n", "\r", '"', "`", "<", ">"} and "/" not in word
    if found is not None and not is_odd_end and not (word.endswith(":") and not _IS_LONG_HOST.match(word)):
        return found
    if not word.strip(_PUNCTUATION) or (text[start - 3 : start - 2] != ":" and "@" not in word):
        return found
    # the rest of a password may follow a space, a tab, or a quote
    more = _MORE.match(text, end) if "@" not in word.rstrip("@") else None
    return found if found and not more else _Found(start, more.end() if more else end, word, "", "")


def _split(word: str, start: int, *, is_alone: bool, is_file: bool) -> _Found | None:
    """Return the parts of a URL, which may be followed by punctuation; None if it isn't clear what is its host."""
    core = word.rstrip(_PUNCTUATION)
    for text in (word,) if is_alone else (word, core, f"{core}]"):
        match = _PARTS.fullmatch(text)
        if match is None or not word.startswith(text) or not text.isprintable() or _END.search(text):
            continue
        user, rest = match["user"] or "", match["rest"] or ""
        place = text[len(user) : len(text) - len(rest)]
        if _is_clear(match["host"], user, place, rest, is_file=is_file):
            return _Found(start, start + len(text), user, place, rest)
    return None


def _is_clear(host: str, user: str, place: str, rest: str, *, is_file: bool) -> bool:
    """Return whether no part of a password with a ``/`` or ``@`` can be in the place of a URL.

    A host is the one that is meant if it is a full name, an address, or ``localhost``.
    """
    path = place[len(host) :]
    # each takes two steps, because one pattern for both would search the rest of the path from each first part
    token = _TOKEN_START.search(path)
    if token and _PARENT.search(path, token.end()):
        return False
    _, colon, after = (path[1:] if re.match(r":\d", path) else _DRIVE.sub("", path)).partition(":")
    if colon and "@" in after:
        return False
    if is_file or not host:
        return is_file and not user
    if _IS_LONG_HOST.fullmatch(host.rstrip(".")):
        return not _HOST_IN_PATH.search(path)
    return "@" not in path.replace(".git@", "", 1) + rest and not (user and "@" in path)


def _without_logins(text: str) -> str:
    """Hide ``user:password@`` without a scheme, and what names say is a secret."""
    text = _WORD.sub(_without_login, text) if "@" in text else text
    return _TOKEN_WITHOUT_SCHEME.sub(r"\1<TOKEN>", _SECRET_VALUE.sub(rf"\1{HIDDEN}", text))


def _without_login(match: re.Match[str]) -> str:
    word, start = match[0], cast("re.Match[str]", _PREFIX.match(match[0])).end()
    at, colon = word.rfind("@") + 1, re.compile(r":(?!\t)").search(word, start)
    if (
        colon is None
        or colon.start() > at
        or not word[at:].strip(_PUNCTUATION)
        or _is_no_login(word[start:], at - start)
    ):
        return word
    host = _split(word[at:], 0, is_alone=False, is_file=False)
    return word[:start] + (host.shown + word[at + host.end :] if host else HIDDEN)


def _is_no_login(text: str, at: int) -> bool:
    """Return whether the text until an ``@`` is a path on Windows, ``git``, or the name of an image."""
    is_drive = _DRIVE.match(text) is not None and ":" not in text[2:at]
    return is_drive or text.startswith("git@") or text.startswith("sha256:", at)


def _is_literal(user_info: str) -> bool:
    """Return whether a user info contains a password, or a user name that may be a token."""
    user, _, password = user_info.partition(":")
    return bool(VARIABLE.sub("", password or user))


MIRRORS_VARIABLE = "ENVFORGE_MIRRORS"
_MIRROR_RULE = re.compile(r"(?P<original>[a-z][a-z0-9+]*://[^=\s]+)=(?P<replacement>[a-z][a-z0-9+]*:/[^\s]+)")


class Mirrors(Struct, frozen=True):
    """Pairs of URL prefixes (original, replacement); the first match applies."""

    rules: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Mirrors:
        """Parse ``FROM=TO`` rules; raise ``RequestError`` for anything else."""
        rules = []
        for text in texts:
            match = _MIRROR_RULE.fullmatch(text)
            if match is None:
                raise RequestError(
                    f"`{show_url(text)}` is not a mirror rule; expected `FROM=TO` with two URLs",
                    hint="write a rule such as `https://conda.anaconda.org=https://MIRROR/conda`",
                    code="bad-mirror",
                )
            rules.append((match["original"].rstrip("/"), match["replacement"].rstrip("/")))
        return cls(tuple(rules))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Mirrors:
        """Parse the rules in ``ENVFORGE_MIRRORS``, separated by whitespace."""
        return cls.parse(environment.get(MIRRORS_VARIABLE, "").split())

    def to_environment(self) -> str:
        """Return the value of ``ENVFORGE_MIRRORS`` that passes these rules to a child process."""
        return " ".join(f"{original}={replacement}" for original, replacement in self.rules)

    def to_mirror(self, url: str) -> str:
        """Return the URL to download ``url`` from; a rule needs no user info to match."""
        mirrored = _with_prefix(without_user(url), self.rules) if self.rules else url
        return url if mirrored == without_user(url) else mirrored

    def to_original(self, url: str) -> str:
        """Return the URL to record for a file that was downloaded from ``url``."""
        return _with_prefix(url, tuple((replacement, original) for original, replacement in self.rules))


def _with_prefix(url: str, rules: tuple[tuple[str, str], ...]) -> str:
    for beginning, other in rules:
        # not a bare prefix: `https://host/pkgs` must not match `https://host/pkgs-old`
        if url == beginning or url.startswith(f"{beginning}/"):
            return other + url[len(beginning) :]
    return url
