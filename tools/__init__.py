"""Generators and checks that `make check` runs; not part of the package."""
