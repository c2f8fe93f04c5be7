"""Read and publish the catalogues of a team: a directory, a git repository, a web server, or an object store.

Module order: ``settings`` (which catalogue) → ``address`` (its kind) → ``opened`` (a local root that
``envforge.catalogue`` reads: ``folder``, ``git``, ``web``, ``objects``) → ``publish`` (describes a lockfile as an
entry) → ``folder.add`` (the only function that changes an index). ``signing`` signs and verifies with minisign.
"""
