"""Whole fleets in one process, on virtual time, with seeded faults: the same seed is the same run."""
