"""Lock environment.yml to conda-lock.yml, and check whether a lockfile is up to date."""
