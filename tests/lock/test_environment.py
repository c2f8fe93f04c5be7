"""Test the grammar of environment.yml: each construct is honored, or an error that names its line and what works."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version

from envforge.errors import EnvforgeError, RequestError
from envforge.lock.inputs import Inputs, conda_lock_files, read_inputs, virtual_packages_of
from envforge.lock.platforms import KNOWN_PLATFORMS, SelectorError, parse_selector, selector_of_comment

HEAD = "channels: [conda-forge]\nplatforms: [linux-64, osx-arm64, win-64]\ndependencies:\n  - python 3.11.*\n"
FIRST = 5  # the line after HEAD


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, *others: str, name: str = "environment.yml", categories: tuple[str, ...] = ()) -> Inputs:
    paths = [Path(name), *(Path(f"{number}.yml") for number in range(len(others)))]
    for path, content in zip(paths, (text, *others), strict=True):
        path.write_text(content, encoding="utf-8")
    return read_inputs(paths[0], None, others=paths[1:], categories=categories)


def names(inputs: Inputs, platform: str, python: str = "3.11.7") -> set[str]:
    found = {str(one.spec or one.requirement) for one in inputs.wanted(platform, Version(python))}
    return found - {"python 3.11.*"}


@pytest.mark.parametrize(
    ("lines", "on_linux", "on_mac"),
    [
        ("- a  # [not win]", {"a"}, {"a"}),
        ("- a  # [linux or osx]", {"a"}, {"a"}),
        ("- a  # [linux and x86_64]", {"a"}, set()),
        ("- a  # [unix and not (linux or arm64)]", set(), set()),
        ("- a  # [linux-64]", {"a"}, set()),
        ("- a  # [osx-arm64 or win-64]", set(), {"a"}),
        ("- a  # [Linux64]", {"a"}, set()),
        ("- a  #[arm64]", set(), {"a"}),
        ("- a  # only there [linux] (see y)", {"a"}, set()),
        ("- a  # needed by the loader, see [12]", {"a"}, {"a"}),
        ("- a  # [TODO] drop this", {"a"}, {"a"}),
        ("- a  # [needed on linux]", {"a"}, {"a"}),
        ("- a>=1 # pin because of [foo]", {"a >=1"}, {"a >=1"}),
        ("- pip: [red]  # not red[fast]", {"red"}, {"red"}),
        ("- sel(linux): a", {"a"}, set()),
        ("- sel(not win): [a, b <2]", {"a", "b <2"}, {"a", "b <2"}),
        ("- {sel(osx): a}  # [arm64]", set(), {"a"}),
        ("- pip:  # [osx]\n      - red", set(), {"red"}),
        ("- pip:\n      - red\n  - a\n  - pip:\n      - blue", {"a", "red", "blue"}, {"a", "red", "blue"}),
        ("- pip:", set(), set()),
        ("- pip:\n      - red  # [win]", set(), set()),
        ("- &x a\n  - *x", {"a"}, {"a"}),
        ("- a  # see [os.name] and [sys.path]", {"a"}, {"a"}),
        ("- a >=2\n  - a <3  # [linux]", {"a <3,>=2"}, {"a >=2"}),
        ("- a >=2|=1\n  - a <3", {"a <3,>=2|<3,=1"}, {"a <3,>=2|<3,=1"}),
        (
            "- a=1.2\n  - b=1.2=py_0\n  - c==1.2",
            {"a =1.2", "b 1.2 py_0", "c ==1.2"},
            {"a =1.2", "b 1.2 py_0", "c ==1.2"},
        ),
        ("- A >= 1 , < 2", {"a >=1,<2"}, {"a >=1,<2"}),
        ("- lab::a 1.* py*", {"lab::a 1.* py*"}, {"lab::a 1.* py*"}),
        ("- a[version='>=1,<2', build=py*, channel=lab]", {"lab::a >=1,<2 py*"}, {"lab::a >=1,<2 py*"}),
        ("- pip:\n    - red>=1; python_version < '3.9'\n    - red==2", {"red==2"}, {"red==2"}),
        ("- pip:\n    - red>=1\n    - Red[fast]<2", {"red[fast]<2,>=1"}, {"red[fast]<2,>=1"}),
        ("- pip:\n    - red; sys_platform == 'darwin' and platform_machine == 'arm64'", set(), {"red"}),
        ("- pip:\n    - red; extra == 'x' or implementation_name == 'pypy'", set(), set()),
        ("- |-\n    a\n  - b", {"a", "b"}, {"a", "b"}),
        ("- >-  # [osx]\n    a\n  - b", {"b"}, {"a", "b"}),
        ("- a\x85  - b  # [osx]", {"a"}, {"a", "b"}),
        ("- a\r  - b  # [osx]\r", {"a"}, {"a", "b"}),
        ("- a  # [linux64 and not (arm or ppc64le)]", {"a"}, set()),
        ("- a  # [False]\n  - b  # [win-32 or true]", {"b"}, {"b"}),
        ("- a  # see [linux: broken], [win-only #12], [numpy<2]", {"a"}, {"a"}),
        ("- a  # [R&D], [if gpu], [only], [on linux, see #3]", {"a"}, {"a"}),
        ("- a 1.*=cuda*\n  - b >=1,<2=py*", {"a 1.* cuda*", "b >=1,<2 py*"}, {"a 1.* cuda*", "b >=1,<2 py*"}),
        ("- a =1.2 py_0\n  - b >1.*", {"a 1.2 py_0", "b >1"}, {"a 1.2 py_0", "b >1"}),
        ("- a >=1!2.0,(<3|5)", {"a >=1!2.0,<3|>=1!2.0,5"}, {"a >=1!2.0,<3|>=1!2.0,5"}),
        ("- a (>=1)\n  - a <3", {"a <3,>=1"}, {"a <3,>=1"}),
        ("# - a\n  - b", {"b"}, {"b"}),
        ("- &a a  # the first\n  - pip: [  # both\n      *a]  # again", {"a"}, {"a"}),
    ],
)
@pytest.mark.usefixtures("project")
def test_construct_is_honored(lines: str, on_linux: set[str], on_mac: set[str]) -> None:
    inputs = read(f"{HEAD}  {lines}\n")
    assert on_linux == names(inputs, "linux-64")
    assert on_mac == names(inputs, "osx-arm64")


@pytest.mark.parametrize(
    ("lines", "reason", "hint"),
    [
        ("- python: 3.10", "`python: 3.10` is a mapping, not a package", "write `- python =3.10`"),
        ("- a: '>=2'", "`a: >=2` is a mapping, not a package", "write `- a >=2`"),
        (
            "- npm: [left-pad]",
            "the key `npm:` is unknown among the dependencies",
            "remove it: a lockfile",
        ),
        ("- &x a  # [linux]\n  - *x", "the alias `*x` repeats a package with a selector", "write the package itself"),
        ("- &x 'a'  # [linux]\n  - b\n  - *x", "the alias `*x` repeats a package", "write the package itself"),
        ("- c-f :: a", "`c-f :: a` is a mapping, not a package", "write `- c-f::a`"),
        ("- c-f:: a", "`c-f:: a` is a mapping, not a package", "write `- c-f::a`"),
        ("- c-f ::a >=1", "`c-f ::a >=1` has a space next to `::`", "write `c-f::a >=1`"),
        ("- 1.10", "expected a package such as `numpy >=2,<3`, found the number `1.10`", "write a package such as"),
        ("- 2024-01-01", "expected a package such as `numpy >=2,<3`, found the date", "write a package such as"),
        ("- @cuda", "not valid YAML: while scanning", "write a name such as `numpy`"),
        ("- a  # [sys.platform == 'win32']", "`sys.platform == 'win32'` is a marker, not", "write it as in `win-64`"),
        ("- a  # [os.name == 'nt']", "`os.name == 'nt'` is a marker, not a selector", "write it as in `win-64`"),
        ("- a  # [sys.platform.startswith('win')]", "`sys.platform.startswith('win')` is a", "write it as in `win-64`"),
        ("- a  # [platform.system() == 'Linux']", "`platform.system() == 'Linux'` is a", "write it as in `linux`"),
        ("- a  # ['linux' in sys_platform]", "`'linux' in sys_platform` is a marker, not", "write it as in `linux`"),
        ("- PIP: [red]", "the key `PIP:` is unknown among the dependencies", "write `pip:`"),
        ("- pypi: [red]", "the key `pypi:` is unknown among the dependencies", "write `pip:`"),
        ("- pip: [red]\n    a: 1", "the key `a:` shares an entry with `pip:`", "write `- a =1` as an entry of its own"),
        ("- pip: red", "the value of `pip:` is not a list", "write each package as `- NAME` on its own line"),
        ("- pip: [[red]]", "expected a requirement such as `rich>=13`, found a list", "write each as `- NAME` on its"),
        ("- SEL(linux): a", "the key `SEL(linux):` is not a selector", "write `- sel(linux): a`"),
        ("- selector [osx]: [a, b]", "the key `selector [osx]:` is not a selector", "write `- sel(osx): […]`"),
        ("- sel(linux): [a, {pip: [b]}]", "contains conda packages only, but lists `pip:`", "write the selector at `p"),
        ("- sel(linux): [[a]]", "expected a package such as `numpy >=2,<3`, found a list", "write each as `- NAME`"),
        ("- a\nvariables: [A=1]", "the value of `variables:` is a list", 'write each as `A: "1"` on its own line'),
        ("- a\nvariables: [A: 1]", "the value of `variables:` is a list", 'write each as `NAME: "VALUE"` on its own'),
        ("- <<: a", "`<<:` merges mappings, and a package is none", "write `- a`"),
        ("- <<: [a, b]", "`<<:` merges mappings, and a package is none", "write each as `- NAME` on its own line"),
        ("- pip: [a~=1]", "is not a valid requirement", 'write `"a~=1.0"`'),
        ("- pip: [a>=1.0.*]", "is not a valid requirement", 'write `"a>=1.0"`'),
        ("- pip: ['a>=1.*,<3.*']", "is not a valid requirement", 'write `"a>=1,<3"`'),
        ("- pip: ['a, b']", "is not a valid requirement", "write each requirement as `- NAME` on its own line"),
        ("- pip: ['a,b>=1']", "is not a valid requirement", "write each requirement as `- NAME` on its own line"),
        ("- pip: [{sel(linux): red>=1}]", "a mapping below `pip:` is not a requirement", "write `- red>=1`, and"),
        ("- 3.11", "expected a package such as `numpy >=2,<3`, found the number `3.11`", "write a package such as"),
        ("- yes", "expected a package such as `numpy >=2,<3`, found the boolean `yes`", 'write `"yes"`'),
        ("-", "expected a package such as `numpy >=2,<3`, found nothing", "remove it"),
        (
            "- [a, b]",
            "expected a package such as `numpy >=2,<3`, found a list",
            "write each as `- NAME` on its own line",
        ),
        ("- a  # [lunix]", "the selector `lunix` is unknown", "did you mean `unix`?"),
        ("- a  # [windows]", "the selector `windows` is unknown", "did you mean `win`?"),
        ("- a  # [linux or]", "`linux or` is not a valid selector", "write it as in `linux and not aarch64`"),
        ("- a  # [linux", "the selector `[linux` has no end", "write it as `[linux]`"),
        ("- a  # [linux|osx]", "`linux|osx` is not a valid selector", "write it as in `linux or osx`"),
        ("- a  # [linux-64, osx-64]", "is not a valid selector", "write it as in `linux-64 or osx-64`"),
        ("- a  # [!win && x86_64]", "is not a valid selector", "write it as in `not win and x86_64`"),
        ("- a  # [linux and py>=310]", "depends on more than the platform", "use a platform such as"),
        ("- a  # [linux and cuda_version != 'None']", "depends on more than the platform", "use a platform such as"),
        ("- a  # [environ.get('X')]", "depends on more than the platform", "use a platform such as"),
        ("- a  # [py>=310]", "the selector `py>=310` depends on more than the platform", "use a platform such as"),
        ("- a  # [platform_machine=='aarch64']", "is a marker, not a selector", "write it as in `linux-aarch64`"),
        ("- a  # [sys_platform != 'win32']", "is a marker, not a selector", "write it as in `unix`"),
        ("- a  # [python_version < '3.9']", "depends on more than the platform", "use a platform such as"),
        ("- a  # [linux && gpu]", "the selector `gpu` is unknown", "use `linux`, `osx`, `win`, `unix`"),
        ("- a  # [\"linux\" or 'osx']", "is not a valid selector", "write it as in `linux or osx`"),
        ("- a  # [macosx]", "the selector `macosx` is unknown", "did you mean `osx`?"),
        ("- a  # [if linux]", "`if linux` is not a valid selector", "write it as in `linux`"),
        ("- a  # [only on linux or win]", "is not a valid selector", "write it as in `linux or win`"),
        ("- a  # [platform: linux]", "`platform: linux` is not a valid selector", "write it as in `linux`"),
        ("- a  # [linux] [x86_64]", "the comment contains several selectors", "join them with `and` or `or`"),
        ("- &a a  # [linux]\n  - *a  # [osx]", "an alias has a selector", "write the package itself"),
        ("- {sel(linux): [&a b, *a]}  # [osx]", "an alias has a selector", "write the package itself"),
        ("- sel(linux): [  # [x86_64]\n      a]", "a selector comes before its package", "write selectors at the"),
        ("- pip: [  # [linux]\n      red]", "a selector comes before its package", "write selectors at the packages"),
        ("-  # [linux]\n    a", "a selector comes before its package", "write selectors at the packages"),
        ("- &a  # [linux]\n    a", "a selector comes before its package", "write selectors at the packages"),
        ("- sel(beos): a", "the selector `beos` is unknown", "use `linux`, `osx`, `win`, `unix`"),
        ("- a[md5=00]", "the key `md5` in `[md5=00]` is not supported", "select the file by its version and build"),
        ("- a[build_number=0]", "the key `build_number` in `[build_number=0]` is not supported", "select the file by"),
        ("- a[subdir=win-64]", "the key `subdir` in `[subdir=win-64]` is not supported", "write a selector at the end"),
        ("- conda-forge/linux-64::a", "the channel `conda-forge/linux-64` contains a platform", "write a selector"),
        ("- a >=1 <2", "`a >=1 <2` has version constraints without a comma", "write them as in `numpy >=2,<3`"),
        ("- a 1 b c", "`a 1 b c` is not a conda package", "write a name, a version, and a build"),
        ("- https://host.example/c/linux-64/a-1-0.conda", "is a file", "write `https://host.example/c::a 1 0`"),
        ("- a-1.0-py_0.tar.bz2", "is a file, not a conda package", "write `a 1.0 py_0`"),
        ("- a=1=2=3", "has version constraints without a comma", "write them"),
        ("- a ==1.2.*", "`==1.2.*` in `a ==1.2.*` matches only 1.2", "write `=1.2`"),
        ("- a >=1.*,<2*", "`<2*` in `a >=1.*,<2*` is not a version constraint", "write `<2`"),
        ("- a ~=1", "`~=1` in `a ~=1` is not a version constraint", "write two numbers or more"),
        ("- a >=1,(<2", "is not a version constraint", "write it as in `numpy >=2,<3`"),
        (
            "- a (1|2),(1|2),(1|2),(1|2),(1|2),(1|2),(1|2)",
            "the constraints have too many alternatives",
            "combine them into fewer",
        ),
        ("- conda-forge:a", "`conda-forge:a` is not a conda package", "write `conda-forge::a`"),
        ("- a:1.0", "`a:1.0` is not a conda package", "write `a =1.0`"),
        ("- a{{ version }}", "contains a variable", "write its value"),
        ("- 'a # [linux]'", "because its comment is part of it", "write the comment after a space and outside of"),
        ("- a#[linux]", "because its comment is part of it", "write the comment after a space and outside of"),
        ("- {if: linux, then: a}", "the key `then:` shares an entry with `if:`", "write each package with a selector"),
        ("- {name: a, version: 1.0}", "the key `version:` shares an entry with `name:`", "write `- a =1.0`"),
        ("- {sel(linux): a, sel(osx): b}", "shares an entry with `sel(linux):`", "write `- sel(osx): b` as an entry"),
        ("- a; sys_platform == 'linux'", "has a marker, which only packages below `pip:` can have", "write a selector"),
        ("- pip: [-r more.txt]", "`-r more.txt` below `pip:` is a file", "list the requirements of that file"),
        ("- pip: [-c more.txt]", "`-c more.txt` below `pip:` is a file", "write each constraint at its package"),
        ("- pip: [--pre]", "`--pre` below `pip:` is an option", "pin the pre-release, such as `rich==14.0rc1`"),
        ("- pip: [--find-links=x]", "below `pip:` is an option", "list the index at the top level of the file"),
        ("- pip: [red --hash=sha256:0]", "below `pip:` has a hash", "remove `--hash`"),
        ("- pip: [./lib]", "below `pip:` is a local directory", "remove the line; to install the directory"),
        ("- pip: [git+https://host.example/x]", "is a repository, which has no checksum", "publish a wheel of it"),
        ("- pip: [a b]", "is not a valid requirement", "write each requirement as `- NAME` on its own line"),
        ("- pip: [a!b]", "is not a valid requirement", "write a requirement such as"),
        ("- pip: [a=1.0]", "is not a valid requirement", 'write `"a==1.0"`'),
        ("- pip: [a 1.0]", "is not a valid requirement", 'write `"a==1.0"`'),
        ("- pip: [a>=1 <2]", "is not a valid requirement", 'write `"a>=1,<2"`'),
        ("- pip: ['a==$VERSION']", "is not a valid requirement", "write the value of the variable"),
        ("- pip: [a: 1.0]", "a mapping below `pip:` is not a requirement", "write `- a==1.0`"),
        ("- pip: [--no-binary :all:]", "`--no-binary :all` below `pip:` is an option", "remove it"),
        ("- pip: [a --no-deps]", "below `pip:` has an option, which is not supported there", "remove the option"),
        ("- pip: [a --index-url https://x.example/simple]", "is an option", "list the index at the top level of the f"),
        ("- pip: [-e git+https://host.example/x]", "is a repository, which has no checksum", "publish a wheel of it"),
        ("- pip: [a-1.0-py3-none-any.whl]", "is a file, which a lockfile can't contain", "publish a wheel of it"),
        ("- pip: ['.[dev]']", "below `pip:` is a local directory", "remove the line; to install the directory"),
        ("- pip: ['~/lib']", "below `pip:` is a local directory", "remove the line; to install the directory"),
        ("- pip: [https://x.example/a-1.0.zip]", "has neither a name nor a checksum", 'write it as `"a @ https://x.'),
        ("- a\ndependancies: []", "the key `dependancies` is unknown", "did you mean `dependencies:`?"),
        ("- a\npip_repositories: []", "the key `pip_repositories` is unknown", "did you mean `pip-repositories:`?"),
        ("- a\ndependencies: []", "the key `dependencies:` is already on line 3", "merge the two into one"),
        ("- a\nvariables: {A: [1]}", "expected a value, found a list", "remove it"),
        ("- a\nvariables: {A: 1, A: 2}", "the key `A:` is already on line 6", "merge the two into one"),
        ("- a\nvariables:\n  A: 1  # [linux]", "`variables:` has a selector, but applies to all platforms", "write"),
        ("- a\nvariables: {A: }", "the variable `A` has no value", 'write `A: ""` for an empty one'),
        ('- a\nvariables: {A: "b\\0"}', "the value of `A` contains a null character", "remove it"),
        ("- a\ncategory: ''", "`` is not the name of a category", "write one name without a comma"),
        ("- a\npip: [red]", "the key `pip` is unknown", "write `- pip:` among the `dependencies:`"),
        ("- a\n\t- b", "not valid YAML: while scanning", "write spaces instead of the tab"),
        ("- a\n---\na: b", "but found another document", "write one document"),
        *(
            (f"- a\nvariables: {{A: 1, {name}: /x}}", f"`variables:` can't contain `{name}`", "remove it")
            for name in ("PATH", "Path", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_PREFIX_1", "CONDA_SHLVL")
        ),
        ("- a\nvariables: {1A: 1}", "`1A` is not the name of an environment variable", "use letters"),
        ("- a\ncategory: [a]", "the value of `category:` is a list", "write one string: `category: NAME`"),
        ("- a\nallow-pypi-requests: 1", "the value of `allow-pypi-requests:` is not a boolean", "write `true` or"),
        ("- a\npip-repositories:\n  - https://x.example  # [linux]", "has a selector, but applies to all", "write"),
    ],
)
@pytest.mark.usefixtures("project")
def test_construct_is_rejected_with_line_and_spelling(lines: str, reason: str, hint: str) -> None:
    text = f"{HEAD}  {lines}\n"
    with pytest.raises(EnvforgeError) as caught:
        read(text)
    found, _, message = caught.value.message.partition(": ")
    assert reason in message
    assert caught.value.hint.startswith(hint)
    assert found.startswith("`environment.yml`, line ")
    assert FIRST <= int(found.rpartition(" ")[2]) <= len(text.splitlines())


@pytest.mark.parametrize(
    ("channel", "hint"),
    [
        ("$CHANNEL", "write a name such as `conda-forge`, or a URL"),
        ("", "write a name such as `conda-forge`, or a URL"),
        ("conda-forge ", "write a name such as `conda-forge`, or a URL"),
        ("conda-forge[noarch]", "write a name such as `conda-forge`, or a URL"),
        ("https://$HOST/c", "write the host itself; a variable can be the user, the password, or a part of the path"),
        (
            "https://$U:$P@x${N}.example:80/c",
            "write the host itself; a variable can be the user, the password, or a part of the path",
        ),
        ("./local", "write a name, a URL, or an absolute path"),
        ("conda-forge/linux-64", "write `conda-forge`"),
    ],
)
@pytest.mark.usefixtures("project")
def test_channel_is_rejected_with_line_and_spelling(channel: str, hint: str) -> None:
    with pytest.raises(EnvforgeError, match="line 2: ") as caught:
        read(f"platforms: [linux-64]\nchannels: ['{channel}']\ndependencies: [a]\n")
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "text", ["", "[]\n", "a: [\n", "channels: []\n", "dependencies: {a: 1}\n", "dependencies:\n", "[" * 5000]
)
@pytest.mark.usefixtures("project")
def test_file_of_another_shape_is_rejected(text: str) -> None:
    with pytest.raises(EnvforgeError) as caught:
        read(text)
    assert (caught.value.code, caught.value.exit_code) == ("bad-environment", 1)


@pytest.mark.parametrize("platform", KNOWN_PLATFORMS)
def test_each_platform_is_the_selector_of_itself_only(platform: str) -> None:
    assert parse_selector(platform) == {platform}
    assert selector_of_comment(f"# [not {platform}]") == frozenset(KNOWN_PLATFORMS) - {platform}


def test_selector_in_two_brackets_is_ambiguous() -> None:
    with pytest.raises(SelectorError):
        selector_of_comment("# [linux] or [osx]")


@pytest.mark.usefixtures("project")
def test_json_flow_and_document_end_are_read() -> None:
    flow = "{channels: [c], platforms: [linux-64], dependencies: [python 3.11.*, a >=1, {pip: [red]}]}\n...\n"
    json = '{"channels": ["c"],\n "platforms": ["linux-64"],\n "dependencies": ["a >=1", {"pip": ["red"]}]}'
    assert names(read(flow), "linux-64") == names(read(json), "linux-64") == {"a >=1", "red"}


@pytest.mark.usefixtures("project")
def test_files_are_merged_as_conda_lock_merges_them() -> None:
    first = f"{HEAD}  - a >=1\npip-repositories: [https://x.example/whl]\nvariables: {{A: 1}}\n"
    second = "channels: [conda-forge]\ncategory: dev\ndependencies: [a <2, tests]\nvariables: {B: 2}\n"
    inputs = read(first, second)
    assert inputs.platforms == ("linux-64", "osx-arm64", "win-64")
    assert names(inputs, "osx-arm64") == {"a <2,>=1", "tests"}
    assert inputs.variables == (("A", "1"), ("B", "2"))
    assert {one.name: one.category for one in inputs.wanted("linux-64")} == {
        "a": "main",
        "python": "main",
        "tests": "dev",
    }
    assert [text.count('"category": "dev"') for text in conda_lock_files(inputs, "linux-64")] == [0, 1]
    chosen = read(first, second, categories=("dev",))
    assert names(chosen, "linux-64") == {"a <2", "tests"}
    assert chosen.left_out == ("category `main` is left out: python, a",)
    with pytest.raises(RequestError, match="no environment file has the category `docs`; found: dev, main"):
        read(first, second, categories=("docs",))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            "channels: [lab]\n",
            "`channels` of `0.yml` (lab) conflicts with `channels` of `environment.yml` (conda-forge)",
        ),
        ("variables: {A: 2}\n", "the variable `A` is `1` in `environment.yml`, but `2` in `0.yml`"),
    ],
)
@pytest.mark.usefixtures("project")
def test_conflicting_files_are_named(second: str, message: str) -> None:
    with pytest.raises(EnvforgeError) as caught:
        read(f"{HEAD}variables: {{A: 1}}\n", f"{second}dependencies: [a]\n")
    assert (caught.value.code, message in caught.value.message) == ("conflicting-files", True)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("- a 1 py_0\n  - a 1 py_1", "have different builds"),
        ("- x::a\n  - y::a", "have different channels"),
        (f"- pip: ['a @ https://h/a-1.0-py3-none-any.whl#sha256={'0' * 64}', a]", "have different URLs"),
        ("- a 1|2|3|4|5|6|7|8|9\n  - a !=1|!=2|!=3|!=4|!=5|!=6|!=7|!=8", "the constraints have too many alternatives"),
    ],
)
@pytest.mark.usefixtures("project")
def test_lines_for_one_package_that_exclude_each_other_are_named(lines: str, what: str) -> None:
    with pytest.raises(EnvforgeError, match=r"line 5.* and .*line") as caught:
        conda_lock_files(read(f"{HEAD}  {lines}\n"), "linux-64")
    assert caught.value.message.endswith(what)


@pytest.mark.parametrize(
    ("text", "line", "reason", "hint"),
    [
        ("subdir: {linux-64: {}}\n", 1, "the key `subdir` is unknown", "did you mean `subdirs:`?"),
        ("subdirs:\n  linux-46: {packages: {}}\n", 2, "the key `linux-46` is unknown", "did you mean `linux-64:`?"),
        ("subdirs: {linux-64: {package: {}}}\n", 1, "the key `package` is unknown", "did you mean `packages:`?"),
        (
            "subdirs: {linux-64: {packages: {glibc: '2.4'}}}\n",
            1,
            "the key `glibc` is unknown",
            "did you mean `__glibc:`?",
        ),
        ("subdirs: {linux-64: {packages: {x: '2.4'}}}\n", 1, "`x` is not the name of a virtual package", "write two"),
        ("subdirs: {linux-64: {packages: {__cuda: new}}}\n", 1, "`new` is not a version of `__cuda`", "write it as in"),
        ("subdirs: {linux-64: {packages: {__cuda: }}}\n", 1, "expected a version, found nothing", "remove it"),
        ("subdirs:\n  linux-64:\n    packages: {__unix: 0, __unix: 1}\n", 3, "the key `__unix:` is already", "merge"),
        (
            "subdirs:\n  linux-64:\n    packages:\n      __unix: 0  # [osx]\n",
            4,
            "`__unix:` has a selector",
            "list each",
        ),
        ("subdirs: [a]\n", 1, "expected a mapping with `linux-64:`, found a list", "remove it"),
    ],
)
@pytest.mark.usefixtures("project")
def test_construct_of_virtual_packages_that_is_not_honored_is_named(
    text: str, line: int, reason: str, hint: str
) -> None:
    Path("virtual-packages.yml").write_text(text, encoding="utf-8")
    with pytest.raises(EnvforgeError) as caught:
        virtual_packages_of(read(f"{HEAD}  - a\n"))
    assert caught.value.message.startswith(f"`virtual-packages.yml`, line {line}: {reason}")
    assert caught.value.hint.startswith(hint)


@pytest.mark.usefixtures("project")
def test_virtual_packages_have_the_versions_as_they_are_written() -> None:
    text = "subdirs:\n  linux-64: {packages: {__glibc: 2.40, __unix: 0, __archspec: 1 x86_64, __own_name: '1'}}\n"
    Path("virtual-packages.yml").write_text(text, encoding="utf-8")
    assert virtual_packages_of(read(f"{HEAD}  - a\n")).of("linux-64") == {
        "__glibc": "2.40",
        "__unix": "0",
        "__archspec": "1 x86_64",
        "__own_name": "1",
    }


@pytest.mark.parametrize("category", ["'a,b'", "''", "' a'"])
@pytest.mark.usefixtures("project")
def test_category_that_a_lockfile_could_not_record_is_an_error(category: str) -> None:
    with pytest.raises(EnvforgeError, match="is not the name of a category"):
        read(f"category: {category}\n{HEAD}  - a\n")
    with pytest.raises(RequestError, match="no environment file has the category `main,dev`") as caught:
        read(f"{HEAD}  - a\n", f"category: dev\n{HEAD}  - b\n", categories=("main,dev",))
    assert caught.value.hint == "pass `--category` for each name"


@pytest.mark.usefixtures("project")
def test_virtual_package_must_be_one_of_the_machine() -> None:
    virtual_packages_of(read(f"{HEAD}  - __glibc >=2.17  # [linux]\n  - __unix  # [not win]\n"))
    with pytest.raises(EnvforgeError) as caught:
        virtual_packages_of(read(f"{HEAD}  - __glibc >=2.34  # [linux]\n"))
    assert "`__glibc >=2.34` (`environment.yml`, line 5) is requested on linux-64, but" in caught.value.message
    stated = caught.value.hint.split("`")[1]
    assert '__glibc: "2.34"' in stated
    Path("virtual-packages.yml").write_text(stated, encoding="utf-8")
    inputs = read(f"{HEAD}  - __glibc >=2.34  # [linux]\n  - a\n")
    assert virtual_packages_of(inputs).of("linux-64")["__glibc"] == "2.34"
    assert "__glibc" not in "".join(conda_lock_files(inputs, "linux-64"))


@pytest.mark.usefixtures("project")
def test_marker_of_python_is_undecided_until_python_is_selected() -> None:
    lines = "  - pip:\n    - red; python_version < '3.12'\n    - blue; python_full_version >= '3.11.5'\n"
    minor = read(f"{HEAD}{lines}")
    assert minor.is_undecided("linux-64")
    assert {one.name for one in minor.wanted("linux-64")} == {"python", "red"}
    assert names(minor, "linux-64", "3.11.4") == {"red"}
    assert not read(f"{HEAD}{lines}".replace("'3.11.5'", "'3.11'")).is_undecided("linux-64")
    assert read(f"{HEAD}{lines}".replace("3.11.*", ">=3.10")).is_undecided("linux-64")


@pytest.mark.usefixtures("project")
def test_entries_that_apply_nowhere_are_named() -> None:
    text = f"{HEAD}  - a  # [linux-aarch64]\n  - pip:\n    - red==1; python_version < '3'\n    - red==2\n"
    assert [entry.text for entry in read(text).unused()] == ["a"]
