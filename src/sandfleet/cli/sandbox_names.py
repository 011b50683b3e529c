"""Which sandbox is meant: by its id, by the beginning of its id, or by its alias."""

from __future__ import annotations

from collections.abc import Sequence

from sandfleet.cli.errors import CommandFailed, ExitCode
from sandfleet_sdk import Client, Sandbox

PREFIX = "sb-"
_ID_LENGTH = 29


def is_complete_id(name: str) -> bool:
    """Say whether a name is a whole sandbox id, so that nothing has to be looked up."""
    return name.startswith(PREFIX) and len(name) == _ID_LENGTH


def resolve(client: Client, name: str) -> str:
    """Return the id of the sandbox that a name means."""
    if is_complete_id(name):
        return name
    listed = client.sandboxes.list(alias=name) or client.sandboxes.list(status=["all"], limit=1000)
    return choose(name, listed)


def choose(name: str, sandboxes: Sequence[Sandbox]) -> str:
    """Return the id of the one sandbox that a name means; an exact alias wins over a beginning."""
    if not name:
        raise CommandFailed("the name of a sandbox is empty", code=ExitCode.USAGE)
    by_alias = [s for s in sandboxes if s.alias == name]
    # With or without the prefix: people copy either part.
    by_id = [s for s in sandboxes if s.id.startswith(name) or s.id.removeprefix(PREFIX).startswith(name)]
    for found in (by_alias, by_id):
        living = [s for s in found if s.status not in ("stopped", "failed", "error")]
        chosen = living or found
        if len(chosen) == 1:
            return chosen[0].id
        if chosen:
            ids = ", ".join(sorted(s.id for s in chosen)[:5])
            raise CommandFailed(f"{name!r} means {len(chosen)} sandboxes: {ids}", hint="give more of the id")
    raise CommandFailed(
        f"there is no sandbox {name!r}", hint="`sandfleet ls` shows them", code=ExitCode.NOT_FOUND
    )
