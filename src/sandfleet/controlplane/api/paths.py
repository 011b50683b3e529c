"""Prefixes of the public surface."""

from __future__ import annotations

SANDBOX = "/api/sandboxes/{id}"


def data_plane(suffix: str) -> tuple[str, str]:
    """Return a data-plane path under both of its prefixes."""
    return (f"{SANDBOX}/{suffix}", f"/sandboxes/{{id}}/{suffix}")
