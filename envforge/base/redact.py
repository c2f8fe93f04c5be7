"""Remove what identifies a person or a computer from strings; change each string in a value; quote paths for a shell.

A known name is removed wherever it is a word, in any case, and with any separators. A short name is removed only in a
path, before ``@``, and after a label such as ``user``; a word of the field only in the last two places.
Other identities are found by their grammar, see ``KINDS``. Four numbers are an address unless the text names a version.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv6Address
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from envforge.base.urls import hide_secrets
from envforge.errors import ESCAPE_SEQUENCE

T = TypeVar("T")
TextChange = Callable[[str], str]
_PLAIN = re.compile(r"~?[\w@%+=:,./-]+")

# a report without these words would be unreadable, and records contain some of them as values
_FIELD = set(
    re.findall(
        r"\w+",
        """
    absent amd anaconda arm array batch bench benchmark bf broken cache catalogue check checkpoint clock conda
    container core cores cpu cu cublas cuda cudart cudnn data dataset datasets debian debug deep default device
    devices disk docker driver envforge environment error example export fabric failed false fast file files
    fleet float fp free gpu gtx home image int kernel late layer learning lib library limit linux local lock
    locks lost machine macos main mamba manylinux master memory micromamba mig mixed model models module modules
    nccl none null number numpy nvidia nvml opencv packages path pixi platform podman power precision prefix
    process processes profile project projects prompt py python pytorch queue rank record release report resume
    root roots rtx samples scratch script seed shell slurm sm source speed state step store system temp template
    tensor test tests tf thread time tmp tmpfs tool torch torchaudio torchvision train training transfer triton
    true ubuntu unfinished unknown update usr value variant verify version virtual warning weights wheel wheels
    win windows work workspace world
    """,
    )
)
# such a name with a number is one computer or one account
_ROLES = set(
    re.findall(
        r"\w+",
        """
    admin administrator azureuser centos cluster coder computer desktop dgx fedora gpu guest head host jenkins
    jovyan laptop localhost login nobody node rocky runner server service user users vagrant vscode worker
    workstation
    """,
    )
)
_GAP = "\r\x1f"  # ends words and URLs
_LONG = 4  # letters of a name that is no word of a sentence

_HEX = "[0-9A-Fa-f]"
# `%2F`, `\n` in a representation, and `\u002f` in JSON separate words, although they end in a letter or a digit
_ESCAPED = rf"(?<=%{_HEX}{{2}})|(?<=\\[nrt])|(?<=\\u{_HEX}{{4}})"
_NO_LETTER_BEFORE = rf"(?:(?<![^\W\d_])|{_ESCAPED})"
_NO_WORD_BEFORE = rf"(?:(?<![^\W_])|{_ESCAPED})"
_SLASH = r"(?:[/\\]|%2[Ff]|%5[Cc])(?:\.?(?:[/\\]|%2[Ff]|%5[Cc])){0,6}"
_NAME = r"(?:[^/\\\s:;,'\"`()<>|&?*%\]}]|%(?!2[Ff]|5[Cc]))+"
_HOMES = r"(?:(?:[a-z]|net|nfs)?home\d*|homes|users|documents and settings)"
_GROUP = r"[\w.-]*(?:group|grp|lab|dept|staff|students?|faculty|people|corp|domain)\w?"
_IN_HOME = r"(?:\.(?:cargo|config|local|mamba|ssh)|(?:ana|mini)(?:conda|forge)\d?|(?:micro)?mamba(?:forge)?)(?![\w-])"
_AT = r"(?:@|\uff20|%(?:25){0,3}40|\\u0040|&#(?:64|x40);|&commat;)"
_ASSIGNED = r"(?:[=>]|['\"]\s?:\s?)['\"]?"
_OCTETS = r"(?:\d{1,3}\.){3}\d{1,3}"

# versions of libraries have four numbers, too
_BEFORE_VERSION = re.compile(
    r"(?i)(?:[=<>~!]=|(?<![^\W_])v|\.so\.|(?:version|driver|release|module|libraries|packages\.[\w.-]+"
    r"|(?:cuda|cudart|cudnn|cublas|cufft|cufile|curand|cusolver|cusparse|cutensor|cupti|nccl|nvcc|nvrtc|nvtx|nvjitlink"
    r"|nvjpeg|nvshmem|nvml|npp|tensorrt|torch|triton|libcuda|glibc|python|opencv)(?:\d{1,2}|lt|mg|(?:[-_](?:cu\d+|dev|lib"
    r"|libs|static|python|headless|runtime)))*)[\"'`]?[\s(/_<>=:-]{1,4}[\"'`v]?|(?:expected|found) `)$"
)
_AFTER_VERSION = re.compile(r"-(?:py|cp|pp|h[0-9a-f]|cuda|cu\d)|\+cu|\.(?:post|dev|rc|whl|tar|conda|dist-info|so)\b")
_BEFORE_ADDRESS = re.compile(
    r"(?i)(?:ssh|ping|curl|host|node|server|addr|address|ip|peer|to|at|from)[\s=:\"'`(\[]{1,4}$"
)
_VERSIONS = range(32)  # the first three numbers of versions; 10 starts private addresses
_PRIVATE = 10


def _address(match: re.Match[str]) -> str:
    """Return ``IP``, or the match if it's a version, loopback, or no address."""
    text, (start, end) = match.string, match.span()
    octets = [int(each) for each in match[0].split(".")]
    before, after = text[max(0, start - 48) : start], text[end : end + 16]
    # alone, or `NAME VERSION` in a code span: nothing else tells
    is_alone = match[0] == text or (re.search(r"`[\w.-]+ $", before) and after[:1] == "`")
    is_like_version = all(each in _VERSIONS for each in octets[:3]) and octets[0] != _PRIVATE
    is_resolver = octets[2] == octets[3] != 0  # such as 8.8.8.8
    is_named = (
        _BEFORE_VERSION.search(before)
        or _AFTER_VERSION.match(after)
        or (is_alone and is_like_version and not is_resolver)
    )
    is_version = is_named and not _BEFORE_ADDRESS.search(before)
    return match[0] if is_version or max(octets) > 255 or octets[0] in {0, 127} else "IP"


def _address_6(match: re.Match[str]) -> str:
    try:
        address = IPv6Address(match[0])
    except ValueError:
        return match[0]
    return match[0] if address.is_loopback or address.is_unspecified else "IP"


_NO_DOMAINS = re.compile(r"(?i)hk[a-z]+|builtin|authority|service|software|bin|dll|appdata|userprofile|windir|system32")
_NO_HOSTS = {"cuda", "cu", "eth", "ib", "mlx", "numa", "pcie", "sm", "v", "x"}


def _domain_user(match: re.Match[str]) -> str:
    """Return ``USER``, or the match if it's a path of Windows or contains an escaped character such as a line feed."""
    domain, mark, name = match["domain"], match["mark"], match["name"]
    is_escape = mark == "\\" and name[0] in "nrtux"
    is_path = domain.lower() in _FIELD or _NO_DOMAINS.fullmatch(domain) or "." in name[-5:-1]
    return match[0] if is_escape or is_path else "USER"


def _user(match: re.Match[str]) -> str:
    """Return the label with ``USER``, or the match if the name is a word of the field."""
    return match[0] if match["name"].lower() in _FIELD else f"{match['label']}USER"


def _host(match: re.Match[str]) -> str:
    """Return the label with ``HOST``, or the match if the name is a word of the field, or a device such as ``gpu0``."""
    name = match["name"].lower()
    word = re.split(r"[\d_-]", name, maxsplit=1)[0]
    is_device = re.fullmatch(r"[a-z]+\d?", name) or word not in _ROLES
    is_word = name in _FIELD or ("=" not in match["label"] and is_device and word in _FIELD | _NO_HOSTS)
    return match[0] if is_word else f"{match['label']}HOST"


class Kind(NamedTuple):
    """What is removed. ``what`` is its name in the documentation; only texts that match ``where`` can contain it."""

    what: str
    stand_in: str | Callable[[re.Match[str]], str]
    pattern: re.Pattern[str]
    where: re.Pattern[str] | None = None

    def removed(self, text: str) -> str:
        """Return the text with a stand-in for each match."""
        return text if self.where and not self.where.search(text) else self.pattern.sub(self.stand_in, text)


_DOMAIN = r"(?:(?:[^\W_]|-){1,63}\.)+[^\W\d_](?:[^\W_]|-){1,62}(?!\w)"
# without a dot, and not the version of an action or a tool
_SHORT_DOMAIN = r"(?!(?:latest|main|master|head|file|https?|git|ssh|sha\d+)\b)[a-z][a-z0-9-]*(?!\w|\.\d|://)"
# before `hide_secrets`, which may take the start of an email address for a password, and leave its domain
_LABELLED_EMAIL = re.compile(
    rf"(?i)(?<![^\s\"'`(<>,=\[|;])((?:[\w.+-]{{1,64}}:)?[\w.+-]{{1,64}}@)(?:{_DOMAIN}|{_SHORT_DOMAIN})(?![/:-])"
)
_SERIAL = (
    r"(?:serial(?:[ ._-]?(?:number|num|n[ro]|id|short))?|seriennummer|(?:service|asset)[ _-]?tag|(?<![a-z])s[/.]?n[ro]?"
    r")(?![a-z])"
)
_UUID = re.compile(
    rf"(?i)(?<![a-z0-9])(?P<prefix>v?GPU|MIG)[-_](?:GPU[-_])?(?=[a-f_/-]*\d){_HEX}{{4,}}(?:[/_-]{_HEX}+)*(?![^\W_]|-)"
    rf"|{_HEX}{{8}}(?P<dash>[-_:])(?:{_HEX}{{4}}(?P=dash)){{3}}{_HEX}{{12}}"
    rf"|(?P<label>(?:[ug]uid|(?:machine|boot|system)[ _-]?id)[^\w\n]{{1,12}}(?:0x)?)"
    rf"(?:{_HEX}{{8,32}}|{_HEX}{{4}}(?::{_HEX}{{4}}){{3}})(?![\w-])"
    rf"|(?P<kind>(?:GPU|MIG)(?:[^\w\n]|_){{0,12}}){_HEX}{{32}}(?!\w)"
    # one of thirteen checksums has the form of a UUID, too
    rf"|(?P<hash>(?:md5|hash|digest|checksum|etag)[^\w\n]{{1,4}})?"
    rf"(?<!\w){_HEX}{{12}}[1-5]{_HEX}{{3}}[89ab]{_HEX}{{15}}(?!\w)"
)
# not the library `tiktoken`, the unit `bytes_per_token`, or the stand-in `/t/<TOKEN>`
_CREDENTIAL = (
    r"(?<!unexpected )(?<!tik)(?<!per[ _-])(?<!/<)(?:pass(?:word|wd|phrase)|secret|token"
    r"|(?:api|access|private|secret)[_-]?key|authorization|bearer)\d?(?![\w-])"
)
_CLOSED = rf"(?=[\"'`)\]}}>.,;]{{0,9}}(?:\s|$)|</|\\[\"']|[\"'`][\w-]{{0,40}}{_CREDENTIAL})"
# tokens whose form is documented by who issues them, with or without a label
_TOKENS = re.compile(
    rf"(?:(?<![A-Za-z0-9])|{_ESCAPED})(?:gh[oprsu]_[A-Za-z0-9]{{30,}}|github_pat_\w{{22,}}|(?:hf|api_org)_[A-Za-z0-9]{{30,}}"
    r"|(?:A3T[A-Z0-9]|A[GIKNRS][DIOPSV]A)[A-Z0-9]{16}(?![A-Za-z0-9])|AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}"
    r"|npm_[A-Za-z0-9]{36}|dckr_[po]at_[\w-]{20,}|[rsp]k_(?:live|test)_[A-Za-z0-9]{16,}|r8_[A-Za-z0-9]{30,}"
    r"|gsk_[A-Za-z0-9]{40,}|dapi[a-f0-9]{32}|dop_v1_[a-f0-9]{64}|hv[bs]\.[\w-]{24,}|SG\.[\w-]{16,32}\.[\w-]{16,64})"
    # they may contain hyphens, so they start only where no word goes on
    rf"|(?:(?<![\w-])|{_ESCAPED})(?:xox[a-z]-[\w-]{{10,}}|xapp-\d-[\w-]{{10,}}|gl(?:agent|cbt|dt|ffct|ft|imt|oas|pat|ptt|rt"
    r"|soat)-[\w-]{20,}"
    r"|pypi-AgE[\w-]{16,}|nvapi-[\w-]{40,}|sk-(?=[\w-]{0,99}\d)(?=[\w-]{0,99}[A-Z])[\w-]{20,}"
    r"|eyJ[\w-]{5,}(?:\.[\w-]*){2,4})"
    r"|-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:(?!-----END)[\s\S])*"
    r"(?:-----END[A-Z0-9 ]{1,40}-----)?"
)
_SAID = r"[ \t]{1,3}(?:(?:is|was)[ \t])?"
_GIVEN = r"(?:\\?[\"'`])?(?:[ \t]{0,3}(?:=(?!=)>?|:)[ \t]{0,3}|>(?!=))"
_SHARED = r"(?:lustre|gpfs|beegfs|panfs|cephfs|weka|fsx|scratch)\d*"
_DOMAIN_USER = r"(?:(?-i:[A-Z][A-Z0-9-]{1,14})\\{1,2}|[\w.-]{2,32}\\(?:\\|(?![nrtux])))(?=\w)"
_USER = r"(?P<name>(?!(?:root|none|null|true|false|yes|no|unknown)\b)\d*[^\W\d](?:[\w.+-]*\w)?)"
_BEFORE_USER = (
    r"(?<=tmp)/ray[-_](?!results|session)|/(?:run/media|spool/mail|var/mail)/|/screen/S-|\bpytest-of-|\bhsperfdata_|:user/"
    r"|\b(?:(?:opened|closed) for user|sudo:|accepted \w{1,20} for) {1,8}"
    # a row of `ls -l`
    r"|(?<![^\s'\"`(])[bcdlps-](?:[r-][w-][stx-]){3}[.+@]? {1,8}\d{1,9} {1,8}"
)
_USER_COLON = rf"(?:\b|{_ESCAPED})(?:user(?:[ _]?name)?|logname|login|owner) {{0,16}}:\s{{1,16}}"
_BEFORE_HOST = (
    r"(?<![a-z0-9-])(?<!</)(?:(?:node)?host_?name|node_?(?:name|list)|host_?list|computername|master_addr)"
    rf"(?:{_ASSIGNED}|[ \t]{{0,16}}[:|]\s{{0,3}})|--nodelist[ =]"
)
# with a list of Slurm, such as `dgx-[01-04,07]`, and no name of a compiler, such as `x86_64-linux-gnu`
_NUMBERED = r"[a-z]{2,24}[a-z-]{0,24}(?:\d|\[\d)"
_HOST = (
    r"(?!(?:localhost|IP|none|null|unknown)\b|(?:x86_64|i\d86|aarch64|arm\w*|ppc\w*|s390x|riscv\w*)-)"
    r"(?P<name>[a-z0-9](?:[\w.-]|\[[\d,-]*\]|[,+](?=[a-z0-9]))*(?<![.-]))"
)
KINDS = (
    Kind("passwords and tokens", "SECRET", _TOKENS),
    Kind("UUIDs", "UUID", _UUID),
    Kind(
        "IP addresses",
        _address,
        re.compile(rf"(?:{_NO_WORD_BEFORE}|(?<=ip)|(?<=addr))(?<!\d\.){_OCTETS}(?![^\W_]|\.\d)"),
    ),
    Kind(
        "IP addresses",
        _address_6,
        re.compile(
            rf"(?:(?<![A-Za-z0-9:])|{_ESCAPED}|(?<=\w:)(?={_HEX}{{1,4}}:|::)){_HEX}{{0,4}}(?::{_HEX}{{0,4}}){{2,8}}(?![\w:])"
        ),
    ),
    # after IPv6, of which six short groups look like a MAC address
    Kind(
        "MAC addresses",
        r"\g<label>MAC",
        re.compile(
            rf"(?<!{_HEX}){_HEX}{{1,2}}:(?:{_HEX}{{1,2}}:){{4,18}}{_HEX}{{1,2}}(?![0-9A-Fa-f:])"
            rf"|(?<!{_HEX}){_HEX}{{2}}-(?:{_HEX}{{2}}-){{4,18}}{_HEX}{{2}}(?!{_HEX})"
            # three numbers or three words are none
            rf"|(?<!{_HEX})(?<!{_HEX}[.-])(?=[\d.-]{{0,13}}[A-Fa-f])(?=[A-Fa-f.-]{{0,13}}\d)"
            rf"{_HEX}{{4}}(?P<mark>[.-]){_HEX}{{4}}(?P=mark){_HEX}{{4}}(?![^\W_]|[.-]\w)"
            r"|(?P<label>(?i:(?:mac(?:_?addr(?:ess)?)?|ether|hwaddr|lladdr)[^\w\n]{1,12}|(?:en|wl|ww)x))"
            rf"(?:{_HEX}{{2}}[:. -]?){{5}}{_HEX}{{2}}(?![^\W_])"
        ),
    ),
    Kind(
        "IP addresses",
        "IP",
        re.compile(
            r"(?i)(?<![a-z0-9])(?:(?:ip|ec2|vm|host|node)[-_]?(?:\d{1,3}[-_]){3}\d{1,3}(?![^\W_])(?:\.[a-z][\w-]*)*"
            r"|(?:[a-z]+\d?-)?(?:\d{1,3}-){3}\d{1,3}(?:\.[a-z][\w-]*)+)"
        ),
    ),
    Kind(
        "home directories",
        "~",
        re.compile(
            rf"(?i)(?:(?:/[\w.+-]{{1,255}}){{0,8}}|(?<![a-z])(?P<drive>[a-z]:)){_SLASH}"
            rf"{_HOMES}{_SLASH}(?:(?<=/)(?(drive)(?!)){_DOMAIN_USER})?"
            rf"(?:(?:{_GROUP}|(?<=/ihome/){_NAME}){_SLASH})?{_NAME}(?:{_SLASH}\.\.{_SLASH}{_NAME})*"
            rf"(?:{_SLASH}{_NAME}(?={_SLASH}{_IN_HOME}))?"
            # names in Windows may contain spaces; without a drive, what follows may be a sentence
            rf"(?:(?: [\w.-]+){{1,3}}(?:(?=[/\\])|(?(drive)(?=[)\]}}>;,<'\"`]|$)|(?!))))?"
            r"|(?<![\w./~\\-])~[a-z_][\w.-]*(?=[/\\])"
            r"|(?<![\w./~-])/root(?=[/\s:;,'\"`()]|\.(?!\w)|$)"
            r"|(?<![\w.~/\\%-])home/[\w.-]+(?=/)"
            r"|(?<![\w./~-])/u/[a-z_][\w.+-]*\w"
            rf"|/afs/[\w.-]{{1,64}}/(?:usr|(?-i:user)|users|home|u|people)/(?:[^\W_]{{1,2}}/){{0,2}}{_NAME}"
            rf"|(?:/[\w.-]{{1,64}}){{0,2}}/{_SHARED}(?:/[\w.-]{{1,64}})?/(?:(?-i:user)|people|staff|students?|u)/(?:[a-z]/)?{_NAME}"
        ),
        re.compile(r"(?i)home|users|documents|~|/root|/u/|/afs/|/(?:user|people|staff|students?)/"),
    ),
    # a directory directly below `/scratch` may have the name of a project
    Kind(
        "user names",
        _user,
        re.compile(rf"(?i)(?P<label>/{_SHARED}(?:/[\w.-]{{1,64}})?/(?:work|scratch|nobackup)/){_USER}"),
    ),
    Kind("user names", _user, re.compile(rf"(?i)(?P<label>/(?:work|data|{_SHARED})/){_USER}(?=/{_IN_HOME})")),
    Kind(
        "user names", _user, re.compile(rf"(?i)(?P<label>/(?:work|{_SHARED})/(?P<first>[a-z])/)(?=(?P=first)){_USER}")
    ),
    Kind("user names", _user, re.compile(rf"(?i)(?P<label>{_BEFORE_USER}){_USER}")),
    Kind("user names", _user, re.compile(rf"(?i)(?P<label>\buser (?P<quote>['\"`])){_USER}(?=(?P=quote))")),
    Kind(
        "user names",
        _user,
        re.compile(rf"(?i)(?P<label>\buser ){_USER}(?= (?:logged |is not (?:allowed|in)\b|not in\b))"),
    ),
    Kind("user names", _user, re.compile(rf"(?i)(?P<label>{_USER_COLON}){_USER}(?=[ \t]*(?:$|[\n,;)|'\"`}}\]]))")),
    Kind(
        "user names",
        _domain_user,
        re.compile(
            rf"(?:(?<![\w\\/.:$%-])|{_ESCAPED})(?P<domain>[A-Z][A-Z0-9-]{{1,14}}|AzureAD)(?P<mark>\\{{1,2}})"
            r"(?P<name>[A-Za-z](?:[\w.-]{0,62}\w)?)"
            r"(?![\w\\/]|[.-]\w)"
        ),
    ),
    Kind(
        "user names",
        r"\1USER",
        re.compile(
            rf"((?i:(?<![a-z0-9])(?<!</)(?:user(?:_?name)?|logname|login|owner){_ASSIGNED})|\b(?:[ug]id|groups)=\d+\(|(?<=\),)\d+\(|torchinductor_)"
            rf"(?:{_DOMAIN_USER})?(?!(?:root|None|null|true|false|yes|no|unknown)\b)\d*[^\W\d](?:[\w.+-]*\w)?"
        ),
    ),
    Kind("host names", r"\g<label>HOST", re.compile(rf"(?i)(?P<label>{_BEFORE_HOST})(?=[\w.-]*[a-z]){_HOST}")),
    Kind(
        "host names", r"\g<label>HOST", re.compile(rf"(?i)(?P<label>\bhost_?name {{1,8}}(?:is )?)(?=[\w.-]*\d){_HOST}")
    ),
    Kind(
        "host names",
        _host,
        re.compile(
            rf"(?i)(?P<label>(?<![a-z0-9-])(?:--)?(?:batch|submit|exec)?_?hosts?=['\"]?)(?=[\w.-]*[a-z]){_HOST}"
        ),
    ),
    Kind(
        "host names",
        _host,
        re.compile(
            rf"(?i)(?P<label>\b(?:nodes?|hosts?|ssh|ping|connect(?:ed|ing|ion)? to) ['\"`]?)(?={_NUMBERED}){_HOST}"
        ),
    ),
    Kind("host names", "HOST", re.compile(r"(?<![\w-])i-[0-9a-f]{17}(?![\w-])")),
    Kind(
        "email addresses",
        "EMAIL",
        re.compile(
            rf"(?i)(?:(?<![\w.+-])[\w.+-]+|\"[^\"\n]{{1,64}}\"){_AT}(?:{_DOMAIN}|\[IP\])"
            rf"|(?<![\w.+/-])[\w.+-]+{_AT}{_SHORT_DOMAIN}"
        ),
        re.compile(_AT),
    ),
    Kind(
        "serial numbers",
        r"\1SERIAL",
        re.compile(
            rf"(?i)({_SERIAL}[^\w\n]{{1,40}}(?:(?:is|was)[^\w\n]{{1,4}})?)"
            # letters only in capitals, and not in a sentence
            r"(?:(?=[a-z_-]*\d)\w[\w/-]{3,}|(?<![a-z] )(?-i:[A-Z]{6,})(?!\w))"
            # the value below a heading
            r"|(?<![\w.])\d{10,}(?!\w|\.\d)"
        ),
        re.compile(rf"(?i){_SERIAL}"),
    ),
    # last, because a value without quotes may contain quotes, and end in another identity
    Kind(
        "passwords and tokens",
        r"\1\3\4SECRET",
        re.compile(
            # in quotes, even with spaces
            rf"(?i)({_CREDENTIAL}(?:{_GIVEN}|{_SAID})(\\?[\"'`]))(?!\$)(?:(?!\2)(?:\\.|[^\\\n])){{1,300}}(?=\2)"
            rf"|({_CREDENTIAL}{_GIVEN}(?:(?:bearer|basic|token)[ \t]+)?"
            rf"|(?:(?<![\w-])--?[a-z-]{{0,40}}{_CREDENTIAL}|bearer)[ \t]+(?![=:-]))"
            rf"(?!\$|(?:none|null|true|false)\b)\S+?{_CLOSED}"
            # in a sentence, a word with a digit
            rf"|({_CREDENTIAL}{_SAID})(?=\S*\d)(?=\S*[a-z])\w\S{{3,}}?{_CLOSED}"
        ),
    ),
)


class Identity(Struct, frozen=True, kw_only=True):
    """The names to search for: of the user, of hosts, and of the home directory. Unknown ones are empty."""

    user: str = ""
    hosts: tuple[str, ...] = ()
    home: str = ""

    @classmethod
    def here(cls, host: str | None = None) -> Identity:
        """Return the identity of this process, and another host, from which a record may come."""
        import socket  # noqa: PLC0415 - slow to import, and only redaction needs it

        # from the variables and not from the user database, which containers often lack
        user, home = (
            next(filter(None, map(os.environ.get, names)), "")
            for names in (("USER", "LOGNAME", "USERNAME"), ("HOME", "USERPROFILE"))
        )
        return cls(user=user, hosts=(socket.gethostname(), host or ""), home=home)

    def kinds(self) -> Iterator[Kind]:
        """Yield what to remove because it is known."""
        parts = [re.escape(part) for part in re.split(r"[/\\]+", self.home) if part]
        if parts[1:]:
            lead = "" if self.home[0].isalpha() else _SLASH
            yield Kind("home directories", "~", re.compile(rf"(?i){lead}{_SLASH.join(parts)}(?![\w-]|\.\w)"))
            for above in range(1, len(parts) - 1):
                if re.fullmatch(rf"(?i){_HOMES}", parts[above - 1]):  # homes of others have as many levels
                    others = _SLASH.join((*parts[:above], *[_NAME] * (len(parts) - above)))
                    yield Kind("home directories", "~", re.compile(rf"(?i){lead}{others}"))
        elif parts and parts[0].lower() not in {"home", "users"}:
            yield Kind("home directories", "~", re.compile(rf"(?<![\w./\\~-])[/\\]{parts[0]}(?![\w-]|\.\w)"))
        for host in self.hosts:
            name, _, domain = host.partition(".")
            if "." in domain and not re.fullmatch(_OCTETS, host):
                words = r"[._-]".join(map(re.escape, domain.split(".")))
                yield Kind(
                    "host names",
                    "HOST",
                    re.compile(rf"(?i)(?:(?<![\w.-])[\w.-]{{0,200}}[._-])?(?<![^\W_]){words}(?![\w-])"),
                )
            for pattern in _patterns(name, "host|hostname|node|server"):
                yield Kind("host names", r"\1HOST", pattern)
        of_home = parts[-1].replace("\\", "") if parts[1:] else ""
        for user in dict.fromkeys((self.user, of_home)):
            for pattern in _patterns(user, "user|username|owner|owned by|logname|login|account"):
                yield Kind("user names", r"\1USER", pattern)


def _patterns(name: str, labels: str) -> Iterator[re.Pattern[str]]:
    """Yield patterns for a name, with what stays before it as their group."""
    letters = "".join(each for each in name if each.isalpha()).lower()
    has_number = any(each.isdigit() for each in name)
    if (len(name) < 2 and letters.isascii()) or letters in {"root", "localhost"}:
        return
    escaped = re.escape(name)
    if letters not in _FIELD | _ROLES and (len(letters) >= _LONG or not letters.isascii()):
        between = rf"(?:[^\w\n]|_|%{_HEX}{{2}}){{0,2}}"
        forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
        spelled = [between.join(map(re.escape, re.split(r"[\W_]+", form.strip("-_.")))) for form in forms]
        anyhow = "|".join(dict.fromkeys([*spelled, re.escape(quote(name))]))
        before, number = (_NO_WORD_BEFORE, "") if has_number else (_NO_LETTER_BEFORE, r"\d")
        yield re.compile(rf"(?i)(){before}(?:{anyhow})(?![^\W{number}_])")
        return
    if has_number and letters not in _FIELD - _ROLES and len(name) > _LONG:
        yield re.compile(rf"(){_NO_WORD_BEFORE}{escaped}(?![^\W_])")
    elif letters not in _FIELD | _ROLES:
        yield re.compile(rf"(?i)({_SLASH}(?:[\w.+-]{{0,64}}[-_.])?){escaped}(?![^\W_])")
    yield re.compile(
        rf"(?i)((?<![a-z])(?:{labels})(?:\s?[=:]\s?|\s)['\"`]?|~|(?<=\d)\(|(?<![\w.-])(?={escaped}{_AT})|@){escaped}(?![\w-])"
    )


def redactor(identity: Identity) -> TextChange:
    """Return a function that redacts a string; equal UUIDs get equal numbers."""
    numbers: dict[str, int] = {}

    def numbered(match: re.Match[str]) -> str:
        if match["hash"]:
            return match[0]
        kept = match["label"] or match["kind"] or ""
        value = re.sub(r"(?i)(?:v?gpu|mig)|[_:-]", "", match[0][len(kept) :]).lower()
        return f"{kept}{(match['prefix'] or 'UUID').upper()}-redacted-{numbers.setdefault(value, len(numbers) + 1)}"

    kinds = [
        each._replace(stand_in=numbered) if each.pattern is _UUID else each for each in (*identity.kinds(), *KINDS)
    ]

    def removed(text: str) -> str:
        text = hide_secrets(_LABELLED_EMAIL.sub(r"\1EMAIL", text))
        for kind in kinds:
            text = kind.removed(text)
        return text

    def clean(text: str) -> str:
        if ESCAPE_SEQUENCE.search(text):  # they may separate words, or the letters of one word
            text = removed(ESCAPE_SEQUENCE.sub(_GAP, text)).replace(_GAP, "")
        return removed(text)

    return clean


def redact_texts(value: T, clean: TextChange) -> T:
    """Return a copy of a value with each string redacted as if its field were written before it: ``serial=…``."""

    def labelled(text: str, label: str) -> str:
        cleaned = clean(f"{label}={text}")
        if cleaned.startswith(f"{label}=SECRET"):  # with all its words
            return "SECRET"
        return cleaned[len(label) + 1 :] if label and cleaned.startswith(f"{label}=") else clean(text)

    return cast("T", _changed(value, labelled, ""))


def change_texts(value: T, change: TextChange) -> T:
    """Return a copy of a value of structs, tuples, lists, and dicts with each string changed, but no dict key."""
    return cast("T", _changed(value, lambda text, _label: change(text), None))


# the values of envforge's own fields, which a reader of the record expects
_CONSTANT = frozenset({"check", "code", "depth", "explicit", "group", "only", "question", "record", "skip", "what"})
# they contain any text, so the name of the field around them counts
_UNLABELLED = frozenset({"observed", "value", "wanted"})


def _changed(value: Any, change: Callable[[str, str], str], label: str | None) -> Any:
    """TextChange each string, and, with a label, which is None for no labels, each dict key and labelled number."""
    if type(value) is str:  # not a member of a string enumeration
        return change(value, label or "")
    if isinstance(value, (tuple, list)):
        return type(value)(_changed(item, change, label) for item in value)
    if isinstance(value, dict):
        if label is None:
            return {key: _changed(item, change, None) for key, item in value.items()}
        return _changed_dict(value, change, label)
    if isinstance(value, Struct):
        names = value.__struct_fields__
        labels = {name: label if name in _UNLABELLED or label is None else name for name in names}
        kept = _CONSTANT if label is not None else frozenset[str]()
        changed = {name: _changed(getattr(value, name), change, labels[name]) for name in names if name not in kept}
        return replace(value, **changed)
    return value


def _changed_dict(value: dict[Any, Any], change: Callable[[str, str], str], label: str) -> dict[Any, Any]:
    changed: dict[Any, Any] = {}
    for key, item in value.items():
        name = new = change(key, "") if type(key) is str else key
        number = 1
        while new in changed:  # names of two users have the same stand-in
            number += 1
            new = f"{name}-{number}"
        path = f"{label}.{name}".lstrip(".")
        is_serial = type(item) is int and change(str(item), path) == "SERIAL"
        changed[new] = _changed(str(item) if is_serial else item, change, path)
    return changed


def quoted(path: str) -> str:
    """Quote a path for a shell; ``~`` at its start keeps its meaning."""
    if _PLAIN.fullmatch(path):
        return path
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


def lock_command(platforms: Iterable[str]) -> str:
    """Return the command that locks these platforms."""
    return " ".join(["envforge lock", *(f"-p {shlex.quote(name)}" for name in platforms)])
