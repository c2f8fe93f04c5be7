"""Install a lockfile into a prefix, audit it, and work in it."""
