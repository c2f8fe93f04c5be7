"""Evaluate the selectors and markers that limit a request to some platforms.

Selectors are those of conda-build (``linux``, ``x86_64``) and conda-lock (``linux64``), and the platforms themselves.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence

from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.version import Version

from envforge.base.suggest import nearest

KNOWN_PLATFORMS = ("linux-64", "linux-aarch64", "linux-ppc64le", "osx-64", "osx-arm64", "win-64")
EVERYWHERE = frozenset(KNOWN_PLATFORMS)
_UNIX = frozenset(name for name in KNOWN_PLATFORMS if not name.startswith("win"))
_INTEL = frozenset({"linux-64", "osx-64", "win-64"})
SELECTORS: Mapping[str, frozenset[str]] = {
    **{name: frozenset({name}) for name in KNOWN_PLATFORMS},
    "linux": frozenset(name for name in KNOWN_PLATFORMS if name.startswith("linux")),
    "osx": frozenset(name for name in KNOWN_PLATFORMS if name.startswith("osx")),
    "win": frozenset({"win-64"}),
    "unix": _UNIX,
    "linux64": frozenset({"linux-64"}),
    "osx64": frozenset({"osx-64"}),
    "win64": frozenset({"win-64"}),
    "x86": _INTEL,
    "x86_64": _INTEL,
    "aarch64": frozenset({"linux-aarch64"}),
    "arm64": frozenset({"osx-arm64"}),
    "ppc64le": frozenset({"linux-ppc64le"}),
    # names of conda-build for platforms that envforge doesn't lock
    **dict.fromkeys(("linux32", "win32", "arm", "emscripten", "wasi", "freebsd", "zos"), frozenset()),
    **dict.fromkeys(("armv6l", "armv7l", "ppc64", "riscv32", "riscv64", "s390x", "wasm32", "z"), frozenset()),
    **dict.fromkeys(("linux-32", "linux-armv6l", "linux-armv7l", "linux-ppc64", "linux-riscv32"), frozenset()),
    **dict.fromkeys(("linux-riscv64", "linux-s390x", "win-32", "win-arm64", "freebsd-64", "zos-z"), frozenset()),
    **dict.fromkeys(("emscripten-wasm32", "wasi-wasm32", "false"), frozenset()),
    "true": EVERYWHERE,
}
_FOREIGN = {
    **dict.fromkeys(("windows", "win10", "win11", "nt"), "win"),
    **dict.fromkeys(("mac", "macos", "macosx", "darwin", "apple"), "osx"),
    **dict.fromkeys(("amd64", "x64", "x86-64", "intel"), "x86_64"),
    **dict.fromkeys(("posix", "unices"), "unix"),
}
# variables of conda-build that are no platforms; a sentence may contain the words, but no comparison of them
_VARIABLE = r"(?:py|np|vc|python|perl|r_base|os_name|platform_\w+|\w+_(?:platform|version|impl|type|variant|compiler))"
_BUILD_VARIABLE = re.compile(rf"(?:not\s+)?(?:py\d+|py[23]k|nomkl|(?:os\.)?environ\b.*|{_VARIABLE}\s*[<>=!]=?.+)$")
_COMPARISON = re.compile(rf"\b{_VARIABLE}\s*[<>=!]=?")
# what other languages write for `and`, `or`, and `not`
_SYMBOLS = (("&&|&", " and "), (r"\|\||\||,|/", " or "), (r"!(?!=)", " not "))
_SYMBOL = re.compile(r"[&|]|!(?!=)")
# words that surround a selector in other tools and in prose, as in `if linux`, `linux only`, and `platform: linux`
_FILLER = re.compile(r"(?i)(?<![\w-])(?:if|when|on|only|for|sel|selector|platform|os|system)(?![\w-])\s*(?:[:=]=?)?")
_TOKEN = re.compile(r"\s*([A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*|[()])")
_OPERATORS = ("and", "or", "not", "(", ")")
_ALIKE = 0.75


class SelectorError(Exception):
    """A selector that can't be honored; ``hint`` is the spelling that works."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


def parse_selector(text: str) -> frozenset[str]:
    """Return the platforms for which a selector is true; raise ``SelectorError`` if it is invalid or unknown."""
    tokens = _tokens(text)
    found = _evaluate(tokens)
    unknown = [name for name in _names(tokens or []) if name not in SELECTORS]
    if _BUILD_VARIABLE.match(text.strip()) or (tokens is None and _COMPARISON.search(text)):
        spelling = _of_marker(text)
        if spelling:
            raise SelectorError(f"`{text.strip()}` is a marker, not a selector", f"write it as in `{spelling}`")
        raise SelectorError(
            f"the selector `{text.strip()}` depends on more than the platform",
            "use a platform such as `linux`; for a wheel, write a marker such as `; python_version >= '3.10'`",
        )
    words = _in_words(text)
    if found is None and (tokens is None or not unknown or _is_known(words)):
        other = [name for name in _names(_tokens(words) or []) if name not in SELECTORS]
        if other and _evaluate(_tokens(words)) is not None:
            parse_selector(words)
        spelling = words if _is_known(words) else "linux and not aarch64"
        raise SelectorError(f"`{text}` is not a valid selector", f"write it as in `{spelling}`")
    if unknown:
        near = _FOREIGN.get(unknown[0]) or _near(unknown[0])
        known = "use `linux`, `osx`, `win`, `unix`, `x86_64`, or a platform such as `linux-64`"
        raise SelectorError(f"the selector `{unknown[0]}` is unknown", f"did you mean `{near}`?" if near else known)
    return found or frozenset()


def selector_of_comment(comment: str) -> frozenset[str] | None:
    """Return the platforms that a comment selects, or ``None`` if it contains no selector.

    Brackets are a selector if an expression of known names is in them, whatever surrounds them. Other brackets belong
    to the comment, unless they can only be a misspelled selector: those raise ``SelectorError``.
    """
    found = [parse_selector(text) for text in re.findall(r"\[([^\[\]]+)\]", comment) if _is_meant(text)]
    if len(found) > 1:
        raise SelectorError("the comment contains several selectors", "join them with `and` or `or` in one bracket")
    unclosed = re.search(r"\[([^\[\]]+)$", comment)
    if unclosed and _is_meant(unclosed[1]):
        raise SelectorError(f"the selector `[{unclosed[1]}` has no end", f"write it as `[{unclosed[1].strip()}]`")
    return found[0] if found else None


def _is_meant(text: str) -> bool:
    """Return whether brackets contain a selector, right or wrong, and not a note such as ``[12]`` or ``[TODO]``."""
    known = [name in SELECTORS for name in _names(_tokens(_in_words(text)) or [])]
    # with `&&` or `|`, an unknown name next to a known one is no prose
    is_expression = _evaluate(_tokens(_in_words(text))) is not None and (
        all(known) or (any(known) and _SYMBOL.search(text) is not None)
    )
    if _BUILD_VARIABLE.match(text.strip()) or is_expression:
        return True
    tokens = _tokens(text)
    if tokens is None:  # a comparison, or `linux|osx`: other words make it a sentence
        words = re.findall(r"[a-z_][\w-]*", re.sub(r"""'[^']*'|"[^"]*"|(?<![\w-])\d[\w.]*""", "", text.lower()))
        named = [word in SELECTORS or word in _FOREIGN for word in words]
        rest = [word for word, is_named in zip(words, named, strict=True) if not is_named and word not in _OPERATORS]
        is_comparison = _COMPARISON.search(text) is not None
        return (any(named) or is_comparison) and all(is_comparison and re.fullmatch(_VARIABLE, word) for word in rest)
    names = _names(tokens)
    if not names:
        return False
    unknown = [name for name in names if name not in SELECTORS]
    if _evaluate(tokens) is None:
        return not unknown  # words around a known name are a sentence
    if len(unknown) < len(names):
        return True
    return any(name in _FOREIGN or _near(name) for name in unknown)


def _near(name: str) -> str | None:
    return nearest(name, [known for known in SELECTORS if SELECTORS[known] and known != "true"], alike=_ALIKE)


def _is_known(text: str) -> bool:
    """Return whether a text is a valid selector of known names."""
    tokens = _tokens(text)
    return _evaluate(tokens) is not None and all(name in SELECTORS for name in _names(tokens or []))


def _of_marker(text: str) -> str:
    """Return the selector that is true where a marker is; empty if it isn't a marker of the platform."""
    try:
        marker = Marker(text.strip())
    except ValueError:
        return ""
    if not is_valid_marker(marker) or re.search(r"python|implementation|extra|release|platform_version", text):
        return ""
    found = {p for p in KNOWN_PLATFORMS if marker.evaluate({**marker_environment(p, Version("3.12")), "extra": ""})}
    named = next((name for name, platforms in SELECTORS.items() if platforms == found), "")
    return named or " or ".join(sorted(found))


def _in_words(text: str) -> str:
    """Return a selector with the operators of Python, and without quotes and words around it."""
    text = _FILLER.sub(" ", re.sub(r"[\"']", " ", text))
    for symbols, word in _SYMBOLS:
        text = re.sub(symbols, word, text)
    return " ".join(text.split())


def _tokens(text: str) -> list[str] | None:
    tokens, position = [], 0
    text = text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        tokens.append(match[1].lower())
        position = match.end()
    return tokens


def _names(tokens: Iterable[str]) -> list[str]:
    return [token for token in tokens if token not in _OPERATORS]


def _evaluate(tokens: list[str] | None) -> frozenset[str] | None:
    """Return the platforms of an expression of ``or``, ``and``, ``not``, and parentheses; None if it is invalid."""
    names = _names(tokens or [])
    # a name may have a dash, or be a keyword of Python
    words = iter(range(len(names)))
    text = " ".join(token if token in _OPERATORS else f"_{next(words)}" for token in tokens or [])
    try:
        return _platforms(ast.parse(text, mode="eval").body, names)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _platforms(node: ast.expr, names: Sequence[str]) -> frozenset[str]:
    match node:
        case ast.BoolOp(op=ast.Or()):
            return frozenset().union(*(_platforms(value, names) for value in node.values))
        case ast.BoolOp():
            return EVERYWHERE.intersection(*(_platforms(value, names) for value in node.values))
        case ast.UnaryOp(op=ast.Not()):
            return EVERYWHERE - _platforms(node.operand, names)
        case ast.Name():
            return SELECTORS.get(names[int(node.id[1:])], frozenset())
    raise ValueError(node)


_SYSTEMS = {
    "linux": ("posix", "linux", "Linux"),
    "osx": ("posix", "darwin", "Darwin"),
    "win": ("nt", "win32", "Windows"),
}
MACHINES = {
    "linux-64": "x86_64",
    "linux-aarch64": "aarch64",
    "linux-ppc64le": "ppc64le",
    "osx-64": "x86_64",
    "osx-arm64": "arm64",
    "win-64": "AMD64",
}


def is_valid_marker(marker: Marker) -> bool:
    """Return whether a marker can be evaluated: some, such as ``os_name ~= 'x'``, only fail then."""
    try:
        marker.evaluate({**marker_environment(KNOWN_PLATFORMS[0], Version("3.12")), "extra": ""})
    except (UndefinedComparison, UndefinedEnvironmentName, ValueError):
        return False
    return True


def marker_environment(platform: str, python: Version) -> dict[str, str]:
    """Return the values of the marker variables (PEP 508) on a platform with this version of CPython."""
    os_name, sys_platform, platform_system = _SYSTEMS[platform.split("-", maxsplit=1)[0]]
    return {
        "implementation_name": "cpython",
        "implementation_version": str(python),
        "os_name": os_name,
        "platform_machine": MACHINES[platform],
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": platform_system,
        "platform_version": "",
        "python_full_version": str(python),
        "python_version": f"{python.major}.{python.minor}",
        "sys_platform": sys_platform,
    }
