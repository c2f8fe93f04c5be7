"""Parse URLs, and show them without user names, passwords, tokens, query values, and fragments.

``str``, ``repr``, and ``format`` of a ``Url`` contain no secret; only ``reveal`` and ``credentials`` return one.
``show_url`` and ``hide_secrets`` accept any text, because a text that isn't a valid URL may still contain a password.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

from envforge.errors import printable

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_CONDA_TOKEN = re.compile(r"/t/[^/?#<>]+")
_ISSUED_TOKEN = re.compile(r"^[^/]*/t/[^/$]+|/t/[a-z]{2}-[0-9a-f]{8}-[0-9a-f-]+", re.IGNORECASE)
_FRAGMENT = re.compile(r"#subdirectory=[\w./-]+")  # commands with the URL of a template need it
_SECRET_QUERY = re.compile(
    r"[?&;][\w.-]*(?:token|key|secret|passw|auth(?!or)|sig|credential|x-amz-)[\w.-]*=(?!\$)", re.IGNORECASE
)
_SCHEME = re.compile(r"(?:[A-Za-z][\w+.-]*:)?//")
_SCHEME_IN_TEXT = re.compile(r"(?:(?<=[A-Za-z0-9]):|(?<![^\s\"'`=(]))//")
_LONGEST_USER = 4096  # keeps the time linear for long texts
_USER_AND_PASSWORD = re.compile(r"[^/?#@:]+:(?!//)")
_HOST = re.compile(r"(?:\[[\w:.%]+\]|localhost|[\w-]+(?:\.[\w-]+)+)(?P<port>:\d{1,5})?(?:[/?#\"`<>]|$)")
_PARTS = re.compile(r"(?P<place>[^?#]*)(?P<rest>.*)", re.DOTALL)
_PARTS_IN_TEXT = re.compile(
    r"(?P<place>(?:(?![A-Za-z0-9]://)[^\s?#\"`<>])*)"
    r"(?P<rest>[?#][^\s\"`<>]*?(?=[.,;:!'\])}]{0,8}(?:[\s\"`<>]|$)))?"
)
_NO_SCHEME = re.compile(
    r"(?<![^\s=(,\"'`])(?!git@|[A-Za-z]:[/\\])[^\s/:='\"`<>]{1,256}:(?!//)\S{1,2048}@(?!sha256:)(?=[\w\[$])"
)
_SCP = re.compile(r"(?P<user>[^/:@\s][^/\s]*)@(?P<host>[\w.-]+|\[[\w:.]+\]):(?!//)(?P<path>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, repr=False)
class Url:
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
        if any(each.isspace() for each in host) or (parts.netloc and not host):
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
    git = _SCP.fullmatch(text)
    if git is not None and "://" not in text:
        return printable(hide_secrets(text if git["user"] == "git" else text[git.end("user") + 1 :]))
    shown = hide_secrets(text)
    for alone in _alone(shown):  # again, for a password with spaces
        shown = shown[: alone.start] + alone.shown
    return printable(shown)


def without_user(text: str) -> str:
    """Return a URL as a lockfile records it: without the user info, but with its query.

    From a text that isn't a valid URL, every secret is removed.
    """
    try:
        return Url.parse(text).without_user().reveal()
    except ValueError:
        return show_url(text)


def hide_secrets(text: str) -> str:
    """Return a text, such as the output of another tool, with every URL in it shown without its secrets."""
    shown, end = "", 0
    for found in _in_text(text):
        shown += text[end : found.start] + found.shown
        end = found.end
    return _NO_SCHEME.sub("", shown + text[end:])


def has_secrets(text: str) -> bool:
    """Return whether a URL in ``text`` contains a secret that must not be stored; ``$VARIABLE`` is none."""
    for found in (*_alone(text), *_in_text(text)):
        user, is_ssh = found.user[:-1], text.endswith("ssh://", 0, found.start)
        if user and not (is_ssh and ":" not in user) and _is_literal(user):
            return True
        if _ISSUED_TOKEN.search(found.place) or _SECRET_QUERY.search(found.rest):
            return True
    return any(_is_literal(match[0][:-1]) for match in _NO_SCHEME.finditer(text))


@dataclass(frozen=True, slots=True)
class _Found:
    """The parts of a URL between ``start``, after its ``//``, and ``end``; ``user`` has its ``@``."""

    start: int
    end: int
    user: str
    place: str
    rest: str

    @property
    def shown(self) -> str:
        user = "git@" if self.user == "git@" else ""  # everyone's name for ssh, and the command needs it
        place = _CONDA_TOKEN.sub("/t/<TOKEN>", self.place)
        return user + place + (self.rest if _FRAGMENT.fullmatch(self.rest) else "")


def _alone(text: str) -> tuple[_Found, ...]:
    """Return the parts of a text that is one URL, whose user info may contain spaces."""
    scheme = _SCHEME.match(text)
    return (_split(text, scheme.end(), text[scheme.end() :], _PARTS),) if scheme else ()


def _in_text(text: str) -> Iterator[_Found]:
    """Yield the parts of each URL in a text, in which white space, quotes, and brackets end a URL."""
    end = 0
    while scheme := _SCHEME_IN_TEXT.search(text, end):
        word = text[scheme.end() : scheme.end() + _LONGEST_USER]
        found = _split(text, scheme.end(), re.split(r"\s", word, maxsplit=1)[0], _PARTS_IN_TEXT)
        yield found
        end = found.end


def _split(text: str, start: int, word: str, parts: re.Pattern[str]) -> _Found:
    user = _user_info(word)
    match = cast("re.Match[str]", parts.match(text, start + len(user)))  # the pattern matches every text
    return _Found(start, match.end(), user, match["place"], match["rest"] or "")


def _user_info(text: str) -> str:
    """Return the user info at the start of ``text``, with its ``@``; empty if there is none.

    In the standard, a ``/`` ends the user info. People write passwords with it nevertheless, so what is ambiguous is a
    password, unless the text that would be the host is an IP address or ``localhost``, or contains a dot.
    """
    if text.startswith("git@"):
        return "git@"
    host = _HOST.match(text)
    if _USER_AND_PASSWORD.match(text) and not (host and host["port"]):
        end = text.find("@") + 1
    else:
        end = text.partition("/")[0].rfind("@") + 1
    if end and not _HOST.match(text, end):
        end = max(end, text.rfind("@") + 1)
    return text[:end]


def _is_literal(user_info: str) -> bool:
    """Return whether a user info contains a password, or a user name that may be a token."""
    user, _, password = user_info.partition(":")
    return bool(VARIABLE.sub("", password or user))
