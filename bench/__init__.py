"""Benchmarks: each row measures the product beside its floor, alternating, in one run."""
