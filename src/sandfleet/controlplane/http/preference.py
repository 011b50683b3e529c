"""The header `Prefer`: how long the client wants a lifecycle verb to wait."""

from __future__ import annotations


def preferred_wait_s(header: str | None) -> float | None:
    """Return the seconds of `wait=<s>`, 0 for `respond-async`, None if neither is asked for."""
    if not header:
        return None
    wanted: float | None = None
    for preference in header.split(","):
        name, _, value = preference.strip().partition("=")
        name = name.strip().lower()
        if name == "respond-async":
            return 0.0
        number = value.strip().strip('"')
        if name == "wait" and number.isascii() and number.isdigit() and len(number) <= 6:
            wanted = float(number)
    return wanted
