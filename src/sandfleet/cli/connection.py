"""Which server a command speaks to: as told, by the environment, or this machine's own fleet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sandfleet.cli.errors import CommandFailed, ExitCode
from sandfleet_sdk import Client, RetryPolicy

URL_VARIABLES = ("SANDFLEET_URL", "OPENCOMPUTER_API_URL")
KEY_VARIABLES = ("SANDFLEET_API_KEY", "OPENCOMPUTER_API_KEY")
_PATIENCE = RetryPolicy(attempts_max=6)
"""Somebody looks on: a server that is not there is said after three seconds."""


def connect(url: str | None, api_key: str | None, *, data_dir: Path | None = None) -> Client:
    """Return a client of the server that is meant. The caller closes it."""
    chosen_url = url or _first(os.environ, URL_VARIABLES)
    chosen_key = api_key or _first(os.environ, KEY_VARIABLES)
    if chosen_url is None or chosen_key is None:
        local = _local_fleet(data_dir)
        # The local fleet's key is for the local fleet: it is never sent anywhere else.
        if chosen_url is not None and (
            local is None or chosen_url.rstrip("/").removesuffix("/api") != local[0]
        ):
            raise CommandFailed(
                f"no API key for {chosen_url}", hint="give one with --api-key or $SANDFLEET_API_KEY"
            )
        if local is None:
            raise _nothing_named(data_dir)
        chosen_url, chosen_key = chosen_url or local[0], chosen_key or local[1]
    return Client(chosen_url, chosen_key, retries=_PATIENCE)


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := environment.get(name))), None)


def _local_fleet(data_dir: Path | None) -> tuple[str, str] | None:
    from sandfleet.local.configuration import ConfigurationBroken, load_secrets
    from sandfleet.local.layout import Layout, default_data_dir
    from sandfleet.local.state import read_state

    layout = Layout((data_dir or default_data_dir()).resolve())
    try:
        state = read_state(layout)
        if state is not None and layout.secrets.exists():
            return state.url, load_secrets(layout).bootstrap_key
    except (PermissionError, ConfigurationBroken):
        raise CommandFailed(
            f"the fleet in {layout.data_dir} belongs to another user",
            hint="run as that user (sudo), or set SANDFLEET_URL and SANDFLEET_API_KEY",
            code=ExitCode.UNREACHABLE,
        ) from None
    return None


def _nothing_named(data_dir: Path | None) -> CommandFailed:
    from sandfleet.local.layout import default_data_dir

    folder = (data_dir or default_data_dir()).resolve()
    return CommandFailed(
        f"no server is named, and this machine has no fleet in {folder}",
        hint="start one with `sandfleet up`, or set SANDFLEET_URL and SANDFLEET_API_KEY",
        code=ExitCode.UNREACHABLE,
    )
