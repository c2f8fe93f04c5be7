"""Read and publish lockfiles that are shared."""
