"""What a one-machine fleet has chosen once and keeps: ports, workers, memory, secrets."""

from __future__ import annotations

import secrets
import string
import zlib
from pathlib import Path
from typing import TypeVar

import msgspec

from sandfleet.adapters.qemu.host_claim import claims_in_force
from sandfleet.local import machine
from sandfleet.local.atomic_file import write_atomically
from sandfleet.local.layout import Layout

API_PORT_PREFERRED = 8080
T = TypeVar("T", bound=msgspec.Struct)
_KEY_ALPHABET = string.ascii_lowercase + string.digits
_KEY_LENGTH = 40
FIRST_RANGE = 210
_RANGES = 32
"""Different fleets of one machine take different network ranges and uids."""


class ConfigurationBroken(Exception):
    """A file of the data directory cannot be read; the message says which and what to do."""


class WorkerChoice(msgspec.Struct, frozen=True, rename="camel"):
    """One worker: its id is part of the fleet's records, so it never changes."""

    id: str
    port: int = 0


class FleetConfiguration(msgspec.Struct, frozen=True, rename="camel"):
    """The choices. A port of 0 has not been chosen yet; memory of None follows the machine."""

    range_number: int
    workers: tuple[WorkerChoice, ...]
    api_host: str = "127.0.0.1"
    api_port: int = 0
    postgres_port: int = 0
    valkey_port: int = 0
    memory_mib: int | None = None

    @property
    def memory_budget_mib(self) -> int:
        """What all sandboxes together may be promised."""
        return self.memory_mib or machine.memory_budget_mib(machine.memory_total_mib())


class FleetSecrets(msgspec.Struct, frozen=True, rename="camel"):
    """The fleet's keys and tokens."""

    master_secret: str
    bootstrap_key: str
    join_token: str

    def __repr__(self) -> str:
        return "FleetSecrets(…)"


def load_configuration(layout: Layout) -> FleetConfiguration:
    """Return the fleet's choices, making them for a new data directory."""
    if layout.configuration.exists():
        return _read(layout.configuration, FleetConfiguration)
    configuration = FleetConfiguration(
        range_number=_range_number(layout.data_dir),
        workers=(WorkerChoice(id=f"wk-{secrets.token_hex(4)}"),),
    )
    save_configuration(layout, configuration)
    return configuration


def save_configuration(layout: Layout, configuration: FleetConfiguration) -> None:
    """Keep the choices."""
    write_atomically(
        layout.configuration, msgspec.json.format(msgspec.json.encode(configuration)), mode=0o644
    )


def load_secrets(layout: Layout) -> FleetSecrets:
    """Return the fleet's secrets, generating them for a new data directory."""
    if layout.secrets.exists():
        return _read(layout.secrets, FleetSecrets)
    fresh = FleetSecrets(
        master_secret=secrets.token_hex(32),
        bootstrap_key="osb_" + "".join(secrets.choice(_KEY_ALPHABET) for _ in range(_KEY_LENGTH)),
        join_token=secrets.token_hex(24),
    )
    write_atomically(layout.secrets, msgspec.json.format(msgspec.json.encode(fresh)), mode=0o600)
    return fresh


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except PermissionError:
        raise ConfigurationBroken(f"{path} belongs to another user: run as that user") from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ConfigurationBroken(f"{path} is damaged ({error}): restore it from a backup") from error


def _range_number(data_dir: Path) -> int:
    # The usual directory gets the usual range; a second fleet on the machine (a test's) gets another one.
    if data_dir == Path("/var/lib/sandfleet"):
        return 0
    first = zlib.crc32(str(data_dir).encode()) % (_RANGES - 1)
    taken = {claim.network_range.split(".")[1] for claim in claims_in_force()}
    numbers = [1 + (first + step) % (_RANGES - 1) for step in range(_RANGES - 1)]
    return next((number for number in numbers if str(FIRST_RANGE + number) not in taken), numbers[0])
