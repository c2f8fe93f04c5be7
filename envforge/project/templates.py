"""Read the manifests of templates, open a template, and list its files.

A link, or a path of the manifest that doesn't exist, raises ``TemplateError``.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from envforge.base.data_files import templates_root
from envforge.base.documents import Document, NonEmpty, Printable, check_yaml_depth, matching
from envforge.base.files import regular
from envforge.base.jinja import TemplateError
from envforge.base.urls import show_url
from envforge.errors import Hint, RequestError
from envforge.lock.environment_spec import TORCH_FAMILY, TemplateNeeds, split_conda_spec
from envforge.project.questions import (
    Answer,
    ForeignQuestion,
    GroupName,
    TemplateGroup,
    TemplateQuestion,
    When,
    answers_of,
    choose_groups,
)
from envforge.project.record import TemplateOrigin

MANIFEST = "template.yml"
COMMON = "common"
COMMON_GROUPS = "groups.yml"
FILES = "files"
GIT = "git+"
NAME_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,63}")
_LONGEST_MANIFEST = 200_000
# git keeps no empty directories, and Python and macOS leave the others behind
_LITTER = ("__pycache__", ".DS_Store", ".gitkeep")
_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")
_TEMPLATE_NAME = matching(
    rf"(?!{COMMON}$){NAME_PATTERN.pattern}", "lowercase letters, digits, and `-`, and not `common`"
)


class _ManifestEnvironment(Struct, frozen=True, kw_only=True):
    torch: tuple[Literal["torch", "torchvision", "torchaudio"], ...] = ("torch", "torchvision")
    conda: tuple[str, ...] = ()


class _GroupEntry(Struct, frozen=True, kw_only=True):
    """A group of a manifest: with ``help`` a new one, without it additions to the common group of that name."""

    name: GroupName
    help: Printable | None = None
    default: bool | None = None
    files: tuple[PurePosixPath, ...] = ()
    conda: tuple[str, ...] = ()
    when: When = field(default_factory=dict)


class _Manifest(Struct, frozen=True, kw_only=True):
    name: Annotated[str, _TEMPLATE_NAME]
    version: int | Printable
    summary: Printable
    questions: tuple[TemplateQuestion, ...] = ()
    common: tuple[PurePosixPath, ...] = ()
    not_common: tuple[PurePosixPath, ...] = ()
    environment: _ManifestEnvironment = _ManifestEnvironment()
    groups: tuple[GroupName | _GroupEntry, ...] = ()


class _ForeignManifest(_Manifest, frozen=True, kw_only=True):
    questions: tuple[ForeignQuestion, ...] = ()
    hooks: tuple[Annotated[tuple[NonEmpty, ...], msgspec.Meta(min_length=1)], ...] = ()


class _CommonGroups(Struct, frozen=True, kw_only=True):
    groups: tuple[_GroupEntry, ...] = ()


class Template(Struct, frozen=True, kw_only=True):
    """A template; ``root`` contains its ``files/``.

    ``common`` names the files and directories of ``common_root/files`` that it uses, ``not_common`` the exceptions
    below them.

    ``needs`` are the requirements of every project; ``needs_with`` adds those of its groups. ``hooks`` are commands
    that its author wants to run in a new project. ``is_foreign``: its author is a third party, who may be hostile.
    """

    name: str
    version: str
    summary: str
    root: Path
    common_root: Path
    questions: tuple[TemplateQuestion, ...]
    common: tuple[PurePosixPath, ...]
    not_common: tuple[PurePosixPath, ...]
    needs: TemplateNeeds
    groups: tuple[TemplateGroup, ...] = ()
    hooks: tuple[tuple[str, ...], ...] = ()
    is_foreign: bool = False

    def needs_with(self, groups: Collection[str]) -> TemplateNeeds:
        """Return what a project with these groups needs."""
        specs = [spec for group in self.groups if group.name in groups for spec in group.conda]
        return replace(self.needs, conda=tuple(dict.fromkeys((*self.needs.conda, *specs))))

    def default_groups(self, answers: Mapping[str, Answer]) -> tuple[str, ...]:
        """Return the groups that a project has by default."""
        return choose_groups(self.groups, answers, (), ())


def list_templates(root: Path) -> tuple[str, ...]:
    """Return the names of the templates in a directory, sorted."""
    return tuple(sorted(path.parent.name for path in root.glob(f"*/{MANIFEST}")))


def load_template(root: Path, name: str) -> Template:
    """Read one template; raise ``RequestError`` for an unknown name, ``TemplateError`` for an invalid manifest."""
    known = list_templates(root)
    if name not in known:
        from envforge.base.suggest import nearest  # noqa: PLC0415 - only the error needs it

        near, listed = nearest(name, known), Hint("to describe the built-in templates", "envforge templates")
        raise RequestError(
            f"unknown template `{show_url(name)}`; "
            f"expected one of: {', '.join(f'`{each}`' for each in known) or 'none'}",
            hint=(Hint(f"did you mean `{near}`?") if near else listed,),
            code="no-such-template",
        )
    path = root / name / MANIFEST
    return parse_manifest(_read(path), path)


def parse_manifest(text: str, path: Path) -> Template:
    """Parse the manifest at ``path``, in a directory of the template's name; the shared files are next to it."""
    manifest, document = _document(path).read_yaml(text, _Manifest), _document(path)
    if manifest.name != path.parent.name:
        raise document.fault("name", f"the name of its directory, `{path.parent.name}`", manifest.name)
    return _template(document, manifest, path.parent, path.parent.parent / COMMON)


def load_foreign(root: Path, common_root: Path) -> Template:
    """Read a template in a directory of any name; its ``common`` files and groups are from ``common_root``.

    Only such a template may have ``hooks``.
    """
    path = root / MANIFEST
    text, document = _read(path), _document(path)
    if len(text) > _LONGEST_MANIFEST:
        raise document.fault("", f"at most {_LONGEST_MANIFEST:,} characters", f"{len(text):,}")
    # before YAML makes values of it: anchors can expand a small file to gigabytes, and a tag changes a type
    _refuse_tricks(text, document)
    manifest = document.read_yaml(text, _ForeignManifest)
    return replace(_template(document, manifest, root, common_root), hooks=manifest.hooks, is_foreign=True)


def read_common_groups(common: Path) -> tuple[TemplateGroup, ...]:
    """Read the groups that every template may use: ``groups.yml`` in the common directory."""
    path = common / COMMON_GROUPS
    if not path.exists():
        return ()
    document = replace(_document(path), damaged=f"the groups `{path}` are invalid")
    found = document.read_yaml(_read(path), _CommonGroups).groups
    groups = tuple(_group(document, number, entry, {}) for number, entry in enumerate(found))
    _check_groups(document, groups, ())
    return groups


def _document(path: Path) -> Document:
    return Document(
        damaged=f"the template `{path}` is invalid", error=TemplateError, code="template-damaged", closed=True
    )


def _read(path: Path) -> str:
    try:
        return regular(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"cannot read the template `{path}`: {error}", code="template-damaged") from error


def _template(document: Document, manifest: _Manifest, root: Path, common_root: Path) -> Template:
    _check_questions(document, manifest.questions)
    _check_paths(document, "common", manifest.common)
    _check_paths(document, "not_common", manifest.not_common)
    _check_conda(document, "environment.conda", manifest.environment.conda)
    known = {group.name: group for group in read_common_groups(common_root)}
    groups = tuple(_group(document, number, entry, known) for number, entry in enumerate(manifest.groups))
    _check_groups(document, groups, manifest.questions)
    family = ("torch", *manifest.environment.torch)
    return Template(
        name=manifest.name,
        version=str(manifest.version),
        summary=manifest.summary,
        root=root,
        common_root=common_root,
        questions=manifest.questions,
        common=manifest.common,
        not_common=manifest.not_common,
        needs=TemplateNeeds(
            torch_family=tuple(name for name in TORCH_FAMILY if name in family), conda=manifest.environment.conda
        ),
        groups=groups,
    )


def _group(
    document: Document, number: int, entry: str | _GroupEntry, common: Mapping[str, TemplateGroup]
) -> TemplateGroup:
    entry = _GroupEntry(name=entry) if isinstance(entry, str) else entry
    _check_paths(document, f"groups[{number}].files", entry.files)
    _check_conda(document, f"groups[{number}].conda", entry.conda)
    if entry.help is not None:
        return TemplateGroup(
            name=entry.name,
            help=entry.help,
            default=bool(entry.default),
            files=entry.files,
            conda=entry.conda,
            when=entry.when,
        )
    base = common.get(entry.name)
    if base is None:
        known = ", ".join(f"`{name}`" for name in common) or "none"
        expected = f"a common group ({known}), or a `help` for a group of the template itself"
        raise document.fault(f"groups[{number}].name", expected, entry.name)
    return replace(
        base,
        default=base.default if entry.default is None else entry.default,
        files=(*base.files, *entry.files),
        conda=(*base.conda, *entry.conda),
        when=entry.when,
    )


def _check_questions(document: Document, questions: tuple[TemplateQuestion, ...]) -> None:
    for number, question in enumerate(questions):
        path, before = f"questions[{number}]", questions[:number]
        if question.name in [each.name for each in before]:
            raise document.fault(f"{path}.name", "each name once", question.name)
        if hasattr(dict, question.name):  # `answers.items` would be the method of the mapping
            raise document.fault(f"{path}.name", "no method of a mapping", question.name)
        if bool(question.choices) != (question.type == "choice"):
            expected = "choices for the type `choice`, and only for it"
            raise document.fault(f"{path}.choices", expected, question.type)
        try:  # compiling a pattern alone may take minutes
            question.matches(question.pattern or "", "")
            is_answer = question.accepts(question.default)
        except (TemplateError, re.error, ValueError, OverflowError, RecursionError) as error:
            from envforge.base.confined import LIMITS  # noqa: PLC0415 - only errors need it

            expected = f"a regular expression that needs {LIMITS} ({error})"
            raise document.fault(f"{path}.pattern", expected, question.pattern) from error
        if not is_answer:
            raise document.fault(f"{path}.default", question.rule, question.default)
        _check_when(document, path, question.when, before)


def _check_when(document: Document, path: str, when: When, questions: Sequence[TemplateQuestion]) -> None:
    by_name = {question.name: question for question in questions}
    for name, value in when.items():
        question = by_name.get(name)
        if question is None:
            raise document.fault(f"{path}.when.{name}", "an earlier question", name)
        if not answers_of(value) or not all(question.accepts(each) for each in answers_of(value)):
            raise document.fault(f"{path}.when.{name}", f"answers to `{name}`: {question.rule}", value)


def _check_groups(document: Document, groups: tuple[TemplateGroup, ...], questions: Sequence[TemplateQuestion]) -> None:
    for number, group in enumerate(groups):
        path = f"groups[{number}]"
        if group.name in [each.name for each in groups[:number]]:
            raise document.fault(f"{path}.name", "each name once", group.name)
        _check_when(document, path, group.when, questions)


def _check_paths(document: Document, path: str, places: Sequence[PurePosixPath]) -> None:
    for number, place in enumerate(places):
        text = str(place)
        if place.is_absolute() or not place.parts or ".." in place.parts or "\\" in text or not text.isprintable():
            raise document.fault(f"{path}[{number}]", "a path inside `files`", text)


def _check_conda(document: Document, path: str, specs: Sequence[str]) -> None:
    for number, spec in enumerate(specs):
        try:
            name, _ = split_conda_spec(spec)
        except ValueError as error:
            raise document.fault(f"{path}[{number}]", "a conda spec such as `numpy >=1.26`", spec) from error
        if name in ("python", *TORCH_FAMILY):
            expected = "a package other than Python and the torch family, which the selection pins"
            raise document.fault(f"{path}[{number}]", expected, spec)


def _refuse_tricks(text: str, document: Document) -> None:
    """Raise for an anchor, an alias, a tag, or a key that is there twice, without converting the text to values."""
    import yaml  # noqa: PLC0415 - slow to import

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        check_yaml_depth(text)
        top = yaml.compose(text, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise document.fault("", "YAML", " ".join(str(error).split())) from error
    seen: set[int] = set()
    for node in _nodes(top):
        line = f"line {node.start_mark.line + 1}"
        if id(node) in seen:
            raise document.fault(line, "no anchors or aliases", "a reference to another value")
        seen.add(id(node))
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _TAGS:
            raise document.fault(line, "plain values", node.tag)
        if isinstance(node, yaml.MappingNode):
            twice, times = Counter(str(key.value) for key, _ in node.value).most_common(1)[0] if node.value else ("", 0)
            if times > 1:
                raise document.fault(line, "each key once", twice)


def _nodes(top: Any) -> Iterator[Any]:
    """Yield every node: a shared node each time it is referenced, but its children only once."""
    left, inside = [top], set()
    while left:
        node = left.pop()
        if node is None:
            continue
        yield node
        value = getattr(node, "value", None)
        if isinstance(value, list) and id(node) not in inside:
            inside.add(id(node))
            left += [each for item in value for each in (item if isinstance(item, tuple) else (item,))]


class Source(Struct, frozen=True, kw_only=True):
    """One file of a template: ``path`` is relative to ``root``."""

    root: Path
    path: PurePosixPath


def project_sources(template: Template, groups: Collection[str]) -> tuple[Source, ...]:
    """Return the sources of a project with these groups.

    These are all of the template's own files, the common files that it uses, and the files of its groups. A file that
    belongs to groups is left out if the project has none of them.
    """
    own, common = template.root / FILES, template.common_root / FILES
    sources = list(_walk(own, PurePosixPath()))
    for wanted in template.common:
        sources += _found(wanted, f"the template `{template.name}` uses the common file", (common,))
    for unwanted in template.not_common:
        for source in _found(unwanted, f"the template `{template.name}` excludes the common file", (common,)):
            sources.remove(source)
    members: dict[Source, set[str]] = {}
    for group in template.groups:
        for source in group_sources(template, group):
            members.setdefault(source, set()).add(group.name)
    taken = [source for source in (*sources, *members) if source not in members or members[source] & set(groups)]
    return tuple(dict.fromkeys(taken))


def group_sources(template: Template, group: TemplateGroup) -> tuple[Source, ...]:
    """Return the sources of one group; the template's own files take precedence over common ones."""
    roots = (template.root / FILES, template.common_root / FILES)
    what = f"the group `{group.name}` of the template `{template.name}` has the file"
    return tuple(source for wanted in group.files for source in _found(wanted, what, roots))


def irregular(path: Path, mode: int) -> TemplateError:
    """Return the error for a link or a special file."""
    kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
    return TemplateError(f"the template file `{path}` is {kind}; expected a regular file", code="template-damaged")


def _found(wanted: PurePosixPath, what: str, roots: tuple[Path, ...]) -> tuple[Source, ...]:
    for root in roots:
        found = _walk(root, wanted)
        if found:
            return found
    places = " and ".join(f"`{root}`" for root in roots)
    raise TemplateError(f"{what} `{wanted}`, which doesn't exist in {places}", code="template-damaged")


def _walk(root: Path, below: PurePosixPath) -> tuple[Source, ...]:
    """Return the files at or below ``root/below``, sorted; raise if one is a link."""
    top = root / below
    try:
        mode = top.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ()
    if stat.S_ISREG(mode):
        return (Source(root=root, path=below),)
    if not stat.S_ISDIR(mode):
        raise irregular(top, mode)
    names = sorted(name for name in os.listdir(top) if name not in _LITTER)  # noqa: PTH208 - only names are needed
    return tuple(source for name in names for source in _walk(root, below / name))


class Opened(Struct, frozen=True, kw_only=True):
    """A template and its origin."""

    template: Template
    origin: TemplateOrigin = TemplateOrigin()

    @property
    def is_foreign(self) -> bool:
        """True for a third-party template."""
        return bool(self.origin.source)


def is_source(name: str) -> bool:
    """Return whether ``name`` is a directory or a URL rather than a built-in template."""
    return name.startswith((GIT, ".", "~")) or "/" in name or "\\" in name or "://" in name


@contextmanager
def open_template(name: str, base: Path, *, version: str | None = None) -> Iterator[Opened]:
    """Open the template that ``name`` names; a relative directory is below ``base``.

    ``version`` replaces the revision in the URL of a git repository; for any other template it must be the existing
    version.
    """
    if name.startswith(GIT):
        from envforge.project.template_source import cloned  # noqa: PLC0415 - only templates of third parties need it

        with cloned(name, version, base) as found:
            yield found
        return
    if is_source(name):
        from envforge.project.template_source import in_folder  # noqa: PLC0415 - as above

        found = in_folder(name, base)
    else:
        found = _open_built_in(name, base)
    there = found.template.version
    if version is not None and version != there:
        where = "this envforge has" if not found.is_foreign else f"`{name}` has"
        raise RequestError(
            f"`--template-version {version}` is not available: {where} version `{there}` of `{found.template.name}`",
            hint=_other_version(found),
            code="no-such-template-version",
        )
    yield found


def _open_built_in(name: str, base: Path) -> Opened:
    if (base / name / MANIFEST).is_file() and name not in list_templates(templates_root()):
        raise RequestError(
            f"envforge has no template `{name}`, but the directory of that name is one",
            hint=f"to use the template in that directory, pass `./{name}`",
            code="no-such-template",
        )
    return Opened(template=load_template(templates_root(), name))


def _other_version(found: Opened) -> tuple[Hint, ...]:
    there = Hint(f"to use version {found.template.version}, omit `--template-version`")
    if found.is_foreign:
        return (there, Hint("to use another version, check it out in that directory"))
    from envforge.base.distribution import upgrade_command  # noqa: PLC0415 - slow to import, and only errors need it

    return (there, Hint("to get newer versions", upgrade_command()))


def source_from(name: str, project: Path) -> str:
    """Return the source as a project records it: a relative directory is relative to the project."""
    if name.startswith(GIT) or Path(name).expanduser().is_absolute():
        return name
    return Path(os.path.relpath(Path(name), project.absolute())).as_posix()
