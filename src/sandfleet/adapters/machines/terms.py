"""The newest term that this process has asked a pool in: an older one is refused."""

from __future__ import annotations

from sandfleet.model.errors import StaleTerm


def newest_of(seen: int, term: int) -> int:
    """Return the newer of the two; StaleTerm if that is not the one that asks."""
    if term < seen:
        raise StaleTerm(f"term {term} is over: this pool has been asked in term {seen}")
    return term
