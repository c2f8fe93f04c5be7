"""Create, lock, install, and verify PyTorch environments and mixed-precision projects."""

TYPE_CHECKING = False  # `typing` takes longer to import than the whole query of the driver in a child process
if TYPE_CHECKING:
    from envforge.api import (
        EnvforgeError,
        audit_environment,
        check_lockfile,
        create_project,
        detect_machine,
        install_environment,
        lock_environment,
        select_builds,
        verify_environment,
    )

__version__ = "0.1.0"
__all__ = [
    "EnvforgeError",
    "__version__",
    "audit_environment",
    "check_lockfile",
    "create_project",
    "detect_machine",
    "install_environment",
    "lock_environment",
    "select_builds",
    "verify_environment",
]


# each name is a verb with its object, because `envforge.lock` and `envforge.verify` are packages: importing a module of
# theirs sets the attribute, so a function of that name would depend on what was imported before
def __getattr__(name: str) -> object:
    """Return a function of the public API, which is imported when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module `envforge` has no attribute `{name}`")
    from envforge import api  # noqa: PLC0415 - `envforge --help` must not import it

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
