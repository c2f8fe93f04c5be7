"""Generate files of this repository."""
