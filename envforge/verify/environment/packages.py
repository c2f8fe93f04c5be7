"""Check that the environment is complete and matches its lockfile, and that Python imports only from it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from envforge.base.redact import quoted
from envforge.verify.environment.facts import AuditDifference, EnvironmentFacts, PythonFacts
from envforge.verify.judging import View, check, counted, facts_of, failed, info, passed, skipped, unread, warned
from envforge.verify.values import Judgement, Verdict

_FILES = ("file-changed", "file-missing", "file-stray")
_SHOWN = 3
_IGNORE_PYTHONPATH = "unset PYTHONPATH"
_IGNORE_USER_SITE = "export PYTHONNOUSERSITE=1"

ENVIRONMENT: View[EnvironmentFacts] = facts_of("environment")

_packages = partial(check, of=ENVIRONMENT, group="packages")
_audited_packages = partial(_packages, cost="default", needs=("audit",))
_libraries = partial(check, of=ENVIRONMENT, group="libraries", needs=("python",))


@_packages("environment-missing", "State of the environment")
def _missing(facts: EnvironmentFacts) -> Judgement:
    """An interrupted installation leaves an environment in which some packages work and others fail."""
    if facts.state == "finished":
        return passed(facts.state_text)
    if facts.state in ("foreign", "virtual"):
        return info(facts.state_text)
    if facts.state == "none":
        return skipped(facts.state_text)
    command = facts.with_prefix("envforge install")
    return failed(facts.state_text, "a complete environment", facts.prefix or "", command=command)


@_audited_packages("environment-drift", "Packages compared with the lockfile", row=38)
def _drift(facts: EnvironmentFacts) -> Judgement:
    """If a package differs from the lockfile, no other machine can reproduce the results."""
    # `files-changed` and `packages-twice` report the others
    found = [item for item in _all(facts) if not item.kind.startswith("file-") and item.kind != "owned-twice"]
    return _audited(facts, found, "every package as in the lockfile")


@_audited_packages("files-changed", "Files compared with their packages", row=39)
def _files(facts: EnvironmentFacts) -> Judgement:
    """A file changed after installation is different code under the same version. `pip check` can't detect it."""
    return _audited(facts, [item for item in _all(facts) if item.kind in _FILES], "every file as in its package")


def _all(facts: EnvironmentFacts) -> tuple[AuditDifference, ...]:
    return facts.audit.value.drift if facts.audit.value is not None else ()


def _audited(facts: EnvironmentFacts, found: list[AuditDifference], wanted: str) -> Judgement:
    audit, source = facts.audit.value, facts.audit.source
    if facts.state == "virtual":
        return skipped(f"{facts.state_text}: only conda and envforge environments can be audited")
    if facts.state not in ("finished", "foreign"):
        return skipped(f"nothing to compare: {facts.state_text}")
    if audit is None and facts.state == "foreign" and facts.locked.value is None:
        return skipped(f"{facts.state_text}, and there is no lockfile to compare it with")
    if audit is None:
        command = facts.with_prefix("envforge audit")
        return unread(facts.audit, "the environment could not be audited", command=command)
    if found:
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        words = "; ".join(item.text for item in found[:_SHOWN]) + more
        return failed(words, f"{wanted} (`{audit.lockfile}`)", source, command=facts.repair_command)
    total = f"{counted(audit.packages, 'package')} and {counted(audit.files, 'file')}, digest {audit.digest[:12]}"
    return passed(total, wanted, source)


@_audited_packages("packages-twice", "Libraries owned by both conda and pip", severity=Verdict.WARN, row=34)
def _twice(facts: EnvironmentFacts) -> Iterator[Judgement]:
    """Two owners overwrite each other's files, so the version depends on which was installed last."""
    audit, source = facts.audit.value, facts.audit.source
    if audit is None:
        yield skipped("the environment was not audited: see `environment-drift`")
        return
    found = [item for item in (*audit.drift, *audit.warnings) if item.kind == "owned-twice"]
    if not found:
        yield passed("no library is owned by both conda and pip", source=source)
    for item in found:
        command = facts.repair_command
        yield warned(item.text, "one owner for each library", source, subject=item.package, command=command)


@_libraries("torch-import-failed", "Import of torch", required=True)
def _import(facts: EnvironmentFacts) -> Judgement:
    """Training requires `import torch`. A crash during the import terminates the interpreter."""
    torch, reason = facts.torch.value, facts.torch.unreadable
    if facts.process is None:
        return skipped(f"nothing was imported: {reason}")
    if torch is not None:
        return passed(f"torch {torch.version} in {torch.seconds:.1f} s", source=torch.file)
    observed = f"`import torch` failed: {reason}" if facts.python.value else f"Python failed to start: {reason}"
    return failed(
        observed[:1500],
        "a successful `import torch`",
        facts.torch.source,
        why=_meaning(facts),
        command=facts.repair_command,
    )


def _meaning(facts: EnvironmentFacts) -> str:
    """Return the known reason for this kind of failure."""
    end = facts.process
    if end is not None and end.signal == "SIGILL":
        return "SIGILL: a library was built for a newer CPU (x86-64-v3, AVX-512)."
    if end is not None and end.signal in ("SIGSEGV", "SIGABRT", "SIGBUS"):
        return f"{end.signal}: usually a library of another build, or two OpenMP runtimes in one process."
    if end is not None and end.exit_code is None:
        return "The import hangs: the driver or a file system doesn't respond."
    if facts.torch.code == "undefined-symbol":
        return "LD_LIBRARY_PATH or LD_PRELOAD loads a CUDA library of another version before the environment's own."
    return ""


@_libraries("import-isolation", "Directories that Python imports from", row=40)
def _isolation(facts: EnvironmentFacts) -> Judgement:
    """PYTHONPATH, the user's site-packages, or a file named torch.py can shadow the installed torch."""
    python, isolated, source = facts.python.value, facts.isolated_torch.value, facts.python.source
    if facts.process is None:
        return skipped(f"nothing was imported: {facts.python.unreadable}")
    if python is None:
        return unread(facts.python, "Python did not report its import paths")
    if python.torch_origin is not None and python.torch_origin != isolated:
        cause, command = _shadowed_by(python, python.torch_origin)
        words = f"`import torch` imports `{python.torch_origin}` because of {cause}"
        return failed(words, f"torch of the environment: {isolated or 'it has none'}", source, command=command)
    if stray := _stray_places(python):
        words = "Python also imports from " + ", ".join(f"`{place}`" for place in stray)
        command = _IGNORE_PYTHONPATH if python.user_site is None else f"{_IGNORE_PYTHONPATH}; {_IGNORE_USER_SITE}"
        return warned(words, "imports only from the environment", source, command=command)
    if python.outside:
        words = "Python also imports from " + ", ".join(f"`{place}`" for place in python.outside)
        return info(words, "imports only from the environment and from editable installs (`pip install -e`)", source)
    return passed(f"Python {python.version} imports only from its own environment", source=source)


def _shadowed_by(python: PythonFacts, origin: str) -> tuple[str, str]:
    """Return what makes Python import another torch, and the command that shows or removes it."""
    if python.user_site is not None and origin.startswith(python.user_site):
        return "the user's site-packages", _IGNORE_USER_SITE
    if python.python_path:
        return "PYTHONPATH", _IGNORE_PYTHONPATH
    return "the current directory", f"ls -l {quoted(origin)}"


def _stray_places(python: PythonFacts) -> list[str]:
    """Return import directories that no ``.pth`` file adds, such as PYTHONPATH and the user's site-packages."""
    added = {entry.partition(": ")[2] for entry in python.pth}
    places = (*(place for place in python.outside if place not in added), python.user_site)
    return [place for place in dict.fromkeys(places) if place is not None]
