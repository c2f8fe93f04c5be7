"""Test that a URL never shows a secret, whatever form the secret has, and that parsing accepts any text."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envforge.base.urls import Url, has_secrets, hide_secrets, show_url

SECRET = "S3CRET"
# what people and tools put into passwords; white space and quotes only where the password is known to go on
PASSWORDS = st.builds(
    lambda before, after: f"{before}{SECRET}{after}",
    st.text(st.characters(blacklist_categories=["Z", "C"], blacklist_characters="/?#\"'`<>\\"), max_size=6),
    st.text(st.characters(blacklist_categories=["Z", "C"]), max_size=6),
).filter(lambda password: "//" not in password)
ODD = st.sampled_from([*"\u00a0\u2028\t \n\x1b\0\u200b\"'`<@:/", "x" * 5000, ""])
ODD_PASSWORDS = st.builds(
    lambda odd, after: f"pw{odd}{SECRET}{after}", ODD, st.sampled_from(("", "@", "/", ":", "?", "#"))
)
USERS = st.sampled_from(["user", "me@corp.example", "me%40corp.example", "$NAME", "x-token", "a.b"])
SCHEMES = st.sampled_from(
    ["http", "https", "git+https", "git+ssh", "ssh", "s3", "HTTPS", "GIT+HTTPS", "git+http", "Http"]
)
HOSTS = st.sampled_from(
    ["host.example", "h", "host.example:8080", "[::1]", "[::1]:80", "10.0.0.1", "localhost:80", "b\u00fccher.example"]
)
TEMPLATES = (
    "{scheme}://{user}:{password}@host.example/team/x.git",
    "{scheme}://{user}:{password}@host.example:8443/..%2Fevil.conda",
    "{scheme}://{user}:{password}@[::1]:80/x@rev",
    "{scheme}://{user}:{escaped}@host.example/x?a=b#c",
    "{scheme}://{escaped}@host.example/x",
    "{scheme}://host.example/t/{escaped}/channel",
    "{scheme}://host.example/sub/t/{escaped}",
    "{scheme}://host.example/x?token={escaped}",
    "{scheme}://user@host.example:80/x?{escaped}#part",
    "{scheme}://host.example/x#{escaped}",
    "https://mirror.example={scheme}://{user}:{password}@host.example/x",
    "{user}:{password}@host.example:8080",
    "{user}:{password}@host.example:team/x.git",
    "//{user}:{password}@host.example/x",
)
# other spellings of the same, which some program may accept
SPELLINGS = (
    "{scheme}:///user:{secret}@{host}/x",
    "{scheme}:////user:{secret}@{host}/x",
    "{scheme}:\\\\user:{secret}@{host}\\x",
    "{scheme}:/user:{secret}@{host}/x",
    "{scheme}:user:{secret}@{host}/x",
    "{scheme}://user:{secret}%40{host}/",
    "{scheme}://user:{secret}%2540{host}/",
    "{scheme}://user%3A{secret}%40{host}/",
    "{scheme}%3A%2F%2Fuser%3A{secret}%40{host}%2Fx",
    "{scheme}%253A%252F%252Fuser%253A{secret}%2540{host}",
    "{scheme}://user\uff1a{secret}\uff20{host}/x",
    "{scheme}://user:1/{secret}@{host}/x",
    "{scheme}://{secret}/x@{host}/x",
    "{scheme}://user:p@ss/{secret}@{host}/x",
    "{scheme}://{host}/t//{secret}/x",
    "{scheme}://{host}/T/{secret}/x",
    "{scheme}://{host}/%74/{secret}/x",
    "{scheme}://{host}/t%2F{secret}/x",
    "{scheme}://{host}/t/./{secret}/x",
    "{scheme}://{host}/t/x/../{secret}/x",
    "{scheme}://{host}/x;token={secret}",
    "{scheme}://{host}/x%3Btoken={secret}",
    "{scheme}://{host}/x%3Ftoken={secret}",
    "{scheme}://{host}/x%253Ftoken%253D{secret}",
    "{scheme}://{host}/x%23{secret}",
    "{scheme}://{host}?{secret}",
    "{scheme}://{host}#subdirectory={secret}",
    "{scheme}://{host}/x.git#egg=x&token={secret}",
    "{scheme}://{host}/https://user:{secret}@h/x",
    "{scheme}://{host}/https%3A%2F%2Fuser:{secret}@h/x",
    "{scheme}://{host}/https:/user:{secret}@h/x",
    "{scheme}://{host}/x?proxy=http://user:{secret}@h:3128/&x=1",
    "{scheme}://{host}/x?proxy=http%3A%2F%2Fuser%3A{secret}%40h",
    "user:{secret}@{host}/x",
    "user%3A{secret}%40{host}/x",
    "user:{secret}@{host}:repository",
    "PROXY=user:{secret}@{host}",
    "{host}/x?token={secret}",
    "host.example/t/{secret}/x",
    "//user:{secret}%40{host}/x",
)
# where only the complete text is known to be one URL
ALONE = (
    "{scheme}://user:{password}@{host}/x",
    "{scheme}://{password}@{host}/x",
    " {scheme}://user:{password}@{host}/x",
    "user:{password}@{host}/x",
    "{scheme}://{host}/x?{password}",
    "{scheme}://{host}/x#{password}",
)
AROUND = st.sampled_from(["{}", "fatal: unable to access '{}': no", "(`{}`)", '{{"url": "{}", "b": 1}}', "a {} b@c"])


@given(template=st.sampled_from(SPELLINGS), scheme=SCHEMES, host=HOSTS, around=AROUND)
@settings(max_examples=2000)
def test_secret_in_an_odd_spelling_is_never_shown(template: str, scheme: str, host: str, around: str) -> None:
    url = template.format(scheme=scheme, host=host, secret=SECRET)

    assert SECRET not in hide_secrets(around.format(url))
    assert SECRET not in show_url(url)
    assert SECRET not in shown_by_parse(url)


@given(template=st.sampled_from(ALONE), scheme=SCHEMES, host=HOSTS, password=ODD_PASSWORDS)
@settings(max_examples=1000)
def test_secret_in_an_odd_password_is_never_shown(template: str, scheme: str, host: str, password: str) -> None:
    url = template.format(scheme=scheme, host=host, password=password)

    assert SECRET not in show_url(url)
    assert SECRET not in shown_by_parse(url)
    if template == ALONE[0]:
        assert SECRET not in hide_secrets(f"fatal: unable to access '{url}': no")


def shown_by_parse(url: str) -> str:
    try:
        parsed = Url.parse(url)
    except ValueError as error:
        return str(error)
    assert parsed.reveal() == url
    return f"{parsed} {parsed!r} {parsed:>400}"


@given(template=st.sampled_from(TEMPLATES), scheme=SCHEMES, user=USERS, password=PASSWORDS, around=AROUND)
def test_planted_secret_is_never_shown(template: str, scheme: str, user: str, password: str, around: str) -> None:
    url = template.format(scheme=scheme, user=user, password=password, escaped=quote(password, safe=""))

    assert SECRET not in hide_secrets(around.format(url))
    assert SECRET not in show_url(url)
    if quote(password, safe="") == password and not url.startswith(f"{scheme}://{password}"):
        assert "host.example" in show_url(url) or "[::1]" in url
    assert SECRET not in shown_by_parse(url)


@given(st.text() | st.text(":/@[]?#%$.a1", max_size=30))
def test_every_function_accepts_any_text(text: str) -> None:
    assert hide_secrets(hide_secrets(text)) is not None
    assert show_url(text).isprintable()
    assert has_secrets(text) in {True, False}
    try:
        url = Url.parse(text)
    except ValueError:
        return
    assert url.without_user().user_info is None
    assert (url.origin, url.file_name, url.file_path, url.credentials({})) is not None


@pytest.mark.parametrize(
    "text",
    ["http://[::1", "http://host:port/x", "http://host:99999/", "http://\ud800/", "http://", "host", "", "//host/x",
     "http://a\nb/", "http://user:pa/ss@host/", "http://\u2100/", "http://@/x", "http:x"],
)  # fmt: skip
def test_text_that_is_no_url_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="it "):
        Url.parse(text)


@pytest.mark.parametrize(
    "text",
    ["https://host.example/team/x.git@main", "git+https://host/x.git@v1", "git@host:team/x.git",
     "git+ssh://git@host/team/x.git", "http://localhost:8080/x@y", "http://host.example:80/x@rev", "file:///tmp/a@b/c",
     "pytorch/pytorch:2.1@sha256:0123", "C:/users/a@b", "git:HEAD~1:conda-lock.yml", "me@corp.example", "a: b@c"],
)  # fmt: skip
def test_text_without_secret_is_unchanged(text: str) -> None:
    assert hide_secrets(text) == text
    assert show_url(text) == text
    assert not has_secrets(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://joe:pw@host/x and https://joe@host", "http://host/x and https://host"),
        ("https://host/t/ab-12/channel", "https://host/t/<TOKEN>/channel"),
        ("from `https://host/x?token=a&b=c`.", "from `https://host/x`."),
        ("https://user:p@ss/w:rd@host.example/x@rev", "https://\u2026"),
        ("https://user:p@ss/w:rd@host.example/x", "https://\u2026"),
        ("https://user:p@host.example/x@rev", "https://host.example/x@rev"),
        ("https://a.example/x=https://u:p@b.example/", "https://a.example/x=https://b.example/"),
        ("proxy u:p@host:3128, then", "proxy host:3128, then"),
    ],
)
def test_text_is_shown_without_its_secrets(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:pw@host/x", True),
        ("https://user:my pass@host/x", True),
        ("package @ git+https://token@host/x.git", True),
        ("git+ssh://user:pw@host/x", True),
        ("user:pw@host:team/x", True),
        ("https://me@corp.example:pw@host/", True),
        ("https://token:@host/", True),
        ("https://host/t/token/channel", True),
        ("https://host/x?X-Amz-Signature=a", True),
        ("https://host/x?author=a", False),
        ("git+ssh://me@host/x", False),
        ("https://$USER:${TOKEN}@host/x", False),
        ("https://me:$TOKEN@host/x", False),
        ("https://$USER:pw@host/x", True),
        ("https://host/t/$TOKEN/channel", False),
    ],
)
def test_has_secrets_accepts_only_variables(text: str, expected: bool) -> None:
    assert has_secrets(text) is expected


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("joe:pw", ("joe", "pw")),
        ("me@corp.example:p:w@x", ("me@corp.example", "p:w@x")),
        ("me%40corp.example:p%2Fw", ("me@corp.example", "p/w")),
        ("$NAME:${WORD}", ("joe", "p@:/w")),
        ("$BOTH", ("joe", "pw")),
        ("$MISSING:x", ("$MISSING", "x")),
        ("joe", ("joe", "")),
    ],
)
def test_credentials_expand_variables_in_user_info(user: str, expected: tuple[str, str]) -> None:
    environment = {"NAME": "joe", "WORD": "p@:/w", "BOTH": "joe:pw"}
    url = Url.parse(f"https://{user}@host.example/$NAME/x?$NAME")

    assert url.credentials(environment) == expected
    assert url.without_user().reveal() == "https://host.example/$NAME/x?$NAME"


def test_credentials_expand_only_allowed_variables() -> None:
    url = Url.parse("https://$NAME:$WORD@host.example/")

    assert url.credentials({"NAME": "joe", "WORD": "pw"}, {"WORD"}) == ("$NAME", "pw")


def test_url_is_equal_to_the_same_text_and_frozen() -> None:
    url = Url.parse("https://joe:pw@Host.example:443/a%20b/c.conda")

    assert url == Url.parse(url.reveal())
    assert (url.origin, url.file_name, url.host) == ("https://host.example", "c.conda", "host.example")
    with pytest.raises(AttributeError):
        url.host = "other"  # type: ignore[misc] # that is the test


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "\u00e9",
        "a%4",
        "%25",
        "a:b@",
        "//a ",
        "http://u:p ",
        "/t/",
        "=a:b",
        "://a:a",
        "//t/",
        "(//t/x",
        "a@b:http://a:b@",
    ],
)
def test_time_is_linear_in_the_length_of_a_text(unit: str) -> None:
    text = unit * (40_000 // len(unit))  # quadratic time would be a minute

    assert len(show_url(text)) + len(hide_secrets(text)) + has_secrets(text) > 0
