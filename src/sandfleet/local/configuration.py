"""What a one-machine fleet has chosen once and keeps: ports, workers, memory, secrets."""

from __future__ import annotations

import hashlib
import secrets
import string
import tomllib
import zlib
from collections.abc import Set
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sandfleet.adapters.qemu.host_claim import claims_in_force
from sandfleet.local import machine
from sandfleet.local.atomic_file import write_atomically
from sandfleet.local.layout import Layout
from sandfleet.local.places import FIRST_RANGE, RANGES, WORKERS_MAX

API_PORT_PREFERRED = 8080
T = TypeVar("T", bound=msgspec.Struct)
_KEY_ALPHABET = string.ascii_lowercase + string.digits
_KEY_LENGTH = 40
SERVERS_MAX = 8
CALM_S = 600.0


class ConfigurationBroken(Exception):
    """A file of the data directory cannot be read; the message says which and what to do."""


class WorkerChoice(msgspec.Struct, frozen=True, rename="camel"):
    """One worker. Id and slot never change: the records name the one, its VMs have addresses of the other."""

    id: str
    port: int = 0
    slot: int = 0
    """Which part of the fleet's addresses and uids it has."""


class FleetConfiguration(msgspec.Struct, frozen=True, rename="camel"):
    """The choices. A port of 0 has not been chosen yet; memory of None follows the machine."""

    range_number: int
    workers: tuple[WorkerChoice, ...]
    api_host: str = "127.0.0.1"
    api_port: int = 0
    """Where clients go: the one server, or the load balancer before several."""
    server_ports: tuple[int, ...] = (0,)
    """One for each server; unused while there is one, which has the API's own."""
    postgres_port: int = 0
    valkey_port: int = 0
    memory_mib: int | None = None
    workers_max: int | None = None
    """Up to so many workers the fleet has by itself as load demands; None: those above, and no others."""
    idle_reserve: int = 0
    """How many of them stand empty for the next burst."""
    calm_s: float = CALM_S
    """How long a worker must have been dispensable before it is emptied and ended."""

    @property
    def share_mib(self) -> int:
        """What one worker may promise: its part of the memory when as many are there as there may be."""
        return self.memory_budget_mib // max(len(self.workers), self.workers_max or 0)

    @property
    def memory_budget_mib(self) -> int:
        """What all sandboxes together may be promised."""
        return self.memory_mib or machine.memory_budget_mib(machine.memory_total_mib())

    @property
    def digest(self) -> str:
        """Return a digest of all choices."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    @property
    def is_balanced(self) -> bool:
        """Whether a load balancer stands before the servers."""
        return len(self.server_ports) > 1


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
        workers=(_new_worker(0),),
    )
    save_configuration(layout, configuration)
    return configuration


def save_configuration(layout: Layout, configuration: FleetConfiguration) -> None:
    """Keep the choices."""
    write_atomically(
        layout.configuration, msgspec.json.format(msgspec.json.encode(configuration)), mode=0o644
    )


def with_servers(configuration: FleetConfiguration, count: int) -> FleetConfiguration:
    """Return the choices with so many servers; those that stay keep their ports."""
    kept = configuration.server_ports[:count]
    return msgspec.structs.replace(configuration, server_ports=kept + (0,) * (count - len(kept)))


def with_workers_added(
    configuration: FleetConfiguration, count: int, *, lent: frozenset[int] = frozenset()
) -> FleetConfiguration:
    """Return the choices with at least so many workers; those that are there stay as they are.

    `lent`: slots that machines have which the fleet has launched itself.
    """
    taken = {worker.slot for worker in configuration.workers}
    free = [slot for slot in range(WORKERS_MAX) if slot not in taken | lent]
    added = tuple(_new_worker(slot) for slot in free[: max(0, count - len(taken))])
    return msgspec.structs.replace(configuration, workers=configuration.workers + added)


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


def load_server_choices(layout: Layout, *, decided: Set[str]) -> dict[str, Any]:
    """Return what the owner of this machine has added to the settings of the servers that are `decided`."""
    path = layout.server_choices
    if not path.exists():
        return {}
    try:
        added = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationBroken(f"{path} cannot be read ({error}): mend it or take it away") from error
    if both := sorted(added.keys() & decided):
        raise ConfigurationBroken(f"{path} sets {', '.join(both)}, which `sandfleet up` decides: take it out")
    return added


def _new_worker(slot: int) -> WorkerChoice:
    return WorkerChoice(id=f"wk-{secrets.token_hex(4)}", slot=slot)


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
    first = zlib.crc32(str(data_dir).encode()) % (RANGES - 1)
    taken = {claim.network_range.split(".")[1] for claim in claims_in_force()}
    numbers = [1 + (first + step) % (RANGES - 1) for step in range(RANGES - 1)]
    return next((number for number in numbers if str(FIRST_RANGE + number) not in taken), numbers[0])
