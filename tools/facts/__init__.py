"""Read the facts in `data/facts/`, from which `tools` builds `envforge/data` and `lockfiles/`."""
