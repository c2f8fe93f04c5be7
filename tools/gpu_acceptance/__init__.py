"""Check envforge on a machine with a GPU, without a network and without an installed envforge."""
