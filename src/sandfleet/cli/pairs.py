"""NAME=VALUE arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sandfleet.cli.errors import CommandFailed, ExitCode


def parse_pairs(texts: Sequence[str], *, option: str) -> dict[str, str] | None:
    """Return the pairs, None without any. NAME alone takes the caller's own variable, as docker does."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise CommandFailed(
                f"{option} {text!r} has no name", hint=f"{option} NAME=VALUE", code=ExitCode.USAGE
            )
        if equals:
            pairs[name] = value
        elif option == "-e" and name in os.environ:
            pairs[name] = os.environ[name]
        else:
            raise CommandFailed(
                f"{option} {text!r} has no value", hint=f"{option} NAME=VALUE", code=ExitCode.USAGE
            )
    return pairs or None
